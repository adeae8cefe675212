"""Several problems in one loop, each with the result that it would have alone: more pictures per second.

A large GPU is not busy with a picture of 256 or 512 pixels. Losses, optimisers, guard and history know each picture
of a batch, so that the pictures are independent but for what a run decides as a whole: it goes on until none of them
improves any more (``patience``), and when one diverges all go back, each to its own best, with half the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from nst_fast.engines import Choice, choose
from nst_fast.errors import OutOfMemoryError, UsageError
from nst_fast.memory.grids import LARGEST_TENSOR, WIDEST
from nst_fast.memory.planner import Plan, budget_of, predict
from nst_fast.network.tiles import make_tiling
from nst_fast.objective.objective import Statistics
from nst_fast.onnx.monitor import Monitor
from nst_fast.options.config import StylizeConfig
from nst_fast.run.evaluation import job_at
from nst_fast.run.guard import Recovery
from nst_fast.run.observer import Observer, StepEvent
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.pastiche import Pastiche
from nst_fast.run.problem import Problem
from nst_fast.run.reporting import new_record
from nst_fast.run.run import Run, run
from nst_fast.run.scales import Scale


def run_together(
    problems: Sequence[Problem], files: Sequence[OutputFiles | None], listeners: Observer
) -> Iterator[tuple[int, Pastiche]]:
    """Run problems of one config, those of one size together, as many at a time as memory holds.

    There is no monitor, which evaluates single pictures, and there are no checkpoints. A picture that is the only one
    of its size, or too large to share the memory, runs by itself.

    Args:
        problems: loaded with the same config.
        files: of each problem, for its snapshots; the pictures are not written.
        listeners: hear of every run; the losses of an event are means over the batch.

    Yields:
        The index of a problem and what came of it, run by run.

    Raises:
        UsageError: an option that needs a picture to itself.
    """
    if not problems:
        return
    check_joinable(problems[0].config)
    if problems[0].config.monitor_every:
        listeners.note("no monitor: it evaluates single pictures")
    alone = [replace(problem, config=problem.config.replace(monitor_every=0)) for problem in problems]
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, problem in enumerate(alone):
        sizes.setdefault((problem.height, problem.width), []).append(index)
    for of_one_size in sizes.values():
        begun = 0
        while left := of_one_size[begun:]:
            now = left[: share([alone[index] for index in left])]
            begun += len(now)
            if len(now) < len(left):
                listeners.note(f"{len(now)} of {len(left)} pictures at a time, as memory allows")
            group = [alone[index] for index in now]
            yield from zip(now, run_group(group, [files[index] for index in now], listeners), strict=True)


def run_group(problems: list[Problem], files: list[OutputFiles | None], listeners: Observer) -> list[Pastiche]:
    """Run problems of one size in one loop."""
    if len(problems) == 1:
        return [run(problems[0], files[0], listeners)]
    joint = JointProblem.of(problems)
    for note in joint.notes:
        listeners.note(note)
    return JointRun(joint, files, listeners).run_all()


def check_joinable(config: StylizeConfig) -> None:
    """Raise :class:`UsageError` where an option needs a picture to itself."""
    reasons = {
        "--line-search strong_wolfe: one search cannot suit several pictures": config.optimizer == "lbfgs"
        and config.line_search != "none",
        "--engine ort: takes one picture at a time": config.engine == "ort",
        "--tile-size: tiles are for pictures that are too large even alone": config.tile_size > 0,
        "--on-oom tile: tiles are for pictures that are too large even alone": config.on_oom == "tile",
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
    joint = JointProblem.of(problems)
    config, scale = joint.config, joint.scales[-1]
    job = job_at(joint, choice, scale)
    whole = make_tiling(config.network, config.taps, scale.height, scale.width, (1, 1))
    plan = predict(job, whole, budget_of(config, str(joint.device)), history=config.lbfgs_history, halve=False)
    return plan.fits and WIDEST * job.pixels < LARGEST_TENSOR


@dataclass(frozen=True)
class JointProblem(Problem):
    """Problems of one size and one config as one, with a batch for a picture.

    Attributes:
        content: of the first; each part has its own.
        styles: of all parts, one after the other.
        parts: the problems.
    """

    parts: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> JointProblem:
        first = problems[0]
        return cls(
            config=first.config,
            content=first.content,
            styles=tuple(style for problem in problems for style in problem.styles),
            height=first.height,
            width=first.width,
            encoder=first.encoder,
            weights=first.weights,
            device=first.device,
            targets=first.targets,
            parts=tuple(problems),
        )

    @property
    def count(self) -> int:
        return len(self.parts)

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for part in self.parts for note in part.notes))

    def content_at(self, scale: Scale) -> Tensor | None:
        contents = [content for part in self.parts if (content := part.content_at(scale)) is not None]
        return torch.cat(contents) if contents else None

    def targets_at(self, scale: Scale) -> Statistics:
        """What each part would have alone, its style too: ``color`` may have adapted that to its content."""
        each = [part.targets_at(scale) for part in self.parts]
        content = joined([targets.content for targets in each])
        return Statistics(content, joined([targets.grams for targets in each]), {})

    def start_at(self, scale: Scale) -> Tensor:
        return torch.cat([part.start_at(scale) for part in self.parts])


def joined(targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tap -> tensors [1, ...] of several pictures as one [B, ...]."""
    return {tap: torch.cat([each[tap] for each in targets]) for tap in targets[0]}


class JointRun(Run):
    """One run of several pictures; each has a record and a history of its own. Time and memory are those of all."""

    def __init__(self, problem: JointProblem, files: Sequence[OutputFiles | None], listeners: Observer) -> None:
        super().__init__(problem, None, listeners)
        self.parts = problem.parts
        self.files_of = list(files)
        self.records = [new_record(part) for part in self.parts]

    def run_all(self) -> list[Pastiche]:
        """Run every scale to its end; what came of each picture."""
        pictures = self.through_scales()
        return [self.part(index, pictures[index : index + 1]) for index in range(len(self.parts))]

    def part(self, index: int, pastiche: Tensor) -> Pastiche:
        """One of the pictures [1, 3, h, w] with its record."""
        record, shared = self.records[index], self.record
        record.engine, record.precision, record.plan = shared.engine, shared.precision, dict(shared.plan)
        self.conclude(record, index)
        picture, record.finish = self.parts[index].finished(pastiche)
        return Pastiche(picture, record, self.failure)

    def plan(self, scale: Scale) -> Plan:
        plan = super().plan(scale)
        if plan.tiled:
            message = f"{len(self.parts)} pictures no longer fit into memory together"
            raise OutOfMemoryError(message, "Take fewer together, or give --max-memory more")
        self.record.plan["together"] = len(self.parts)
        return plan

    def recovered(self, recovery: Recovery) -> None:
        content = self.parts[recovery.picture].content
        said = f"{content.path.name if content is not None else recovery.picture}: {recovery}"
        for record in self.records:
            record.recoveries.append(asdict(recovery))
            record.warnings.append(said)
        self.listeners.note(said)

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """Snapshots are written picture by picture."""
        every, kind = self.config.save_every, self.config.save_format
        for index, files in enumerate(self.files_of):
            if files is not None and every and event.step and event.step % every == 0:
                files.save_snapshot(event.pastiche[index : index + 1], event.step, kind)
        super().hear(event, monitor)
