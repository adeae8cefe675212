"""One rule per operator: how the gradient passes back through it, in plain ONNX operators.

Notation of the docstrings: ``y`` is the operator's output, ``x`` its input, ``dy`` and ``dx`` the gradients of the
total loss with respect to them. Feature maps are [1, C, h, w]. docs/step-graph.md derives the rules.

No rule needs Shape or its like, which ONNX Runtime computes on the CPU: what depends on a size is written so that
constant arguments do for every size, or is an input of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nst_fast.network.padding import COLUMNS, ROWS, Modes
from nst_fast.onnx.graph.writer import Array, GraphWriter, Value

END = np.iinfo(np.int64).max  # "to the end" for Slice
_PAD_MODES = {"replicate": "edge", "reflect": "reflect"}  # our name -> ONNX's
# The four cells of a 2x2 window in the order in which PyTorch looks for the maximum: row by row.
WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))


def transposed_weight(weight: Array) -> Array:
    """The weight [out, in, 3, 3] as its own gradient needs it: [in, out, 3, 3], turned by half a turn."""
    return np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))


def convolution_gradient(graph: GraphWriter, dy: Value, transposed: Value, border: Sequence[int]) -> Value:
    """dx = dy convolved with the transposed weight, for a 3x3 convolution with ``border`` zeros at rows' and columns'
    ends.

    y[p] = sum over k of W[k] x[p + k - border], so x[q] enters y[q - k + border] with W[k]:
    dx[q] = sum over k of W[k]ᵀ dy[q - k + border], which is a convolution with k reversed and a border of 2 - border.
    """
    return graph.op("Conv", dy, transposed, kernel_shape=[3, 3], pads=[2 - zeros for zeros in border] * 2)


def relu_gradient(graph: GraphWriter, dy: Value, y: Value, precision: str) -> Value:
    """dx = dy where y > 0, else 0. At 0 the gradient is 0, as PyTorch has it."""
    zero = graph.number(0, precision)
    return graph.op("Where", graph.op("Greater", y, zero), dy, zero)


def max_pool_gradient(graph: GraphWriter, dy: Value, x: Value, y: Value, precision: str) -> Value:
    """All of dy goes to the first cell of the 2x2 window that holds the maximum; the others get 0.

    Cell by cell, a cell that equals y takes what is left of dy, and the rest is passed to the next one. The last cell
    needs no comparison: what the others left is its own. Subtracting is exact, since each takes all or nothing.
    """
    zero = graph.number(0, precision)
    left, taken = dy, []
    for row, column in WINDOW[:-1]:
        found = graph.op("Equal", _every_second(graph, x, row, column), y)
        taken.append(graph.op("Where", found, left, zero))
        left = graph.op("Sub", left, taken[-1])
    return _interleave(graph, [*taken, left])


def average_pool_gradient(graph: GraphWriter, dy: Value, scale: float, precision: str) -> Value:
    """Every cell of the 2x2 window gets dy times scale / 4."""
    return _interleave(graph, [graph.op("Mul", dy, graph.number(scale / 4, precision))] * 4)


def _every_second(graph: GraphWriter, x: Value, row: int, column: int) -> Value:
    """Every second row and column of x, from (row, column) on; always floor(h / 2) by floor(w / 2).

    Stopping before the last one cuts 0, 2, .., h-1 of an odd h down to what pooling reads, and of an even h takes
    nothing away, for its last index is odd.
    """
    ends = [-1 if offset == 0 else END for offset in (row, column)]
    arguments = ([row, column], ends, [ROWS, COLUMNS], [2, 2])  # starts, ends, axes, steps
    return graph.op("Slice", x, *(graph.integers(argument) for argument in arguments))


def _interleave(graph: GraphWriter, cells: list[Value]) -> Value:
    """The inverse: four maps [1, C, h, w], one per cell of the window, to one of [1, C, 2h, 2w]."""
    return graph.op("DepthToSpace", graph.op("Concat", *cells, axis=1), blocksize=2, mode="DCR")


def pad_border(graph: GraphWriter, x: Value, modes: Modes) -> Value:
    """One row and column more on every side, rows and columns each in their mode, but for ``zeros``.

    Copies of the border (``replicate``), of what is next to it (``reflect``), or of the opposite side (``circular``).
    """
    if modes[0] == modes[1] and modes[0] in _PAD_MODES:
        return graph.op("Pad", x, graph.integers([0, 0, 1, 1, 0, 0, 1, 1]), mode=_PAD_MODES[modes[0]])
    for axis, mode in zip((ROWS, COLUMNS), modes, strict=True):
        if mode == "circular":
            x = graph.op("Concat", _slice(graph, x, axis, -1, END), x, _slice(graph, x, axis, 0, 1), axis=axis)
        elif mode in _PAD_MODES:
            pads = [0] * 8
            pads[axis] = pads[4 + axis] = 1
            x = graph.op("Pad", x, graph.integers(pads), mode=_PAD_MODES[mode])
    return x


def pad_border_gradient(graph: GraphWriter, dy: Value, modes: Modes) -> Value:
    """What was copied receives the gradient of its copy too: row by row, then column by column."""
    for axis, mode in zip((ROWS, COLUMNS), modes, strict=True):
        if mode == "circular":
            dy = _fold_opposite(graph, dy, axis)
        elif mode in _PAD_MODES:
            dy = _fold_border(graph, dy, axis, {"replicate": 0, "reflect": 1}[mode])
    return dy


def _fold_opposite(graph: GraphWriter, dy: Value, axis: int) -> Value:
    """The margin before the first line repeats the last, and that behind the last the first. At least two lines."""
    first = graph.op("Add", _slice(graph, dy, axis, 1, 2), _slice(graph, dy, axis, -1, END))
    last = graph.op("Add", _slice(graph, dy, axis, -2, -1), _slice(graph, dy, axis, 0, 1))
    return graph.op("Concat", first, _slice(graph, dy, axis, 2, -2), last, axis=axis)


def _fold_border(graph: GraphWriter, dy: Value, axis: int, source: int) -> Value:
    """``source``: how far inside the copied line lies."""

    def lines(start: int, end: int) -> Value:
        return _slice(graph, dy, axis, start, end)

    first = graph.op("Add", lines(1 + source, 2 + source), lines(0, 1))
    last = graph.op("Add", lines(-2 - source, -1 - source), lines(-1, END))
    middle = lines(2 + source, -2 - source)
    if source == 0:
        return graph.op("Concat", first, middle, last, axis=axis)
    return graph.op("Concat", lines(1, 2), first, middle, last, lines(-2, -1), axis=axis)


def _slice(graph: GraphWriter, x: Value, axis: int, start: int, end: int) -> Value:
    """x[start:end] along one axis; negative numbers count from the end."""
    return graph.op("Slice", x, *(graph.integers([argument]) for argument in (start, end, axis)))


def squared_sum(graph: GraphWriter, x: Value) -> Value:
    """The sum of squares of all elements, [1]. With keepdims, as OpenVINO's provider takes no sum of rank 0."""
    return graph.op("Reshape", graph.op("ReduceSumSquare", x, keepdims=1), graph.integers([1]))


def inner_product(graph: GraphWriter, x: Value, y: Value) -> Value:
    """The sum of products of all elements, [1]."""
    return graph.op("Reshape", graph.op("ReduceSum", graph.op("Mul", x, y), keepdims=1), graph.integers([1]))


def gram_matrix(
    graph: GraphWriter, features: Value, channels: int, inverse_positions: Value, counted: Value | None = None
) -> Value:
    """G = F Fᵀ / (h w), [1, C, C]: the mean over positions, with 1 / (h w) as an input.

    ``counted``: the features times the weights w of their positions, if these differ; then the input is 1 / sum w.
    """
    rows = _rows(graph, features, channels)
    left = rows if counted is None else _rows(graph, counted, channels)
    gram = graph.op("MatMul", left, graph.op("Transpose", rows, perm=[0, 2, 1]))
    return graph.op("Mul", gram, inverse_positions)


def mean_features(graph: GraphWriter, counted: Value, channels: int, inverse_positions: Value) -> Value:
    """m, the mean over positions, [1, C, 1]; ``counted``: features, times their weights if these differ."""
    rows = _rows(graph, counted, channels)
    return graph.op("Mul", graph.op("ReduceSum", rows, graph.integers([2]), keepdims=1), inverse_positions)


def _rows(graph: GraphWriter, features: Value, channels: int) -> Value:
    """[1, C, h w]."""
    return graph.op("Reshape", features, graph.integers([1, channels, -1]))


def split_moments(graph: GraphWriter, moments: Value, channels: int) -> tuple[Value, Value]:
    """[1, C, C + 1] to the Gram [1, C, C] and the mean [1, C, 1] that stand side by side in it."""
    return _slice(graph, moments, 2, 0, channels), _slice(graph, moments, 2, channels, END)


def gram_gradient(
    graph: GraphWriter,
    features: Value,
    channels: int,
    dg: Value,
    inverse_positions: Value,
    dm: Value | None = None,
) -> Value:
    """dF = (dG + dGᵀ) F / (h w) = 2 dG F / (h w), since dG is symmetric: one product; + dm / (h w).

    Where positions have weights, 1 / sum w takes the place of 1 / (h w), and the result is still to be multiplied by w.

    A product over channels at every position is a 1x1 convolution, and as such keeps the shape of a feature map; a
    MatMul would need the height and the width to go back to it.
    """
    scaled = graph.op("Mul", graph.op("Mul", dg, graph.number(2)), inverse_positions)
    kernel = graph.op("Reshape", scaled, graph.integers([channels, channels, 1, 1]))
    if dm is None:
        return graph.op("Conv", features, kernel, kernel_shape=[1, 1])
    bias = graph.op("Reshape", graph.op("Mul", dm, inverse_positions), graph.integers([channels]))
    return graph.op("Conv", features, kernel, bias, kernel_shape=[1, 1])


def neighbour_difference(graph: GraphWriter, image: Value, axis: int, *, wraps: bool) -> Value:
    """x[1:] - x[:-1] along an axis; also x[0] - x[-1] if it wraps."""
    following, first = _slice(graph, image, axis, 1, END), _slice(graph, image, axis, 0, 1)
    if wraps:
        return graph.op("Sub", graph.op("Concat", following, first, axis=axis), image)
    return graph.op("Sub", following, _slice(graph, image, axis, 0, -1))


def neighbour_difference_gradient(graph: GraphWriter, dy: Value, axis: int, *, wraps: bool) -> Value:
    """dx[i] = dy[i - 1] - dy[i]; what lies outside is 0, or if it wraps at the opposite side."""
    if wraps:
        last, others = _slice(graph, dy, axis, -1, END), _slice(graph, dy, axis, 0, -1)
        return graph.op("Sub", graph.op("Concat", last, others, axis=axis), dy)
    before, after = [0] * 8, [0] * 8
    before[axis], after[4 + axis] = 1, 1
    return graph.op("Sub", graph.op("Pad", dy, graph.integers(before)), graph.op("Pad", dy, graph.integers(after)))
