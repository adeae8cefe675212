"""Kernels in Triton for NVIDIA GPUs: max pooling of channels-last features, forward, and backward with the ReLU.

PyTorch has no single kernel for these. A program reads a piece of two neighbouring rows, in whole channels, and writes
a piece of one, or the reverse; the work is only moving memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # numbers of a pooled row that one program handles


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


def _like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
