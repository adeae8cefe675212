"""What each style loss measures at a tap, and how far a measurement is from its target.

A statistic is one tensor. Those that are means over positions (:attr:`StyleTerm.additive`) are all that tiles,
processes and several styles need to know: they add them up, weighted, and the loss follows from the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nst_fast.objective import losses
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import StyleTerm


def statistic_size(term: StyleTerm, channels: int) -> tuple[int, int]:
    """The shape, without that of the batch, of an additive statistic."""
    return channels, channels


def measure_style(term: StyleTerm, features: Tensor, weights: Tensor | None = None) -> Tensor:
    """The statistic [B, ...] of a term's features [B, C, H, W], whose positions count by their weights [1, 1, H, W]."""
    return losses.gram_matrix(features, weights)


def blended(measured: Sequence[Mapping[str, Tensor]], weights: Sequence[Mapping[str, float]]) -> dict[str, Tensor]:
    """One target from those of several styles, per term: their weighted mean, which is that of the styles' mixture.

    ``weights``: term -> weight, for each style. A style may lack some of the terms, those of other regions.

    The weighted sum of squared distances to several Grams differs from the squared distance to their weighted mean
    by a constant, so both have the same gradient (for normalisations that do not depend on the target).
    """
    found = {}
    for name in dict.fromkeys(name for each in measured for name in each):
        parts = [(weight[name], each[name]) for weight, each in zip(weights, measured, strict=True) if name in each]
        whole = sum(weight for weight, _ in parts)
        found[name] = torch.stack([weight / whole * part for weight, part in parts]).sum(0)
    return found


def style_distance(
    term: StyleTerm, statistic: Tensor, target: Tensor, options: ObjectiveOptions, positions: float
) -> Tensor:
    """The loss [B] of a statistic, without the term's weight; ``positions``: h * w of the tap in the pastiche."""
    factor = losses.gram_factor(options.gram_normalization, statistic.shape[1], positions)
    return losses.style_loss(statistic, target, options.style_normalization, factor, positions)
