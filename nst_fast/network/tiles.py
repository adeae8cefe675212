"""Geometry of exact tiling: the pixels and the cells of each tap that a tile owns, and the crop it is computed from.

The inner edges of the grid lie on the deepest pooling grid in use, so that every pooling window of the picture belongs
to exactly one tile. The crop is the tile's own pixels and a halo around them: the reach of the taps, rounded up to the
pooling grid. At the borders of the picture there is no halo, because there the network pads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nst_fast.errors import UsageError
from nst_fast.network.taps import NO_WRAP, Wraps, cut, smallest_side


def reach(network: str, taps: Iterable[str]) -> int:
    """How many pixels the taps read beyond their own cell, on each side: 70 for ``relu5_1`` of VGG-19.

    Every 3x3 convolution adds one cell of its own grid.
    """
    pixels, stride = 0, 1
    for layer in cut(network, taps):
        pixels += stride if layer.startswith("conv") else 0
        stride *= 2 if layer.startswith("pool") else 1
    return pixels


def stride_of(tap: str) -> int:
    """The side of one cell of a tap in pixels: 16 for ``relu5_1``."""
    return smallest_side([tap])


def halo_of(network: str, taps: Iterable[str]) -> int:
    """The halo in pixels: the reach of the taps, rounded up to the deepest pooling grid among them."""
    taps = list(taps)
    grid = smallest_side(taps)
    return _ceil_div(reach(network, taps), grid) * grid


@dataclass(frozen=True)
class Extent:
    """One axis of a tile in pixels of the picture: its own ``start:stop`` within the crop ``low:high``.

    Where the picture ``wraps``, continues at its opposite side, the crop may reach beyond it.
    """

    start: int
    stop: int
    low: int
    high: int
    wraps: bool = False

    @property
    def seen(self) -> int:
        """The length of the crop in pixels."""
        return self.high - self.low

    @property
    def and_next(self) -> slice:
        """Own pixels and the one behind them, where there is one."""
        return slice(self.start, self.stop + 1 if self.wraps else min(self.stop + 1, self.high))

    def cells(self, stride: int) -> slice:
        """The tile's own cells of a tap, as indices into the features of the picture; may be empty."""
        return slice(self.start // stride, self.stop // stride)

    def cells_in_crop(self, stride: int) -> slice:
        """The same cells as indices into the features of the crop."""
        first = self.low // stride
        return slice(self.start // stride - first, self.stop // stride - first)


@dataclass(frozen=True)
class Tile:
    """The rows and columns of a tile; properties and methods give index tuples for ``[B, C, H, W]`` tensors.

    The pixels of a picture that wraps may lie beyond its sides.
    """

    rows: Extent
    columns: Extent

    @property
    def crop(self) -> tuple[slice, ...]:
        """Own pixels and halo: the encoder's input, and where its gradient is added."""
        return _index(slice(self.rows.low, self.rows.high), slice(self.columns.low, self.columns.high))

    @property
    def and_below(self) -> tuple[slice, ...]:
        """Own pixels and the row below them, where there is one."""
        return _index(self.rows.and_next, slice(self.columns.start, self.columns.stop))

    @property
    def and_right(self) -> tuple[slice, ...]:
        """Own pixels and the column to their right, where there is one."""
        return _index(slice(self.rows.start, self.rows.stop), self.columns.and_next)

    def cells(self, stride: int) -> tuple[slice, ...]:
        """Own cells in the features of the whole picture."""
        return _index(self.rows.cells(stride), self.columns.cells(stride))

    def cells_in_crop(self, stride: int) -> tuple[slice, ...]:
        """Own cells in the features of the crop."""
        return _index(self.rows.cells_in_crop(stride), self.columns.cells_in_crop(stride))


def _index(rows: slice, columns: slice) -> tuple[slice, ...]:
    return (slice(None), slice(None), rows, columns)


@dataclass(frozen=True)
class Tiling:
    """A picture cut into a grid of tiles: every extent of ``rows`` with every extent of ``columns``."""

    height: int
    width: int
    halo: int
    rows: tuple[Extent, ...]
    columns: tuple[Extent, ...]

    @property
    def grid(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)

    @property
    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        return (Tile(row, column) for row in self.rows for column in self.columns)

    @property
    def whole(self) -> bool:
        """Whether the only tile is the picture."""
        return self.grid == (1, 1)

    @property
    def largest_crop(self) -> tuple[int, int]:
        """Height and width of the largest crop, which decides the memory."""
        return max(row.seen for row in self.rows), max(column.seen for column in self.columns)

    @property
    def overhead(self) -> float:
        """Pixels of all crops over pixels of the picture: the cost of the halos in time."""
        seen = sum(row.seen for row in self.rows) * sum(column.seen for column in self.columns)
        return seen / (self.height * self.width)


def make_tiling(
    network: str, taps: Iterable[str], height: int, width: int, grid: tuple[int, int], *, wraps: Wraps = NO_WRAP
) -> Tiling:
    """Cut a picture into ``grid`` (rows, columns) tiles of nearly equal size, exact for the given taps.

    A small picture gets fewer tiles. Along an axis that ``wraps`` every tile has a halo on both sides; an only one has
    none, as the network wraps itself. Raises :class:`UsageError` for an empty grid.
    """
    return tiling_of_strip(network, taps, Extent(0, height, 0, height), width, grid, wraps=wraps)


def strip_rows(network: str, taps: Iterable[str], height: int, count: int) -> tuple[Extent, ...]:
    """Cut the rows of a picture into at most ``count`` strips, one per process: tiles as wide as the picture."""
    taps = list(taps)
    # Edges on even rows, so that smoothing, which pools by 2, cuts none of its windows either.
    alignment = max(2, smallest_side(taps))
    return _extents(height, count, alignment, halo_of(network, taps))


def tiling_of_strip(
    network: str,
    taps: Iterable[str],
    strip: Extent,
    width: int,
    grid: tuple[int, int],
    *,
    wraps: Wraps = NO_WRAP,
) -> Tiling:
    """The tiles of a strip as :func:`make_tiling` cuts a picture; row 0 is the first of the strip's crop, its ``low``.

    They own the rows of the strip and not its halo, so sums over all tiles of all strips are those over the picture.
    Rows of the picture wrap only where the strip is all of them.
    """
    if min(grid) < 1:
        raise UsageError(f"a grid of {grid[0]}x{grid[1]} tiles", "Give at least one tile each way")
    taps = list(taps)
    alignment, halo = smallest_side(taps), halo_of(network, taps)
    above, below = strip.start - strip.low, strip.high - strip.stop
    rows = _extents(strip.stop - strip.start, grid[0], alignment, halo, above, below, wraps=wraps[0])
    return Tiling(strip.seen, width, halo, rows, _extents(width, grid[1], alignment, halo, wraps=wraps[1]))


def _extents(
    length: int, count: int, alignment: int, halo: int, above: int = 0, below: int = 0, *, wraps: bool = False
) -> tuple[Extent, ...]:
    """Cut one axis into at most ``count`` extents; every inner edge is a multiple of the alignment.

    Crops may reach ``above`` and ``below`` the axis by so many pixels; these are counted, but belong to no extent.
    """
    cells = _ceil_div(length, alignment)
    count = min(count, cells)
    edges = [above + number * cells // count * alignment for number in range(count)] + [above + length]
    end = above + length + below
    beyond = halo if wraps and count > 1 else 0
    return tuple(
        Extent(start, stop, max(-beyond, start - halo), min(end + beyond, stop + halo), wraps)
        for start, stop in itertools.pairwise(edges)
    )


def grid_for_side(taps: Iterable[str], height: int, width: int, side: int) -> tuple[int, int]:
    """The smallest grid whose tiles are at most ``side`` pixels each way (but at least one pooling window)."""
    alignment = smallest_side(taps)
    cells = max(1, side // alignment)
    rows, columns = (_ceil_div(_ceil_div(length, alignment), cells) for length in (height, width))
    return rows, columns


def grid_like(tiling: Tiling, taps: Iterable[str], height: int, width: int) -> tuple[int, int]:
    """The grid of another picture with crops about as large; whole where the first picture is whole.

    A tile at a border has one halo less, so the first picture's tiles may be larger than its crops leave room for
    between two halos. They are taken where they fit, and crops grow rather than consist of halos.
    """
    if tiling.whole:
        return 1, 1
    taps, halo, area = list(taps), tiling.halo, math.prod(tiling.largest_crop)
    own = max(each.stop - each.start for each in (*tiling.rows, *tiling.columns))
    same = grid_for_side(taps, height, width, own)
    axes = (_extents(side, count, smallest_side(taps), halo) for side, count in zip((height, width), same, strict=True))
    if math.prod(max(extent.seen for extent in axis) for axis in axes) <= area:
        return same
    return grid_for_side(taps, height, width, max(math.isqrt(area) - 2 * halo, min(own, 2 * halo)))


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)
