"""The fast engine: the objective by straight-line code. Only convolutions run in the chosen precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.seeds import (
    Slope,
    content_derivative,
    content_factor,
    energy_of,
    mean_statistic,
    style_slopes,
    whole_derivative,
)
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective


class FastEvaluator:
    """Computes what the eager evaluator does, convolutions and features in ``dtype``.

    ``kernels`` and ``winograd``: see :class:`nst_fast.engines.fast_network.FastNetwork`.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        dtype: torch.dtype = torch.float32,
        *,
        kernels: bool = True,
        winograd: Collection[str] = (),
    ) -> None:
        self.network = FastNetwork(encoder, dtype, kernels=kernels, winograd=winograd)
        self.objective = objective
        self.content_factors = {}
        for tap in set(objective.content_taps) - set(objective.similarities):
            target = objective.targets.content[tap]
            self.content_factors[tap] = content_factor(objective, tap, energy_of(target), target[0].numel())

    @torch.no_grad()
    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach()
        kept = self.network.forward(image)
        styles = self.objective.additive_terms
        measured = {term.name: mean_statistic(term, kept[term.tap]) for term in styles}
        positions = {term.name: kept[term.tap].shape[2] * kept[term.tap].shape[3] for term in styles}
        terms, slopes = style_slopes(self.objective, measured, positions)
        seed = WholeSeed(self.objective, slopes, self.content_factors, terms, self.network.seed_kernels)
        masked = frozenset(tap for tap in self.network.taps if seed.masks(tap))
        gradient = self.network.backward(kept, seed, masked)
        for name, (change, colors) in self.objective.pixel_terms(image).items():
            terms[name], slope = total_variation(change, colors)
            gradient += slope
        terms = {name: terms[name] for name in self.objective.term_names}
        return Evaluation(torch.stack(list(terms.values())).sum(0), terms, gradient)


@dataclass(frozen=True, eq=False)
class WholeSeed:
    """Adds the derivative of the total with respect to a tap's features; terms that are not additive: a by-product.

    With ``kernels`` it goes back through the tap too, if that is a ReLU: :meth:`masks`.
    """

    # Not a TileSeed of one tile: adding within the product spares passes over the features, and gives other bits.
    objective: Objective
    slopes: Sequence[Slope]
    content_factors: Mapping[str, Tensor]
    terms: dict[str, Tensor]
    kernels: ModuleType | None = None

    def masks(self, tap: str) -> bool:
        """Whether the kernel knows all that is at the tap: a slope without a shift, content by features."""
        slopes = [slope for slope in self.slopes if slope.tap == tap]
        simple = len(slopes) <= 1 and all(slope.shift is None for slope in slopes)
        return self.kernels is not None and tap.startswith("relu") and simple and not self.objective.whole_terms(tap)

    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        if self.kernels is not None and self.masks(tap):
            factor = self.content_factors.get(tap)
            content = None if factor is None else (self.objective.targets.content[tap], factor)
            matrix = next((slope.matrix for slope in self.slopes if slope.tap == tap), None)
            found, term = self.kernels.seed_and_relu(gradient, features, matrix, content)
            if term is not None:
                self.terms[f"content/{tap}"] = term
            return found  # type: ignore[no-any-return]  # kernels have no types
        for slope in self.slopes:
            if slope.tap == tap:
                gradient = slope.derivative(features) if gradient is None else slope.add_to(gradient, features)
        if tap in self.content_factors:
            term, derivative = content_derivative(
                features, self.objective.targets.content[tap], self.content_factors[tap]
            )
            self.terms[f"content/{tap}"] = term
            derivative = derivative.to(features.dtype)
            gradient = derivative if gradient is None else gradient.add_(derivative)
        for name, whole in self.objective.whole_terms(tap).items():
            self.terms[name], derivative = whole_derivative(whole, features)
            gradient = derivative if gradient is None else gradient.add_(derivative)
        assert gradient is not None  # every tap of the encoder serves a term
        return gradient


@torch.enable_grad()
def total_variation(image: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted term [B] and its gradient."""
    leaf = image.detach().requires_grad_(True)
    term = losses.tv_loss(leaf, colors)
    (slope,) = torch.autograd.grad(term.sum(), leaf)
    return term.detach(), slope
