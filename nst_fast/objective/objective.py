"""The objective: what is measured on a picture, the targets it is compared with, and the weighted sum of losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nst_fast.network.tiles import stride_of
from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses
from nst_fast.objective.guides import PLAIN, Guides, StylePart, style_parts
from nst_fast.objective.samples import SelfSimilarity
from nst_fast.objective.style import (
    GramDistance,
    SampledDistance,
    blended,
    distance_to,
    measure_style,
    measure_target,
)
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import StyleTerm

# A feature has passed up to 16 convolutions, and may be so many float32 roundings off: measured up to 16.
ROUNDINGS = 64
SIMILARITY_SCALE = 4.0  # of self-similarity, so that the content weights that suit features suit it


@dataclass(frozen=True, eq=False)
class Edges:
    """What the term of edges compares with."""

    image: Tensor  # the content [B, 3, H, W], or the rows of it that a strip sees
    energy: Tensor  # of the whole content [B], to which the term is relative

    def colors(self, weight: float) -> Tensor:
        """The matrix [B, 3, 3] of which total variation of the difference to the content is the term of edges."""
        return losses.edge_colors().to(self.image) * (weight / self.energy[:, None, None])


@dataclass(frozen=True, eq=False)
class Temporal:
    """What the temporal term of a film's frame compares with (Ruder, Dosovitskiy & Brox 2016, sections 5.1 and 5.2)."""

    image: Tensor  # earlier frames, moved along the optical flow [B, 3, H, W]
    weights: Tensor  # as :func:`losses.temporal_loss` takes them [B, 1, H, W]

    def derivative(self, image: Tensor, region: tuple[slice, ...] = ()) -> tuple[Tensor, Tensor]:
        """The term [B] of a region of an image, and its gradient there."""
        own, target, weights = image[region], self.image[region], self.weights[region]
        return losses.temporal_loss(own, target, weights), 2 * weights * (own - target)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the losses compare. The same measures, taken once from content and style images, are the targets."""

    content: Mapping[str, Tensor]  # tap -> features [B, C, h, w]
    style: Mapping[str, Tensor]  # name of a term -> its statistic [B, ...], see :mod:`nst_fast.objective.style`
    positions: Mapping[str, float]  # the same -> h * w of its tap, or the sum of its weights; empty in targets
    edges: Edges | None = None  # of targets, where edges are compared
    temporal: Temporal | None = None  # of targets, of a film's frame that follows others

    def to(self, device: torch.device, dtype: torch.dtype) -> Statistics:
        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}

        edges = self.edges and Edges(**moved(vars(self.edges)))
        temporal = self.temporal and Temporal(**moved(vars(self.temporal)))
        return Statistics(moved(self.content), moved(self.style), self.positions, edges, temporal)


@torch.no_grad()
def build_targets(
    encoder: Encoder,
    options: ObjectiveOptions,
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    style_guides: Sequence[Guides] | None = None,
) -> Statistics:
    """The targets: features of the content image, blended statistics of the style images, which end at their sides.

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
        content = encoder.measured(content_image, dict.fromkeys(options.content_tap_weights, lambda features: features))
    parts = style_parts(style_images, style_weights, style_guides) if options.style_terms else []
    whole = sum(part.weight for part in parts)
    measured = [measured_style(encoder, options, part, part.weight / whole) for part in parts]
    return Statistics(content, blended(options, parts, measured), {}, edges_of(options, content_image))


def measured_style(encoder: Encoder, options: ObjectiveOptions, part: StylePart, share: float) -> dict[str, Tensor]:
    """What one style image, of which the target has this share, adds to it: by the name of the term."""
    terms = part.guides.terms(options)

    def at(tap: str) -> Callable[[Tensor], dict[str, Tensor]]:
        there = [term for term in terms.values() if term.tap == tap]
        return lambda features: {
            term.name: measure_target(term, features, part.guides.at(term), share) for term in there
        }

    measures = {tap: at(tap) for tap in dict.fromkeys(term.tap for term in terms.values())}
    found = encoder.unwrapped.measured(part.image, measures)
    return {name: found[term.tap][name] for name, term in terms.items()}


def edges_of(options: ObjectiveOptions, content_image: Tensor | None) -> Edges | None:
    """The target of the term of edges, where there is one."""
    if not options.edge_weight or content_image is None:
        return None
    energy = losses.tv_loss(content_image, losses.edge_colors().to(content_image), options.wraps)
    return Edges(content_image, energy + torch.finfo(content_image.dtype).tiny)


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
        edges = targets.edges
        self.edge_colors = edges.colors(options.edge_weight) if edges is not None else None
        self.distances = {
            name: distance_to(term, targets.style[name], options) for name, term in self.style_terms.items()
        }
        self.similarities = {
            tap: SelfSimilarity(targets.content[tap])
            for tap, loss in options.content_losses.items()
            if loss == "self-similarity"
        }

    def _tv_colors(self) -> Tensor | None:
        """The matrix of :func:`losses.tv_colors` where the targets are; None when there is no total variation.

        It is put there once: a copy to the device at every evaluation would end a CUDA graph's capture.
        """
        if not self.options.has_tv:
            return None
        target = next(iter([*self.targets.style.values(), *self.targets.content.values()]))
        colors = losses.tv_colors(self.options.tv_weight, self.options.chroma_tv_weight)
        return colors.to(target.device, torch.promote_types(target.dtype, torch.float32))  # content may have 16 bits

    def pixel_terms(self, image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The terms that are total variations: a picture, whose derivative by the image is 1, and its colours.

        ``image`` [B, 3, H, W], or the rows of it that a strip sees.
        """
        found = {}
        if self.edge_colors is not None and self.targets.edges is not None:
            found["edges"] = (image - self.targets.edges.image, self.edge_colors)
        if self.tv_colors is not None:
            found["tv"] = (image, self.tv_colors)
        return found

    def begin_step(self, seed: int, step: int) -> None:
        """Make the objective that of a step, after so many updates of a run; only ``sliced_directions`` new differs."""
        if self.options.sliced_directions == "new":
            for distance in self.distances.values():
                if isinstance(distance, SampledDistance):
                    distance.draw(seed, step)

    def measure(self, features: Mapping[str, Tensor]) -> Statistics:
        """The statistics of encoder features; those of style are of the positions that the guides say."""
        style: dict[str, Tensor] = {}
        positions: dict[str, float] = {}
        for name, term in self.style_terms.items():
            at_tap, stride = features[term.tap], stride_of(term.tap)
            style[name] = measure_style(term, at_tap, self.guides.at(term))
            positions[name] = self.guides.positions(term, (stride * at_tap.shape[2], stride * at_tap.shape[3]))
        return Statistics({tap: features[tap] for tap in self.content_taps}, style, positions)

    @property
    def term_names(self) -> list[str]:
        """The names of the terms, in the order of :meth:`terms`."""
        names = [f"content/{tap}" for tap in self.content_taps]
        names += [*self.style_terms, *(["edges"] if self.options.edge_weight else [])]
        names += ["tv"] if self.options.has_tv else []
        return [*names, "temporal"] if self.targets.temporal is not None else names

    def terms(self, statistics: Statistics, image: Tensor) -> dict[str, Tensor]:
        """Weighted terms [B] of an image [B, 3, H, W] and what :meth:`measure` gives for it; their sum is the total."""
        found = {f"content/{tap}": self.content_term(tap, features) for tap, features in statistics.content.items()}
        for name, statistic in statistics.style.items():
            found[name] = self.style_term(name, statistic, statistics.positions[name])
        for name, (change, colors) in self.pixel_terms(image).items():
            found[name] = losses.tv_loss(change, colors, self.options.wraps)
        if (temporal := self.targets.temporal) is not None:
            found["temporal"] = losses.temporal_loss(image, temporal.image, temporal.weights)
        return found

    @property
    def additive_terms(self) -> list[StyleTerm]:
        """The terms of style that follow from means over positions."""
        return [term for term in self.style_terms.values() if term.additive]

    def whole_terms(self, tap: str) -> dict[str, Callable[[Tensor], Tensor]]:
        """The other terms at a tap, by their names: each [B] a function of the features of a whole picture."""
        found: dict[str, Callable[[Tensor], Tensor]] = {}
        if tap in self.similarities:
            found[f"content/{tap}"] = partial(self.content_term, tap)
        names = [name for name, term in self.style_terms.items() if term.tap == tap and not term.additive]
        return found | {name: partial(self.style_term, name) for name in names}

    def content_term(self, tap: str, features: Tensor) -> Tensor:
        weight = self.options.content_weight * self.content_taps[tap] * self.guides.content_factor
        if tap in self.similarities:
            return weight * SIMILARITY_SCALE * self.similarities[tap](features)
        weights, target = self.guides.content_at(tap), self.targets.content[tap]
        weights = weights.to(features.dtype) if weights is not None else None
        return weight * losses.content_loss(features, target, self.options.content_normalization, weights)

    def content_size(self, tap: str) -> float:
        """C H W of the target, or of what of it counts."""
        target, stride = self.targets.content[tap], stride_of(tap)
        return self.guides.content_size(tap, (stride * target.shape[2], stride * target.shape[3]))

    def style_term(self, name: str, statistic: Tensor, positions: float = 0) -> Tensor:
        """``positions``: h * w of the tap, or the sum of its weights, which Grams need."""
        return self.style_terms[name].weight * self.distances[name](statistic, positions)

    def style_derivative(self, name: str, statistic: Tensor, positions: float) -> tuple[Tensor, Tensor]:
        """An additive term [B], and its derivative by the statistic."""
        distance = self.distances[name]
        if isinstance(distance, GramDistance):
            return distance.derivative(statistic, positions, self.style_terms[name].weight)
        leaf = statistic.detach().requires_grad_(True)
        with torch.enable_grad():
            term = self.style_term(name, leaf, positions)
            (slope,) = torch.autograd.grad(term.sum(), leaf)
        return term.detach(), slope

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
            by_rounding = fraction**2 * energy * factor
            if tap in self.similarities:
                by_rounding = torch.full_like(energy, SIMILARITY_SCALE * fraction)
            found.append(self.options.content_weight * self.guides.content_factor * weight * by_rounding)
        fraction = 2 * ROUNDINGS * torch.finfo(torch.float32).eps
        for name, term in self.style_terms.items():
            statistic = self.targets.style[name] * (1 + fraction)
            statistic = statistic if term.additive else statistic[:, :, :, None]
            found.append(self.style_term(name, statistic, self.guides.positions(term, (height, width))))
        total: Tensor = sum(found[1:], found[0])
        return total
