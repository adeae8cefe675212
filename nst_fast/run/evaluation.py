"""A problem under its memory plan: the objective and the evaluator of every scale, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nst_fast import errors
from nst_fast.engines import Choice, Evaluation, Evaluator, make_evaluator, make_tile_engine
from nst_fast.engines.tiled import TiledEvaluator, tiled_targets
from nst_fast.memory.allocator import release_freed_memory, return_freed_memory
from nst_fast.memory.grids import tiling_like
from nst_fast.memory.planner import Job, Plan, budget_of, make_plan, predict, smaller_plan
from nst_fast.network.tiles import make_tiling
from nst_fast.objective.objective import Objective
from nst_fast.onnx.session import Session
from nst_fast.optimizers import PixelOptimizer
from nst_fast.optimizers.ort_adam import evaluation_by
from nst_fast.run.problem import Problem
from nst_fast.run.scales import Scale

Note = Callable[[str], None]


def job_at(problem: Problem, choice: Choice, scale: Scale) -> Job:
    """What decides the memory of one scale."""
    sizes = [image.tensor.shape[2:] for image in problem.styles]
    styles = tuple((round(height * scale.fraction), round(width * scale.fraction)) for height, width in sizes)
    return Job(problem.config, choice.engine, choice.precision, scale.height, scale.width, styles, problem.count)


def plan_at(problem: Problem, choice: Choice, scale: Scale) -> Plan:
    """The plan of one scale, for what may be used now.

    Raises:
        OutOfMemoryError: nothing fits.
    """
    return make_plan(job_at(problem, choice, scale), budget_of(problem.config, str(problem.device)))


def fits_whole(problem: Problem, choice: Choice, scale: Scale, *, precision: str) -> bool:
    """Whether a scale could be computed in one piece with the chosen engine in this precision."""
    try:
        return not plan_at(problem, replace(choice, precision=precision), scale).tiled
    except errors.OutOfMemoryError:
        return False


def plan_as_before(problem: Problem, choice: Choice, scale: Scale, described: Mapping[str, Any]) -> Plan:
    """The plan that :func:`nst_fast.memory.planner.describe` described, whatever is free now.

    Tiles decide the order in which sums are taken, so that a run that goes on needs those it began with.
    """
    job = job_at(problem, choice, scale)
    config, grid = problem.config, tuple(described["grid"])
    tiling = make_tiling(config.network, config.taps, scale.height, scale.width, grid)
    history, halve = described["lbfgs_history"], described["halve_content"]
    return predict(job, tiling, budget_of(config, str(problem.device)), history=history, halve=halve)


def evaluation_at(
    problem: Problem,
    choice: Choice,
    scale: Scale,
    plan: Plan,
    optimizer: PixelOptimizer,
    note: Note,
    opened: Callable[[Session], None],
) -> tuple[Objective, Evaluator]:
    """The objective of a scale, its targets built as the plan says, and what evaluates it for the optimiser."""
    if not plan.tiled:
        objective = problem.objective_at(scale)
        if choice.engine == "ort" and problem.config.engine_provider == "tensorrt":
            note(f"TensorRT builds an engine for {scale.width}x{scale.height}, in minutes, if it is not in the cache")
        made = make_evaluator(problem.config, choice, problem.encoder, objective, opened)
        evaluate: Evaluator = evaluation_by(made, optimizer)
    else:
        return_freed_memory()
        objective = tiled_objective(problem, choice, scale, plan)
        evaluate = TiledEvaluator(make_tile_engine(choice, problem.encoder), objective, plan.tiling)
    release_freed_memory()  # building the targets left holes in the heap
    smaller = partial(evaluate_in_smaller_tiles, problem, choice, scale, plan, objective, note)
    return objective, OnOutOfMemory(evaluate, smaller if problem.config.on_oom == "tile" else None)


def tiled_objective(problem: Problem, choice: Choice, scale: Scale, plan: Plan) -> Objective:
    """The objective with targets computed in tiles as large as those of the pastiche."""
    config = problem.config.dialled()
    targets = tiled_targets(
        make_tile_engine(choice, problem.encoder),
        config,
        partial(tiling_like, config, plan.tiling),
        problem.content_at(scale),
        problem.styles_at(scale),
        config.blend_weights,
        halve_content=plan.halve_content,
    )
    return Objective(config, targets)


def evaluate_in_smaller_tiles(
    problem: Problem, choice: Choice, scale: Scale, plan: Plan, objective: Objective, note: Note
) -> Evaluator:
    """An evaluator that needs half of what the plan's step needed.

    Raises:
        OutOfMemoryError: there are no smaller tiles.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    retry = smaller_plan(job_at(problem, choice, scale), plan)
    return_freed_memory()
    note(f"memory ran out; going on from the last picture in smaller pieces. {retry}")
    return TiledEvaluator(make_tile_engine(choice, problem.encoder), objective, retry.tiling)


class OnOutOfMemory:
    """Turns exhausted memory into our error, or goes on once with another evaluator from the picture as it is.

    A GPU that stops working is an error of ours as well.

    Args:
        evaluate: what is used until memory runs out.
        smaller: makes what is used from then on; None gives up at once.
    """

    def __init__(self, evaluate: Evaluator, smaller: Callable[[], Evaluator] | None) -> None:
        self.evaluate: Evaluator | None = evaluate
        self.smaller = smaller

    def __call__(self, pastiche: Tensor) -> Evaluation:
        if self.evaluate is not None:
            try:
                return self.evaluate(pastiche)
            except RuntimeError as error:
                if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                    raise lost_device(error) from error
                if not is_out_of_memory(error):
                    raise
                said = str(error).splitlines()[0]
            # Outside of the handler: the error's traceback holds the tensors of the failed evaluation.
            self.evaluate = None
        else:
            said = "a second time"
        if self.smaller is None:
            raise errors.OutOfMemoryError(f"memory ran out ({said})", "Use --on-oom tile, --max-memory or less pixels")
        smaller, self.smaller = self.smaller, None
        self.evaluate = smaller()
        return self(pastiche)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch means that memory ran out: a class of its own on GPUs, a plain RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def lost_device(error: RuntimeError) -> errors.DeviceError:
    """A GPU that fell off the bus, was reset, or met a fault from which its process cannot recover."""
    said = str(error).splitlines()[0]
    remedy = "See `nst-fast doctor`; `nst-fast resume OUT` goes on from the last checkpoint"
    return errors.DeviceError(f"the device stopped working ({said})", remedy)
