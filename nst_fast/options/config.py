"""The single home of every option's name, type, default, range and help. Standard library only.

Classes are grouped as the work is: what the encoder is, what is optimised, how, and what a run reports. Commands
combine the groups by inheritance, so an option means the same thing, and has the same default, wherever it appears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nst_fast.errors import nearest
from nst_fast.network.taps import CONVS_PER_BLOCK, Wraps, check_taps
from nst_fast.options.declaration import Options, declared, option
from nst_fast.options.providers import PLUGIN_NAME, PROVIDERS
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.options.regions import Files, MapPair, Masks, Regions
from nst_fast.options.style import CONTENT_LOSSES, IN_PARTS, STYLE_LOSSES, StyleTerm
from nst_fast.options.values import Bytes, Interval, Seconds, Shares, StyleCrop, Taps

INITS = ("recolored", "content", "noise", "content+noise")  # where a pastiche can start but from a file
TYPICAL_COLORS = 4  # of a map
WEIGHTS = ("auto", "original", "imagenet")  # sources of weights that are no files, beside random[:SEED]
WEIGHTS_METAVAR = "|".join([*WEIGHTS, "random[:SEED]", "FILE"])
DEVICE_METAVAR = "auto|cpu|cuda[:N]|rocm|mps|xpu"


def weighted_taps(taps: Mapping[str, float], weight: float) -> dict[str, float]:
    """The taps of a loss that has this weight. Those whose product is 0 take no part in anything."""
    return {tap: each for tap, each in taps.items() if weight * each}


def unknown_losses(option_name: str, taps: Taps, known: Sequence[str]) -> list[str]:
    """A sentence for each tap whose loss is none of the known."""
    return [
        f"`{option_name}` {tap}: unknown loss {loss!r}. {nearest(loss, known) or 'Known are ' + ', '.join(known)}"
        for tap, loss in taps.losses.items()
        if loss not in known
    ]


# The weight of style runs over this ratio between strength 0 and 1, in equal factors for equal steps.
STRENGTH_RANGE = 100.0
# `until_converged`: so many steps without improvement.
CONVERGED_PATIENCE = 50


@dataclass(frozen=True, kw_only=True)
class MemoryOptions(Options):
    """Memory."""

    max_memory: Bytes | None = option(
        None,
        "Memory that the run may take beyond the program itself, as 4GiB or 1500MB; by default most of what is free.",
        metavar="AMOUNT",
        cosmetic=True,
    )
    tile_size: int = option(
        0, "Longest side of a tile, in pixels; 0 leaves it to the planner.", minimum=0, maximum=32768, cosmetic=True
    )
    on_oom: str = option(
        "error",
        "When memory runs out in spite of the plan: end with an error, or continue once in tiles.",
        choices=("error", "tile"),
        cosmetic=True,
    )


@dataclass(frozen=True, kw_only=True)
class ControlOptions(Options):
    """Control."""

    strength: float = option(
        1.0, "How much style is applied; 0 is the content image itself, 1 the weights as given.", minimum=0, maximum=1
    )
    style_weight_each: Shares = option(
        "",
        "Blend weights of several style images, in their order: NUMBER,...; by default equal. Further ones, one for "
        "each `region`, take the place of the regions' own.",
        metavar="NUMBERS",
    )

    @property
    def style_factor(self) -> float:
        """What the weights of style and total variation are multiplied by: (R^s - 1) / (R - 1), s the strength.

        Style weights act by their ratio, so the scale is geometric with R = ``STRENGTH_RANGE``; taking 1 away from
        both ends makes it exactly 0 at 0 and exactly 1 at 1. It grows with s, everywhere.
        """
        return float((STRENGTH_RANGE**self.strength - 1) / (STRENGTH_RANGE - 1))


@dataclass(frozen=True, kw_only=True)
class RegionOptions(Options):
    """Regions."""

    region: Regions = option(
        "",
        "A part of the picture, white in MASK, with a style of its own; may be repeated. What no mask has is painted "
        "like STYLE.",
        metavar="MASK=STYLE[:WEIGHT]",
        repeatable=True,
    )
    map: MapPair = option(
        "",
        "Two pictures of one colour per region: each region of the content is painted like that of the style.",
        metavar="CONTENT_MAP=STYLE_MAP",
    )
    content_mask: Masks = option("", "Where the content loss counts: white in full, black not at all.", metavar="MASK")
    style_mask: Masks = option(
        "",
        "What of a style image is used: white; one for each style image, in their order.",
        metavar="MASK",
        repeatable=True,
    )

    @property
    def mask_files(self) -> dict[str, Files]:
        """Option -> the masks that it names, of those that name any."""
        named: dict[str, Files] = {name: getattr(self, name) for name in MASK_KINDS}
        return {name: value for name, value in named.items() if value.files}

    @property
    def mask_count(self) -> int:
        """About how many masks of the pastiche there are, for the memory plan."""
        counted = len(self.region.weights) + bool(self.region.weights) + len(self.content_mask.files)
        return counted + (TYPICAL_COLORS if self.map.files else 0)

    def contradictions(self) -> list[str]:
        problems = []
        if self.map.files and self.region.files:
            problems.append("`map` and `region` both say which part has which style: give one of them")
        if len(self.content_mask.files) > 1:
            problems.append(f"`content_mask` {self.content_mask}: there is one content image, give one mask")
        return problems + super().contradictions()


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Fit."""

    content_fit: str = option(
        "keep", "Shape of the pastiche: the content image's own, or stretched to a square.", choices=("keep", "square")
    )
    style_fit: str = option(
        "keep",
        "Shape of the style images: their own, or stretched to exactly the size of the pastiche.",
        choices=("keep", "match"),
    )
    style_crop: StyleCrop = option(
        "auto",
        "Border of the style images that is left out: 'auto' looks for paper edges, frames and bars, 'none' keeps "
        "all, or LEFT,TOP,RIGHT,BOTTOM in per cent of the sides.",
        metavar="auto|none|L,T,R,B",
    )


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(Options):
    """Coarse to fine."""

    scales: int = option(
        0,
        "Sizes that the picture passes through. 1 is the final size only; 0 begins at `min_size`, whatever the "
        "final size, so that the look is the same at all of them.",
        minimum=0,
        maximum=16,
    )
    scale_factor: float = option(
        2.0, "Growth from one size to the next; with `scales` 0 about.", minimum=1.1, maximum=4
    )
    min_size: int = option(
        0,
        "Longest side of the first size; shorter ones are left out. 0: 256 with `scales` 0, and else 96.",
        minimum=0,
        maximum=32768,
    )
    scale_steps_ratio: float = option(1.0, "Steps at a scale relative to the next finer one.", minimum=0.05, maximum=20)

    @property
    def coarsest_side(self) -> int:
        """Longest side, in pixels, below which no scale is."""
        return self.min_size or (96 if self.scales else 256)


@dataclass(frozen=True, kw_only=True)
class StopOptions(Options):
    """Guard and stopping."""

    divergence_factor: float = option(
        10.0, "A loss beyond this multiple of the best one is a divergence; 0 turns the guard off.", minimum=0
    )
    until_converged: bool = option(False, "Stop when the loss no longer improves; the same as `patience` 50.")
    patience: int = option(0, "Stop when N steps have not improved the loss by `min_improvement`; 0: never.", minimum=0)
    min_improvement: float = option(
        0.01, "The fraction by which the loss must fall to count as improved.", minimum=0, maximum=0.99
    )
    time_budget: Seconds = option("", "End in time with the best so far: 90, 60s, 5m or 1h.", metavar="TIME")

    @property
    def patience_steps(self) -> int:
        return self.patience or (CONVERGED_PATIENCE if self.until_converged else 0)


@dataclass(frozen=True, kw_only=True)
class FinishOptions(Options):
    """Finish."""

    color: str = option(
        "none",
        "Colours: 'keep' takes the content's chroma for the final picture; 'match' gives the style image the "
        "content's colour statistics first; 'luma' transfers luminance only.",
        choices=("none", "keep", "match", "luma"),
    )
    denoise: float = option(
        0.0, "Strength of an edge-preserving filter on the final picture; 0 is none.", minimum=0, maximum=1
    )
    file_quality: int = option(
        95, "Of JPEG, WebP and AVIF files; lower is smaller, 100 nearly without loss.", minimum=1, maximum=100
    )
    bit_depth: int = option(8, "Bits per channel of the final picture; 16 for PNG and TIFF.", minimum=8, maximum=16)

    def contradictions(self) -> list[str]:
        problems = [] if self.bit_depth in (8, 16) else [f"`bit_depth` {self.bit_depth}: must be 8 or 16"]
        return problems + super().contradictions()


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Report."""

    checkpoint_every: Interval = option(
        "60s",
        "Write a checkpoint, to resume from, every N steps (200) or as time passes (30s, 5m); 0: never.",
        metavar="STEPS|TIME",
        cosmetic=True,
    )
    save_format: str = option(
        "same", "Format of the snapshots: the output's own, or another.", choices=("same", "png", "jpg"), cosmetic=True
    )
    log_every: int = option(
        0, "A log line every N steps on standard error; 0: progress as time passes.", minimum=0, cosmetic=True
    )
    log_format: str = option(
        "plain",
        "The log line: 'step N/M total ...', 'run [N]: Style Loss: ...', or 'Epoch N, Loss: ...'.",
        choices=("plain", "run", "epoch"),
        cosmetic=True,
    )

    metadata: bool = option(
        True, "The record of the run also inside the picture; the one beside it is written in any case.", cosmetic=True
    )


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(Options):
    """Encoder."""

    network: str = option("vgg19", "The network whose features are compared.", choices=tuple(CONVS_PER_BLOCK))
    weights: str = option(
        "auto",
        "Its weights: 'original' (VGG-19 as published, installed with the program), 'imagenet' (torchvision's, "
        "downloaded once), a .safetensors or .pth file, 'random[:SEED]', or 'auto': original for vgg19, imagenet for "
        "vgg16.",
        metavar=WEIGHTS_METAVAR,
        names_file=True,
    )
    pooling: str = option("max", "Pooling between blocks; average pooling is rescaled.", choices=("max", "average"))
    padding: str = option(
        "replicate",
        "Padding of the first convolution; 'replicate' lessens artefacts at the border, 'zeros' is as trained.",
        choices=("zeros", "replicate", "reflect"),
    )
    seamless: str = option(
        "none",
        "Axes along which copies of the picture join without a seam: the network sees it continue at its opposite "
        "side. Its sides along them become multiples of the deepest tap's cell, 16 pixels for relu5_1.",
        choices=("none", "x", "y", "xy"),
    )
    input_normalization: str = option(
        "imagenet",
        "What is done to pixels before the network; with 'none' the network's first layer is used as published.",
        choices=("imagenet", "none"),
    )

    @property
    def weights_file(self) -> Path | None:
        """The file of the weights, when ``weights`` names one."""
        return None if self.weights in WEIGHTS or self.weights.partition(":")[0] == "random" else Path(self.weights)

    @property
    def wraps(self) -> Wraps:
        """Whether rows, and columns, continue at the opposite side of the pastiche."""
        return "y" in self.seamless, "x" in self.seamless

    @property
    def encoder_keywords(self) -> dict[str, Any]:
        """The keyword arguments of an encoder with these options, see :class:`nst_fast.network.vgg.Encoder`."""
        return {
            "pooling": self.pooling,
            "padding": self.padding,
            "wraps": self.wraps,
            "normalize_input": self.input_normalization == "imagenet",
        }


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(EncoderOptions):
    """Objective."""

    content_taps: Taps = option(
        "relu4_2", "Taps of the content loss, with optional weights and losses: TAP[:WEIGHT[:LOSS]],...", metavar="TAPS"
    )
    style_taps: Taps = option(
        "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1:0.1",
        "Taps of the style loss, with optional weights and losses: TAP[:WEIGHT[:LOSS]],...",
        metavar="TAPS",
    )
    style_loss: str = option(
        "gram", "What style is, at taps that name no loss of their own; see docs/objective.md.", choices=STYLE_LOSSES
    )
    sliced_directions: str = option(
        "fixed",
        "Directions of `style_loss` sliced: the same at every step, or new ones, drawn from `seed`, as Adam can have.",
        choices=("fixed", "new"),
    )
    content_loss: str = option(
        "features", "What content is, at taps that name no loss of their own.", choices=CONTENT_LOSSES
    )
    histogram_weight: float = option(
        0.0, "Weight, within style, of a loss on the histograms of features at the style taps.", minimum=0
    )
    content_weight: float = option(1.0, "Weight of the content loss.", minimum=0)
    style_weight: float = option(5.0, "Weight of the style loss.", minimum=0)
    tv_weight: float = option(0.0, "Weight of the total variation loss, which smooths.", minimum=0)
    chroma_tv_weight: float = option(
        20.0,
        "Weight of the total variation of the colours alone: it takes colour noise out and leaves strokes.",
        minimum=0,
    )
    edge_weight: float = option(
        0.0, "Weight of a loss on the content's edges, the differences of luminance between neighbours.", minimum=0
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
        "relative", "Divisor of the style loss; see docs/objective.md.", choices=("relative", "mean", "sum", "gatys")
    )

    @property
    def content_tap_weights(self) -> Mapping[str, float]:
        return weighted_taps(self.content_taps, self.content_weight)

    @property
    def style_tap_weights(self) -> Mapping[str, float]:
        return weighted_taps(self.style_taps, self.style_weight)

    @property
    def style_terms(self) -> dict[str, StyleTerm]:
        """The terms of style by their names, in their order."""
        terms = []
        for tap, weight in self.style_tap_weights.items():
            loss = self.style_taps.losses.get(tap, self.style_loss)
            terms.append(StyleTerm(f"style/{tap}", tap, loss, self.style_weight * weight))
        if self.histogram_weight:
            terms += [
                StyleTerm(f"histogram/{tap}", tap, "histogram", self.histogram_weight * self.style_weight * weight)
                for tap, weight in self.style_tap_weights.items()
            ]
        return {term.name: term for term in terms}

    @property
    def content_losses(self) -> dict[str, str]:
        """Content tap -> its loss."""
        return {tap: self.content_taps.losses.get(tap, self.content_loss) for tap in self.content_tap_weights}

    @property
    def whole_losses(self) -> list[str]:
        """The losses that need the whole picture in one piece, and that no graph with a gradient has, as messages name
        them.
        """
        found = [f"`style_loss` {term.loss}" for term in self.style_terms.values() if not term.additive]
        found = ["`histogram_weight`" if name.endswith("histogram") else name for name in found]
        found += [f"`content_loss` {loss}" for loss in self.content_losses.values() if loss != "features"]
        return list(dict.fromkeys(found))

    @property
    def has_tv(self) -> bool:
        """Whether there is a total variation term, of all or of the colours alone."""
        return self.tv_weight > 0 or self.chroma_tv_weight > 0

    @property
    def taps(self) -> list[str]:
        """Every tap that the objective needs, without repeats."""
        return list(dict.fromkeys([*self.content_tap_weights, *self.style_tap_weights]))

    def contradictions(self) -> list[str]:
        check_taps(self.network, [*self.content_taps, *self.style_taps])
        problems = unknown_losses("content_taps", self.content_taps, CONTENT_LOSSES)
        problems += unknown_losses("style_taps", self.style_taps, STYLE_LOSSES)
        if problems:
            return problems
        others = sorted({term.loss for term in self.style_terms.values()} - {"gram"})
        if others and self.style_normalization != "relative":
            problems.append(
                f"`style_normalization` {self.style_normalization} is of `style_loss` gram, and {', '.join(others)} is "
                "always relative: leave it out, or use `style_normalization` relative and weights to suit"
            )
        if "self-similarity" in self.content_losses.values() and self.content_normalization != "relative":
            problems.append(
                f"`content_normalization` {self.content_normalization} is of `content_loss` features, and "
                "self-similarity is always relative: use `content_normalization` relative"
            )
        if problems:
            return problems
        if not self.taps:
            return ["nothing to optimise: `content_weight` or `style_weight` must be above 0, with at least one tap"]
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
        0.96, "Exponential schedule: the factor applied every `decay_steps` steps.", minimum=1e-6, maximum=1
    )
    decay_steps: int = option(100, "Exponential schedule: steps per factor of `decay_rate`.", minimum=1)
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
        names_file=True,
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

    device: str = option("auto", "Where gradients are computed.", metavar=DEVICE_METAVAR)
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
    convolution: str = option(
        "auto",
        "Of engine fast on a CPU in fp32: 'direct'; 'winograd', the algorithm, where it is faster on this machine; "
        "'auto' takes that in runs that are long enough for it to pay.",
        choices=("auto", "direct", "winograd"),
    )
    engine_provider: str = option(
        "auto",
        "The ONNX Runtime provider of `engine` ort; 'auto' is the device's own; or plugin:NAME[:KEY=VALUE,...].",
        choices=("auto", *PROVIDERS),
        also=PLUGIN_NAME,
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
        "The ONNX Runtime provider of the monitor; or plugin:NAME[:KEY=VALUE,...].",
        choices=tuple(PROVIDERS),
        also=PLUGIN_NAME,
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
        1.0, "Longest side of the style image, as a fraction of `image_size`.", minimum=0.05, maximum=20
    )
    transparency: str = option(
        "keep",
        "Transparent pixels: 'keep' gives the picture the content's alpha and leaves what is transparent in content "
        "and style out of all that is compared; 'background' paints them over `background` first.",
        choices=("keep", "background"),
    )
    background: str = option(
        "white", "The colour behind transparent pixels, where the output's format holds none.", metavar="COLOUR"
    )

    @property
    def reading_background(self) -> str | None:
        """What transparent pixels are put on as a picture is read; None keeps them transparent."""
        return self.background if self.transparency == "background" else None

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
    RegionOptions,
    FitOptions,
    ImageOptions,
):
    """Everything that decides what one run of ``stylize`` does."""

    @property
    def style_tap_weights(self) -> Mapping[str, float]:
        """None at strength 0: network, targets and plan are those of the objective that is minimised."""
        return weighted_taps(self.style_taps, self.style_weight * self.style_factor)

    def dialled(self) -> Self:
        """The config with ``strength`` applied to its weights, and set to 1."""
        weights = ("style_weight", "tv_weight", "chroma_tv_weight")
        return self.replace(**{name: getattr(self, name) * self.style_factor for name in weights}, strength=1.0)

    @property
    def files(self) -> dict[str, Path]:
        """Option -> the file that it names, of those that name one."""
        named = {"weights": self.weights_file, "init": self.init_file}
        return {name: path for name, path in named.items() if path is not None}

    def recorded(self) -> dict[str, Any]:
        """As :meth:`as_dict`, but with files' names without folders, which would say whose machine it was."""
        masks = {name: value.renamed(map(bare_name, value.files)).text for name, value in self.mask_files.items()}
        return self.as_dict() | {name: bare_name(path) for name, path in self.files.items()} | masks

    def contradictions(self) -> list[str]:
        if self.engine == "ort" and self.whole_losses:
            return [f"`engine` ort: has no {', '.join(self.whole_losses)}; use `engine` fast, or {IN_PARTS}"]
        if self.whole_losses and (self.tile_size or self.on_oom == "tile"):
            name = f"`tile_size` {self.tile_size}" if self.tile_size else "`on_oom` tile"
            return [
                f"{name}: {', '.join(self.whole_losses)} needs the whole picture in one piece; in tiles: {IN_PARTS}"
            ]
        sliced = any(term.loss == "sliced" for term in self.style_terms.values())
        if self.sliced_directions == "new" and sliced and self.optimizer == "lbfgs":
            return [
                "`sliced_directions` new: `optimizer` lbfgs needs one function to minimise, and this is another one at "
                "every step; use `optimizer` adam, or `sliced_directions` fixed"
            ]
        if self.strength < 1 and not self.content_tap_weights:
            return [f"`strength` {self.strength:g}: needs a content loss, which style is weighed against"]
        return super().contradictions()


def bare_name(path: Path) -> str:
    """A file's name without folders, as the value of an option: none of the words that the option has."""
    name = path.name
    taken = name in (*WEIGHTS, *INITS) or name.partition(":")[0] == "random" or name.startswith("~")
    return f"./{name}" if taken else name


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
        "fp32", "Of the convolutions; fp16 needs `graph` gradient or step.", choices=("fp32", "fp16")
    )

    @property
    def has_gradient(self) -> bool:
        """Whether the graph has a backward side, which is written by hand and not exported by PyTorch."""
        return self.graph in ("gradient", "step")

    def contradictions(self) -> list[str]:
        if self.has_gradient and self.whole_losses:
            return [f"`graph` {self.graph}: has no {', '.join(self.whole_losses)}, but {IN_PARTS}"]
        if self.precision == "fp16" and not self.has_gradient:
            return [f"`precision` fp16 with `graph` {self.graph}: only gradient and step have it"]
        return super().contradictions()

    @classmethod
    def serving(cls, objective: ObjectiveOptions) -> ExportConfig:
        """What to export for the monitor of a run with this objective."""
        return cls(**{name: getattr(objective, name) for name in declared(ObjectiveOptions)})
