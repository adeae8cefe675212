"""The single home of every option's name, type, default, range and help. Standard library only.

Classes are grouped as the work is: what the encoder is, what is optimised, how, and what a run reports. Commands
combine the groups by inheritance, so an option means the same thing, and has the same default, wherever it appears.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nst_fast.control import (
    ControlOptions,
    FinishOptions,
    FitOptions,
    MemoryOptions,
    ReportOptions,
    ScaleOptions,
    StopOptions,
)
from nst_fast.errors import UsageError
from nst_fast.options import Options, option
from nst_fast.taps import CONVS_PER_BLOCK, check_taps

INITS = ("recolored", "content", "noise", "content+noise")  # where a pastiche can start but from a file


def parse_taps(text: str) -> dict[str, float]:
    """``relu1_1:1.0,relu2_1`` -> ``{"relu1_1": 1.0, "relu2_1": 1.0}``: taps and their weights within the term."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        tap, colon, number = part.partition(":")
        try:
            weights[tap.strip()] = float(number) if colon else 1.0
        except ValueError:
            raise UsageError(
                f"tap {part!r}: {number!r} is not a weight", "Write TAP or TAP:WEIGHT, as relu2_1:0.8"
            ) from None
        if not 0 <= weights[tap.strip()] < float("inf"):
            raise UsageError(f"tap {part!r}: the weight must be a finite number of at least 0")
    return weights


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(Options):
    """Encoder."""

    network: str = option("vgg19", "The network whose features are compared.", choices=tuple(CONVS_PER_BLOCK))
    weights: str = option(
        "auto",
        "Its weights: 'original' (VGG-19 as published, installed with the program), 'imagenet' (torchvision's, "
        "downloaded once), a .safetensors or .pth file, 'random[:SEED]', or 'auto': original for vgg19, imagenet for "
        "vgg16.",
        metavar="SOURCE",
    )
    pooling: str = option("max", "Pooling between blocks; average pooling is rescaled.", choices=("max", "average"))
    padding: str = option(
        "replicate",
        "Padding of the first convolution; 'replicate' lessens artefacts at the border, 'zeros' is as trained.",
        choices=("zeros", "replicate", "reflect"),
    )
    input_normalization: str = option(
        "imagenet",
        "What is done to pixels before the network; with 'none' the network's first layer is used as published.",
        choices=("imagenet", "none"),
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(EncoderOptions):
    """Objective."""

    content_taps: str = option(
        "relu4_2", "Taps of the content loss, with optional weights: TAP[:WEIGHT],...", metavar="TAPS"
    )
    style_taps: str = option(
        "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1:0.1",
        "Taps of the style loss, with optional weights: TAP[:WEIGHT],...",
        metavar="TAPS",
    )
    content_weight: float = option(1.0, "Weight of the content loss.", minimum=0)
    style_weight: float = option(5.0, "Weight of the style loss.", minimum=0)
    tv_weight: float = option(0.0, "Weight of the total variation loss, which smooths.", minimum=0)
    chroma_tv_weight: float = option(
        20.0,
        "Weight of the total variation of the colours alone: it takes colour noise out and leaves strokes.",
        minimum=0,
    )
    content_normalization: str = option(
        "relative",
        "Divisor of the content loss; see docs/objective.md.",
        choices=("relative", "mean", "half_sum", "size"),
    )
    gram_normalization: str = option(
        "hw", "Divisor of the Gram matrix: positions, channels x positions, or none.", choices=("hw", "chw", "none")
    )
    style_normalization: str = option(
        "relative",
        "Divisor of the style loss; see docs/objective.md.",
        choices=("relative", "mean", "sum", "gatys"),
    )

    @property
    def content_tap_weights(self) -> dict[str, float]:
        return parse_taps(self.content_taps) if self.content_weight else {}

    @property
    def style_tap_weights(self) -> dict[str, float]:
        return parse_taps(self.style_taps) if self.style_weight else {}

    @property
    def has_tv(self) -> bool:
        """Whether there is a total variation term, of all or of the colours alone."""
        return self.tv_weight > 0 or self.chroma_tv_weight > 0

    @property
    def taps(self) -> list[str]:
        """Every tap that the objective needs, without repeats."""
        return list(dict.fromkeys([*self.content_tap_weights, *self.style_tap_weights]))

    def contradictions(self) -> list[str]:
        check_taps(self.network, [*parse_taps(self.content_taps), *parse_taps(self.style_taps)])
        if not self.taps:
            return ["nothing to optimise: --content-weight or --style-weight must be above 0, with at least one tap"]
        return super().contradictions()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(Options):
    """Optimiser."""

    optimizer: str = option(
        "lbfgs", "The optimiser of the pixels: L-BFGS needs fewer steps, Adam less memory.", choices=("lbfgs", "adam")
    )
    steps: int = option(150, "Optimiser updates.", minimum=1, maximum=1_000_000)
    learning_rate: float | None = option(
        None,
        "Step size: of Adam in units of a pixel's [0, 1], by default 0.05; of L-BFGS a factor, by default 1.",
        minimum=1e-8,
        maximum=1e3,
    )
    schedule: str = option(
        "constant", "How the learning rate falls over the run.", choices=("constant", "exponential", "cosine")
    )
    decay_rate: float = option(
        0.96, "Exponential schedule: the factor applied every --decay-steps steps.", minimum=1e-6, maximum=1
    )
    decay_steps: int = option(100, "Exponential schedule: steps per factor of --decay-rate.", minimum=1)
    final_learning_rate: float = option(
        0.05, "Cosine schedule: the rate at the end, as a fraction of the rate at the start.", minimum=0, maximum=1
    )
    adam_beta1: float = option(0.9, "Adam: decay of the mean of gradients.", minimum=0, maximum=0.9999)
    adam_beta2: float = option(0.99, "Adam: decay of the mean of squared gradients.", minimum=0, maximum=0.999999)
    adam_epsilon: float = option(1e-8, "Adam: added to the root of the second moment.", minimum=0, maximum=1)
    lbfgs_history: int = option(20, "L-BFGS: pairs kept; each costs two images of memory.", minimum=1, maximum=200)
    line_search: str = option(
        "none", "L-BFGS: a line search costs evaluations and buys safety.", choices=("none", "strong_wolfe")
    )
    init: str = option(
        "recolored",
        "Where the pastiche starts: 'content', 'recolored' (content with the style's mean colour and covariance), "
        "'noise', 'content+noise', or an image file.",
        metavar="recolored|content|noise|content+noise|FILE",
    )
    noise: float = option(
        0.8, "Init content+noise: uniform noise from 0 to this is added and clipped.", minimum=0, maximum=1
    )
    smooth_every: int = option(
        0, "Average-pool the pastiche by 2 and upsample it after every N steps; 0: never.", minimum=0
    )
    average_decay: float = option(
        0.0,
        "The picture is a moving average of the iterates that keeps this share of itself per step, as 0.99; 0: the "
        "last iterate.",
        minimum=0,
        maximum=0.9999,
    )
    seed: int = option(0, "Seed of everything random.", minimum=0, maximum=2**63 - 1)

    @property
    def init_file(self) -> Path | None:
        """The picture that the pastiche starts from, when ``init`` names one."""
        return None if self.init in INITS else Path(self.init)

    @property
    def initial_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 0.05 if self.optimizer == "adam" else 1.0


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Device."""

    device: str = option("auto", "Where gradients are computed: auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
    engine: str = option(
        "auto",
        "How a step is computed: plainly ('eager'), by the fast engine, that compiled, or by ONNX Runtime ('ort').",
        choices=("auto", "eager", "fast", "compiled", "ort"),
    )
    precision: str = option(
        "auto",
        "Of convolutions; statistics, picture and optimiser stay in fp32. 'auto' takes the fastest in a short trial.",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
    )
    engine_provider: str = option(
        "auto",
        "The ONNX Runtime provider of --engine ort; 'auto' is the device's own.",
        choices=("auto", "cpu", "cuda", "tensorrt"),
    )
    cuda_graph: str = option(
        "auto",
        "Whether launches on a GPU are captured once and replayed; 'auto' does where that works.",
        choices=("auto", "on", "off"),
        cosmetic=True,
    )


@dataclass(frozen=True, kw_only=True)
class MonitorOptions(Options):
    """Monitor."""

    monitor_every: int = option(
        25, "Evaluate a snapshot with ONNX Runtime every N steps; 0 turns the monitor off.", minimum=0, cosmetic=True
    )
    monitor_provider: str = option(
        "cpu",
        "The ONNX Runtime provider of the monitor.",
        choices=("cpu", "cuda", "tensorrt"),
        cosmetic=True,
    )
    allow_fallback: bool = option(
        False, "Accept another provider, of the engine too, when the one asked for does not work.", cosmetic=True
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """Images."""

    image_size: int = option(512, "Longest side of the pastiche, in pixels.", minimum=16, maximum=32768)
    style_scale: float = option(
        1.0, "Longest side of the style image, as a fraction of --image-size.", minimum=0.05, maximum=20
    )
    background: str = option("white", "The colour behind transparent pixels.", metavar="COLOUR")
    max_megapixels: float = option(
        179, "Refuse input files of more pixels than this (decompression bombs).", minimum=0.001, cosmetic=True
    )
    save_every: int = option(0, "Save a numbered snapshot every N steps; 0 saves none.", minimum=0, cosmetic=True)


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(
    ReportOptions,
    MonitorOptions,
    DeviceOptions,
    MemoryOptions,
    FinishOptions,
    StopOptions,
    ScaleOptions,
    OptimizerOptions,
    ControlOptions,
    ObjectiveOptions,
    FitOptions,
    ImageOptions,
):
    """Everything that decides what one run of ``stylize`` does."""

    def dialled(self) -> Self:
        """The config with the weights that ``strength`` comes to, and the dial at 1."""
        weights = ("style_weight", "tv_weight", "chroma_tv_weight")
        return self.replace(**{name: getattr(self, name) * self.style_factor for name in weights}, strength=1.0)

    def contradictions(self) -> list[str]:
        if self.strength < 1 and not self.content_tap_weights:
            return [f"--strength {self.strength:g}: needs a content loss, which style is weighed against"]
        return super().contradictions()


@dataclass(frozen=True, kw_only=True)
class DemoConfig(StylizeConfig):
    """Demo."""

    image_size: int = option(320, "Longest side of the pastiche, in pixels.", minimum=64, maximum=4096)
    steps: int = option(100, "Optimiser updates.", minimum=1, maximum=1_000_000)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ObjectiveOptions):
    """Everything that decides what ``export`` writes."""

    graph: str = option(
        "objective",
        "What is exported: 'objective' (Grams and content features), 'encoder' (every tap), 'gradient' (losses and "
        "their gradient) or 'step' (losses, gradient and Adam's update).",
        choices=("objective", "encoder", "gradient", "step"),
    )
    opset: int = option(18, "ONNX operator set; 18 and 20 are read by TensorRT 10.", minimum=18, maximum=20)
    precision: str = option(
        "fp32", "Of the convolutions; fp16 needs --graph gradient or step.", choices=("fp32", "fp16")
    )

    @property
    def has_gradient(self) -> bool:
        """Whether the graph has a backward side, which is written by hand and not exported by PyTorch."""
        return self.graph in ("gradient", "step")

    def contradictions(self) -> list[str]:
        if self.precision == "fp16" and not self.has_gradient:
            return [f"--precision fp16 with --graph {self.graph}: only gradient and step have it"]
        return super().contradictions()

    @classmethod
    def serving(cls, objective: ObjectiveOptions) -> ExportConfig:
        """What to export for the monitor of a run with this objective."""
        names = {field.name for field in dataclasses.fields(ObjectiveOptions)}
        return cls(**{name: getattr(objective, name) for name in names})
