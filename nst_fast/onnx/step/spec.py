"""What a gradient or step graph computes, and the names of its inputs. No ONNX, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nst_fast.network.taps import cut, halvings_of, tap_size
from nst_fast.options.config import OptimizerOptions

CONTENT_TARGET, GRAM_TARGET = "target/content/", "target/gram/"
WEIGHT, INVERSE_POSITIONS, PADS = "weight/", "inverse_positions/", "pads/"
TV_COLORS, TV_DOWN, TV_RIGHT = WEIGHT + "tv/colors", WEIGHT + "tv/down", WEIGHT + "tv/right"
GRADIENT_SCALE = "gradient_scale"
# Every operator that the graphs may use; ONNX Runtime's CPU, CUDA and WebGPU providers and TensorRT have them all.
OPERATORS = frozenset(
    [
        *("Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Equal", "Greater", "MatMul"),
        *("MaxPool", "Mul", "Pad", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Slice", "Sqrt", "Sub"),
        *("Transpose", "Where"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class AdamConstants:
    """What of Adam is written into the step graph. The learning rate and the bias corrections are inputs."""

    beta1: float = OptimizerOptions.adam_beta1
    beta2: float = OptimizerOptions.adam_beta2
    epsilon: float = OptimizerOptions.adam_epsilon


@dataclass(frozen=True, kw_only=True)
class StepGraph:
    """What a graph computes.

    Attributes:
        network, pooling, padding: as in :class:`nst_fast.options.config.EncoderOptions`.
        content_taps, style_taps: the taps that are compared with targets.
        tv: whether there is a total variation term.
        mean, std: what is subtracted from the pixels of each channel, and what they are then divided by.
        average_pooling_scale: what average pooling is multiplied by.
        precision: ``fp32``, ``fp64`` (for proofs), or ``fp16``: convolutions, ReLU and pooling in fp16; statistics,
            losses, pixels and Adam's state in fp32.
        adam: makes a step graph; None makes a gradient graph.
        size: height and width, when they are known; otherwise the graph takes any.
    """

    network: str
    pooling: str
    padding: str
    content_taps: Sequence[str]
    style_taps: Sequence[str]
    tv: bool
    mean: Sequence[float]
    std: Sequence[float]
    average_pooling_scale: float
    precision: str = "fp32"
    adam: AdamConstants | None = None
    size: tuple[int, int] | None = None

    @property
    def layers(self) -> list[str]:
        return cut(self.network, [*self.content_taps, *self.style_taps])

    @property
    def pools(self) -> list[str]:
        return [layer for layer in self.layers if layer.startswith("pool")]

    @property
    def state_precision(self) -> str:
        """Of pixels, statistics, losses and Adam's state."""
        return "fp32" if self.precision == "fp16" else self.precision

    @property
    def term_names(self) -> list[str]:
        """The order of the output ``losses``; as :attr:`nst_fast.objective.objective.Objective.term_names`."""
        names = [f"content/{tap}" for tap in self.content_taps] + [f"style/{tap}" for tap in self.style_taps]
        return [*names, "tv"] if self.tv else names

    def extents(self, layer: str) -> tuple[int | str, int | str]:
        """Height and width of a layer's output; formulas when the size is not known."""
        if self.size is not None:
            return tap_size(layer, *self.size)
        divisor = 1 << halvings_of(layer)
        return (f"height//{divisor}", f"width//{divisor}") if divisor > 1 else ("height", "width")
