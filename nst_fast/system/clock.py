"""Timers that wait for the device: a GPU call returns before its work is done, so a plain clock times the queueing.

And where the time of a run goes, phase by phase.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nst_fast.errors import UsageError

if TYPE_CHECKING:
    import torch


def make_clock(device: torch.device | str = "cpu") -> Callable[[], float]:
    """A clock, in seconds from an arbitrary start, that first waits until the device has done its work.

    The clock of the CPU does not import torch, so that an ONNX Runtime session can be timed without it.
    """
    kind = str(device).partition(":")[0]
    if kind == "cpu":
        return time.perf_counter
    if kind not in ("cuda", "mps", "xpu"):
        raise UsageError(f"no clock for device {str(device)!r}", "Devices that can be timed: cpu, cuda, mps, xpu")
    import torch

    def clock() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


class Phases:
    """Seconds by phase, each phase without those within it. Nothing waits for a device: what is queued counts later."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            within = sum(self.seconds.values()) - before
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started - within
