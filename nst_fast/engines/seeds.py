"""The seeds of a backward pass: derivatives of the total with respect to the features of each tap.

A term depends on features either through a Gram matrix, whose slope autograd finds on the small matrix alone, or as a
sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nst_fast.objective import losses
from nst_fast.objective.objective import Objective


def style_slopes(
    objective: Objective, grams: Mapping[str, Tensor], positions: Mapping[str, int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The style terms of mean Grams, and per tap the matrix S [B, C, C] for which S F is the derivative by F.

    With G = F Fᵀ / M and D = dL/dG, dL/dF = (D + Dᵀ) F / M: one product, where autograd makes two.
    """
    terms, slopes = {}, {}
    for tap, gram in grams.items():
        leaf = gram.detach().requires_grad_(True)
        with torch.enable_grad():
            term = objective.style_term(tap, leaf, positions[tap])
            (slope,) = torch.autograd.grad(term.sum(), leaf)
        terms[f"style/{tap}"] = term.detach()
        slopes[tap] = (slope + slope.transpose(1, 2)) / positions[tap]
    return terms, slopes


def content_factor(objective: Objective, tap: str, energy: Tensor, size: int) -> Tensor:
    """The factor [B] of the sum of squared differences at a tap, weights included.

    ``energy``: the target's sum of squares [B]; ``size``: its C H W.
    """
    options = objective.options
    factor = losses.content_factor(options.content_normalization, size, energy)
    return torch.ones_like(energy) * options.content_weight * objective.content_taps[tap] * factor


def energy_of(target: Tensor) -> Tensor:
    """The sum of squares of a target [B, C, h, w], [B]."""
    # Row by row: the squares of a whole target would take as much memory as the target.
    return torch.stack([wide(row).square().sum((1, 2)) for row in target.unbind(2)]).sum(0)


def wide(features: Tensor) -> Tensor:
    """At least single precision: sums over positions overflow half precision and round it away."""
    return features.float() if features.element_size() < 4 else features
