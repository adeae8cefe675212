"""The fast engine: the objective by straight-line code. Only convolutions run in the chosen precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.seeds import (
    content_derivative,
    content_factor,
    energy_of,
    mean_gram,
    rows_of,
    style_derivative,
    style_slopes,
)
from nst_fast.network.padding import Wraps
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective


class FastEvaluator:
    """Computes what the eager evaluator does, convolutions and features in ``dtype``.

    ``kernels``: whether Triton kernels may be used on a GPU.
    """

    def __init__(
        self, encoder: Encoder, objective: Objective, dtype: torch.dtype = torch.float32, *, kernels: bool = True
    ) -> None:
        self.network = FastNetwork(encoder, dtype, kernels=kernels)
        self.objective = objective
        self.content_factors = {}
        for tap in objective.content_taps:
            target = objective.targets.content[tap]
            self.content_factors[tap] = content_factor(objective, tap, energy_of(target), target[0].numel())

    @torch.no_grad()
    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach()
        kept = self.network.forward(image)
        grams = {tap: mean_gram(kept[tap]) for tap in self.objective.style_taps}
        positions = {tap: kept[tap].shape[2] * kept[tap].shape[3] for tap in grams}
        terms, slopes = style_slopes(self.objective, grams, positions)
        seed = WholeSeed(slopes, self.content_factors, self.objective.targets.content, terms)
        gradient = self.network.backward(kept, seed)
        if self.objective.tv_colors is not None:
            terms["tv"], slope = total_variation(image, self.objective.tv_colors, self.objective.options.wraps)
            gradient += slope
        terms = {name: terms[name] for name in self.objective.term_names}
        return Evaluation(torch.stack(list(terms.values())).sum(0), terms, gradient)


@dataclass(frozen=True, eq=False)
class WholeSeed:
    """Adds the derivative of the total with respect to a tap's features; content terms are a by-product."""

    # Not a TileSeed of one tile: adding within the product spares passes over the features, and gives other bits.
    slopes: Mapping[str, Tensor]
    content_factors: Mapping[str, Tensor]
    content_targets: Mapping[str, Tensor]
    terms: dict[str, Tensor]

    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        if tap in self.slopes and gradient is None:
            gradient = style_derivative(features, self.slopes[tap])
        elif tap in self.slopes and gradient is not None:
            rows = rows_of(features)
            gradient.permute(0, 2, 3, 1).view(rows.shape).baddbmm_(rows, self.slopes[tap].to(rows.dtype))
        if tap in self.content_factors:
            term, slope = content_derivative(features, self.content_targets[tap], self.content_factors[tap])
            self.terms[f"content/{tap}"] = term
            slope = slope.to(features.dtype)
            gradient = slope if gradient is None else gradient.add_(slope)
        assert gradient is not None  # every tap of the encoder serves a term
        return gradient


@torch.enable_grad()
def total_variation(image: Tensor, colors: Tensor, wraps: Wraps) -> tuple[Tensor, Tensor]:
    """The weighted term [B] and its gradient."""
    leaf = image.detach().requires_grad_(True)
    term = losses.tv_loss(leaf, colors, wraps)
    (slope,) = torch.autograd.grad(term.sum(), leaf)
    return term.detach(), slope
