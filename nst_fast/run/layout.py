"""How the picture of a run lies in processes: whole in one, or in strips of several."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import Strip, make_strip
from nst_fast.engines import Choice, Evaluator, choose, confirm_precision, make_crop_network, make_evaluator
from nst_fast.engines.choice import narrowest_accurate
from nst_fast.engines.tiled import TiledEvaluator, check_additive, tiled_targets
from nst_fast.errors import OutOfMemoryError, UsageError
from nst_fast.memory.allocator import keep_freed_memory, release_freed_memory, return_freed_memory
from nst_fast.memory.footprint import IMAGE
from nst_fast.memory.grids import cut_into
from nst_fast.memory.planner import MemoryPlan, MemoryTask, budget_of, make_plan, predict, smaller_plan
from nst_fast.objective.objective import Objective
from nst_fast.options.config import StylizeConfig
from nst_fast.run.observer import Observer
from nst_fast.run.out_of_memory import RetryInTiles
from nst_fast.run.problem import Batch
from nst_fast.run.scales import Scale
from nst_fast.system.machine import has_own_memory

if TYPE_CHECKING:
    from nst_fast.onnx.session import Session

WHOLE_PICTURES = 2  # held by every rank: the content image, and the picture that the scale began with


@dataclass(frozen=True)
class ScalePlan:
    """How one scale is computed by this process: the memory that it takes, and its strip with the tiles."""

    scale: Scale
    memory: MemoryPlan
    strip: Strip

    @property
    def tiled(self) -> bool:
        return self.memory.tiled

    def as_dict(self) -> dict[str, object]:
        """Plain data, for the record; ``ranks`` only when they share the picture."""
        size = self.strip.ranks.size
        return self.memory.as_dict() | ({"ranks": size} if size > 1 else {})

    def __str__(self) -> str:
        strip, size = self.strip, self.strip.ranks.size
        if size == 1:
            return str(self.memory)
        return f"{self.memory}; {size} ranks share {strip.width}x{strip.height}, {strip.mine.seen} rows seen"


class Layout:
    """The whole picture in one process. Of a layout, all ranks make the same calls and get the same answers."""

    def __init__(self) -> None:
        self.ranks = Ranks()
        self._started = time.perf_counter()

    def check(self, config: StylizeConfig) -> None:
        """Raise :class:`UsageError` where an option does not suit the layout."""

    def choose(self, batch: Batch, config: StylizeConfig, observer: Observer, *, long: bool) -> Choice:
        """Engine, precision and convolutions of the run; ``long``: whether kernels that take time to start pay."""
        return choose(config, batch.encoder, batch.device, long=long, note=observer.note)

    def plan(self, batch: Batch, choice: Choice, scale: Scale, before: Mapping[str, Any] | None = None) -> ScalePlan:
        """The plan of a scale for the memory that is free now.

        ``before``: the plan of an interrupted run (:meth:`ScalePlan.as_dict`), whose tiles are kept: they decide the
        order of sums. A shared run does not resume.

        Raises:
            OutOfMemoryError: nothing fits.
            UsageError: there are more ranks than strips.
        """
        task, budget = task_of(batch, choice, scale), budget_of(batch.config, str(batch.device))
        if before is None:
            memory = make_plan(task, budget)
        else:
            tiling = cut_into(batch.config, scale.height, scale.width, tuple(before["grid"]))
            memory = predict(task, tiling, budget, history=before["lbfgs_history"], halve=before["halve_content"])
        return ScalePlan(scale, memory, strip_of(batch, scale, memory, self.ranks))

    def confirm_precision(self, batch: Batch, choice: Choice, plan: ScalePlan, own: Tensor) -> Choice:
        """The choice, or with ``auto`` a wider precision where the chosen one changes the gradient too much.

        ``own``: this rank's rows. Without tiles only; the caller plans anew when the precision is another.
        """
        if batch.config.precision != "auto" or plan.tiled or not self._fits_in_fp32(batch, choice, plan.scale):
            return choice
        return confirm_precision(choice, batch.encoder, batch.objective_at(plan.scale), own)

    def _fits_in_fp32(self, batch: Batch, choice: Choice, scale: Scale) -> bool:
        try:
            return not self.plan(batch, replace(choice, precision="fp32"), scale).tiled
        except OutOfMemoryError:
            return False

    def evaluator(
        self,
        batch: Batch,
        choice: Choice,
        plan: ScalePlan,
        observer: Observer,
        opened: Callable[[Session], None],
    ) -> tuple[Objective, Evaluator]:
        """The objective of a scale, its targets built as the plan says, and its evaluator for own rows.

        ``opened`` receives every session of ONNX Runtime that computes for the loop.
        """
        config, scale = batch.config, plan.scale
        if plan.tiled or self.ranks.size > 1:
            objective, evaluate = tiled_evaluator(batch, choice, plan)
        else:
            keep_freed_memory()
            objective = batch.objective_at(scale)
            if choice.engine == "ort" and config.engine_provider == "tensorrt":
                observer.note(
                    f"TensorRT builds an engine for {scale.width}x{scale.height}, in minutes, if it is not in the cache"
                )
            evaluate = make_evaluator(config, choice, batch.encoder, objective, opened, batch.problems[0].kept)
        release_freed_memory()  # building the targets left holes in the heap

        def in_smaller_tiles() -> Evaluator:
            torch.accelerator.empty_cache()
            memory = smaller_plan(task_of(batch, choice, scale), plan.memory)
            return_freed_memory()
            observer.note(f"memory ran out; continuing from the last picture in smaller pieces. {memory}")
            network = make_crop_network(choice, batch.encoder)
            return TiledEvaluator(network, objective, strip_of(batch, scale, memory, self.ranks))

        return objective, RetryInTiles(evaluate, in_smaller_tiles) if config.on_oom == "tile" else evaluate

    def clock(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._started

    def stop(self, asked: bool) -> bool:
        """Whether any rank was asked to stop; called once per step."""
        return asked

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.ranks.maximum([float(flag)])[0])


class SharedPicture(Layout):
    """A strip of the picture in each of several processes, which take all decisions alike.

    Losses are the same numbers on all ranks; so whatever follows from losses, steps, :meth:`clock` and :meth:`stop`
    is the same too.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks
        self._now = 0.0

    def check(self, config: StylizeConfig) -> None:
        check_shareable(config)

    def choose(self, batch: Batch, config: StylizeConfig, observer: Observer, *, long: bool) -> Choice:
        """Rank 0's choice: a trial may come out differently elsewhere."""
        own = super().choose(batch, config, observer, long=long)
        return Choice(**json.loads(self.ranks.broadcast(json.dumps(asdict(own)))))

    def plan(self, batch: Batch, choice: Choice, scale: Scale, before: Mapping[str, Any] | None = None) -> ScalePlan:
        """The plan of what this rank sees; ranks may cut their strips into different tiles."""
        config = batch.config
        strip = make_strip(self.ranks, config.network, config.taps, scale.height, scale.width)
        task = task_of(batch, choice, scale)
        # A rank sees about as large a part of a style image as of the picture.
        part = strip.mine.seen / scale.height
        styles = tuple((max(1, round(height * part)), width) for height, width in task.styles)
        pictures = IMAGE * WHOLE_PICTURES * task.pixels
        budget = self._budget(batch)
        memory = make_plan(replace(task, height=strip.mine.seen, styles=styles), budget - pictures)
        parts = memory.parts | {"pictures": memory.parts["pictures"] + pictures}
        memory = replace(memory, parts=parts, budget=budget)
        return ScalePlan(scale, memory, strip_of(batch, scale, memory, self.ranks))

    def _budget(self, batch: Batch) -> int:
        """Bytes that this rank may use: ``max_memory`` counts for each; ranks on a machine share what is free."""
        device = str(batch.device)
        sharing = 1 if has_own_memory(device) else self.ranks.local_size
        free = budget_of(batch.config.replace(max_memory=None), device) // sharing
        return min(batch.config.max_memory or free, free)

    def confirm_precision(self, batch: Batch, choice: Choice, plan: ScalePlan, own: Tensor) -> Choice:
        if batch.config.precision != "auto" or self.any(plan.tiled):
            return choice

        @functools.cache
        def gradient(precision: str) -> Tensor:
            _, evaluate = tiled_evaluator(batch, replace(choice, precision=precision), plan)
            return evaluate(own).gradient.flatten().double()

        def cosine(precision: str) -> float:
            wide, narrow = gradient("fp32"), gradient(precision)
            products = torch.stack([wide @ narrow, wide @ wide, narrow @ narrow])
            self.ranks.all_reduce(products)
            return float(products[0] / (products[1] * products[2]).sqrt())

        return narrowest_accurate(choice, own.device, cosine)

    def clock(self) -> float:
        """As the slowest rank counts them at the last :meth:`stop`."""
        return self._now

    def stop(self, asked: bool) -> bool:
        stop, self._now = self.ranks.maximum([float(asked), super().clock()])
        return bool(stop)


def check_shareable(config: StylizeConfig) -> None:
    """Raise :class:`UsageError` where an option needs the whole picture in one process."""
    if config.optimizer == "lbfgs" and config.line_search != "none":
        raise UsageError(
            f"`line_search` {config.line_search}: is PyTorch's, and searches within one process",
            "Use `line_search` none, or a single process",
        )
    check_additive(config)
    if config.engine == "ort":
        raise UsageError("`engine` ort: computes whole pictures only", "Use `engine` fast, or a single process")
    if config.wraps[0]:
        raise UsageError(
            f"`seamless` {config.seamless}: processes share rows, and the last cannot join the first",
            "Use `seamless` x, or a single process",
        )
    if config.on_oom == "tile":
        raise UsageError("`on_oom` tile: ranks cannot restart one by one", "Give `max_memory`, or more ranks")


def task_of(batch: Batch, choice: Choice, scale: Scale) -> MemoryTask:
    """What decides the memory of one scale."""
    sizes = [image.tensor.shape[2:] for image in batch.styles]
    styles = tuple((round(height * scale.fraction), round(width * scale.fraction)) for height, width in sizes)
    return MemoryTask(
        batch.config,
        choice.engine,
        choice.precision,
        scale.height,
        scale.width,
        styles,
        batch.count,
        masks=len(batch.problems[0].masks.regions) + batch.problems[0].guided,
        winograd=bool(choice.winograd),
        device=str(batch.device),
    )


def strip_of(batch: Batch, scale: Scale, memory: MemoryPlan, ranks: Ranks) -> Strip:
    """This rank's strip of a scale in the tiles of the plan."""
    config = batch.config
    grid = memory.tiling.grid
    return make_strip(ranks, config.network, config.taps, scale.height, scale.width, grid, wraps=config.wraps)


def tiled_evaluator(batch: Batch, choice: Choice, plan: ScalePlan) -> tuple[Objective, Evaluator]:
    """The objective with targets computed in tiles as large as those of the pastiche, and its evaluator.

    Of the only problem: several are evaluated whole.
    """
    return_freed_memory()
    problem, config, scale = batch.problems[0], batch.config.dialled(), plan.scale
    network = make_crop_network(choice, batch.encoder)
    targets = tiled_targets(
        network,
        config,
        plan.strip,
        problem.content_at(scale),
        problem.styles_at(scale),
        problem.style_weights,
        problem.style_guides_at(scale),
        style_network=make_crop_network(choice, batch.encoder.unwrapped) if any(config.wraps) else None,
        halve_content=plan.memory.halve_content,
    )
    objective = Objective(config, replace(targets, temporal=problem.temporal), problem.guides_at(scale))
    return objective, TiledEvaluator(network, objective, plan.strip)
