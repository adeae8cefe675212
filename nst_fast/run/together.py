"""Several problems in one loop, each with the result that it has alone: more pictures per second.

A large GPU is not busy with a picture of 256 or 512 pixels. Which problems share a loop is decided here: those of one
size, as many at a time as memory holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nst_fast.engines import Choice, choose
from nst_fast.errors import UsageError
from nst_fast.memory.grids import LARGEST_TENSOR, WIDEST, cut_into
from nst_fast.memory.planner import budget_of, predict
from nst_fast.options.config import StylizeConfig
from nst_fast.run.layout import Layout, task_of
from nst_fast.run.observer import Observer
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Batch, Problem
from nst_fast.run.run import Run


def run_together(
    problems: Sequence[Problem], files: Sequence[OutputFiles | None], observer: Observer
) -> Iterator[tuple[int, Pastiche]]:
    """Run problems of one config, those of one size together, as many at a time as memory holds.

    There is no monitor, which evaluates single pictures, and there are no checkpoints. A picture that is the only one
    of its size, or too large to share the memory, runs by itself.

    Args:
        problems: loaded with the same config.
        files: of each problem, for its snapshots; the pictures are not written.
        observer: of every run; the losses of an event are means over the batch.

    Yields:
        The index of a problem and its result, run by run.

    Raises:
        UsageError: an option that needs a picture to itself.
    """
    if not problems:
        return
    check_joinable(problems[0].config)
    if problems[0].config.monitor_every:
        observer.note("no monitor: it evaluates single pictures")
    problems = [replace(problem, config=problem.config.replace(monitor_every=0)) for problem in problems]
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index, problem in enumerate(problems):
        alone = (index,) if problem.guided else ()  # masks are those of one picture
        sizes.setdefault((problem.height, problem.width, *alone), []).append(index)
    for of_one_size in sizes.values():
        done = 0
        while left := of_one_size[done:]:
            now = left[: share([problems[index] for index in left])]
            done += len(now)
            if len(now) < len(left):
                observer.note(f"{len(now)} of {len(left)} pictures at a time, as memory allows")
            group, theirs = [problems[index] for index in now], [files[index] for index in now]
            yield from zip(now, Run(group, Layout(), observer, theirs).run(), strict=True)


def check_joinable(config: StylizeConfig) -> None:
    """Raise :class:`UsageError` where an option needs a picture to itself."""
    reasons = {
        "`line_search` strong_wolfe: one search cannot suit several pictures": config.optimizer == "lbfgs"
        and config.line_search != "none",
        "`engine` ort: takes one picture at a time": config.engine == "ort",
        "`tile_size`: tiles are for pictures that are too large even alone": config.tile_size > 0,
        "`on_oom` tile: tiles are for pictures that are too large even alone": config.on_oom == "tile",
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise UsageError("; ".join(found), "Leave that out, or make the pictures one by one")


def share(problems: Sequence[Problem]) -> int:
    """How many of these to run first, so that all are done in the fewest runs, each about as large as the others."""
    config, encoder, device = problems[0].config, problems[0].encoder, problems[0].device
    choice = choose(config, encoder, device)
    most = next((count for count in range(len(problems), 1, -1) if fits(problems[:count], choice)), 1)
    return math.ceil(len(problems) / math.ceil(len(problems) / most))


def fits(problems: Sequence[Problem], choice: Choice) -> bool:
    """Whether memory holds these at once, evaluated whole, L-BFGS with all its pairs."""
    batch = Batch(problems)
    config, scale = batch.config, batch.scales[-1]
    task = task_of(batch, choice, scale)
    whole = cut_into(config, scale.height, scale.width, (1, 1))
    plan = predict(task, whole, budget_of(config, str(batch.device)), history=config.lbfgs_history, halve=False)
    return plan.fits and WIDEST * task.pixels < LARGEST_TENSOR
