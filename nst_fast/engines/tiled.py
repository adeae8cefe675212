"""Exact evaluation of a picture of any size in tiles: memory grows with the tile, the answer does not change.

The total depends on a picture through Gram matrices, which are sums over positions, and through terms that are sums
over positions themselves (content, total variation). So:

1. every tile adds the Grams of its own cells, computed from a crop with a halo and without a graph;
2. the derivative of the style terms with respect to the Grams is formed once, by autograd on the Grams alone;
3. every tile is computed again, and back-propagates the derivative of the total with respect to its own cells; the
   gradient is added over the whole crop, because a cell looks into the halo.

Two forward passes and one backward instead of one and one. Tiling each tile as a picture by itself, as earlier
programs do, gives seams; here there is none, because the sum of the tiles' gradients is the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.engines.fast import mean_gram
from nst_fast.engines.seeds import content_factor, style_slopes, wide
from nst_fast.engines.tile_engine import TileEngine
from nst_fast.network.taps import tap_size
from nst_fast.network.tiles import Tile, Tiling, stride_of
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective, Statistics, blend_grams
from nst_fast.options.config import ObjectiveOptions


class TiledEvaluator:
    """The objective and its gradient, tile by tile. The twin of the whole evaluation with the same engine.

    Args:
        engine: computes one crop.
        objective: what is minimised; its content targets may be kept in half precision (:func:`halved`).
        tiling: of the pastiche, made for the objective's taps.
    """

    def __init__(self, engine: TileEngine, objective: Objective, tiling: Tiling) -> None:
        self.engine = engine
        self.objective = objective
        self.tiling = tiling
        self._content_factors = {tap: content_factor(objective, tap) for tap in objective.content_taps}

    def __call__(self, pastiche: Tensor) -> Evaluation:
        image = pastiche.detach()
        terms = {name: image.new_zeros(image.shape[0]) for name in self.objective.term_names}
        taps = list(self.objective.style_taps)
        grams = mean_grams(self.engine, image, self.tiling, taps) if taps else {}
        found, slopes = style_slopes(self.objective, grams, {tap: positions_of(tap, image) for tap in taps})
        terms |= found
        gradient = torch.zeros_like(image)
        for tile in self.tiling.tiles:
            seed = TileSeed(tile, slopes, self._content_factors, self.objective.targets.content, terms)
            gradient[tile.crop] += self.engine.gradient(image[tile.crop], seed)
            if self.objective.tv_colors is not None:
                terms["tv"] += add_total_variation(self.objective.tv_colors, image, tile, gradient, image.shape[2])
        return Evaluation(torch.stack(list(terms.values())).sum(0), terms, gradient)


def add_total_variation(colors: Tensor, image: Tensor, tile: Tile, gradient: Tensor, height: int) -> Tensor:
    """Of the differences from the tile's own pixels to their lower and right neighbours: the weighted term [B].

    Their gradient is added to ``gradient``. ``height`` is that of the whole picture, of which the image may be a part.
    """
    total = image.new_zeros(image.shape[0])
    counts = losses.tv_counts(image.shape[1], height, image.shape[3])
    for axis, count, region in zip((2, 3), counts, (tile.and_below, tile.and_right), strict=True):
        pixels = image[region].clone().requires_grad_(True)
        with torch.enable_grad():
            term = losses.squared_differences(pixels, axis, colors) / count
            (slope,) = torch.autograd.grad(term.sum(), pixels)
        gradient[region] += slope
        total += term.detach()
    return total


@dataclass(frozen=True)
class TileSeed:
    """Adds the derivative of the total with respect to a tap's features: for the tile's own cells, not in the halo."""

    tile: Tile
    slopes: Mapping[str, Tensor]
    content_factors: Mapping[str, Tensor]
    content_targets: Mapping[str, Tensor]
    terms: dict[str, Tensor]  # the content terms are added up here, as a by-product

    @torch.no_grad()
    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        stride = stride_of(tap)
        inside = self.tile.cells_in_crop(stride)
        own = features[inside]
        gradient = torch.zeros_like(features) if gradient is None else gradient
        if tap in self.slopes:
            rows = own.permute(0, 2, 3, 1).flatten(1, 2)  # [B, h*w, C]
            product = rows @ self.slopes[tap].to(rows.dtype)  # S is symmetric: F S = (S Fᵀ)ᵀ
            gradient[inside] += product.view(own.shape[0], *own.shape[2:], own.shape[1]).permute(0, 3, 1, 2)
        if tap in self.content_factors:
            difference = wide(own) - self.content_targets[tap][self.tile.cells(stride)]
            factor = self.content_factors[tap]
            self.terms[f"content/{tap}"] += factor * difference.square().sum((1, 2, 3))
            gradient[inside] += difference.mul_(2 * factor.view(-1, 1, 1, 1))
        return gradient


@torch.no_grad()
def mean_grams(engine: TileEngine, image: Tensor, tiling: Tiling, taps: Iterable[str]) -> dict[str, Tensor]:
    """Tap -> mean Gram matrix [B, C, C] of an image [B, 3, H, W], added up over the own cells of its tiles."""
    taps = list(taps)
    sums: dict[str, Tensor] = {}
    for tile in tiling.tiles:
        add_grams(sums, dict(engine.features(image[tile.crop])), tile, taps)
    return {tap: total / positions_of(tap, image) for tap, total in sums.items()}


def add_grams(sums: dict[str, Tensor], features: dict[str, Tensor], tile: Tile, taps: Iterable[str]) -> None:
    """Add the Grams of the tile's own cells, summed over positions, to ``sums``; ``features`` loses the taps."""
    for tap in taps:
        own = features.pop(tap)[tile.cells_in_crop(stride_of(tap))]
        if own.numel():
            part = mean_gram(own) * (own.shape[2] * own.shape[3])
            sums[tap] = sums[tap].add_(part) if tap in sums else part


@torch.no_grad()
def tiled_features(
    engine: TileEngine, image: Tensor, tiling: Tiling, taps: Iterable[str], *, halve: bool = False
) -> dict[str, Tensor]:
    """Tap -> features [B, C, h, w] of an image [B, 3, H, W], put together from its tiles.

    ``halve`` keeps them in :func:`halved` precision, which is half the memory of what may be the largest tensor of all.
    Cells that no tile owns, those in the halo of a strip, are 0.
    """
    whole: dict[str, Tensor] = {}
    taps = list(taps)
    for tile in tiling.tiles:
        features = engine.features(image[tile.crop])
        for tap in taps:
            found = features[tap]
            if tap not in whole:
                size = (found.shape[0], found.shape[1], *tap_size(tap, image.shape[2], image.shape[3]))
                whole[tap] = found.new_zeros(size, dtype=HALF if halve else wide(found[:, :, :0]).dtype)
            own = found[tile.cells_in_crop(stride_of(tap))]
            whole[tap][tile.cells(stride_of(tap))] = halved(own) if halve else own
    return whole


def tiled_targets(
    engine: TileEngine,
    options: ObjectiveOptions,
    tiling_of: Callable[[int, int], Tiling],
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    *,
    halve_content: bool = False,
) -> Statistics:
    """What :func:`build_targets` builds, computed in tiles; ``tiling_of`` maps (height, width) to a tiling."""
    content: dict[str, Tensor] = {}
    if options.content_tap_weights and content_image is not None:
        tiling = tiling_of(content_image.shape[2], content_image.shape[3])
        content = tiled_features(engine, content_image, tiling, options.content_tap_weights, halve=halve_content)
    grams = [
        mean_grams(engine, image, tiling_of(image.shape[2], image.shape[3]), options.style_tap_weights)
        for image in (style_images if options.style_tap_weights else ())
    ]
    blended = blend_grams(grams, style_weights or [1.0] * len(grams)) if grams else {}
    return Statistics(content, blended, {})


HALF = torch.float16


def halved(features: Tensor) -> Tensor:
    """Features in half precision, saturated: 11 bits, so a relative error of at most 2^-12 in each target value."""
    largest = torch.finfo(HALF).max
    return features.clamp(-largest, largest).to(HALF)


def positions_of(tap: str, image: Tensor) -> int:
    """How many cells a tap has for an image [B, 3, H, W]."""
    height, width = tap_size(tap, image.shape[2], image.shape[3])
    return height * width
