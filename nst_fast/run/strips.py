"""A problem under the memory plan of one rank: its strip of every scale, whole or in tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nst_fast.distributed import Place
from nst_fast.distributed.group import Ranks
from nst_fast.engines import Choice, Evaluator, make_tile_engine
from nst_fast.engines.choice import unbent
from nst_fast.engines.strips import Strip, StripEvaluator, make_strip, strip_targets
from nst_fast.memory.allocator import release_freed_memory, return_freed_memory
from nst_fast.memory.footprint import IMAGE
from nst_fast.memory.planner import Plan, budget_of, make_plan
from nst_fast.objective.objective import Objective
from nst_fast.run.evaluation import OnOutOfMemory, job_at
from nst_fast.run.problem import Problem
from nst_fast.run.scales import Scale

WHOLE_PICTURES = 2  # which every rank holds: the content image, and what the scale began with


@dataclass(frozen=True)
class StripPlan:
    """The memory plan of this rank, for what it sees of the picture, and its strip."""

    plan: Plan
    strip: Strip

    def __str__(self) -> str:
        ranks, mine = self.strip.ranks, self.strip.mine
        return f"{self.plan}; {ranks.size} ranks share {self.strip.width}x{self.strip.height}, {mine.seen} rows seen"


def strip_plan_at(problem: Problem, choice: Choice, scale: Scale, ranks: Ranks, place: Place) -> StripPlan:
    """The plan of one scale for this rank. Ranks may cut their strips into different tiles: nobody else sees them.

    Raises:
        OutOfMemoryError: nothing fits.
        UsageError: there are more ranks than strips.
    """
    config = problem.config
    strip = make_strip(ranks, config.network, config.taps, scale.height, scale.width)
    job = job_at(problem, choice, scale)
    # A style image is shared too; a rank sees of it about as large a part as of the picture.
    part = strip.mine.seen / scale.height
    styles = tuple((max(1, round(height * part)), width) for height, width in job.styles)
    pictures = IMAGE * WHOLE_PICTURES * job.pixels
    budget = rank_budget(problem, place)
    plan = make_plan(replace(job, height=strip.mine.seen, styles=styles), budget - pictures)
    parts = plan.parts | {"pictures": plan.parts["pictures"] + pictures}
    tiled = make_strip(ranks, config.network, config.taps, scale.height, scale.width, plan.tiling.grid)
    return StripPlan(replace(plan, parts=parts, budget=budget), tiled)


def rank_budget(problem: Problem, place: Place) -> int:
    """Bytes that this rank may use: ``max_memory`` counts for each; what is free is shared by those on a machine."""
    device = str(problem.device)
    sharing = 1 if device.startswith("cuda") else place.local_size
    free = budget_of(problem.config.replace(max_memory=None), device) // sharing
    return min(problem.config.max_memory_bytes or free, free)


def confirmed_together(problem: Problem, choice: Choice, scale: Scale, planned: StripPlan, own: Tensor) -> Choice:
    """What :func:`nst_fast.engines.choice.confirmed` says, from the gradients of all ranks' rows."""

    @functools.cache
    def gradient(precision: str) -> Tensor:
        _, evaluate = strip_evaluation_at(problem, replace(choice, precision=precision), scale, planned, lambda: None)
        return evaluate(own).gradient.flatten().double()

    def cosine(precision: str) -> float:
        wide, narrow = gradient("fp32"), gradient(precision)
        products = torch.stack([wide @ narrow, wide @ wide, narrow @ narrow])
        planned.strip.ranks.add_up(products)
        return float(products[0] / (products[1] * products[2]).sqrt())

    return unbent(choice, own.device, cosine)


def strip_evaluation_at(
    problem: Problem, choice: Choice, scale: Scale, planned: StripPlan, agree: Callable[[], None]
) -> tuple[Objective, Evaluator]:
    """The objective of a scale with targets of this rank's strip, and what evaluates it."""
    return_freed_memory()
    config = problem.config.dialled()
    engine = make_tile_engine(choice, problem.encoder)
    targets = strip_targets(
        engine,
        config,
        planned.strip,
        problem.content_at(scale),
        problem.styles_at(scale),
        config.blend_weights,
        halve_content=planned.plan.halve_content,
    )
    objective = Objective(config, targets)
    evaluate = StripEvaluator(engine, objective, planned.strip, agree)
    release_freed_memory()
    return objective, OnOutOfMemory(evaluate, None)
