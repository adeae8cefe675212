"""What the losses multiply their sums of squares by, as a formula that another program can compute by itself.

An exported graph computes sums of squared differences and multiplies each by an input. The formula of that input is
found from :mod:`nst_fast.objective.losses` by evaluating its factors at one and at two positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nst_fast.network.taps import channels_of
from nst_fast.objective import losses
from nst_fast.objective.guides import PLAIN, Guides
from nst_fast.objective.style import SCALES
from nst_fast.options.config import ObjectiveOptions

SMALLEST_ENERGY = 1e-30  # of an all-dark target: no division by zero, and a coefficient that float32 holds


@dataclass(frozen=True)
class Coefficient:
    """factor · positions^power / energy, where energy is the target's sum of squares, or 1 if not ``relative``."""

    factor: float  # all that depends neither on the size nor on the target
    power: int  # of h · w of the tap in the pastiche
    relative: bool

    def value(self, positions: float, target: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
        """The coefficient for a tap of so many positions, weighed or not, and a target: features, or a mean Gram."""
        energy = 1.0
        if self.relative:
            squares = np.square(target, dtype=np.float64)
            energy = max(float((squares if weights is None else squares * weights).sum()), SMALLEST_ENERGY)
        return self.factor * float(positions) ** self.power / energy


def coefficients(options: ObjectiveOptions, guides: Guides = PLAIN) -> dict[str, Coefficient]:
    """Term -> coefficient, for every content and style tap, and every region of the guides."""
    content, style = options.content_normalization, options.style_normalization

    def content_factor(channels: int, positions: int) -> float:
        return float(losses.content_factor(content, channels * positions, None))

    def style_factor(channels: int, positions: int) -> float:
        gram = losses.gram_factor(options.gram_normalization, channels, positions)
        return losses.style_factor(style, gram, channels, positions)

    found = {}
    for tap, weight in options.content_tap_weights.items():
        whole = options.content_weight * weight * guides.content_factor
        found[f"content/{tap}"] = _coefficient(content_factor, channels_of(tap), whole, content == "relative")
    for name, term in guides.terms(options).items():
        found[name] = _coefficient(style_factor, channels_of(term.tap), term.weight, style == "relative")
        if term.loss != "gram":  # relative by itself
            found[name] = Coefficient(term.weight * SCALES[term.loss], 0, False)
    return found


def _coefficient(factor: Callable[[int, int], float], channels: int, weight: float, relative: bool) -> Coefficient:
    """The formula of a factor of channels and positions, which is a power of the positions."""
    if relative:
        return Coefficient(weight, 0, True)
    once, twice = factor(channels, 1), factor(channels, 2)
    return Coefficient(weight * once, round(math.log2(twice / once)), False)
