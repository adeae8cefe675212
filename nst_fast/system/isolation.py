"""A call's own state of PyTorch and NumPy: it depends on nothing that its caller has set, and leaves it as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.backends import cuda, cudnn, mkldnn

from nst_fast.errors import UsageError

AUTOCASTING = ("cpu", "cuda", "mps", "xpu")  # the kinds of device


class ProcessState:
    """What belongs to the whole process: the first of the calls that are going on sets it, the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._restore: list[Callable[[], object]] = []
        self._process = 0  # that made the first call

    def enter(self) -> None:
        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._restore = _set_ours()

    def leave(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                for restore in reversed(self._restore):
                    restore()

    def check_fork(self) -> None:
        """Raise :class:`UsageError` in a fork of a process that has made a call.

        The threads of OpenMP and of autograd do not survive a fork: the first loop that they share would never end.
        """
        if self._process not in (0, os.getpid()):
            message = "this process is a fork of one that has used nst-fast, whose threads it does not have"
            remedy = "Start processes with multiprocessing's spawn or forkserver, or fork before the first call"
            raise UsageError(message, remedy)
        self._process = self._process or os.getpid()


_PROCESS = ProcessState()


@contextmanager
def own_state() -> Iterator[None]:
    """PyTorch and NumPy in their usual state for as long as a call lasts; also a decorator.

    The number of threads stays the caller's. Random numbers come from generators of our own everywhere. Raises as
    :meth:`ProcessState.check_fork` does.
    """
    _PROCESS.check_fork()
    with ExitStack() as stack:
        _PROCESS.enter()
        stack.callback(_PROCESS.leave)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(np.errstate(all="ignore"))
        for kind in AUTOCASTING:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _set_ours() -> list[Callable[[], object]]:
    """Set what a run relies on; functions that restore what was, to be called in reverse order."""
    restore: list[Callable[[], object]] = [partial(torch.set_default_dtype, torch.get_default_dtype())]
    torch.set_default_dtype(torch.float32)
    if torch.are_deterministic_algorithms_enabled():  # else nothing is called: the call alone imports Inductor, 1 s
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        restore.append(partial(torch.use_deterministic_algorithms, True, warn_only=warn_only))
        torch.use_deterministic_algorithms(False)
    # The precision of float32 has an older and a newer interface. Values of the newer one, once set, make reading the
    # older one fail, and setting the older one changes the newer one.
    levels = [torch.backends, mkldnn, mkldnn.conv, mkldnn.matmul, cudnn, cudnn.conv, cudnn.rnn, cuda.matmul]  # type: ignore[attr-defined]
    settings: list[tuple[Any, str, object]] = [(level, "fp32_precision", "none") for level in levels]
    settings += [(mkldnn, "enabled", True), (cudnn, "enabled", True)]
    settings += [(cudnn, "benchmark", False), (cudnn, "deterministic", False)]
    for owner, name, _ in settings:
        restore.append(partial(setattr, owner, name, getattr(owner, name)))
    with suppress(RuntimeError):  # a mixture of both
        restore.append(partial(setattr, cudnn, "allow_tf32", cudnn.allow_tf32))
    with suppress(RuntimeError):
        restore.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    for owner, name, value in settings:
        setattr(owner, name, value)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    return restore
