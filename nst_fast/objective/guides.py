"""Which positions of a picture count: masks of the content loss and of regions that have a style each.

Guided Gram matrices of Gatys, Ecker, Bethge, Hertzmann & Shechtman 2017, "Controlling Perceptual Factors in Neural
Style Transfer" (arXiv:1611.07865), section 4: features are weighted by a guidance channel per region, carried down to
every tap. Here a mask is averaged over the pixels of each cell, and its values are weights: a statistic is
sum w f fᵀ / sum w, which is theirs for a channel of the root of w, normalised. Soft edges share a position out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.network.taps import channels_of, smallest_side, tap_size
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import StyleTerm

EVERYWHERE = ""  # the name of the only region of a picture without regions


@dataclass(frozen=True, eq=False)
class Guides:
    """The masks of one picture, each [1, 1, H, W] in [0, 1] at its size, None where all pixels count alike.

    Attributes:
        content: of the content loss.
        regions: name of a region -> its mask. A region without any weight has no terms.
        factors: name of a region -> what its terms, or in a blend its statistics, are multiplied by.
        content_factor: what the content terms are multiplied by.
    """

    content: Tensor | None = None
    regions: Mapping[str, Tensor | None] = field(default_factory=lambda: {EVERYWHERE: None})
    factors: Mapping[str, float] = field(default_factory=lambda: {EVERYWHERE: 1.0})
    content_factor: float = 1.0
    _carried: dict[tuple[int, int], tuple[Tensor, float]] = field(default_factory=dict, init=False, repr=False)

    @property
    def plain(self) -> bool:
        """Whether all positions count alike, in one region."""
        return self.content is None and list(self.regions) == [EVERYWHERE] and self.regions[EVERYWHERE] is None

    @property
    def fingerprint(self) -> tuple[Hashable, ...]:
        """What tells the guides of one style image from another's."""
        masks = {name: fingerprint(mask) if mask is not None else () for name, mask in self.regions.items()}
        return (*masks.items(), *self.factors.items())

    def terms(self, options: ObjectiveOptions) -> dict[str, StyleTerm]:
        """The terms of style by their names, ``style/TAP/REGION``: each of the options' for every region."""
        found = {}
        for term in options.style_terms.values():
            for region, factor in self.factors.items():
                name = f"{term.name}/{region}" if region else term.name
                each = replace(term, name=name, weight=term.weight * factor, region=region)
                mask = self.regions[region]
                if mask is None or self._carried_to(term.tap, mask)[1]:
                    found[name] = each
        return found

    def at(self, term: StyleTerm) -> Tensor | None:
        """The weights [1, 1, h, w] of a term's region in the cells of its tap; None where all count alike."""
        mask = self.regions[term.region]
        return self._carried_to(term.tap, mask)[0] if mask is not None else None

    def content_at(self, tap: str) -> Tensor | None:
        return self._carried_to(tap, self.content)[0] if self.content is not None else None

    def positions(self, term: StyleTerm, size: tuple[int, int]) -> float:
        """How many positions of a picture of a size a term counts: the sum of weights, or all."""
        return self._counted(term.tap, self.regions[term.region], size)

    def content_size(self, tap: str, size: tuple[int, int]) -> float:
        """C H W of the features that the content loss counts in a picture of a size."""
        return channels_of(tap) * self._counted(tap, self.content, size)

    def _counted(self, tap: str, mask: Tensor | None, size: tuple[int, int]) -> float:
        return self._carried_to(tap, mask)[1] if mask is not None else math.prod(tap_size(tap, *size))

    def _carried_to(self, tap: str, mask: Tensor) -> tuple[Tensor, float]:
        """A mask carried down to a tap, and the sum of its weights there."""
        key = (id(mask), stride := smallest_side([tap]))
        if key not in self._carried:  # also because a sum cannot be read while a CUDA graph is captured
            weights = functional.avg_pool2d(mask, stride)
            self._carried[key] = weights, float(weights.sum(dtype=torch.float64))
        return self._carried[key]


PLAIN = Guides()


def fingerprint(image: Tensor) -> tuple[Hashable, ...]:
    """What tells one image from another: shape, device and pixels."""
    pixels = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest()
    return (*image.shape, str(image.device), pixels)


@dataclass(frozen=True, eq=False)
class StylePart:
    """A style image [1 or B, 3, H, W], what of it counts for which region, and its weight in the blend."""

    image: Tensor
    guides: Guides
    weight: float


def style_parts(
    images: Sequence[Tensor], weights: Sequence[float] | None = None, guides: Sequence[Guides] | None = None
) -> list[StylePart]:
    """The parts of a blend; by default all count everywhere, and alike."""
    weights, guides = weights or [1.0] * len(images), guides or [PLAIN] * len(images)
    return [StylePart(*each) for each in zip(images, guides, weights, strict=True)]
