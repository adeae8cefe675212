"""Exact evaluation of one rank's strip of a picture: the other ranks have the rest, and all see the same losses.

As in :mod:`nst_fast.engines.tiled`, with strips in the place of tiles and one process for each: sums over positions
are added up over the ranks, *detached*, so that every rank forms the same derivative; it goes back through the rank's
own cells only. (An all-reduce that is differentiated adds the gradients up as well, which are then too large by the
number of ranks.) What a strip's cells say about rows of its halo is sent to whoever owns these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.halos import Halos
from nst_fast.engines.seeds import content_factor_of, energy_of, style_slopes
from nst_fast.engines.tile_engine import TileEngine, WayBack
from nst_fast.engines.tiled import TileSeed, add_grams, add_total_variation, tiled_features
from nst_fast.errors import UsageError
from nst_fast.network.taps import channels_of, tap_size
from nst_fast.network.tiles import Extent, Tile, Tiling, strip_rows, tiling_of_strip
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective, Statistics, blend_grams
from nst_fast.options.config import ObjectiveOptions


@dataclass(frozen=True)
class Strip:
    """One rank's share of a picture.

    Attributes:
        ranks: all of them.
        height, width: of the whole picture in pixels.
        rows: of every rank, with what each sees.
        tiling: of the own strip, in the coordinates of what it sees.
    """

    ranks: Ranks
    height: int
    width: int
    rows: tuple[Extent, ...]
    tiling: Tiling

    @property
    def mine(self) -> Extent:
        return self.rows[self.ranks.rank]

    def own(self, picture: Tensor) -> Tensor:
        """Own rows of a whole picture [B, C, H, W], a copy."""
        return picture[:, :, self.mine.start : self.mine.stop].contiguous().clone()

    def whole(self, own: Tensor) -> Tensor:
        """The picture [B, C, H, W] of which every rank brings its own rows; the same on every rank."""
        picture = own.new_zeros((*own.shape[:2], self.height, own.shape[3]))
        picture[:, :, self.mine.start : self.mine.stop] = own
        self.ranks.add_up(picture)
        return picture


def make_strip(
    ranks: Ranks,
    network: str,
    taps: Iterable[str],
    height: int,
    width: int,
    grid: tuple[int, int] = (1, 1),
    *,
    halo: int | None = None,
) -> Strip:
    """This rank's share of a picture, cut into ``grid`` (rows, columns) tiles. ``halo``: as in ``make_tiling``.

    Raises:
        UsageError: there are more ranks than strips can be cut; the message names the largest number.
    """
    taps = list(taps)
    rows = strip_rows(network, taps, height, ranks.size, halo=halo)
    if len(rows) < ranks.size:
        raise UsageError(
            f"{height} rows cannot be shared among {ranks.size} ranks",
            f"With these taps at most {len(rows)} can take part: torchrun --nproc-per-node {len(rows)}",
        )
    return Strip(ranks, height, width, rows, tiling_of_strip(network, taps, rows[ranks.rank], width, grid))


class StripEvaluator:
    """The objective, and its gradient at this rank's rows. The twin of the whole evaluation with the same engine.

    Args:
        engine: computes one crop.
        objective: its content targets are those of the strip with its halo, 0 in the halo (:func:`strip_targets`).
        strip: of the pastiche.
        agree: called once per evaluation, see :class:`nst_fast.distributed.agreement.Agreement`.
    """

    def __init__(
        self, engine: TileEngine, objective: Objective, strip: Strip, agree: Callable[[], None] = lambda: None
    ) -> None:
        self.engine = engine
        self.objective = objective
        self.strip = strip
        self.agree = agree
        self.halos = Halos(strip.ranks, strip.rows)
        self._content_factors = {tap: self._content_factor(tap) for tap in objective.content_taps}

    def __call__(self, pastiche: Tensor) -> Evaluation:
        """``pastiche`` is the strip's own rows [B, 3, h, W], and so is the gradient; the losses are the picture's."""
        strip, objective = self.strip, self.objective
        image = self.halos.fetch(pastiche.detach())
        grams, way_back = self._grams(image)
        style, slopes = style_slopes(objective, grams, {tap: positions_of(tap, strip) for tap in grams})
        terms = {name: image.new_zeros(image.shape[0]) for name in objective.term_names}
        gradient = torch.zeros_like(image)
        for tile in strip.tiling.tiles:
            seed = TileSeed(tile, slopes, self._content_factors, objective.targets.content, terms)
            back = way_back or self.engine.open(image[tile.crop])[1]
            gradient[tile.crop] += back(seed)
            if objective.tv_colors is not None:
                terms["tv"] += add_total_variation(objective.tv_colors, image, tile, gradient, strip.height)
        if strip.ranks.rank == 0:  # one rank's word for what all have computed: the same bits everywhere
            terms |= style
        sums = torch.stack(list(terms.values()))
        strip.ranks.add_up(sums)
        self.agree()
        total = sums.sum(0)
        return Evaluation(total, dict(zip(terms, sums, strict=True)), self.halos.give_back(gradient))

    def _grams(self, image: Tensor) -> tuple[dict[str, Tensor], WayBack | None]:
        """Tap -> mean Gram matrix of the whole picture; and the way back, when the strip is a single tile."""
        taps, tiles = list(self.objective.style_taps), list(self.strip.tiling.tiles)
        sums: dict[str, Tensor] = {}
        way_back: WayBack | None = None
        if len(tiles) == 1:
            features, way_back = self.engine.open(image[tiles[0].crop])
            add_grams(sums, features, tiles[0], taps)
        elif taps:
            add_grams_of_tiles(sums, self.engine, image, tiles, taps)
        return mean_over_ranks(self.strip.ranks, sums, image, taps, self.strip.height, self.strip.width), way_back

    def _content_factor(self, tap: str) -> Tensor:
        target = self.objective.targets.content[tap]
        energy = energy_of(target)
        self.strip.ranks.add_up(energy)
        return content_factor_of(self.objective, tap, energy, target.shape[1] * positions_of(tap, self.strip))


def positions_of(tap: str, strip: Strip) -> int:
    """How many cells a tap has in the whole picture."""
    return math.prod(tap_size(tap, strip.height, strip.width))


def add_grams_of_tiles(
    sums: dict[str, Tensor], engine: TileEngine, image: Tensor, tiles: Iterable[Tile], taps: Sequence[str]
) -> None:
    for tile in tiles:
        add_grams(sums, dict(engine.features(image[tile.crop])), tile, taps)


@torch.no_grad()
def mean_over_ranks(
    ranks: Ranks, sums: Mapping[str, Tensor], image: Tensor, taps: Sequence[str], height: int, width: int
) -> dict[str, Tensor]:
    """Tap -> mean Gram matrix of a picture, from the sums over each rank's cells; a rank may have none."""
    if not taps:
        return {}
    parts = []
    for tap in taps:
        size = (image.shape[0], channels_of(tap), channels_of(tap))
        part = sums.get(tap)
        parts.append((part if part is not None else image.new_zeros(size)).flatten())
    flat = torch.cat(parts)  # one message instead of five
    ranks.add_up(flat)
    grams = {}
    for tap, part in zip(taps, torch.split(flat, [part.numel() for part in parts]), strict=True):
        channels = channels_of(tap)
        grams[tap] = part.view(-1, channels, channels) / math.prod(tap_size(tap, height, width))
    return grams


def strip_targets(
    engine: TileEngine,
    options: ObjectiveOptions,
    strip: Strip,
    content_image: Tensor | None,
    style_images: Sequence[Tensor],
    style_weights: Sequence[float] | None = None,
    *,
    halve_content: bool = False,
) -> Statistics:
    """What :func:`nst_fast.engines.tiled.tiled_targets` builds: content of the strip, Grams with the other ranks.

    ``content_image`` and ``style_images`` are whole pictures; style images are cut into strips and tiles as well.
    """
    content: dict[str, Tensor] = {}
    if options.content_tap_weights and content_image is not None:
        seen = content_image[:, :, strip.mine.low : strip.mine.high]
        content = tiled_features(engine, seen, strip.tiling, options.content_tap_weights, halve=halve_content)
    grams = [
        shared_grams(engine, options, strip, image) for image in (style_images if options.style_tap_weights else ())
    ]
    blended = blend_grams(grams, style_weights or [1.0] * len(grams)) if grams else {}
    return Statistics(content, blended, {})


def shared_grams(engine: TileEngine, options: ObjectiveOptions, strip: Strip, image: Tensor) -> dict[str, Tensor]:
    """Tap -> mean Gram matrix of a whole image [B, 3, H, W], every rank measuring a strip of it."""
    height, width = image.shape[2:]
    taps = list(options.style_tap_weights)
    rows = strip_rows(options.network, options.taps, height, strip.ranks.size)
    sums: dict[str, Tensor] = {}
    if strip.ranks.rank < len(rows):
        mine = rows[strip.ranks.rank]
        tiling = tiling_of_strip(options.network, options.taps, mine, width, strip.tiling.grid)
        add_grams_of_tiles(sums, engine, image[:, :, mine.low : mine.high], tiling.tiles, taps)
    return mean_over_ranks(strip.ranks, sums, image, taps, height, width)
