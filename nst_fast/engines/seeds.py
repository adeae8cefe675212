"""The seeds of a backward pass: derivatives of the total with respect to the features of each tap.

A term depends on features either through a small matrix, a mean over positions, by which it is derived first, or as a
sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nst_fast.objective import losses
from nst_fast.objective.objective import Objective
from nst_fast.options.style import StyleTerm

# A low-precision product is rounded to low precision when it is stored, on the CPU also where sums are kept in
# float32. Summing a Gram from so many parts in float32 divides that error by the root of their number.
GRAM_PARTS = 16


def mean_gram(features: Tensor) -> Tensor:
    """The mean Gram matrix [B, C, C] of channels-last features [B, C, H, W], at least float32, one product."""
    rows = rows_of(features)
    positions = rows.shape[1]
    if features.element_size() >= 4:
        return rows.transpose(1, 2) @ rows / positions
    if features.is_cuda:  # one product is faster than a batch of one
        return torch.stack([torch.mm(each.T, each, out_dtype=torch.float32) for each in rows]) / positions
    batch, _, channels = rows.shape
    size = positions // GRAM_PARTS
    parts = rows[:, : size * GRAM_PARTS].reshape(batch * GRAM_PARTS, size, channels)
    rest = rows[:, size * GRAM_PARTS :]
    sums = (parts.transpose(1, 2) @ parts).float().view(batch, GRAM_PARTS, channels, channels).sum(1)
    return (sums + (rest.transpose(1, 2) @ rest).float()) / positions


def mean_statistic(term: StyleTerm, features: Tensor, weights: Tensor | None = None) -> Tensor:
    """The additive statistic of :mod:`nst_fast.objective.style`, of channels-last features in any precision."""
    if weights is not None:
        return weighted_sum(term, features, weights) / weights.sum()
    gram = mean_gram(features)
    if term.statistic == "gram":
        return gram
    rows = rows_of(features)
    return torch.cat([gram, rows.mean(1, dtype=gram.dtype)[:, :, None]], 2)


def weighted_sum(term: StyleTerm, features: Tensor, weights: Tensor) -> Tensor:
    """The additive statistic summed over positions, each times its weight of [1, 1, H, W]; at least float32."""
    rows = wide(rows_of(features))
    counted = rows * rows_of(weights).to(rows.dtype)
    gram = rows.transpose(1, 2) @ counted
    return gram if term.statistic == "gram" else torch.cat([gram, counted.sum(1)[:, :, None]], 2)


@dataclass(frozen=True, eq=False)
class Slope:
    """The derivative of a style term by the features F [B, C, H, W] of a tap: w (S F + b) at every position.

    Attributes:
        term, tap: its name, and where it is measured.
        matrix: S, symmetric [B, C, C].
        shift: b [B, 1, C], where the term depends on the mean.
        weights: w [1, 1, H, W] of the positions; None where all count alike.
    """

    term: str
    tap: str
    matrix: Tensor
    shift: Tensor | None = None
    weights: Tensor | None = None

    def of_cells(self, cells: tuple[slice, ...]) -> Slope:
        """The derivative by some of the cells."""
        return self if self.weights is None else replace(self, weights=self.weights[cells])

    def derivative(self, features: Tensor) -> Tensor:
        """As features in channels-last layout."""
        batch, channels, height, width = features.shape
        product = rows_of(features) @ self.matrix.to(features.dtype)  # S is symmetric: F S = (S Fᵀ)ᵀ
        if self.shift is not None:
            product += self.shift.to(features.dtype)
        if self.weights is not None:
            product *= rows_of(self.weights).to(product.dtype)
        return product.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def add_to(self, gradient: Tensor, features: Tensor) -> Tensor:
        """Add it, in place, to a gradient in channels-last layout."""
        if self.weights is not None:
            return gradient.add_(self.derivative(features))
        rows = rows_of(features)
        target = gradient.permute(0, 2, 3, 1).view(rows.shape).baddbmm_(rows, self.matrix.to(rows.dtype))
        if self.shift is not None:
            target += self.shift.to(rows.dtype)
        return gradient


def style_slopes(
    objective: Objective, measured: Mapping[str, Tensor], positions: Mapping[str, float]
) -> tuple[dict[str, Tensor], list[Slope]]:
    """The style terms of additive statistics, and the derivative of each.

    With G = F Fᵀ / M and D = dL/dG, dL/dF = (D + Dᵀ) F / M: one product, where autograd makes two.
    """
    terms, slopes = {}, []
    for name, statistic in measured.items():
        terms[name], by_statistic = objective.style_derivative(name, statistic, positions[name])
        channels = statistic.shape[1]
        by_gram, by_mean = by_statistic[:, :, :channels], by_statistic[:, None, :, channels:]
        matrix = (by_gram + by_gram.transpose(1, 2)) / positions[name]
        shift = by_mean[..., 0] / positions[name] if by_mean.numel() else None
        style = objective.style_terms[name]
        slopes.append(Slope(name, style.tap, matrix, shift, objective.guides.at(style)))
    return terms, slopes


@torch.enable_grad()
def whole_derivative(term: Callable[[Tensor], Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    """A term [B] of a whole picture's features, and its derivative, by autograd on the features alone."""
    leaf = wide(features.detach()).requires_grad_(True)
    value = term(leaf)
    (derivative,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), derivative.to(features.dtype, memory_format=torch.channels_last)


def content_derivative(
    features: Tensor, target: Tensor, factor: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The content term [B] of features [B, C, H, W], whose positions count by their weights, and its derivative."""
    difference = wide(features) - target
    if weights is not None:
        weighted = difference * weights.to(difference.dtype)
        return factor * (weighted * difference).sum((1, 2, 3)), weighted.mul_(2 * factor.view(-1, 1, 1, 1))
    term = factor * difference.square().sum((1, 2, 3))
    return term, difference.mul_(2 * factor.view(-1, 1, 1, 1))


def content_factor(objective: Objective, tap: str, energy: Tensor, size: float) -> Tensor:
    """The factor [B] of the sum of squared differences at a tap, weights included.

    ``energy``: the target's sum of squares [B]; ``size``: its C H W.
    """
    options = objective.options
    factor = losses.content_factor(options.content_normalization, size, energy)
    weight = torch.ones_like(energy) * options.content_weight * objective.content_taps[tap]
    return weight * factor * objective.guides.content_factor


def energy_of(target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of squares [B] of a target [B, C, h, w], row by row: all squares would take as much memory as it.

    ``weights`` [1, 1, h, w]: how much each position counts.
    """
    rows = target.unbind(2)
    if weights is None:
        return torch.stack([wide(row).square().sum((1, 2)) for row in rows]).sum(0)
    parts = zip(rows, weights.unbind(2), strict=True)
    return torch.stack([(wide(row).square() * share).sum((1, 2)) for row, share in parts]).sum(0)


def rows_of(features: Tensor) -> Tensor:
    """Features [B, C, H, W] as a matrix [B, H * W, C]; on the same memory if they are channels-last and no crop."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def wide(features: Tensor) -> Tensor:
    """At least single precision: sums over positions overflow half precision and round it away."""
    return features.float() if features.element_size() < 4 else features
