"""The rules whose plain form in :mod:`.rules` is slow in ONNX Runtime's CPU provider, in a form that is fast there.

Its Where copies both of its operands, its DepthToSpace and its Slice with steps move number by number; products, and a
Split or Concat along the last axis, are vectorised. These forms need the size of the picture. Notation as in
:mod:`.rules`; a mask is 1 or 0.

Write the masks before the way back. Of a node's inputs ONNX Runtime computes the one written last first, with all that
it needs: masks written beside their use would all be computed, and kept, before the way back begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from nst_fast.onnx.graph.rules import COLUMNS, ROWS
from nst_fast.onnx.graph.writer import GraphWriter, Value, element_type

BOOL = int(TensorProto.BOOL)
PAIR = 4  # the axis of a window's two columns; that of its two rows is the one before


def relu_mask(graph: GraphWriter, y: Value) -> Value:
    """1 where y is not 0; a ReLU's y is never below 0."""
    return _number(graph, graph.op("Cast", y, to=BOOL))


@dataclass(frozen=True)
class PoolMasks:
    """Where max pooling found its maxima: first among the two rows of a window, then among its two columns.

    Attributes:
        channels, height, width: of what it gives.
        upper: [1, C, h, 1, w], where the upper row has the maximum.
        left: [1, C, 2h, w, 1], where the left column has the maximum of its row.
    """

    channels: int
    height: int
    width: int
    upper: Value
    left: Value


def pool_masks(graph: GraphWriter, x: Value, y: Value, size: tuple[int, int, int]) -> PoolMasks:
    """The masks of y, the maxima of x; ``size`` is channels, height and width of y."""
    channels, height, width = size
    ends, axes = graph.integers([2 * height, 2 * width]), graph.integers([ROWS, COLUMNS])
    even = graph.op("Slice", x, graph.integers([0, 0]), ends, axes)  # removed by ONNX Runtime where x is even
    pairs = graph.integers([1, channels, 2 * height, width, 2])
    left, right = graph.split(graph.op("Reshape", even, pairs), PAIR)
    rows = graph.op("Max", left, right)
    upper, _ = graph.split(graph.op("Reshape", rows, graph.integers([1, channels, height, 2, width])), PAIR - 1)
    y = graph.op("Reshape", y, graph.integers([1, channels, height, 1, width]))
    found = (graph.op("Equal", upper, y), graph.op("Equal", left, rows))
    return PoolMasks(*size, *(_number(graph, mask) for mask in found))


def max_pool_gradient(graph: GraphWriter, dy: Value, masks: PoolMasks) -> Value:
    """All of dy to the first row of a window that holds the maximum, and there to the first column that does.

    That is the first cell row by row, as in :func:`.rules.max_pool_gradient`.
    """
    channels, height, width = masks.channels, masks.height, masks.width
    dy = graph.op("Reshape", dy, graph.integers([1, channels, height, 1, width]))
    dy = _shared_out(graph, dy, masks.upper, PAIR - 1)
    dy = graph.op("Reshape", dy, graph.integers([1, channels, 2 * height, width, 1]))
    dy = _shared_out(graph, dy, masks.left, PAIR)
    return graph.op("Reshape", dy, graph.integers([1, channels, 2 * height, 2 * width]))


def _shared_out(graph: GraphWriter, dy: Value, first: Value, axis: int) -> Value:
    """dy goes to the first of two lines where the mask is 1, to the second where it is 0."""
    taken = graph.op("Mul", dy, first)
    return graph.op("Concat", taken, graph.op("Sub", dy, taken), axis=axis)


def _number(graph: GraphWriter, mask: Value) -> Value:
    return graph.op("Cast", mask, to=element_type(graph.precision))
