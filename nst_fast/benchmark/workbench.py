"""What the cases of one benchmark share: network, seeded pictures, objective, exported model, ceilings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.benchmark.ceilings import Ceiling, find_ceiling, layer_flops
from nst_fast.benchmark.rows import Row
from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.engines import Evaluator, choose, make_evaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx.checked_export import find_or_export
from nst_fast.onnx.session import Session
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.run.observer import Observer
from nst_fast.run.problem import Networks
from nst_fast.system.machine import resolve_device

CONTENT_SEED, STYLE_SEED, NOISE_SEED = 1, 2, 3  # added to multiples of the run's seed


@dataclass(frozen=True, eq=False)
class Scene:
    """The problem at one size: content pictures, where the pastiches start, both [B, 3, H, W], and the objective."""

    content_image: Tensor
    start: Tensor
    objective: Objective


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
        shared = declared(StylizeConfig).keys() & declared(type(self.config)).keys()
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
        """The evaluator of a run; to be made and called within its precision's :func:`float32_arithmetic`.

        ``opened`` is called with every session of ONNX Runtime that computes for it.
        """
        return make_evaluator(run, choose(run, self.encoder, self.device), self.encoder, scene.objective, opened)

    def flops(self, row: Row) -> int:
        """Of one evaluation of all the row's pictures."""
        return row.batch * sum(layer_flops(self.config, row.height, row.width).values())

    def rate(self, row: Row, flop: float, milliseconds: float, device: torch.device) -> None:
        """Fill in a row's work, its achieved rate, and the shares of the ceilings that is."""
        key = (str(device), row.precision)
        if key not in self.ceilings:
            self.ceilings[key] = find_ceiling(device, row.precision, self.config)
        ceiling = self.ceilings[key]
        row.gflop, row.gflops = flop / 1e9, flop / milliseconds / 1e6
        row.ceiling_share = row.gflops / ceiling.gflops
        least = ceiling.winograd_seconds(self.config, row.height, row.width)  # of one evaluation, as flops() counts it
        if least is not None:
            row.winograd_share = 1e3 * least * row.batch * flop / self.flops(row) / milliseconds


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
