"""The transforms of Winograd's F(4x4, 3x3) in Numba, for channels-last features of one picture on a CPU.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), section 4.3. A tile of 4x4
results is A^T ((G w G^T) * (B^T d B)) A, of a patch d of 6x6 inputs and weights w of 3x3; * multiplies each number by
one, which over all channels makes 36 matrix products. Tiles are counted row by row.

The loops are laid out for LLVM's vectoriser: over channels, at most PIECE at a time so that a tile stays in the first
cache, with unsigned indices, since signed ones are tested for being negative, and with rows written to a line of fixed
place first, since it cannot tell whether twelve pointers overlap.
"""

from __future__ import annotations

import numba
import numpy as np

from nst_fast.system.compiled import compiled

PIECE = 128  # channels
u = np.uintp
inlined = numba.njit(inline="always")
ZERO, TWO, FOUR, FIVE, EIGHT = map(np.float32, (0, 2, 4, 5, 8))  # exact, and no wider than the features


@inlined
def _input_line(d0, d1, d2, d3, d4, d5):
    """B^T of 6 inputs: 6 numbers."""
    a, b = d4 - FOUR * d2, d3 - FOUR * d1
    c, d = d4 - d2, TWO * (d3 - d1)
    return FOUR * d0 - FIVE * d2 + d4, a + b, a - b, c + d, c - d, FOUR * d1 - FIVE * d3 + d5


@inlined
def _output_line(m0, m1, m2, m3, m4, m5):
    """A^T of 6 products: 4 results."""
    a, b = m1 + m2, m1 - m2
    c, d = m3 + m4, m3 - m4
    return m0 + a + c, b + TWO * d, a + FOUR * c, b + EIGHT * d + m5


@compiled
def transform_inputs(x, margin, transformed, first, last):
    """B^T d B of tiles ``first`` to ``last`` of x [H, W, C] with a margin of zeros.

    ``transformed``: [6, 6, last - first, C].
    """
    height, width, channels = x.shape
    across = (width + 2 * margin + 1) // 4
    wide = min(channels, PIECE)
    patch = np.empty((6, 6, channels), x.dtype)
    columns = np.empty((6, 6, wide), x.dtype)
    line = np.empty((6, wide), x.dtype)
    for tile in range(first, last):
        top, left = tile // across * 4 - margin, tile % across * 4 - margin
        inside = top >= 0 and left >= 0 and top + 6 <= height and left + 6 <= width
        if not inside:
            _cut_patch(x, top, left, patch)
        for piece in range(0, channels, PIECE):
            if inside:
                _input_columns(x, top, left, piece, columns)
            else:
                _input_columns(patch, 0, 0, piece, columns)
            _input_rows(columns, piece, line, transformed, tile - first)


@compiled
def _cut_patch(x, top, left, patch):
    """Copy 6x6 cells of x to the patch, 0 where they are outside."""
    height, width, channels = x.shape
    for i in range(6):
        for j in range(6):
            inside = 0 <= top + i < height and 0 <= left + j < width
            for c in range(channels):
                patch[i, j, c] = x[top + i, left + j, c] if inside else ZERO


@compiled
def _input_columns(x, top, left, piece, columns):
    """B^T d of the 6x6 cells at top and left, for the channels from ``piece`` on."""
    y0, y1, y2, y3, y4, y5 = u(top), u(top + 1), u(top + 2), u(top + 3), u(top + 4), u(top + 5)
    piece = u(piece)
    for j in range(6):
        i = u(left + j)
        for k in range(u(columns.shape[2])):
            c = piece + k
            r = _input_line(x[y0, i, c], x[y1, i, c], x[y2, i, c], x[y3, i, c], x[y4, i, c], x[y5, i, c])
            columns[0, j, k], columns[1, j, k], columns[2, j, k] = r[0], r[1], r[2]
            columns[3, j, k], columns[4, j, k], columns[5, j, k] = r[3], r[4], r[5]


@compiled
def _input_rows(columns, piece, line, transformed, tile):
    """(B^T d) B, written as the tile's numbers."""
    tile, piece = u(tile), u(piece)
    for i in range(6):
        t = columns[i]
        for k in range(u(t.shape[1])):
            r = _input_line(t[0, k], t[1, k], t[2, k], t[3, k], t[4, k], t[5, k])
            line[0, k], line[1, k], line[2, k] = r[0], r[1], r[2]
            line[3, k], line[4, k], line[5, k] = r[3], r[4], r[5]
        for j in range(6):
            for k in range(u(t.shape[1])):
                transformed[i, j, tile, piece + k] = line[j, k]


@compiled
def transform_products(y, bias, floor, x, masked, products, first, last):
    """max(A^T m A + bias, floor), tiles ``first`` to ``last`` of y [H, W, K], of the products [6, 6, last - first, K].

    If ``masked``, A^T m A where x [H, W, K] is above 0, else 0: the backward pass of a ReLU with it.
    """
    height, width, channels = y.shape
    across = (width + 3) // 4
    wide = min(channels, PIECE)
    columns, line = np.empty((4, 6, wide), y.dtype), np.empty((4, wide), y.dtype)
    for tile in range(first, last):
        top, left = tile // across * 4, tile % across * 4
        for piece in range(0, channels, PIECE):
            _output_columns(products, tile - first, piece, columns)
            for i in range(min(4, height - top)):
                _output_row(columns, i, line)
                for j in range(min(4, width - left)):
                    if masked:
                        _store_where(line[j], x[top + i, left + j], y[top + i, left + j], piece)
                    else:
                        _store(line[j], bias, floor, y[top + i, left + j], piece)


@compiled
def _output_columns(products, tile, piece, columns):
    """A^T m of a tile, for the channels from ``piece`` on."""
    tile, piece = u(tile), u(piece)
    for j in range(6):
        for k in range(u(columns.shape[2])):
            c = piece + k
            r = _output_line(
                products[0, j, tile, c], products[1, j, tile, c], products[2, j, tile, c],
                products[3, j, tile, c], products[4, j, tile, c], products[5, j, tile, c],
            )  # fmt: skip
            columns[0, j, k], columns[1, j, k], columns[2, j, k], columns[3, j, k] = r[0], r[1], r[2], r[3]


@compiled
def _output_row(columns, i, line):
    """Row i of (A^T m) A."""
    t = columns[i]
    for k in range(u(t.shape[1])):
        r = _output_line(t[0, k], t[1, k], t[2, k], t[3, k], t[4, k], t[5, k])
        line[0, k], line[1, k], line[2, k], line[3, k] = r[0], r[1], r[2], r[3]


@compiled
def _store(line, bias, floor, cell, piece):
    piece = u(piece)
    for k in range(u(line.shape[0])):
        cell[piece + k] = max(line[k] + bias[piece + k], floor)


@compiled
def _store_where(line, x, cell, piece):
    piece = u(piece)
    for k in range(u(line.shape[0])):
        cell[piece + k] = line[k] if x[piece + k] > 0 else ZERO
