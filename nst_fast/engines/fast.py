"""The fast engine: the objective by straight-line code. Only convolutions run in the chosen precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
from nst_fast.network.taps import Wraps
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective


class FastEvaluator:
    """Computes what the eager evaluator does, convolutions and features in ``dtype``.

    ``kernels`` and ``winograd``: see :class:`nst_fast.engines.fast_network.FastNetwork`; ``network``: one made of them.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        dtype: torch.dtype = torch.float32,
        *,
        kernels: bool = True,
        winograd: Collection[str] = (),
        network: FastNetwork | None = None,
    ) -> None:
        self.network = network or FastNetwork(encoder, dtype, kernels=kernels, winograd=winograd)
        self.objective = objective
        self.by_autograd = whole_derivative
        self.content_factors = {}
        for tap in set(objective.content_taps) - set(objective.similarities):
            target = objective.targets.content[tap]
            energy, size = energy_of(target, objective.guides.content_at(tap)), objective.content_size(tap)
            self.content_factors[tap] = content_factor(objective, tap, energy, size)

    def compile(self) -> None:
        """Let TorchInductor compile the network; autograd within a pass cannot be traced."""
        self.network.compile()
        self.by_autograd = torch.compiler.disable(whole_derivative)  # type: ignore[no-untyped-call]  # PyTorch has no type

    @torch.no_grad()
    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach()
        kept = self.network.forward(image)
        styles = self.objective.additive_terms
        guides, size = self.objective.guides, (image.shape[2], image.shape[3])
        measured = {term.name: mean_statistic(term, kept[term.tap], guides.at(term)) for term in styles}
        positions = {term.name: guides.positions(term, size) for term in styles}
        terms, slopes = style_slopes(self.objective, measured, positions)
        seed = WholeSeed(
            self.objective, slopes, self.content_factors, terms, self.network.seed_kernels, self.by_autograd
        )
        masked = frozenset(tap for tap in self.network.taps if seed.masks(tap))
        gradient = self.network.backward(kept, seed, masked)
        for name, (change, colors) in self.objective.pixel_terms(image).items():
            terms[name] = self._add_total_variation(gradient, change, colors)
        if self.objective.targets.temporal is not None:
            terms["temporal"], slope = self.objective.targets.temporal.derivative(image)
            gradient += slope
        terms = {name: terms[name] for name in self.objective.term_names}
        return Evaluation(torch.stack(list(terms.values())).sum(0), terms, gradient)

    def _add_total_variation(self, gradient: Tensor, image: Tensor, colors: Tensor) -> Tensor:
        """The weighted term [B] of an image; its gradient is added to that of the rest."""
        kernels, wraps = self.network.picture_kernels, self.objective.options.wraps
        if kernels is not None and image.dtype == torch.float32 and not any(wraps):
            term: Tensor = kernels.add_total_variation(gradient, image, colors)
            return term
        term, slope = total_variation(image, colors, wraps)
        gradient += slope
        return term


@dataclass(frozen=True, eq=False)
class WholeSeed:
    """Adds the derivative of the total with respect to a tap's features; terms that are not additive: a by-product.

    With ``kernels`` it goes back through the tap too, if that is a ReLU and counts everywhere alike: :meth:`masks`.
    """

    # Not a TileSeed of one tile: adding within the product spares passes over the features, and gives other bits.
    objective: Objective
    slopes: Sequence[Slope]
    content_factors: Mapping[str, Tensor]
    terms: dict[str, Tensor]
    kernels: ModuleType | None = None
    by_autograd: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]] = whole_derivative

    def masks(self, tap: str) -> bool:
        """Whether one kernel does all of it: a Gram at most, and a content loss of features at most."""
        if self.kernels is None or not tap.startswith("relu") or self.objective.whole_terms(tap):
            return False
        styles = [slope for slope in self.slopes if slope.tap == tap]
        plain = all(slope.shift is None and slope.weights is None for slope in styles)
        return plain and len(styles) <= 1 and self.objective.guides.content_at(tap) is None

    def _by_kernel(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        assert self.kernels is not None
        matrix = next((slope.matrix for slope in self.slopes if slope.tap == tap), None)
        factor = self.content_factors.get(tap)
        content = None if factor is None else (self.objective.targets.content[tap], factor)
        found, term = self.kernels.seed_and_relu(gradient, features, matrix, content)
        if term is not None:
            self.terms[f"content/{tap}"] = term
        return found  # type: ignore[no-any-return]  # kernels have no types

    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        if self.masks(tap):
            return self._by_kernel(tap, features, gradient)
        for slope in self.slopes:
            if slope.tap == tap:
                gradient = slope.derivative(features) if gradient is None else slope.add_to(gradient, features)
        if tap in self.content_factors:
            target, weights = self.objective.targets.content[tap], self.objective.guides.content_at(tap)
            term, derivative = content_derivative(features, target, self.content_factors[tap], weights)
            self.terms[f"content/{tap}"] = term
            derivative = derivative.to(features.dtype)
            gradient = derivative if gradient is None else gradient.add_(derivative)
        for name, whole in self.objective.whole_terms(tap).items():
            self.terms[name], derivative = self.by_autograd(whole, features)
            gradient = derivative if gradient is None else gradient.add_(derivative)
        assert gradient is not None  # every tap of the encoder serves a term
        return gradient


@torch.enable_grad()
def total_variation(image: Tensor, colors: Tensor, wraps: Wraps) -> tuple[Tensor, Tensor]:
    """The weighted term [B] and its gradient."""
    leaf = image.detach().requires_grad_(True)
    term = losses.tv_loss(leaf, colors, wraps)
    (slope,) = torch.autograd.grad(term.sum(), leaf)
    return term.detach(), slope
