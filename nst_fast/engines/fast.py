"""The fast engine: the same objective through straight-line code, with Grams of one product each way.

Convolutions run in the precision asked for; statistics, losses, the picture and the optimiser's state stay in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.seeds import content_factor, energy_of, style_slopes, wide
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective

# A low-precision product is rounded to low precision when it is stored, on the CPU also where sums are kept in
# float32. Summing a Gram from so many parts in float32 divides that error by the root of their number.
GRAM_PARTS = 16


class FastEvaluator:
    """The twin of the eager evaluator.

    Args:
        encoder: whose weights are copied in the precision and layout of the engine.
        objective: what is minimised.
        dtype: of convolutions and features.
        kernels: with our own on a GPU.
    """

    def __init__(
        self, encoder: Encoder, objective: Objective, dtype: torch.dtype = torch.float32, *, kernels: bool = True
    ) -> None:
        self.network = FastNetwork(encoder, dtype, kernels=kernels)
        self.objective = objective
        self.content_factors = {
            tap: content_factor(objective, tap, energy_of(target), target[0].numel())
            for tap, target in objective.targets.content.items()
        }

    @torch.no_grad()
    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach()
        kept = self.network.forward(image)
        grams = {tap: mean_gram(kept[tap]) for tap in self.objective.style_taps}
        positions = {tap: kept[tap].shape[2] * kept[tap].shape[3] for tap in grams}
        terms, slopes = style_slopes(self.objective, grams, positions)
        seed = _Seed(slopes, self.content_factors, self.objective.targets.content, terms)
        gradient = self.network.backward(kept, seed)
        if self.objective.tv_colors is not None:
            terms["tv"], slope = total_variation(image, self.objective.tv_colors)
            gradient += slope
        terms = {name: terms[name] for name in self.objective.term_names}
        return Evaluation(torch.stack(list(terms.values())).sum(0), terms, gradient)


@dataclass(frozen=True)
class _Seed:
    """Adds the derivative of the total with respect to a tap's features; content terms are a by-product."""

    slopes: Mapping[str, Tensor]
    content_factors: Mapping[str, Tensor]
    content_targets: Mapping[str, Tensor]
    terms: dict[str, Tensor]

    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        if tap in self.slopes:
            slope = self.slopes[tap].to(features.dtype)  # S is symmetric: F S = (S Fᵀ)ᵀ
            if gradient is None:
                batch, channels, height, width = features.shape
                gradient = (rows_of(features) @ slope).view(batch, height, width, channels).permute(0, 3, 1, 2)
            else:
                rows_of(gradient).baddbmm_(rows_of(features), slope)
        if tap in self.content_factors:
            factor = self.content_factors[tap]
            difference = wide(features) - self.content_targets[tap]
            self.terms[f"content/{tap}"] = factor * difference.square().sum((1, 2, 3))
            slope = difference.mul_(2 * factor.view(-1, 1, 1, 1)).to(features.dtype)
            gradient = slope if gradient is None else gradient.add_(slope)
        assert gradient is not None  # every tap of the encoder serves a term
        return gradient


def rows_of(features: Tensor) -> Tensor:
    """Channels-last features [B, C, H, W] as a matrix [B, H * W, C] on the same memory."""
    batch, channels, height, width = features.shape
    return features.permute(0, 2, 3, 1).view(batch, height * width, channels)


def mean_gram(features: Tensor) -> Tensor:
    """The mean Gram matrix [B, C, C] of channels-last features [B, C, H, W], at least float32, one product."""
    positions = features.shape[2] * features.shape[3]
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)  # a view, but for a part of a crop
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


@torch.enable_grad()
def total_variation(image: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted term [B] and its gradient."""
    leaf = image.detach().requires_grad_(True)
    term = losses.tv_loss(leaf, colors)
    (slope,) = torch.autograd.grad(term.sum(), leaf)
    return term.detach(), slope
