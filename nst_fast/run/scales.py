"""Coarse to fine: the sizes at which a picture is optimised, and the steps at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nst_fast.errors import UsageError
from nst_fast.network.taps import smallest_side
from nst_fast.options.config import ObjectiveOptions, ScaleOptions

SMALLEST, LARGEST = 16, 32768  # side of a picture, in pixels
LEAST_GROWTH = 0.25  # of a scale factor, as a power: a final size closer to the coarsest needs no scale between

# Pixels times steps after which kernels pay that take time to start. Beside an H200 Triton took 0.6 s, its kernels in
# the cache; by the times of the single operations it saves about 1.1 ms per megapixel and step. On a CPU Numba and the
# transformed weights of VGG-19 take 1.5 s and save about 4 s per megapixel and step (two cores of a Xeon).
LONG = {"cuda": 500_000_000, "cpu": 500_000}
LONG_SECONDS = 30  # of a time budget: compiling and trying them for the first time takes up to 20


@dataclass(frozen=True)
class Scale:
    """One level of coarse-to-fine.

    Attributes:
        index: from 0, the coarsest.
        height, width: of the pastiche at this scale, in pixels.
        fraction: of the final size, 1.0 at the last scale; style images shrink by the same fraction.
        first: updates done before this scale.
        steps: updates at this scale.
    """

    index: int
    height: int
    width: int
    fraction: float
    first: int
    steps: int

    @property
    def work(self) -> int:
        """Pixels times steps."""
        return self.height * self.width * self.steps


def checked_size(size: object) -> tuple[int, int]:
    """Height and width in pixels, as a user gives them. Raises :class:`UsageError` for what they cannot be."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(type(side) is int and SMALLEST <= side <= LARGEST for side in sides):
        raise UsageError(f"`size` {size!r}: height and width must be whole numbers from {SMALLEST} to {LARGEST}")
    return sides


def seamless_size(options: ObjectiveOptions, height: int, width: int) -> tuple[int, int]:
    """The nearest size whose sides along the axes that wrap are multiples of the deepest tap's cell, at least two.

    Pooling a side that is none would leave its last pixels out, and so tear the picture there.
    """
    cell = smallest_side(options.taps)
    rows, columns = (
        max(2, round(side / cell)) * cell if wrapped else side
        for side, wrapped in zip((height, width), options.wraps, strict=True)
    )
    return rows, columns


def plan_scales(options: ScaleOptions, steps: int, height: int, width: int) -> list[Scale]:
    """The scales of a run, coarsest first; sizes end exactly at the final size.

    ``steps`` are shared out in proportion to ``scale_steps_ratio`` to the power of the distance from the final scale:
    with 2, every scale gets twice the steps of the next finer one. At least one step falls to each.
    """
    fractions = scale_fractions(options, max(height, width))[-steps:]
    shares = [options.scale_steps_ratio ** (len(fractions) - 1 - index) for index in range(len(fractions))]
    scales: list[Scale] = []
    first = 0
    for index, fraction in enumerate(fractions):
        end = steps if index == len(fractions) - 1 else round(steps * sum(shares[: index + 1]) / sum(shares))
        end = min(max(end, first + 1), steps - (len(fractions) - 1 - index))
        size = (max(1, round(height * fraction)), max(1, round(width * fraction)))
        scales.append(Scale(index, *size, fraction, first, max(1, end - first)))
        first = end
    return scales


def scale_fractions(options: ScaleOptions, longest: int) -> list[float]:
    """The sizes of the scales as fractions of the final one, from the coarsest to 1.

    The coarsest size decides how large brush strokes are in the picture. With ``scales`` 0 it is the same for every
    final size, and the sizes between are equal factors apart.
    """
    if options.scales:
        fractions = [options.scale_factor ** -(options.scales - 1 - index) for index in range(options.scales)]
        return [f for f in fractions if longest * f >= options.coarsest_side or f == 1.0]
    growth = longest / options.coarsest_side
    count = max(0, math.ceil(math.log(growth, options.scale_factor) - LEAST_GROWTH))
    return [growth ** (index / count - 1) for index in range(count)] + [1.0]


def share_of_work(scales: Sequence[Scale], index: int) -> float:
    """The part of a run's work that is done by the end of a scale."""
    work = [scale.work for scale in scales]
    return sum(work[: index + 1]) / sum(work)


def is_long(scales: Sequence[Scale], pictures: int, device: torch.device, budget: float) -> bool:
    """Whether a run is long enough for kernels to make up for the time that they take to start.

    ``budget``: seconds that the run may take; 0 for any.
    """
    work = pictures * sum(scale.work for scale in scales)
    return work >= LONG.get(device.type, 0) and (not budget or budget >= LONG_SECONDS)
