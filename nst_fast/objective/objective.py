"""The objective: what is measured on a picture, the targets it is compared with, and the weighted sum of losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.network.tiles import stride_of
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.guides import PLAIN, Guides, style_parts
from nst_fast.objective.style import blended, measure_style, style_distance
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import StyleTerm

# A feature has passed up to 16 convolutions, and may be so many float32 roundings off: measured up to 16.
ROUNDINGS = 64


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the losses compare. The same measures, taken once from content and style images, are the targets.

    Attributes:
        content: tap -> features [B, C, h, w].
        style: name of a term -> its statistic [B, ...], see :mod:`nst_fast.objective.style`.
        positions: name of a term -> h * w of its tap, or the sum of its weights, for every one in ``style``; empty in
            targets.
    """

    content: Mapping[str, Tensor]
    style: Mapping[str, Tensor]
    positions: Mapping[str, float]

    def to(self, device: torch.device, dtype: torch.dtype) -> Statistics:
        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {tap: tensor.to(device, dtype) for tap, tensor in tensors.items()}

        return Statistics(move(self.content), move(self.style), dict(self.positions))


def measure(
    features: Mapping[str, Tensor],
    content_taps: Iterable[str],
    style_terms: Iterable[StyleTerm],
    guides: Guides = PLAIN,
) -> Statistics:
    """The statistics of encoder features; those of style are of the positions that the guides say."""
    found: dict[str, Tensor] = {}
    positions: dict[str, float] = {}
    for term in style_terms:
        at_tap, weights = features[term.tap], guides.at(term)
        found[term.name] = measure_style(term, at_tap, weights.to(at_tap.dtype) if weights is not None else None)
        stride = stride_of(term.tap)
        positions[term.name] = guides.positions(term, (stride * at_tap.shape[2], stride * at_tap.shape[3]))
    return Statistics({tap: features[tap] for tap in content_taps}, found, positions)


@torch.no_grad()
def build_targets(
    encoder: Encoder,
    options: ObjectiveOptions,
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    style_guides: Sequence[Guides] | None = None,
) -> Statistics:
    """The targets: features of the content image, blended statistics of the style images, which end at their
    sides.

    Args:
        encoder: serves the taps that the options name.
        options: which taps.
        content_image: [B, 3, H, W], the size of the pastiche; may be None when there are no content taps.
        style_images: each [1 or B, 3, H, W], of any size.
        style_weights: blend weights, by default equal.
        style_guides: what of each style image is measured, and for which regions; by default all of it.
    """
    content: Mapping[str, Tensor] = {}
    if options.content_tap_weights and content_image is not None:
        content = measure(encoder(content_image), options.content_tap_weights, ()).content
    measured, weights = [], []
    for part in style_parts(style_images, style_weights, style_guides) if options.style_terms else ():
        terms = part.guides.terms(options)
        measured.append(measure(encoder.unwrapped(part.image), (), terms.values(), part.guides).style)
        weights.append(part.weights(terms))
    return Statistics(content, blended(measured, weights), {})


class Objective:
    """The weighted sum of losses between a picture's statistics and the targets."""

    def __init__(self, options: ObjectiveOptions, targets: Statistics, guides: Guides = PLAIN) -> None:
        self.options = options
        self.targets = targets
        self.guides = guides
        self.content_taps = options.content_tap_weights
        # A region, of the pastiche or of the style, may have no cell at a deep tap.
        self.style_terms = {name: term for name, term in guides.terms(options).items() if name in targets.style}
        self.tv_colors = self._tv_colors()

    def _tv_colors(self) -> Tensor | None:
        """The matrix of :func:`losses.tv_colors` where the targets are; None when there is no total variation.

        It is put there once: a copy to the device at every evaluation would end a CUDA graph's capture.
        """
        if not self.options.has_tv:
            return None
        target = next(iter([*self.targets.style.values(), *self.targets.content.values()]))
        colors = losses.tv_colors(self.options.tv_weight, self.options.chroma_tv_weight)
        return colors.to(target.device, torch.promote_types(target.dtype, torch.float32))  # content may have 16 bits

    def measure(self, features: Mapping[str, Tensor]) -> Statistics:
        return measure(features, self.content_taps, self.style_terms.values(), self.guides)

    @property
    def term_names(self) -> list[str]:
        """The names of the terms, in the order of :meth:`terms`."""
        names = [f"content/{tap}" for tap in self.content_taps]
        return [*names, *self.style_terms, *(["tv"] if self.options.has_tv else [])]

    def terms(self, statistics: Statistics, image: Tensor) -> dict[str, Tensor]:
        """Weighted terms, each [B]; they add up to the total.

        Args:
            statistics: of the picture, as :meth:`measure` gives them.
            image: the picture itself [B, 3, H, W], for total variation.
        """
        found = {f"content/{tap}": self.content_term(tap, features) for tap, features in statistics.content.items()}
        for name, statistic in statistics.style.items():
            found[name] = self.style_term(name, statistic, statistics.positions[name])
        if self.tv_colors is not None:
            found["tv"] = losses.tv_loss(image, self.tv_colors, self.options.wraps)
        return found

    def content_term(self, tap: str, features: Tensor) -> Tensor:
        weight = self.options.content_weight * self.content_taps[tap] * self.guides.content_factor
        weights, target = self.guides.content_at(tap), self.targets.content[tap]
        weights = weights.to(features.dtype) if weights is not None else None
        return weight * losses.content_loss(features, target, self.options.content_normalization, weights)

    def content_size(self, tap: str) -> float:
        """C H W of the target, or of what of it counts."""
        target, stride = self.targets.content[tap], stride_of(tap)
        return self.guides.content_size(tap, (stride * target.shape[2], stride * target.shape[3]))

    def style_term(self, name: str, statistic: Tensor, positions: float) -> Tensor:
        term = self.style_terms[name]
        return term.weight * style_distance(term, statistic, self.targets.style[name], self.options, positions)

    def rounding(self, height: int, width: int) -> Tensor:
        """The total [B] of a picture of this size whose features differ from their targets by rounding alone.

        Features that are off by a fraction d make a content term of d² of its target's energy, and Grams are off by
        2 d. A total below this is 0 as far as the engines can tell, and its gradient is noise.
        """
        found = []
        for tap, weight in self.content_taps.items():
            target = self.targets.content[tap]
            fraction = max(ROUNDINGS * torch.finfo(torch.float32).eps, torch.finfo(target.dtype).eps)  # may be halved
            energy = torch.linalg.vector_norm(target, dim=(1, 2, 3), dtype=torch.float32).square()
            size = self.guides.content_size(tap, (height, width))
            factor = losses.content_factor(self.options.content_normalization, size, energy)
            scale = self.options.content_weight * self.guides.content_factor
            found.append(scale * weight * fraction**2 * energy * factor)
        fraction = 2 * ROUNDINGS * torch.finfo(torch.float32).eps
        for name, term in self.style_terms.items():
            statistic = self.targets.style[name] * (1 + fraction)
            found.append(self.style_term(name, statistic, self.guides.positions(term, (height, width))))
        total: Tensor = sum(found[1:], found[0])
        return total
