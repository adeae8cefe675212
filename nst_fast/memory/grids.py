"""The grids of tiles that a picture can be cut into, and the halo that each needs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from nst_fast.network.tiles import Tiling, grid_for_side, grid_like, halo_of, make_tiling
from nst_fast.options.config import StylizeConfig

LARGEST_TENSOR = 2**31  # elements; a larger one needs 64-bit indexing, which libraries do not do everywhere
WIDEST = 64  # channels at full resolution
MOST_TILES = 64  # along one axis
SMALLEST_TILE = 64  # pixels along one axis; also no smaller than the halo


@dataclass(frozen=True)
class Grid:
    """Rows and columns to cut a picture into, pixels of the largest crop, and of all crops over the picture's."""

    shape: tuple[int, int]
    crop: int
    overhead: float

    @property
    def whole(self) -> bool:
        return self.shape == (1, 1)


def grids(config: StylizeConfig, height: int, width: int, *, tiled: bool) -> list[Grid]:
    """All grids whose tiles are not too small and whose tensors are not too large, the whole picture included.

    A single one with a tile size in the config, and for an engine that cannot be ``tiled``.
    """
    if config.tile_size:
        pairs = [grid_for_side(config.taps, height, width, config.tile_size)]
    elif not tiled:
        pairs = [(1, 1)]
    else:
        side = max(halo_of(config.network, config.taps), SMALLEST_TILE)
        most = [max(1, min(MOST_TILES, length // side)) for length in (height, width)]
        pairs = list(itertools.product(range(1, most[0] + 1), range(1, most[1] + 1)))
    rows = {count: _axis(config, 0, height, count) for count in {row for row, _ in pairs}}
    columns = {count: _axis(config, 1, width, count) for count in {column for _, column in pairs}}
    found = [
        Grid((row, column), rows[row][0] * columns[column][0], rows[row][1] * columns[column][1] / (height * width))
        for row, column in pairs
    ]
    return [grid for grid in found if WIDEST * grid.crop < LARGEST_TENSOR] or found


def _axis(config: StylizeConfig, axis: int, length: int, count: int) -> tuple[int, int]:
    """The largest crop along an axis (0: rows) cut into ``count``, and the sum of all, in pixels."""
    wraps = config.wraps
    tiling = make_tiling(config.network, config.taps, length, length, (count, 1), wraps=(wraps[axis], False))
    seen = [extent.seen for extent in tiling.rows]
    return max(seen), sum(seen)


def cut_into(config: StylizeConfig, height: int, width: int, grid: tuple[int, int]) -> Tiling:
    """The tiling of a pastiche into rows and columns."""
    return make_tiling(config.network, config.taps, height, width, grid, wraps=config.wraps)


def tiling_like(config: StylizeConfig, tiling: Tiling, height: int, width: int) -> Tiling:
    """A tiling of another picture with crops about as large; whole when the pastiche is evaluated whole."""
    grid = grid_like(tiling, config.taps, height, width)
    return make_tiling(config.network, config.taps, height, width, grid)
