"""Convolutions of 3x3 with a quarter of the products: Winograd's F(4x4, 3x3), in plain operators.

Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016: of every tile of 6x6 inputs, tiles beginning 4
apart, the 4x4 outputs are Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A. Summed over the input channels, ⊙ is 36 matrix products.
Bᵀ x B is a convolution with a stride of 4, and Aᵀ [...] A a transposed one.
"""

from __future__ import annotations

import math

import numpy as np

from nst_fast.onnx.graph.writer import FLOATS, Array, GraphWriter, Value

# Of the points 0, 1, -1, 2, -2 and infinity.
B = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)  # fmt: skip
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
TILE, WINDOW = A.shape  # outputs and inputs of a tile along an axis
PRODUCTS = WINDOW * WINDOW
# Below these, ONNX Runtime's own convolution is the faster one: the transforms cost as much as is saved, or the
# transformed weights, four times as many as the plain ones, are read for too few tiles.
FEWEST_CHANNELS, FEWEST_TILES = 128, 16


def worth_it(inputs: int, outputs: int, size: tuple[int, int]) -> bool:
    """Whether a convolution of so many channels is faster this way for a feature map of that height and width."""
    return min(inputs, outputs) >= FEWEST_CHANNELS and math.prod(_tiles(size)) >= FEWEST_TILES


def convolution(
    graph: GraphWriter, x: Value, weight: Value, channels: tuple[int, int], size: tuple[int, int], bias: Value = ""
) -> Value:
    """y = x convolved with a 3x3 kernel, padded by a border of 1 zero.

    Args:
        x: [1, in, h, w].
        weight: of :func:`transformed`, [36, out, in].
        channels: in and out.
        size: h and w.
        bias: [out], or none.
    """
    inputs, outputs = channels
    rows, columns = tiles = _tiles(size)
    beyond = [TILE * count - extent for count, extent in zip(tiles, size, strict=True)]
    spread = _kernels(graph, B, inputs)
    ends = [1 + extent for extent in beyond]
    x = graph.op("Conv", x, spread, group=inputs, kernel_shape=[WINDOW] * 2, strides=[TILE] * 2, pads=[1, 1, *ends])
    x = graph.op("Reshape", x, graph.integers([inputs, PRODUCTS, rows * columns]))
    y = graph.op("MatMul", weight, graph.op("Transpose", x, perm=[1, 0, 2]))
    y = graph.op("Transpose", y, perm=[1, 0, 2])
    y = graph.op("Reshape", y, graph.integers([1, outputs * PRODUCTS, rows, columns]))
    gathered = [y, _kernels(graph, A.T, outputs), *([bias] if bias else [])]
    return graph.op(
        "ConvTranspose", *gathered, group=outputs, kernel_shape=[TILE] * 2, strides=[TILE] * 2, pads=[0, 0, *beyond]
    )


def transformed(graph: GraphWriter, weight: Array, name: str, *, gradient: bool = False) -> Value:
    """G w Gᵀ as [36, out, in] of a weight [out, in, 3, 3], or of the weight that the gradient is convolved with.

    A product of constants, which ONNX Runtime computes once: so the file holds the plain weights.
    """
    outputs, inputs = weight.shape[:2]
    taps = graph.constant(weight.transpose(2, 3, 0, 1).reshape(9, outputs * inputs), name)
    points = G[:, ::-1] if gradient else G  # turned by half a turn
    spread = np.einsum("ia,jb->ijab", points, points).reshape(PRODUCTS, 9)
    product = graph.op("MatMul", graph.constant(spread.astype(weight.dtype)), taps)
    product = graph.op("Reshape", product, graph.integers([PRODUCTS, outputs, inputs]))
    return graph.op("Transpose", product, perm=[0, 2, 1]) if gradient else product


def _kernels(graph: GraphWriter, points: Array, channels: int) -> Value:
    """The transform along rows and columns as 36 kernels for each channel."""
    extent = points.shape[1]
    kernels = np.einsum("ia,jb->ijab", points, points).reshape(PRODUCTS, 1, extent, extent)
    kernels = np.tile(kernels, (channels, 1, 1, 1)).astype(FLOATS[graph.precision])
    return graph.constant(kernels, f"winograd/{extent}/{channels}")


def _tiles(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (-(-extent // TILE) for extent in size)
    return height, width
