"""Max pooling on a CPU in Numba: the backward pass, together with that of the ReLU before it, in one sweep.

PyTorch's makes a pooling with indices, a tensor of zeros, the scatter and the ReLU. The same functions as those of
:mod:`nst_fast.engines.kernels`.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.system.compiled import compiled, in_threads

PIECE = 64  # channels; those of every pooling of VGG are a multiple of it
ZERO = np.float32(0)
u = np.uintp
exactly = functools.partial(compiled, fastmath=False)  # a NaN stays one


def max_pool(x: Tensor) -> Tensor:
    """The largest of each window of 2x2: channels-last features [B, C, H, W] to [B, C, H // 2, W // 2]."""
    return functional.max_pool2d(x, 2)


def max_pool_and_relu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Back through :func:`max_pool`, and through the ReLU that made ``x``: [B, C, H // 2, W // 2] to [B, C, H, W]."""
    out = torch.empty_like(x)
    g, cells, result = (
        t.permute(0, 2, 3, 1).numpy() for t in (gradient.contiguous(memory_format=torch.channels_last), x, out)
    )
    in_threads(lambda low, high: _backward(g, cells, result, low, high), -(-x.shape[2] // 2))
    return out


@exactly
def _backward(g, x, out, low, high):
    """The rows of windows from ``low`` to ``high``; the gradient of an incomplete window is 0."""
    batch, height, width, channels = x.shape
    line = np.empty((4, PIECE), x.dtype)
    for b in range(batch):
        for i in range(2 * low, min(2 * high, height), 2):
            for j in range(0, width, 2):
                if i + 1 == height or j + 1 == width:
                    out[b, i : i + 2, j : j + 2] = ZERO
                    continue
                for piece in range(0, channels, PIECE):
                    window = x[b, i, j], x[b, i, j + 1], x[b, i + 1, j], x[b, i + 1, j + 1]
                    _shared_out(g[b, i // 2, j // 2], window[0], window[1], window[2], window[3], piece, line)
                    for part in range(4):
                        _copy(line[part], out[b, i + part // 2, j + part % 2], piece)


@exactly
def _shared_out(g, x00, x01, x10, x11, piece, line):
    """g to the first maximum of each window, if that is above 0."""
    piece = u(piece)
    for k in range(u(PIECE)):
        c = piece + k
        top = x00[c] if x00[c] > x01[c] else x01[c]
        bottom = x10[c] if x10[c] > x11[c] else x11[c]
        largest = top if top > bottom else bottom
        left = g[c] if largest > ZERO else ZERO  # what no cell has got so far
        line[0, k] = left if x00[c] == largest else ZERO
        left -= line[0, k]
        line[1, k] = left if x01[c] == largest else ZERO
        left -= line[1, k]
        line[2, k] = left if x10[c] == largest else ZERO
        line[3, k] = left - line[2, k]


@exactly
def _copy(line, cell, piece):
    piece = u(piece)
    for k in range(u(PIECE)):
        cell[piece + k] = line[k]
