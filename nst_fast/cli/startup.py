"""What a command that computes imports, in less time."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nst_fast.cli.console import Messages
from nst_fast.distributed import process_rank

SPINS = "10000"


def wait_briefly() -> None:
    """Let PyTorch's idle threads (GNU OpenMP) sleep soon instead of waiting in a loop, unless the user has set that.

    They wait for up to some milliseconds on the cores of those that convolve: with this a step of 256 pixels on two
    cores took 0.15 s instead of 0.19, one of 512 pixels 0.52 instead of 0.57.
    """
    if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def open_libraries() -> None:
    """Begin to open PyTorch's libraries, 0.3 s of its import, in a thread beside the interpreter.

    By the C library's dlopen, because ctypes' own keeps the interpreter waiting. What cannot be opened here cannot be
    opened by PyTorch's import either, which says why.
    """
    spec = importlib.util.find_spec("torch")
    # Copies under torchrun first set what the libraries read when they are opened.
    if sys.platform != "linux" or "torch" in sys.modules or spec is None or not process_rank().alone:
        return
    library = os.fsencode(Path(str(spec.origin)).parent / "lib" / "libtorch.so")
    threading.Thread(target=ctypes.CDLL(None).dlopen, args=(library, os.RTLD_LAZY), name="PyTorch's libraries").start()


@contextmanager
def loading(messages: Messages) -> Iterator[None]:
    """Import PyTorch and what stands on it, without the collector of cycles, which would look through it many times.

    Importing takes a seventh less. What it leaves is never looked through afterwards, so that the program ends sooner.
    """
    messages.say("loading")
    if "torch" in sys.modules:  # in a program that goes on after the command: its garbage must not be kept
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
