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
    wide,
)
from nst_fast.errors import UsageError
from nst_fast.network.taps import channels_of, tap_size
from nst_fast.network.tiles import Extent, Tile, Tiling, grid_like, stride_of, strip_rows, tiling_of_strip
from nst_fast.objective import losses
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective, Statistics, edges_of
from nst_fast.objective.style import blended, shares, statistic_size
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
        self._content_factors = {tap: self._content_factor(tap) for tap in objective.content_taps}

    def __call__(self, pastiche: Tensor) -> Evaluation:
        """``pastiche`` has the own rows [B, 3, h, W], and so has the gradient; the losses are those of the picture."""
        strip, objective = self.strip, self.objective
        image = strip.halos.fetch(pastiche.detach())
        measured, backward = self._measured(image)
        positions = {term.name: positions_of(term.tap, strip) for term in objective.style_terms.values()}
        style, slopes = style_slopes(objective, measured, positions)
        terms = {name: image.new_zeros(image.shape[0]) for name in objective.term_names}
        gradient, pixel_terms = torch.zeros_like(image), objective.pixel_terms(image)
        for tile in strip.tiling.tiles:
            seed = TileSeed(tile, slopes, self._content_factors, objective.targets.content, terms)
            gradient[tile.crop] += (backward or self.network.vjp(image[tile.crop])[1])(seed)
            for name, (change, colors) in pixel_terms.items():
                terms[name] += add_total_variation(colors, change, tile, gradient, strip.height)
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
            features, backward = self.network.vjp(image[tile.crop])
            add_sums(sums, features, tile, styles)
        else:
            sums = style_sums(self.network, image, strip.tiling, styles)
        return mean_over_ranks(strip.ranks, sums, image, styles, strip.height, strip.width), backward

    def _content_factor(self, tap: str) -> Tensor:
        target = self.objective.targets.content[tap]
        energy = energy_of(target)
        self.strip.ranks.all_reduce(energy)
        return content_factor(self.objective, tap, energy, target.shape[1] * positions_of(tap, self.strip))


def check_additive(options: ObjectiveOptions) -> None:
    """Raise :class:`UsageError` where a loss needs the whole picture in one piece."""
    if options.whole_losses:
        message = f"{', '.join(options.whole_losses)}: needs the whole picture in one piece"
        raise UsageError(message, f"In parts of it there are {IN_PARTS}")


def positions_of(tap: str, strip: Strip) -> int:
    """How many cells a tap has in the whole picture."""
    return math.prod(tap_size(tap, strip.height, strip.width))


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


@dataclass(frozen=True, eq=False)
class TileSeed:
    """Adds the derivative of the total with respect to a tap's features: for the tile's own cells, not in the halo."""

    tile: Tile
    slopes: Sequence[Slope]
    content_factors: Mapping[str, Tensor]
    content_targets: Mapping[str, Tensor]
    terms: dict[str, Tensor]  # the content terms are added up here, as a by-product

    @torch.no_grad()
    def __call__(self, tap: str, features: Tensor, gradient: Tensor | None) -> Tensor:
        stride = stride_of(tap)
        inside = self.tile.cells_in_crop(stride)
        own = features[inside]
        gradient = torch.zeros_like(features) if gradient is None else gradient
        for slope in self.slopes:
            if slope.tap == tap:
                gradient[inside] += slope.derivative(own)
        if tap in self.content_factors:
            target = self.content_targets[tap][self.tile.cells(stride)]
            term, derivative = content_derivative(own, target, self.content_factors[tap])
            self.terms[f"content/{tap}"] += term
            gradient[inside] += derivative
        return gradient


def style_sums(network: CropNetwork, image: Tensor, tiling: Tiling, styles: Sequence[StyleTerm]) -> dict[str, Tensor]:
    """Term of style -> its statistic, summed over the own cells of all tiles."""
    sums: dict[str, Tensor] = {}
    for tile in tiling.tiles if styles else ():
        add_sums(sums, dict(network.features(image[tile.crop])), tile, styles)
    return sums


def add_sums(sums: dict[str, Tensor], features: dict[str, Tensor], tile: Tile, styles: Sequence[StyleTerm]) -> None:
    """Add the statistics of the tile's own cells, summed over positions, to ``sums``; empties ``features``."""
    for tap in list(features):
        own = features.pop(tap)[tile.cells_in_crop(stride_of(tap))]
        for term in styles if own.numel() else ():
            if term.tap == tap:
                part = mean_statistic(term, own) * (own.shape[2] * own.shape[3])
                sums[term.name] = sums[term.name].add_(part) if term.name in sums else part


@torch.no_grad()
def mean_over_ranks(
    ranks: Ranks, sums: Mapping[str, Tensor], image: Tensor, styles: Sequence[StyleTerm], height: int, width: int
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
        term.name: total.view(size) / math.prod(tap_size(term.tap, height, width))
        for term, total, size in zip(styles, totals, sizes, strict=True)
    }


def tiled_targets(
    network: CropNetwork,
    options: ObjectiveOptions,
    strip: Strip,
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    *,
    halve_content: bool = False,
) -> Statistics:
    """What :func:`nst_fast.objective.objective.build_targets` builds: content of what the strip sees, style of all.

    ``content_image`` and ``style_images`` are whole pictures; style images are cut into strips and tiles as well.
    """
    check_additive(options)
    content: dict[str, Tensor] = {}
    if options.content_tap_weights and content_image is not None:
        seen = content_image[:, :, strip.mine.low : strip.mine.high]
        tiling = similar_tiling(options, strip, strip.mine, strip.width)
        content = tiled_features(network, seen, tiling, options.content_tap_weights, halve=halve_content)
    images = style_images if options.style_terms else ()
    measured = [shared_style(network, options, strip, image) for image in images]
    style = blended(options.style_terms, measured, shares(style_weights, len(measured)))
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
        features = network.features(image[tile.crop])
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
def shared_style(network: CropNetwork, options: ObjectiveOptions, strip: Strip, image: Tensor) -> dict[str, Tensor]:
    """Term of style -> its statistic of a whole image [B, 3, H, W], every rank measuring a strip of it."""
    height, width = image.shape[2:]
    styles = list(options.style_terms.values())
    rows = strip_rows(options.network, options.taps, height, strip.ranks.size)
    sums: dict[str, Tensor] = {}
    if strip.ranks.rank < len(rows):
        mine = rows[strip.ranks.rank]
        tiling = similar_tiling(options, strip, mine, width)
        sums = style_sums(network, image[:, :, mine.low : mine.high], tiling, styles)
    return mean_over_ranks(strip.ranks, sums, image, styles, height, width)


def similar_tiling(options: ObjectiveOptions, strip: Strip, rows: Extent, width: int) -> Tiling:
    """The tiles of other rows, with crops about as large as the strip's."""
    grid = grid_like(strip.tiling, options.taps, rows.stop - rows.start, width)
    return tiling_of_strip(options.network, options.taps, rows, width, grid)
