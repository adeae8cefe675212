"""Exact evaluation of a picture in tiles, by one process or several: memory grows with the tile, the result is exact.

The total depends on a picture through statistics of style, which are sums over positions, and through sums over
positions (content, total variation). Each tile adds the statistics of its own cells, computed from a crop with a
halo; autograd on the statistics alone gives the derivative of the style terms; each tile then back-propagates the
derivative with respect to its own cells, and the gradients of all crops are added up. A single tile keeps its
activations in between.

Ranks that share a picture add up sums over positions without a graph, so that all form the same derivative, and send
the gradient of halo rows to their owners.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import Strip
from nst_fast.engines.crop_network import Backward, CropNetwork
from nst_fast.engines.seeds import (
    Slope,
    content_derivative,
    content_factor,
    energy_of,
    mean_statistic,
    style_slopes,
    weighted_sum,
    wide,
)
from nst_fast.errors import UsageError
from nst_fast.network.taps import NO_WRAP, Wraps, channels_of, tap_size
from nst_fast.network.tiles import Extent, Tile, Tiling, grid_like, stride_of, strip_rows, tiling_of_strip
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.guides import Guides, StylePart, style_parts
from nst_fast.objective.objective import Objective, Statistics, edges_of
from nst_fast.objective.style import blended, statistic_size
from nst_fast.options.config import ObjectiveOptions
from nst_fast.options.style import IN_PARTS, StyleTerm

HALF = torch.float16


class TiledEvaluator:
    """The objective, and its gradient at this rank's rows, tile by tile.

    Args:
        network: computes one crop.
        objective: its content targets are those of what the strip sees (:func:`tiled_targets`).
        strip: of the pastiche, with its tiling; made for the objective's taps.
    """

    def __init__(self, network: CropNetwork, objective: Objective, strip: Strip) -> None:
        check_additive(objective.options)
        self.network = network
        self.objective = objective
        self.strip = strip
        seen = (strip.mine.low, strip.mine.high)
        self._content_weights = {
            tap: rows_at(tap, objective.guides.content_at(tap), seen) for tap in objective.content_taps
        }
        self._weights = {
            name: rows_at(term.tap, objective.guides.at(term), seen) for name, term in objective.style_terms.items()
        }
        self._content_factors = {tap: self._content_factor(tap) for tap in objective.content_taps}

    def __call__(self, pastiche: Tensor) -> Evaluation:
        """``pastiche`` has the own rows [B, 3, h, W], and so has the gradient; the losses are those of the picture."""
        strip, objective = self.strip, self.objective
        image = strip.halos.fetch(pastiche.detach())
        measured, backward = self._measured(image)
        style, slopes = style_slopes(objective, measured, self._positions)
        slopes = [replace(slope, weights=self._weights[slope.term]) for slope in slopes]
        terms = {name: image.new_zeros(image.shape[0]) for name in objective.term_names}
        gradient, pixel_terms = torch.zeros_like(image), objective.pixel_terms(image)
        for tile in strip.tiling.tiles:
            seed = TileSeed(
                tile, slopes, self._content_factors, objective.targets.content, self._content_weights, terms
            )
            add_to(gradient, tile.crop, (backward or self.network.vjp(part_of(image, tile.crop))[1])(seed))
            for name, (change, colors) in pixel_terms.items():
                counts = losses.tv_counts(image.shape[1], strip.height, strip.width, objective.options.wraps)
                terms[name] += add_total_variation(colors, change, tile, gradient, counts)
            if objective.targets.temporal is not None:
                own = tile.cells(1)
                term, slope = objective.targets.temporal.derivative(image, own)
                terms["temporal"] += term
                gradient[own] += slope
        if strip.ranks.rank == 0:  # all ranks have computed the same terms: only one adds them
            terms |= style
        sums = torch.stack(list(terms.values()))
        strip.ranks.all_reduce(sums)
        return Evaluation(sums.sum(0), dict(zip(terms, sums, strict=True)), strip.halos.give_back(gradient))

    def _measured(self, image: Tensor) -> tuple[dict[str, Tensor], Backward | None]:
        """Term of style -> statistic of the whole picture; and the backward pass, when the strip is a single tile."""
        strip, styles = self.strip, list(self.objective.style_terms.values())
        backward: Backward | None = None
        if strip.tiling.whole:
            sums: dict[str, Tensor] = {}
            (tile,) = strip.tiling.tiles
            features, backward = self.network.vjp(part_of(image, tile.crop))
            add_sums(sums, features, tile, styles, self._weights)
        else:
            sums = style_sums(self.network, image, strip.tiling, styles, self._weights)
        return mean_over_ranks(strip.ranks, sums, image, styles, self._positions), backward

    @property
    def _positions(self) -> dict[str, float]:
        size = (self.strip.height, self.strip.width)
        return {name: self.objective.guides.positions(term, size) for name, term in self.objective.style_terms.items()}

    def _content_factor(self, tap: str) -> Tensor:
        target = self.objective.targets.content[tap]
        energy = energy_of(target, self._content_weights[tap])
        self.strip.ranks.all_reduce(energy)
        size = self.objective.guides.content_size(tap, (self.strip.height, self.strip.width))
        return content_factor(self.objective, tap, energy, size)


def rows_at(tap: str, weights: Tensor | None, rows: tuple[int, int]) -> Tensor | None:
    """The weights [1, 1, h, w] of a tap's cells in some rows of the picture, from one pixel to before another."""
    stride = stride_of(tap)
    return weights[:, :, rows[0] // stride : rows[1] // stride] if weights is not None else None


def check_additive(options: ObjectiveOptions) -> None:
    """Raise :class:`UsageError` where a loss needs the whole picture in one piece."""
    if options.whole_losses:
        message = f"{', '.join(options.whole_losses)}: needs the whole picture in one piece"
        raise UsageError(message, f"In parts of it there are {IN_PARTS}")


def part_of(image: Tensor, region: tuple[slice, ...]) -> Tensor:
    """A region of an image [B, C, H, W], which continues at the opposite side where the region lies beyond it."""
    for axis in (2, 3):
        first, last = region[axis].start, region[axis].stop
        if first < 0 or last > image.shape[axis]:
            image = image.index_select(axis, places_of(first, last, axis, image))
        else:
            image = image.narrow(axis, first, last - first)
    return image


def add_to(image: Tensor, region: tuple[slice, ...], part: Tensor) -> None:
    """Add what belongs to the pixels of :func:`part_of` to them; some may be there more than once."""
    inside = list(region)
    for axis in (2, 3):
        first, last = region[axis].start, region[axis].stop
        if first < 0 or last > image.shape[axis]:
            size = [*part.shape[:axis], image.shape[axis], *part.shape[axis + 1 :]]
            part = part.new_zeros(size).index_add_(axis, places_of(first, last, axis, image), part)
            inside[axis] = slice(None)
    image[tuple(inside)] += part


def places_of(first: int, last: int, axis: int, image: Tensor) -> Tensor:
    return torch.arange(first, last, device=image.device) % image.shape[axis]


def add_total_variation(colors: Tensor, image: Tensor, tile: Tile, gradient: Tensor, counts: tuple[int, int]) -> Tensor:
    """Of the differences from the tile's own pixels to their lower and right neighbours: the weighted term [B].

    Their gradient is added to ``gradient``. ``counts``: of differences in the whole picture.
    """
    total = image.new_zeros(image.shape[0])
    for axis, count, region in zip((2, 3), counts, (tile.and_below, tile.and_right), strict=True):
        pixels = part_of(image, region).clone().requires_grad_(True)
        with torch.enable_grad():
            term = losses.squared_differences(pixels, axis, colors) / count
            (slope,) = torch.autograd.grad(term.sum(), pixels)
        add_to(gradient, region, slope)
        total += term.detach()
    return total


@dataclass(frozen=True, eq=False)
class TileSeed:
    """Adds the derivative of the total with respect to a tap's features: for the tile's own cells, not in the halo."""

    tile: Tile
    slopes: Sequence[Slope]
    content_factors: Mapping[str, Tensor]
    content_targets: Mapping[str, Tensor]
    content_weights: Mapping[str, Tensor | None]
    terms: dict[str, Tensor]  # the content terms are added up here, as a by-product

    @torch.no_grad()
    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        stride = stride_of(tap)
        inside = self.tile.cells_in_crop(stride)
        own = features[inside]
        gradient = torch.zeros_like(features) if gradient is None else gradient
        cells = self.tile.cells(stride)
        for slope in self.slopes:
            if slope.tap == tap:
                gradient[inside] += slope.of_cells(cells).derivative(own)
        if tap in self.content_factors:
            weights = self.content_weights[tap]
            weights = weights[cells] if weights is not None else None
            term, derivative = content_derivative(
                own, self.content_targets[tap][cells], self.content_factors[tap], weights
            )
            self.terms[f"content/{tap}"] += term
            gradient[inside] += derivative
        return gradient


def style_sums(
    network: CropNetwork,
    image: Tensor,
    tiling: Tiling,
    styles: Sequence[StyleTerm],
    weights: Mapping[str, Tensor | None],
) -> dict[str, Tensor]:
    """Term of style -> its statistic, summed over the own cells of all tiles, by their weights [1, 1, h, w]."""
    sums: dict[str, Tensor] = {}
    for tile in tiling.tiles if styles else ():
        add_sums(sums, dict(network.features(part_of(image, tile.crop))), tile, styles, weights)
    return sums


def add_sums(
    sums: dict[str, Tensor],
    features: dict[str, Tensor],
    tile: Tile,
    styles: Sequence[StyleTerm],
    weights: Mapping[str, Tensor | None],
) -> None:
    """Add the statistics of the tile's own cells, summed over positions, to ``sums``; empties ``features``."""
    for tap in list(features):
        own = features.pop(tap)[tile.cells_in_crop(stride_of(tap))]
        for term in styles if own.numel() else ():
            if term.tap == tap:
                counted = weights[term.name]
                if counted is None:
                    part = mean_statistic(term, own) * (own.shape[2] * own.shape[3])
                else:
                    part = weighted_sum(term, own, counted[tile.cells(stride_of(tap))])
                sums[term.name] = sums[term.name].add_(part) if term.name in sums else part


@torch.no_grad()
def mean_over_ranks(
    ranks: Ranks,
    sums: Mapping[str, Tensor],
    image: Tensor,
    styles: Sequence[StyleTerm],
    positions: Mapping[str, float],
) -> dict[str, Tensor]:
    """Term of style -> its statistic of a picture, from the sums over each rank's cells; a rank may have none."""
    if not styles:
        return {}
    sizes = [(image.shape[0], *statistic_size(term, channels_of(term.tap))) for term in styles]
    parts = [
        sums[term.name] if term.name in sums else image.new_zeros(size)
        for term, size in zip(styles, sizes, strict=True)
    ]
    flat = torch.cat([part.flatten() for part in parts])  # one message instead of five
    ranks.all_reduce(flat)
    totals = torch.split(flat, [math.prod(size) for size in sizes])
    return {
        term.name: total.view(size) / positions[term.name]
        for term, total, size in zip(styles, totals, sizes, strict=True)
    }


def tiled_targets(
    network: CropNetwork,
    options: ObjectiveOptions,
    strip: Strip,
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    style_guides: Sequence[Guides] | None = None,
    *,
    style_network: CropNetwork | None = None,
    halve_content: bool = False,
) -> Statistics:
    """What :func:`nst_fast.objective.objective.build_targets` builds: content of what the strip sees, style of all.

    ``content_image`` and ``style_images`` are whole pictures; style images are cut into strips and tiles as well.
    ``style_network`` measures them where ``network`` is for pictures that wrap.
    """
    check_additive(options)
    content: dict[str, Tensor] = {}
    if options.content_tap_weights and content_image is not None:
        seen = content_image[:, :, strip.mine.low : strip.mine.high]
        tiling = similar_tiling(options, strip, strip.mine, strip.width, options.wraps)
        content = tiled_features(network, seen, tiling, options.content_tap_weights, halve=halve_content)
    parts = style_parts(style_images, style_weights, style_guides) if options.style_terms else []
    style = blended(options, parts, [shared_style(style_network or network, options, strip, part) for part in parts])
    edges = edges_of(options, content_image)
    if edges is not None:
        edges = replace(edges, image=edges.image[:, :, strip.mine.low : strip.mine.high])
    return Statistics(content, style, {}, edges)


@torch.no_grad()
def tiled_features(
    network: CropNetwork, image: Tensor, tiling: Tiling, taps: Iterable[str], *, halve: bool = False
) -> dict[str, Tensor]:
    """Tap -> features [B, C, h, w] of an image [B, 3, H, W], put together from its tiles.

    ``halve`` keeps them in :func:`halved` precision, half the memory of what may be the largest tensor of all. Cells
    that no tile owns, those in the halo of a strip, are 0.
    """
    whole: dict[str, Tensor] = {}
    taps = list(taps)
    for tile in tiling.tiles:
        features = network.features(part_of(image, tile.crop))
        for tap in taps:
            found = features[tap]
            if tap not in whole:
                size = (found.shape[0], found.shape[1], *tap_size(tap, image.shape[2], image.shape[3]))
                whole[tap] = found.new_zeros(size, dtype=HALF if halve else wide(found[:, :, :0]).dtype)
            own = found[tile.cells_in_crop(stride_of(tap))]
            whole[tap][tile.cells(stride_of(tap))] = halved(own) if halve else own
    return whole


def halved(features: Tensor) -> Tensor:
    """Features in half precision, saturated: 11 bits, so a relative error of at most 2^-12 in each target value."""
    largest = torch.finfo(HALF).max
    return features.clamp(-largest, largest).to(HALF)


@torch.no_grad()
def shared_style(network: CropNetwork, options: ObjectiveOptions, strip: Strip, part: StylePart) -> dict[str, Tensor]:
    """Term of style -> its statistic of a whole image [B, 3, H, W], every rank measuring a strip of it."""
    image, guides = part.image, part.guides
    height, width = image.shape[2:]
    styles = list(guides.terms(options).values())
    rows = strip_rows(options.network, options.taps, height, strip.ranks.size)
    sums: dict[str, Tensor] = {}
    if strip.ranks.rank < len(rows):
        mine = rows[strip.ranks.rank]
        tiling = similar_tiling(options, strip, mine, width)
        weights = {term.name: rows_at(term.tap, guides.at(term), (mine.low, mine.high)) for term in styles}
        sums = style_sums(network, image[:, :, mine.low : mine.high], tiling, styles, weights)
    positions = {term.name: guides.positions(term, (height, width)) for term in styles}
    return mean_over_ranks(strip.ranks, sums, image, styles, positions)


def similar_tiling(options: ObjectiveOptions, strip: Strip, rows: Extent, width: int, wraps: Wraps = NO_WRAP) -> Tiling:
    """The tiles of other rows, with crops about as large as the strip's."""
    grid = grid_like(strip.tiling, options.taps, rows.stop - rows.start, width)
    return tiling_of_strip(options.network, options.taps, rows, width, grid, wraps=wraps)
