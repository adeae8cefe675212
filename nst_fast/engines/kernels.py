"""Kernels in Triton for NVIDIA GPUs, of channels-last features: what PyTorch has no single kernel for.

Max pooling, forward, and backward with the ReLU: a program reads a piece of two neighbouring rows, in whole channels,
and writes a piece of one, or the reverse; the work is only moving memory.

The seed of a ReLU tap with its mask: a matrix product whose result is masked before it is written, which spares a pass
that reads gradient and features and writes the gradient.

Total variation with its gradient, of a picture: one kernel for about forty, most of which only start and end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nst_fast.objective.losses import tv_counts

BLOCK = 1024  # numbers of a pooled row that one program handles
ROWS, INNER = 128, 64  # positions of a seed that one program handles, and channels of a partial product
COLUMNS = (64, 128)  # channels that it handles: the number must divide VGG's, 64 to 512
WARPS = 8  # with 4 the registers do not suffice
PIXELS = 512  # of a picture that one program handles


@triton.jit
def _larger(a, b):
    """The maximum; NaN if either is NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _max_pool(x, y, H, W, C: tl.constexpr, BLOCK: tl.constexpr):
    """y[b, i, j, c] = max of x[b, 2i:2i+2, 2j:2j+2, c]. Programs: (B * (H // 2), pieces of a row)."""
    row, width = tl.program_id(0), W // 2
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # place in the pooled row: j * C + c
    inside = e < width * C
    upper = x + ((row // (H // 2)) * H + 2 * (row % (H // 2))).to(tl.int64) * W * C + e + e // C * C
    lower = upper + W * C
    top = _larger(tl.load(upper, inside).to(tl.float32), tl.load(upper + C, inside).to(tl.float32))
    bottom = _larger(tl.load(lower, inside).to(tl.float32), tl.load(lower + C, inside).to(tl.float32))
    largest = _larger(top, bottom)
    tl.store(y + row.to(tl.int64) * width * C + e, largest, inside)


@triton.jit
def _max_pool_and_relu_backward(g, x, out, H, W, C: tl.constexpr, BLOCK: tl.constexpr):
    """out = g at the first maximum of each window of x, if it is above 0, else 0; 0 in an odd last row or column.

    Programs: (B * ceil(H / 2), pieces of a row of windows, incomplete ones included).
    """
    rows = (H + 1) // 2
    batch, i = tl.program_id(0) // rows, tl.program_id(0) % rows
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # place in a row of windows: j * C + c
    j = e // C
    left, right, below = 2 * j < W, 2 * j + 1 < W, tl.zeros_like(e) + 2 * i + 1 < H
    whole = right & below
    place = (batch * H + 2 * i).to(tl.int64) * W * C + e + j * C
    x00 = tl.load(x + place, whole, 0.0).to(tl.float32)
    x01 = tl.load(x + place + C, whole, 0.0).to(tl.float32)
    x10 = tl.load(x + place + W * C, whole, 0.0).to(tl.float32)
    x11 = tl.load(x + place + W * C + C, whole, 0.0).to(tl.float32)
    largest = tl.maximum(tl.maximum(x00, x01), tl.maximum(x10, x11))
    arrived = tl.load(g + (batch * (H // 2) + i).to(tl.int64) * (W // 2) * C + e, whole, 0.0)
    arrived = tl.where(largest > 0, arrived, 0.0)
    to00 = x00 == largest
    to01 = (x01 == largest) & (x00 != largest)
    to10 = (x10 == largest) & (x00 != largest) & (x01 != largest)
    to11 = (x00 != largest) & (x01 != largest) & (x10 != largest)
    tl.store(out + place, tl.where(to00, arrived, 0.0), left)
    tl.store(out + place + C, tl.where(to01, arrived, 0.0), right)
    tl.store(out + place + W * C, tl.where(to10, arrived, 0.0), left & below)
    tl.store(out + place + W * C + C, tl.where(to11, arrived, 0.0), whole)


@triton.jit(do_not_specialize=["M"])
def _seed_and_relu(
    g, f, s, t, factor, out, sums, M, C, T_ROW, T_COLUMN, ABOVE: tl.constexpr, STYLE: tl.constexpr,
    CONTENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr
):  # fmt: skip
    """out = (g + F S + 2 factor (F - T)) where not F <= 0, else 0; sums = (F - T)² summed by every program.

    g, out, F: [B, M, C] without gaps, S: [B, C, C], T: [B, M, C] with strides C M, T_ROW, T_COLUMN; the first three
    terms are left out unless ABOVE, STYLE, CONTENT. Programs: (pieces of C, pieces of M, B).
    """
    batch = tl.program_id(2).to(tl.int64)
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (m < M)[:, None]
    row = (batch * M + m)[:, None] * C
    place = row + n[None, :]
    found = tl.zeros((ROWS, COLUMNS), tl.float32)
    if ABOVE:
        found += tl.load(g + place, inside, 0.0).to(tl.float32)
    if STYLE:
        for start in range(0, C, INNER):
            c = start + tl.arange(0, INNER)
            slope = tl.load(s + batch * C * C + c[:, None] * C + n[None, :])
            found = tl.dot(tl.load(f + row + c[None, :], inside, 0.0), slope, found)
    features = tl.load(f + place, inside, 0.0).to(tl.float32)
    if CONTENT:
        cell = m.to(tl.int64)[:, None] * T_ROW + n.to(tl.int64)[None, :] * T_COLUMN
        target = tl.load(t + batch * M * C + cell, inside, 0.0)
        difference = features - target.to(tl.float32)
        found += 2 * tl.load(factor + batch) * difference
        program = (batch * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        tl.store(sums + program, tl.sum(difference * difference))
    tl.store(out + place, tl.where(features <= 0, 0.0, found), inside)


@triton.jit
def _differences(x, own0, own1, own2, place, there, area):
    """The colours of other pixels less those of a program's own; 0 where there are none."""
    d0 = tl.load(x + place, there, 0.0) - own0
    d1 = tl.load(x + area + place, there, 0.0) - own1
    d2 = tl.load(x + 2 * area + place, there, 0.0) - own2
    return tl.where(there, d0, 0.0), tl.where(there, d1, 0.0), tl.where(there, d2, 0.0)


@triton.jit
def _weighted(m, c: tl.constexpr, d0, d1, d2):
    """Row c of M d."""
    return tl.load(m + 3 * c) * d0 + tl.load(m + 3 * c + 1) * d1 + tl.load(m + 3 * c + 2) * d2


@triton.jit
def _total_variation(x, m, g, sums, H, W, M_BATCH, by_rows, by_columns, PIXELS: tl.constexpr):
    """g += the gradient of the sum over pixels of a dT M d + b rT M r, of which every program gives a part in sums.

    d, r: the differences of the pixels below and to the right to a pixel of x, a and b: by_rows and by_columns. x, g:
    [B, 3, H, W] without gaps, M: symmetric [3, 3] or [B, 3, 3]. Programs: (pieces of H W, B).
    """
    batch, area = tl.program_id(1).to(tl.int64), H * W
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside, row, column = p < area, p // W, p % W
    x, g, m = x + batch * 3 * area, g + batch * 3 * area, m + batch * M_BATCH
    own0, own1, own2 = _differences(x, 0.0, 0.0, 0.0, p, inside, area)
    u0, u1, u2 = _differences(x, own0, own1, own2, p - W, inside & (row > 0), area)
    d0, d1, d2 = _differences(x, own0, own1, own2, p + W, inside & (row + 1 < H), area)
    l0, l1, l2 = _differences(x, own0, own1, own2, p - 1, inside & (column > 0), area)
    r0, r1, r2 = _differences(x, own0, own1, own2, p + 1, inside & (column + 1 < W), area)
    total = by_rows * (d0 * _weighted(m, 0, d0, d1, d2) + d1 * _weighted(m, 1, d0, d1, d2))
    total += by_rows * d2 * _weighted(m, 2, d0, d1, d2) + by_columns * r2 * _weighted(m, 2, r0, r1, r2)
    total += by_columns * (r0 * _weighted(m, 0, r0, r1, r2) + r1 * _weighted(m, 1, r0, r1, r2))
    tl.store(sums + batch * tl.num_programs(0) + tl.program_id(0), tl.sum(total))
    s0 = by_rows * (u0 + d0) + by_columns * (l0 + r0)
    s1 = by_rows * (u1 + d1) + by_columns * (l1 + r1)
    s2 = by_rows * (u2 + d2) + by_columns * (l2 + r2)
    for c in tl.static_range(3):
        place = g + c * area + p
        tl.store(place, tl.load(place, inside, 0.0) - 2 * _weighted(m, c, s0, s1, s2), inside)


def add_total_variation(gradient: Tensor, image: Tensor, colors: Tensor) -> Tensor:
    """:func:`nst_fast.objective.losses.tv_loss` of an image [B, 3, H, W], [B]; its gradient is added in place.

    Args:
        gradient: [B, 3, H, W], without gaps; like all else in float32.
        colors: how a difference is weighted, [3, 3] or [B, 3, 3].
    """
    batch, channels, height, width = image.shape
    by_batch = 9 if colors.dim() == 3 and len(colors) > 1 else 0
    rows, columns = (1 / max(count, 1) for count in tv_counts(channels, height, width))
    grid = (triton.cdiv(height * width, PIXELS), batch)
    sums = torch.empty((batch, grid[0]), device=image.device)
    _total_variation[grid](
        image.contiguous(), colors.float().contiguous(), gradient, sums, height, width, by_batch, rows, columns, PIXELS
    )
    return sums.sum(1)


def max_pool(x: Tensor) -> Tensor:
    """The largest of each window of 2x2: channels-last features [B, C, H, W] to [B, C, H // 2, W // 2]."""
    batch, channels, height, width = x.shape
    y = _like(x, (batch, channels, height // 2, width // 2))
    if y.numel():
        grid = (batch * (height // 2), triton.cdiv(width // 2 * channels, BLOCK))
        _max_pool[grid](x, y, height, width, channels, BLOCK)
    return y


def max_pool_and_relu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Back through :func:`max_pool`, and through the ReLU that made ``x``: [B, C, H // 2, W // 2] to [B, C, H, W]."""
    batch, channels, height, width = x.shape
    out = _like(x, x.shape)
    grid = (batch * -(-height // 2), triton.cdiv(-(-width // 2) * channels, BLOCK))
    _max_pool_and_relu_backward[grid](
        gradient.contiguous(memory_format=torch.channels_last), x, out, height, width, channels, BLOCK
    )
    return out


def seed_and_relu(
    gradient: Tensor | None,
    features: Tensor,
    slope: Tensor | None,
    content: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor | None]:
    """Add a tap's seed to the gradient from above, and go back through the ReLU that made the features.

    Args:
        gradient: [B, C, H, W], overwritten if it is channels-last; None at the deepest tap.
        features: [B, C, H, W], channels-last, the output of a ReLU.
        slope: S [B, C, C], if there is a style term, whose derivative is S F.
        content: the target T [B, C, H, W] and the factor k [B] of the content term k |F - T|², if there is one.

    Returns:
        the gradient with respect to the ReLU's input, and the content term [B], in float32.
    """
    batch, channels, height, width = features.shape
    positions = height * width
    above = gradient
    out = _like(features, features.shape)
    if gradient is not None:
        above = out = gradient.contiguous(memory_format=torch.channels_last)
    columns = next(columns for columns in reversed(COLUMNS) if channels % columns == 0)
    grid = (channels // columns, triton.cdiv(positions, ROWS), batch)
    sums = target = factor = None
    strides = (0, 0)
    if content is not None:
        target, factor = content
        target = target.flatten(2)
        factor = factor.float()
        strides = (target.stride(2), target.stride(1))
        sums = torch.empty((batch, grid[0] * grid[1]), device=features.device)
    slope = None if slope is None else slope.to(features.dtype).contiguous()
    terms = (above is not None, slope is not None, content is not None)
    _seed_and_relu[grid](
        above, features, slope, target, factor, out, sums, positions, channels, *strides, *terms, ROWS, columns, INNER,
        num_warps=WARPS,
    )  # fmt: skip
    return out, None if sums is None or factor is None else sums.sum(1) * factor


def _like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
