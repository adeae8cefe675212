"""Timers that wait for the device: a GPU call returns before its work is done, so a plain clock times the queueing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nst_fast.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Timing:
    """What :func:`measure` found: milliseconds per call, over all timed calls."""

    samples: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return quantile(self.samples, 0.5)

    @property
    def p10_ms(self) -> float:
        return quantile(self.samples, 0.1)

    @property
    def p90_ms(self) -> float:
        return quantile(self.samples, 0.9)

    @property
    def min_ms(self) -> float:
        return min(self.samples)


def quantile(samples: tuple[float, ...], fraction: float) -> float:
    """The value below which the given fraction of the samples lies, interpolated linearly between neighbours."""
    ordered = sorted(samples)
    position = fraction * (len(ordered) - 1)
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def make_clock(device: torch.device | str = "cpu") -> Callable[[], float]:
    """A clock, in seconds from an arbitrary start, that first waits until the device has done all it was given.

    The clock of the CPU never imports torch, so that an ONNX Runtime session can be timed without it.
    """
    kind = str(device).partition(":")[0]
    if kind == "cpu":
        return time.perf_counter
    synchronize = _synchronizer(kind, device)

    def clock() -> float:
        synchronize()
        return time.perf_counter()

    return clock


def _synchronizer(kind: str, device: torch.device | str) -> Callable[[], None]:
    import torch

    if kind == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if kind == "mps":
        return torch.mps.synchronize
    raise UsageError(f"no clock for device {str(device)!r}", "Devices that can be timed: cpu, cuda, mps")


def measure(function: Callable[[], object], *, warmup: int, repeats: int, device: torch.device | str = "cpu") -> Timing:
    """Call a function ``warmup`` times unmeasured and ``repeats`` times measured, each call synchronised on its own.

    Raises:
        UsageError: fewer than one repeat, or a negative warm-up.
    """
    if repeats < 1 or warmup < 0:
        raise UsageError(f"cannot measure with {warmup} warm-up and {repeats} timed calls", "Time at least one call")
    clock = make_clock(device)
    for _ in range(warmup):
        function()
    samples = []
    for _ in range(repeats):
        started = clock()
        function()
        samples.append(1e3 * (clock() - started))
    return Timing(tuple(samples))
