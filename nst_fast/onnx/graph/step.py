"""Losses, their gradient and one Adam update as a single ONNX graph, made of the rules of :mod:`.rules`.

The gradient graph: the pastiche in; its gradient, its loss terms and their total out. The step graph: pastiche and
Adam's state in; the next pastiche, the next state, and the losses of the pastiche that came in, out. Targets, weights
of the terms masks and all that depends on the size are inputs, so one file serves every style, normalisation and size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

from nst_fast.network.padding import COLUMNS, ROWS, Modes, modes_of
from nst_fast.network.taps import channels_of, cut, halvings_of, tap_size
from nst_fast.network.vgg import AVERAGE_POOLING_SCALE, Encoder, Normalize
from nst_fast.objective import losses
from nst_fast.objective.coefficients import coefficients
from nst_fast.objective.guides import PLAIN, Guides
from nst_fast.objective.objective import Statistics
from nst_fast.objective.style import statistic_size
from nst_fast.onnx.graph import cpu, gaussians, rules, winograd
from nst_fast.onnx.graph.writer import FLOATS, INT64, Array, GraphWriter, Value, element_type
from nst_fast.options.config import ObjectiveOptions, OptimizerOptions
from nst_fast.options.style import StyleTerm

CONTENT_TARGET, GRAM_TARGET, EDGES_TARGET = "target/content/", "target/gram/", "target/edges"
WEIGHT, INVERSE_POSITIONS, MASK, PADS = "weight/", "inverse_positions/", "mask/", "pads/"
GRADIENT_SCALE = "gradient_scale"
# Every operator that the graphs may use; ONNX Runtime's CPU, CUDA and WebGPU providers and TensorRT have them all.
OPERATORS = frozenset(
    [
        *("Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Equal", "Greater", "MatMul"),
        *("MaxPool", "Mul", "Pad", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Slice", "Sqrt", "Sub"),
        *("Transpose", "Where"),
    ]
)
# And those of the form for ONNX Runtime's CPU provider.
CPU_OPERATORS = frozenset(["ConvTranspose", "Max", "Split"])


@dataclass(frozen=True, kw_only=True)
class AdamConstants:
    """What of Adam is written into the step graph. The learning rate and the bias corrections are inputs."""

    beta1: float = OptimizerOptions.adam_beta1
    beta2: float = OptimizerOptions.adam_beta2
    epsilon: float = OptimizerOptions.adam_epsilon


@dataclass(frozen=True, eq=False)
class StepGraph:
    """What a graph computes.

    Attributes:
        encoder: the network; its weights are written into the graph.
        options: say which taps and terms there are; weights and normalisations are inputs of the graph.
        precision: ``fp32``, ``fp64`` (for tests), or ``fp16``: convolutions, ReLU and pooling in fp16; statistics,
            losses, pixels and Adam's state in fp32.
        adam: makes a step graph; None makes a gradient graph.
        size: height and width, when they are known; otherwise the graph takes any.
        for_cpu: in the form that ONNX Runtime's CPU provider runs fastest; needs the size.
        guides: which regions there are, and which terms have a mask; its values are inputs of the graph.
        style_terms: those of the guides that have a target, :attr:`Objective.style_terms`; None is all of them.
    """

    encoder: Encoder
    options: ObjectiveOptions
    precision: str = "fp32"
    adam: AdamConstants | None = None
    size: tuple[int, int] | None = None
    for_cpu: bool = False
    guides: Guides = PLAIN
    style_terms: Mapping[str, StyleTerm] | None = None

    @property
    def styles(self) -> Mapping[str, StyleTerm]:
        """The terms of style by their names."""
        return self.guides.terms(self.options) if self.style_terms is None else self.style_terms

    @property
    def layers(self) -> list[str]:
        return cut(self.encoder.network, self.options.taps)

    @property
    def state_precision(self) -> str:
        """Of pixels, statistics, losses and Adam's state."""
        return "fp32" if self.precision == "fp16" else self.precision

    def extents(self, layer: str) -> tuple[int | str, int | str]:
        """Height and width of a layer's output; formulas when the size is not known."""
        if self.size is not None:
            return tap_size(layer, *self.size)
        divisor = 1 << halvings_of(layer)
        return (f"height//{divisor}", f"width//{divisor}") if divisor > 1 else ("height", "width")


def constant_feeds(spec: StepGraph, targets: Statistics, size: tuple[int, int]) -> dict[str, Array]:
    """Every input of a graph that stays the same over a run, but for ``gradient_scale``.

    Args:
        spec: of the graph; its options give the weights and normalisations.
        targets: of one picture.
        size: height and width of the pastiche.
    """
    options, guides, (height, width) = spec.options, spec.guides, size
    kind = FLOATS[spec.state_precision]
    feeds: dict[str, Array] = {}
    if spec.size is None:
        pools = [layer for layer in spec.layers if layer.startswith("pool")]
        feeds |= {PADS + pool: np.array(odd_pads(pool, height, width), np.int64) for pool in pools}
    of_term = coefficients(options, guides)
    for tap, target in targets.content.items():
        term, positions = f"content/{tap}", guides.content_size(tap, size) / channels_of(tap)
        feeds |= term_feeds(CONTENT_TARGET + tap, term, target, guides.content_at(tap), kind)
        value = of_term[term].value(positions, feeds[CONTENT_TARGET + tap], feeds.get(MASK + term))
        feeds[WEIGHT + term] = np.array([value], kind)
    for name, style in spec.styles.items():
        place, positions = place_of(style), guides.positions(style, size)
        feeds |= term_feeds(GRAM_TARGET + place, name, targets.style[name], guides.at(style), kind)
        feeds[INVERSE_POSITIONS + place] = np.array([1 / positions], kind)
        feeds[WEIGHT + name] = np.array([of_term[name].value(positions, feeds[GRAM_TARGET + place])], kind)
    colors_of = {"tv": losses.tv_colors(options.tv_weight, options.chroma_tv_weight)} if options.has_tv else {}
    if targets.edges is not None:
        feeds[EDGES_TARGET] = to_array(targets.edges.image).astype(kind)
        colors_of["edges"] = targets.edges.colors(options.edge_weight)
    for name, colors in colors_of.items():
        feeds[f"{WEIGHT}{name}/colors"] = to_array(colors).reshape(3, 3, 1, 1).astype(kind)
        for axis, count in zip(("down", "right"), losses.tv_counts(3, height, width, options.wraps), strict=True):
            feeds[f"{WEIGHT}{name}/{axis}"] = np.array([1 / count], kind)
    return feeds


def term_feeds(name: str, term: str, target: Tensor, mask: Tensor | None, kind: Any) -> dict[str, Array]:
    """The target of a term under its name, and its mask if it has one."""
    found = {name: to_array(target).astype(kind)}
    return found if mask is None else found | {MASK + term: to_array(mask).astype(kind)}


def place_of(term: StyleTerm) -> str:
    """``TAP`` or ``TAP/REGION``, as inputs are named."""
    return term.name.partition("/")[2]


def odd_pads(pool: str, height: int, width: int) -> list[int]:
    """Pad's argument that restores the odd row and column that a pool leaves out of an image of this size."""
    halvings = halvings_of(pool) - 1  # before the pool
    return [0, 0, 0, 0, 0, 0, (height >> halvings) % 2, (width >> halvings) % 2]


def to_array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def build_step_graph(spec: StepGraph, opset: int = 18) -> Any:
    """The ``onnx.ModelProto`` of a graph, opset 18 to 20."""
    return _Author(spec).write(opset)


class _Author:
    """Writes one graph: forwards, losses, backwards, and the update."""

    def __init__(self, spec: StepGraph) -> None:
        self.spec = spec
        self.graph = GraphWriter(spec.state_precision)
        self.features: dict[str, Value] = {}  # layer -> its output
        self.seeds: dict[str, Value] = {}  # tap -> gradient of its own losses with respect to it
        self.masked = self._masked()
        self.relu_masks: dict[str, Value] = {}  # of ReLUs and pools, in the form for the CPU
        self.pool_masks: dict[str, cpu.PoolMasks] = {}
        self.terms: dict[str, Value] = {}
        self.half = spec.precision == "fp16"
        self.scale: Value | None = None
        self.float = FLOATS[spec.state_precision]

    def write(self, opset: int) -> Any:
        graph, spec = self.graph, self.spec
        pastiche = graph.input("pastiche", self._image_shape())
        state = [graph.input(name, self._image_shape()) for name in ("m", "v")] if spec.adam else []
        self._forward(pastiche)
        self.scale = graph.input(GRADIENT_SCALE, [1]) if self.half else None
        for tap in spec.options.content_tap_weights:
            self._content_loss(tap)
        for term in spec.styles.values():
            self._style_loss(term)
        gradient = self._backward()
        if spec.options.edge_weight:
            change = graph.op("Sub", pastiche, graph.input(EDGES_TARGET, self._image_shape()))
            gradient = graph.op("Add", gradient, self._variation("edges", change))
        if spec.options.has_tv:
            gradient = graph.op("Add", gradient, self._variation("tv", pastiche))
        if spec.adam:
            self._adam(spec.adam, pastiche, state, gradient)
        self._outputs(gradient)
        return graph.model("step" if spec.adam else "gradient", opset)

    def _image_shape(self) -> list[int | str]:
        return [1, 3, *self.spec.extents("relu1_1")]

    def _forward(self, pastiche: Value) -> None:
        graph = self.graph
        with graph.scope("normalize"):
            value = graph.op("Div", graph.op("Sub", pastiche, self._per_channel("mean")), self._per_channel("std"))
            value = self._cast(value, self.spec.precision)
        self.features["normalize"] = value
        for before, layer in pairwise(["normalize", *self.spec.layers]):
            with graph.scope(layer):
                self.features[layer] = self._layer(layer, self.features[before])
                if self.spec.for_cpu:
                    self._masks(layer, before)

    def _masked(self) -> set[str]:
        """ReLUs whose mask is put on the gradient after the max-pool that follows, on a quarter of the cells.

        The ReLU lets pass what the pool sends to a cell above 0, that is to a maximum above 0: so that mask is as good,
        unless a tap adds a gradient of its own in between.
        """
        layers, taps = self.spec.layers, self.spec.options.taps
        if self.spec.encoder.pooling != "max":
            return set()
        return {before for before, layer in pairwise(layers) if layer.startswith("pool") and before not in taps}

    def _masks(self, layer: str, before: str) -> None:
        """What the way back needs of a layer, in the form for the CPU."""
        y = self.features[layer]
        if before in self.masked or (layer.startswith("relu") and layer not in self.masked):
            self.relu_masks[layer] = cpu.relu_mask(self.graph, y)
        if layer.startswith("pool") and self.spec.encoder.pooling == "max":
            assert self.spec.size is not None
            size = (channels_of(layer), *tap_size(layer, *self.spec.size))
            self.pool_masks[layer] = cpu.pool_masks(self.graph, self.features[before], y, size)

    def _layer(self, layer: str, x: Value) -> Value:
        graph = self.graph
        if layer.startswith("relu"):
            return graph.op("Relu", x)
        if layer.startswith("pool"):  # 2x2, stride 2; a last odd row or column is left out
            if self.spec.encoder.pooling == "max":
                return graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            mean = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            return graph.op("Mul", mean, graph.number(AVERAGE_POOLING_SCALE, self.spec.precision))
        x = rules.pad_border(graph, x, self._modes(layer))
        convolution = self._convolution(layer)
        assert convolution.bias is not None
        bias = self._weight(f"{layer}/bias", to_array(convolution.bias))
        if size := self._winograd(layer):
            return winograd.convolution(graph, x, self._transformed(layer), self._channels(layer), size, bias)
        weight = self._weight(f"{layer}/weight", to_array(convolution.weight))
        return graph.op("Conv", x, weight, bias, kernel_shape=[3, 3], pads=self._zeros(layer) * 2)

    def _convolution(self, layer: str) -> nn.Conv2d:
        module = self.spec.encoder.layers[layer]
        assert isinstance(module, nn.Conv2d)
        return module

    def _channels(self, layer: str) -> tuple[int, int]:
        """Of a convolution, in and out."""
        convolution = self._convolution(layer)
        return convolution.in_channels, convolution.out_channels

    def _winograd(self, layer: str) -> tuple[int, int] | None:
        """Height and width of the feature maps of a convolution that is faster by fewer products."""
        if not self.spec.for_cpu or self.spec.size is None or any(self.spec.encoder.wraps):
            return None
        size = tap_size(layer, *self.spec.size)
        return size if winograd.worth_it(*self._channels(layer), size) else None

    def _transformed(self, layer: str, *, gradient: bool = False) -> Value:
        weight = to_array(self._convolution(layer).weight).astype(FLOATS[self.spec.precision])
        return winograd.transformed(self.graph, weight, f"{layer}/weight", gradient=gradient)

    def _weight(self, name: str, array: Array) -> Value:
        return self.graph.constant(array.astype(FLOATS[self.spec.precision]), name)

    def _modes(self, layer: str) -> Modes:
        """How a convolution pads rows and columns."""
        encoder = self.spec.encoder
        return modes_of(encoder.padding if layer == "conv1_1" else "zeros", encoder.wraps)

    def _zeros(self, layer: str) -> list[int]:
        """How many zeros a convolution adds to each end of rows and columns: none where it pads otherwise."""
        return [int(mode == "zeros") for mode in self._modes(layer)]

    def _content_loss(self, tap: str) -> None:
        """term = weight · sum w d², d = features - target, w the mask or 1; the gradient is 2 weight w d."""
        graph, name = self.graph, f"content/{tap}"
        mask = self._mask(name, tap) if self.spec.guides.content is not None else None
        target = graph.input(CONTENT_TARGET + tap, [1, channels_of(tap), *self.spec.extents(tap)])
        weight = graph.input(WEIGHT + name, [1])
        with graph.scope(name):
            difference = graph.op("Sub", self._statistics(tap), target)
            counted = graph.op("Mul", difference, mask) if mask else difference
            squares = rules.inner_product(graph, difference, counted) if mask else rules.squared_sum(graph, difference)
            self.terms[name] = graph.op("Mul", squares, weight)
            self._seed(tap, graph.op("Mul", counted, self._slope(weight)))

    def _mask(self, term: str, tap: str) -> Value:
        return self.graph.input(MASK + term, [1, 1, *self.spec.extents(tap)])

    def _style_loss(self, term: StyleTerm) -> None:
        """The term, and from its gradient with respect to the statistic that with respect to the features."""
        graph, tap = self.graph, term.tap
        channels = channels_of(tap)
        target = graph.input(GRAM_TARGET + place_of(term), [1, *statistic_size(term, channels)])
        weight = graph.input(WEIGHT + term.name, [1])
        inverse_positions = graph.input(INVERSE_POSITIONS + place_of(term), [1])
        mask = self._mask(term.name, tap) if self.spec.guides.regions[term.region] is not None else None
        with graph.scope(term.name):
            features = self._statistics(tap)
            counted = graph.op("Mul", features, mask) if mask else None
            gram = rules.gram_matrix(graph, features, channels, inverse_positions, counted)
            dm: Value | None = None
            if term.loss == "gram":
                difference = graph.op("Sub", gram, target)
                value, dg = rules.squared_sum(graph, difference), graph.op("Mul", difference, self._slope(weight))
            else:
                mean = rules.mean_features(graph, counted or features, channels, inverse_positions)
                loss = gaussians.LOSSES[term.loss]
                style = rules.split_moments(graph, target, channels)
                value, by_gram, by_mean = loss(graph, (gram, mean), style, channels)
                slope = graph.op("Mul", weight, self.scale) if self.scale else weight
                dg, dm = graph.op("Mul", by_gram, slope), graph.op("Mul", by_mean, slope)
            self.terms[term.name] = graph.op("Mul", value, weight)
            gradient = rules.gram_gradient(graph, features, channels, dg, inverse_positions, dm)
            self._seed(tap, graph.op("Mul", gradient, mask) if mask else gradient)

    def _statistics(self, tap: str) -> Value:
        return self._cast(self.features[tap], self.spec.state_precision)

    def _slope(self, weight: Value) -> Value:
        """2 weight, times the scale of an fp16 gradient."""
        doubled = self.graph.op("Mul", weight, self.graph.number(2))
        return self.graph.op("Mul", doubled, self.scale) if self.scale else doubled

    def _seed(self, tap: str, gradient: Value) -> None:
        gradient = self._cast(gradient, self.spec.precision)
        present = self.seeds.get(tap)
        self.seeds[tap] = self.graph.op("Add", present, gradient) if present else gradient

    def _variation(self, name: str, picture: Value) -> Value:
        """The term is put among the terms; returned is its gradient with respect to the pixels.

        term = weight · sum of dᵀ M d, d = differences of neighbours; as M is symmetric, the gradient is 2 weight M d.
        """
        graph = self.graph
        terms, gradients = [], []
        colors = graph.input(f"{WEIGHT}{name}/colors", [3, 3, 1, 1])
        with graph.scope(name):
            axes = zip(("down", "right"), (ROWS, COLUMNS), self.spec.options.wraps, strict=True)
            for direction, axis, wraps in axes:
                weight = graph.input(f"{WEIGHT}{name}/{direction}", [1])
                difference = rules.neighbour_difference(graph, picture, axis, wraps=wraps)
                mixed = graph.op("Conv", difference, colors, kernel_shape=[1, 1])
                terms.append(graph.op("Mul", rules.inner_product(graph, difference, mixed), weight))
                seed = graph.op("Mul", mixed, graph.op("Mul", weight, graph.number(2)))
                gradients.append(rules.neighbour_difference_gradient(graph, seed, axis, wraps=wraps))
            self.terms[name] = graph.op("Add", *terms)
            return graph.op("Add", *gradients)

    def _backward(self) -> Value:
        """From the deepest layer to the pixels, adding each tap's own gradient where the tap is."""
        graph = self.graph
        gradient: Value | None = None
        for before, layer in reversed([*pairwise(["normalize", *self.spec.layers])]):
            with graph.scope(f"gradient/{layer}"):
                if seed := self.seeds.get(layer):
                    gradient = graph.op("Add", gradient, seed) if gradient else seed
                assert gradient is not None  # the deepest layer is a tap
                gradient = self._layer_gradient(layer, before, gradient)
        assert gradient is not None
        with graph.scope("gradient/normalize"):
            gradient = self._cast(gradient, self.spec.state_precision)
            gradient = graph.op("Div", gradient, self.scale) if self.scale else gradient
            return graph.op("Div", gradient, self._per_channel("std"))

    def _layer_gradient(self, layer: str, before: str, dy: Value) -> Value:
        graph, precision = self.graph, self.spec.precision
        if layer.startswith("relu"):
            return dy if layer in self.masked else self._relu_gradient(dy, layer)
        if layer.startswith("conv"):
            if size := self._winograd(layer):
                inputs, outputs = self._channels(layer)
                transposed = self._transformed(layer, gradient=True)
                return winograd.convolution(graph, dy, transposed, (outputs, inputs), size)
            weight = to_array(self._convolution(layer).weight)
            transposed = self._weight(f"{layer}/transposed", rules.transposed_weight(weight))
            dx = rules.convolution_gradient(graph, dy, transposed, self._zeros(layer))
            return rules.pad_border_gradient(graph, dx, self._modes(layer))
        if self.spec.encoder.pooling == "max":
            dx = self._max_pool_gradient(layer, before, dy)
        else:
            dx = rules.average_pool_gradient(graph, dy, AVERAGE_POOLING_SCALE, precision)
        return self._restore_odd(layer, dx)

    def _relu_gradient(self, dy: Value, layer: str) -> Value:
        """``layer`` is the ReLU, or the pool after it: it passes where the pool's output is above 0."""
        if self.spec.for_cpu:
            return self.graph.op("Mul", dy, self.relu_masks[layer])
        return rules.relu_gradient(self.graph, dy, self.features[layer], self.spec.precision)

    def _max_pool_gradient(self, pool: str, before: str, dy: Value) -> Value:
        if before in self.masked:
            dy = self._relu_gradient(dy, pool)
        if self.spec.for_cpu:
            return cpu.max_pool_gradient(self.graph, dy, self.pool_masks[pool])
        x, y = self.features[before], self.features[pool]
        return rules.max_pool_gradient(self.graph, dy, x, y, self.spec.precision)

    def _restore_odd(self, pool: str, dx: Value) -> Value:
        """Append the row or column of zeros that belongs to what pooling left out."""
        if self.spec.size is None:
            return self.graph.op("Pad", dx, self.graph.input(PADS + pool, [8], INT64))
        pads = odd_pads(pool, *self.spec.size)
        return self.graph.op("Pad", dx, self.graph.integers(pads)) if any(pads) else dx

    def _outputs(self, gradient: Value) -> None:
        graph = self.graph
        terms = graph.op("Concat", *self.terms.values(), axis=0)
        total = graph.op("ReduceSum", terms, keepdims=1)
        graph.output("losses", terms, [len(self.terms)])
        graph.output("total", total, [1])
        graph.output("gradient", gradient, self._image_shape())

    def _adam(self, adam: AdamConstants, pastiche: Value, state: list[Value], gradient: Value) -> None:
        """One update, Kingma & Ba 2015, algorithm 1, its epsilon where PyTorch has it; then the clamp to [0, 1]."""
        graph = self.graph
        names = ("learning_rate", "correction1", "correction2")  # the last two: 1 - beta^t
        rate, correction1, correction2 = (graph.input(name, [1]) for name in names)
        with graph.scope("adam"):
            m = self._decay(state[0], gradient, adam.beta1)
            v = self._decay(state[1], graph.op("Mul", gradient, gradient), adam.beta2)
            root = graph.op("Div", graph.op("Sqrt", v), graph.op("Sqrt", correction2))
            denominator = graph.op("Add", root, graph.constant(np.array([adam.epsilon], self.float), "epsilon"))
            step = graph.op("Mul", graph.op("Div", m, denominator), graph.op("Div", rate, correction1))
            limits = [graph.constant(np.array(limit, self.float)) for limit in (0, 1)]  # Clip takes scalars only
            clamped = graph.op("Clip", graph.op("Sub", pastiche, step), *limits)
        for name, value in (("new_pastiche", clamped), ("new_m", m), ("new_v", v)):
            graph.output(name, value, self._image_shape())

    def _decay(self, state: Value, value: Value, beta: float) -> Value:
        graph = self.graph
        kept = graph.op("Mul", state, graph.number(beta))
        return graph.op("Add", kept, graph.op("Mul", value, graph.number(1 - beta)))

    def _per_channel(self, which: str) -> Value:
        """``mean``, which is subtracted from the pixels of each channel, or ``std``, by which they are divided."""
        normalize = self.spec.encoder.normalize
        plain = [0.0] * 3 if which == "mean" else [1.0] * 3
        values = getattr(normalize, which).flatten().tolist() if isinstance(normalize, Normalize) else plain
        return self.graph.constant(np.array(values, self.float).reshape(1, 3, 1, 1), which)

    def _cast(self, value: Value, precision: str) -> Value:
        return self.graph.op("Cast", value, to=element_type(precision)) if self.half else value
