"""What the exported losses are multiplied by: every normalisation as one formula.

A graph computes sums of squared differences and multiplies each by an input, so that one graph serves every
normalisation. Here are the values of those inputs that give the terms of :mod:`nst_fast.objective.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_fast.network.taps import channels_of, halvings_of, tap_size
from nst_fast.options.config import ObjectiveOptions

Array = NDArray[Any]

SMALLEST_ENERGY = 1e-30  # of an all-dark target: no division by zero, and a coefficient that float32 holds


@dataclass(frozen=True)
class Coefficient:
    """factor · positions^power / energy, where energy is the target's sum of squares, or 1 if not ``relative``.

    Attributes:
        factor: all that depends neither on the size nor on the target.
        power: of h · w of the tap in the pastiche.
        relative: whether to divide by the target's energy.
    """

    factor: float
    power: int
    relative: bool

    def value(self, positions: int, target: Array) -> float:
        """The coefficient for a tap of so many positions and a target: features, or a mean Gram."""
        energy = 1.0
        if self.relative:
            energy = max(float(np.square(target, dtype=np.float64).sum()), SMALLEST_ENERGY)
        return self.factor * float(positions) ** self.power / energy

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def coefficients(options: ObjectiveOptions) -> dict[str, Coefficient]:
    """Term -> coefficient, for every content and style tap; see the tables in :mod:`nst_fast.objective.losses`."""
    found = {}
    relative = options.content_normalization == "relative"
    for tap, weight in options.content_tap_weights.items():
        constant, power = _content(options.content_normalization, channels_of(tap))
        found[f"content/{tap}"] = Coefficient(options.content_weight * weight * constant, power, relative)
    relative = options.style_normalization == "relative"
    for tap, weight in options.style_tap_weights.items():
        constant, power = _style(options, channels_of(tap))
        found[f"style/{tap}"] = Coefficient(options.style_weight * weight * constant, power, relative)
    return found


def _content(normalization: str, channels: int) -> tuple[float, int]:
    return {
        "relative": (1.0, 0),
        "mean": (1.0 / channels, -1),
        "half_sum": (0.5, 0),
        "size": (0.25 / channels, -1),
    }[normalization]


def _style(options: ObjectiveOptions, channels: int) -> tuple[float, int]:
    if options.style_normalization == "relative":
        return 1.0, 0
    gram_factor, gram_power = {"hw": (1.0, 0), "chw": (1.0 / channels, 0), "none": (1.0, 1)}[options.gram_normalization]
    factor, power = {"mean": (1.0, 0), "sum": (float(channels**2), 0), "gatys": (0.25, -2)}[options.style_normalization]
    return gram_factor**2 * factor / channels**2, 2 * gram_power + power


def tv_weights(height: int, width: int) -> tuple[float, float]:
    """What the sums of weighted squared differences down and to the right are multiplied by: both become means."""
    return 1 / (3 * (height - 1) * width), 1 / (3 * height * (width - 1))


def sized_inputs(taps: Sequence[str], pools: Sequence[str], height: int, width: int) -> dict[str, Array]:
    """The graph inputs that depend on the size alone: 1 / (h w) of every style tap, and what every pool leaves out."""
    feeds: dict[str, Array] = {}
    for tap in taps:
        h, w = tap_size(tap, height, width)
        feeds[f"inverse_positions/{tap}"] = np.array([1.0 / (h * w)])
    for pool in pools:
        feeds[f"pads/{pool}"] = np.array(odd_pads(pool, height, width), np.int64)
    return feeds


def odd_pads(pool: str, height: int, width: int) -> list[int]:
    """Pad's argument that restores the odd row and column that a pool leaves out of an image of this size."""
    halvings = halvings_of(pool) - 1  # before the pool
    return [0, 0, 0, 0, 0, 0, (height >> halvings) % 2, (width >> halvings) % 2]
