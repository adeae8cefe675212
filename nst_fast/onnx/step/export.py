"""From an encoder of PyTorch to the hand-written graphs: what a graph must compute, its weights, its constant feeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from nst_fast.errors import UsageError
from nst_fast.network.taps import tap_size
from nst_fast.network.vgg import AVERAGE_POOLING_SCALE, Encoder, Normalize
from nst_fast.objective import losses
from nst_fast.objective.coefficients import Array, coefficients, sized_inputs, tv_weights
from nst_fast.objective.objective import Statistics
from nst_fast.onnx.export import ExportedGraph, seal
from nst_fast.onnx.step.graph import Weights, build_step_graph
from nst_fast.onnx.step.onnx_ops import FLOATS
from nst_fast.onnx.step.spec import (
    CONTENT_TARGET,
    GRAM_TARGET,
    OPERATORS,
    TV_COLORS,
    TV_DOWN,
    TV_RIGHT,
    WEIGHT,
    AdamConstants,
    StepGraph,
)
from nst_fast.options.config import ExportConfig, ObjectiveOptions


def graph_for(
    encoder: Encoder,
    options: ObjectiveOptions,
    *,
    precision: str = "fp32",
    adam: AdamConstants | None = None,
    size: tuple[int, int] | None = None,
) -> StepGraph:
    """The graph that computes an objective with an encoder; see :class:`nst_fast.onnx.step.spec.StepGraph`."""
    mean, std = normalization(encoder)
    return StepGraph(
        network=encoder.network,
        pooling=encoder.pooling,
        padding=encoder.padding,
        content_taps=list(options.content_tap_weights),
        style_taps=list(options.style_tap_weights),
        tv=options.has_tv,
        mean=mean,
        std=std,
        average_pooling_scale=AVERAGE_POOLING_SCALE,
        precision=precision,
        adam=adam,
        size=size,
    )


def build_step_export(encoder: Encoder, options: ExportConfig, weights_sha256: str) -> ExportedGraph:
    """The gradient or step graph that the options name, for pictures of any size.

    Raises:
        VerificationError: the model is not what every provider takes.
    """
    adam = AdamConstants() if options.graph == "step" else None
    spec = graph_for(encoder, options, precision=options.precision, adam=adam)
    return seal(build_step_graph(spec, network_weights(encoder), options.opset), options, weights_sha256, OPERATORS)


def normalization(encoder: Encoder) -> tuple[Sequence[float], Sequence[float]]:
    """What the encoder subtracts from each channel of the pixels, and what it divides by."""
    if not isinstance(encoder.normalize, Normalize):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return encoder.normalize.mean.flatten().tolist(), encoder.normalize.std.flatten().tolist()


def network_weights(encoder: Encoder) -> Weights:
    """Convolution -> weight and bias, as arrays in the encoder's own precision."""
    return {
        name: (to_array(layer.weight), to_array(layer.bias))
        for name, layer in encoder.layers.items()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None
    }


def objective_feeds(
    spec: StepGraph, options: ObjectiveOptions, targets: Statistics, size: tuple[int, int]
) -> dict[str, Array]:
    """Every input of a graph that stays the same over a run, but for ``gradient_scale``.

    Args:
        spec: of the graph.
        options: whose weights and normalisations hold.
        targets: of one picture; their batch is 1.
        size: height and width of the pastiche.
    """
    height, width = size
    of_term = coefficients(options)
    kind = FLOATS[spec.state_precision]
    feeds = {
        name: array.astype(kind) if array.dtype != np.int64 else array
        for name, array in sized_inputs(spec.style_taps, [] if spec.size else spec.pools, height, width).items()
    }
    for prefix, term, tensors in ((CONTENT_TARGET, "content", targets.content), (GRAM_TARGET, "style", targets.grams)):
        for tap, target in tensors.items():
            if target.shape[0] != 1:
                raise UsageError("the ort engine optimises one picture at a time", "Use --engine eager for a batch")
            feeds[prefix + tap] = to_array(target).astype(kind)
            rows, columns = tap_size(tap, height, width)
            value = of_term[f"{term}/{tap}"].value(rows * columns, feeds[prefix + tap])
            feeds[f"{WEIGHT}{term}/{tap}"] = np.array([value], kind)
    if spec.tv:
        colors = losses.tv_colors(options.tv_weight, options.chroma_tv_weight)
        feeds[TV_COLORS] = to_array(colors).reshape(3, 3, 1, 1).astype(kind)
        for name, value in zip((TV_DOWN, TV_RIGHT), tv_weights(height, width), strict=True):
            feeds[name] = np.array([value], kind)
    return feeds


def to_array(tensor: Tensor | None) -> Array:
    assert tensor is not None
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
