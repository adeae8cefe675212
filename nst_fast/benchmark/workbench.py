"""What the cases of one benchmark share: network, seeded pictures, objective, exported model, FLOP and ceilings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.benchmark.rows import Row
from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.engines import Evaluator, choose, make_evaluator
from nst_fast.engines.precision import DTYPES, float32_arithmetic
from nst_fast.network.taps import channels_of, convolutions, cut, tap_size
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx.checked_export import find_or_export
from nst_fast.onnx.session import Session
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.run.observer import Observer
from nst_fast.run.problem import Networks
from nst_fast.system.clock import make_clock
from nst_fast.system.machine import resolve_device

CONTENT_SEED, STYLE_SEED, NOISE_SEED = 1, 2, 3  # added to multiples of the run's seed
# Dense TFLOP/s by a part of the GPU's name. The H200's were measured (bf16) or follow from that; the others are
# NVIDIA's data sheets, which no real matrix product reaches.
KNOWN_TFLOPS = {
    "H200": ("measured on one", {"bf16": 790.0, "tf32": 395.0, "fp32": 60.0}),
    "H100 80GB HBM3": ("data sheet", {"bf16": 989.0, "tf32": 494.0, "fp32": 67.0}),
    "A100": ("data sheet", {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5}),
    "RTX 4090": ("data sheet", {"bf16": 165.0, "tf32": 82.6, "fp32": 82.6}),
}
MATMUL_SIDE = {"cpu": 1536, "cuda": 8192}
CONV_SIDE = {"cpu": 64, "cuda": 512}
CONV_CHANNELS = 256
PROBE_SECONDS, PROBE_REPEATS = 0.5, 50  # how long a probe is repeated, and how often at most


@dataclass(frozen=True, eq=False)
class Scene:
    """The problem at one size: content pictures, where the pastiches start, both [B, 3, H, W], and the objective."""

    content_image: Tensor
    start: Tensor
    objective: Objective


@dataclass(frozen=True)
class Ceiling:
    """The rate that shares are taken of, in GFLOP/s, and where the figure comes from."""

    device: str
    precision: str
    gflops: float
    source: str


class Workbench:
    """Loads the network once. Scenes are made when a case asks, so that one that does not fit fails its rows only.

    Args:
        config: what to measure.
        observer: its ``stop`` is asked between turns; True ends the benchmark with what there is.

    Raises:
        DeviceError, WeightsError: no row could be measured at all.
    """

    def __init__(self, config: BenchConfig, observer: Observer | None = None) -> None:
        self.config = config
        self.stop = (observer or Observer()).stop
        self.device = resolve_device(config.device)
        self.networks = Networks()
        self.encoder, self.weights = self.networks.encoder(config, config.taps, self.device)
        self.scene = functools.lru_cache(maxsize=1)(self._scene)  # one size at a time is in memory
        self.model = functools.cache(self._model)
        self.ceilings: dict[tuple[str, str], Ceiling] = {}

    def _scene(self, height: int, width: int, batch: int = 1) -> Scene:
        config, size = self.config, (height, width)
        seeds = [10 * (config.seed + index) for index in range(batch)]
        content = torch.cat([seeded_picture(size, seed + CONTENT_SEED) for seed in seeds]).to(self.device)
        style = seeded_picture(size, seeds[0] + STYLE_SEED).to(self.device)
        noise = [seeded_noise(size, seed + NOISE_SEED) for seed in seeds]
        start = content if config.init == "content" else torch.cat(noise)
        targets = build_targets(self.encoder, config, content, [style])
        return Scene(content, start.to(self.device), Objective(config, targets))

    def _model(self) -> bytes:
        """The exported objective, from the user's cache or made now."""
        loaded = (self.encoder, self.weights["sha256"])
        return find_or_export(ExportConfig.serving(self.config), loaded=loaded).model

    def run_options(self, engine: str, precision: str) -> StylizeConfig:
        """The run of ``stylize`` that is measured for an engine."""
        shared = {item.name for item in fields(StylizeConfig)} & {item.name for item in fields(self.config)}
        options = {name: getattr(self.config, name) for name in shared} | {"steps": max(1, self.config.steps)}
        return StylizeConfig(**options | {"engine": engine, "precision": precision})

    def run_config(self, engine: str, precision: str) -> StylizeConfig:
        """The same with ``auto`` resolved.

        Raises:
            DeviceError: the engine or the device does not compute in this precision.
        """
        options = self.run_options(engine, precision)
        choice = choose(options, self.encoder, self.device)
        return options.replace(engine=choice.engine, precision=choice.precision)

    def evaluator(
        self, run: StylizeConfig, scene: Scene, opened: Callable[[Session], None] = lambda session: None
    ) -> Evaluator:
        """The evaluator of a run; to be made and called within :func:`arithmetic`.

        ``opened`` is called with every session of ONNX Runtime that computes for it.
        """
        return make_evaluator(run, choose(run, self.encoder, self.device), self.encoder, scene.objective, opened)

    def flops(self, row: Row) -> int:
        """Of one evaluation of all the row's pictures."""
        config = self.config
        one = flops_per_evaluation(config.network, config.taps, row.height, row.width, config.style_tap_weights)
        return row.batch * one

    def rate(self, row: Row, flop: float, milliseconds: float, device: torch.device) -> None:
        """Fill in a row's work, its achieved rate, and the share of the ceiling that is."""
        key = (str(device), row.precision)
        if key not in self.ceilings:
            self.ceilings[key] = find_ceiling(device, row.precision)
        row.gflop, row.gflops = flop / 1e9, flop / milliseconds / 1e6
        row.ceiling_share = row.gflops / self.ceilings[key].gflops


def arithmetic(precision: str) -> AbstractContextManager[None]:
    """How float32 is multiplied while an engine of this precision works: engines that take turns share one switch."""
    return float32_arithmetic(precision)


def seeded_noise(size: tuple[int, int], seed: int) -> Tensor:
    """Uniform noise [1, 3, H, W]; drawn on the CPU, so that it is the same on every device."""
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def seeded_picture(size: tuple[int, int], seed: int) -> Tensor:
    """A picture [1, 3, H, W] in [0, 1] with as much in its coarse structure as in its fine, like a photograph's."""
    picture = torch.zeros(1, 3, *size)
    for octave, cells in enumerate((4, 8, 16, 32, 64)):
        coarse = seeded_noise((cells, cells), 10 * seed + octave) - 0.5
        picture += F.interpolate(coarse, size, mode="bicubic") / (octave + 1)
    return (picture + 0.5).clamp(0, 1)


def flops_per_evaluation(
    network: str, taps: Iterable[str], height: int, width: int, style_taps: Iterable[str] = ()
) -> int:
    """FLOP of one forward evaluation of one picture: 2 for each multiply-accumulate of convolutions and Grams.

    Left out is what costs memory traffic rather than arithmetic, together below 1 %: biases, ReLU, pooling, the losses
    on the features, the optimiser. The gradient with respect to the picture costs as much again: a convolution's is a
    convolution of the same size, a Gram's is one product, because the Gram is symmetric. What an engine
    computes beyond that, as autograd does with two products, is not counted.
    """
    macs = 0
    shapes = convolutions(network)
    for name in (name for name in cut(network, taps) if name in shapes):
        _, inputs, outputs = shapes[name]
        rows, columns = tap_size(name, height, width)
        macs += 9 * inputs * outputs * rows * columns
    for tap in style_taps:
        rows, columns = tap_size(tap, height, width)
        macs += channels_of(tap) ** 2 * rows * columns
    return 2 * macs


def find_ceiling(device: torch.device, precision: str) -> Ceiling:
    """A known GPU's figure, or else what this device reaches here and now.

    Measured is the better of a square matrix product and a 3x3 convolution of 256 channels, because the two come from
    different libraries and on a CPU either can be ahead, by a factor of two.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for part, (source, tflops) in KNOWN_TFLOPS.items():
        if part in name and precision in tflops:
            return Ceiling(str(device), precision, 1e3 * tflops[precision], f"{part}, {source}")
    with float32_arithmetic(precision), torch.no_grad():
        rates = {kind: _rate(work, flop, device) for kind, (work, flop) in _probes(device, precision).items()}
    best = max(rates, key=lambda kind: rates[kind])
    return Ceiling(str(device), precision, rates[best], f"measured here ({best})")


def _probes(device: torch.device, precision: str) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Name -> what to time, and its FLOP."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, extent, channels = MATMUL_SIDE[kind], CONV_SIDE[kind], CONV_CHANNELS
    dtype = torch.float16 if precision == "fp16" else DTYPES[precision]  # fp16 is ONNX Runtime's alone
    draw = functools.partial(torch.rand, device=device, dtype=dtype)
    matrix = draw((side, side))
    image = draw((1, channels, extent, extent)).to(memory_format=torch.channels_last)
    kernel = draw((channels, channels, 3, 3)).to(memory_format=torch.channels_last)
    return {
        "matrix product": (lambda: matrix @ matrix, 2.0 * side**3),
        "convolution": (lambda: torch.conv2d(image, kernel, padding=1), 18.0 * channels**2 * extent**2),
    }


def _rate(work: Callable[[], Tensor], flop: float, device: torch.device) -> float:
    """GFLOP/s of the fastest of a few calls: a ceiling is what is possible, not what is usual."""
    clock = make_clock(device)

    def seconds() -> float:
        started = clock()
        work()
        return clock() - started

    for _ in range(2):
        work()  # warm-up
    first = seconds()
    repeats = max(3, min(PROBE_REPEATS, int(PROBE_SECONDS / first)))
    return flop / min(first, *(seconds() for _ in range(repeats))) / 1e9
