"""3x3 convolutions on a CPU by Winograd's F(4x4, 3x3): a quarter of the multiplications of a direct one.

Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308). Neither PyTorch's library on
CPUs nor ONNX Runtime's has it. Tiles go through the three steps in blocks that stay in the cache: transform, 36 matrix
products (:func:`torch.bmm`), transform back. In float32 the result is about 2e-6 of its norm off, a direct one 2e-7.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_fast.engines import winograd_transforms as transforms
from nst_fast.system.compiled import in_threads

BLOCK = 2**20  # numbers in the transformed inputs and products of a block of tiles
LEAST_TILES = 12  # with fewer, reading the weights, four times those of a direct convolution, takes longer
# (numbers [6, 6, tiles, channels], their first and last tile)
Transform = Callable[[NDArray[Any], int, int], None]
# G of F(4x4, 3x3): weights w of 3x3 become G w G^T of 6x6.
WEIGHT_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class Winograd:
    """A 3x3 convolution with zero padding by one, forward and backward with respect to its input.

    Args:
        weight: [K, C, 3, 3].
        flipped: [C, K, 3, 3], the weights of the backward pass.
        bias: [K].
    """

    def __init__(self, weight: Tensor, flipped: Tensor, bias: Tensor) -> None:
        self.weight, self.flipped, self.bias = transformed_weight(weight), transformed_weight(flipped), bias

    def serves(self, x: Tensor) -> bool:
        """Whether features of this size have enough tiles for it to pay."""
        return tiles_of(x.shape[2], x.shape[3]) >= LEAST_TILES

    def forward(self, x: Tensor, *, rectify: bool) -> Tensor:
        return convolve(x, self.weight, bias=self.bias, rectify=rectify)

    def backward(self, gradient: Tensor, y: Tensor | None) -> Tensor:
        """``y``: the input, if the ReLU that made it is to be gone through too."""
        return convolve(gradient, self.flipped, where=y)


def transformed_weight(weight: Tensor) -> Tensor:
    """G w G^T: weights [K, C, 3, 3] to [36, C, K]."""
    outputs, channels = weight.shape[:2]
    g = torch.tensor(WEIGHT_TRANSFORM, dtype=weight.dtype)
    numbers = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (torch.kron(g, g) @ numbers).view(36, channels, outputs)


def tiles_of(height: int, width: int) -> int:
    """How many tiles a result has."""
    return -(-height // 4) * -(-width // 4)


def convolve(
    x: Tensor,
    weight: Tensor,
    *,
    margin: int = 1,
    bias: Tensor | None = None,
    rectify: bool = False,
    where: Tensor | None = None,
) -> Tensor:
    """The convolution of x [B, C, H, W] with ``margin`` zeros around it, [B, K, H + 2 margin - 2, W + 2 margin - 2].

    Args:
        x: in float32 or float64; C and K are below 128 or multiples of it.
        weight: [36, C, K], see :func:`transformed_weight`.
        bias: [K].
        rectify: with the ReLU that follows.
        where: of the result's size and layout; the result is 0 where it is not above 0. Not with bias or ReLU.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    batch, _, height, width = x.shape
    size = (batch, weight.shape[2], height + 2 * margin - 2, width + 2 * margin - 2)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    added = (x.new_zeros(size[1]) if bias is None else bias).numpy()
    floor = added.dtype.type(0 if rectify else -np.inf)
    for picture in range(batch):
        result = _cells(y[picture])
        start = functools.partial(transforms.transform_inputs, _cells(x[picture]), margin)
        mask = result if where is None else _cells(where[picture])
        finish = functools.partial(transforms.transform_products, result, added, floor, mask, where is not None)
        in_threads(functools.partial(_convolve_tiles, start, weight, finish), tiles_of(size[2], size[3]))
    return y


def _convolve_tiles(start: Transform, weight: Tensor, finish: Transform, low: int, high: int) -> None:
    """Both transforms and the products between them for the tiles from ``low`` to ``high``, a block at a time."""
    _, channels, outputs = weight.shape
    block = min(high - low, max(1, BLOCK // (36 * (channels + outputs))))
    inputs, products = weight.new_empty(36 * block * channels), weight.new_empty(36 * block * outputs)
    for first in range(low, high, block):
        last = min(first + block, high)
        v = inputs[: 36 * (last - first) * channels].view(36, last - first, channels)
        m = products[: 36 * (last - first) * outputs].view(36, last - first, outputs)
        start(v.view(6, 6, -1, channels).numpy(), first, last)
        torch.bmm(v, weight, out=m)
        finish(m.view(6, 6, -1, outputs).numpy(), first, last)


def _cells(features: Tensor) -> NDArray[Any]:
    """Channels-last features [C, H, W] as an array [H, W, C] on the same memory."""
    return features.permute(1, 2, 0).numpy()
