"""One run of a problem by several processes: each has a strip of the picture, all take the same decisions.

What :class:`nst_fast.run.run.Run` hands from one scale to the next are whole pictures here too; strips live as long as
their scale does. A run that is shared takes the same steps, and comes to the same picture, as one that is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from nst_fast.distributed import place
from nst_fast.distributed.agreement import Agreement
from nst_fast.distributed.group import Ranks
from nst_fast.engines import Choice, Evaluator
from nst_fast.engines.strips import Strip
from nst_fast.errors import UsageError
from nst_fast.memory.planner import Plan, describe
from nst_fast.objective.objective import Objective
from nst_fast.onnx.monitor import Monitor
from nst_fast.optimizers.strips import make_strip_optimizer
from nst_fast.options.config import StylizeConfig
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.guard import GUARD_STEPS, Guard
from nst_fast.run.keeper import Keeper
from nst_fast.run.loop import Course, EventClock
from nst_fast.run.observer import Listeners, Observer, StepEvent
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.pastiche import Pastiche
from nst_fast.run.problem import Problem, at_size
from nst_fast.run.run import Run
from nst_fast.run.scales import Scale
from nst_fast.run.stage import Stage
from nst_fast.run.strips import StripPlan, confirmed_together, strip_evaluation_at, strip_plan_at


def run_shared(
    problem: Problem, files: OutputFiles | None, listeners: Observer, ranks: Ranks, keeper: Keeper | None = None
) -> Pastiche:
    """Run every scale together with the other ranks; every rank has to call it, with the same problem.

    Rank 0 alone tells its listeners, and writes snapshots and checkpoints; the others' listeners can stop the run.
    Every rank gets the picture. A checkpoint is one of the whole picture, for a single process to go on from.

    Raises:
        UsageError: an option that cannot be shared.
        DeviceError: another rank is gone.
    """
    check_shareable(problem.config)
    if ranks.rank:
        files, listeners = None, Listeners(stop=listeners.stop)
    for note in problem.notes:
        listeners.note(note)
    return SharedRun(problem, files, listeners, ranks, keeper).run()


def check_shareable(config: StylizeConfig) -> None:
    """Raise :class:`UsageError` where an option needs the whole picture in one process."""
    if config.optimizer == "lbfgs" and config.line_search != "none":
        raise UsageError(
            f"--line-search {config.line_search}: is PyTorch's, and searches within one process",
            "Use --line-search none, or a single process",
        )
    if config.engine == "ort":
        raise UsageError("--engine ort: computes whole pictures only", "Use --engine fast, or a single process")
    if config.on_oom == "tile":
        raise UsageError("--on-oom tile: ranks cannot begin anew one by one", "Give --max-memory, or more ranks")


class SharedRun(Run):
    """This rank's part of a run."""

    def __init__(
        self,
        problem: Problem,
        files: OutputFiles | None,
        listeners: Observer,
        ranks: Ranks,
        keeper: Keeper | None,
    ) -> None:
        self.ranks = ranks
        # ONNX Runtime evaluates whole pictures: as in tiles, there is no monitor.
        super().__init__(replace(problem, config=problem.config.replace(monitor_every=0)), files, listeners, keeper)
        self.agreement = Agreement(ranks, listeners.stop)
        self.planned: StripPlan | None = None

    def choose(self) -> Choice:
        """Rank 0's choice: a trial may come out differently elsewhere."""
        return Choice(**json.loads(self.ranks.word_of_first(json.dumps(asdict(super().choose())))))

    def begin(self, scale: Scale, first: int, pastiche: Tensor, coarser: Stage | None) -> Stage:
        """The stage of a scale, from the whole picture of the coarser one."""
        plan = self.plan(scale)
        own = self.strip.own(at_size(pastiche, scale.height, scale.width))
        if not first:
            plan = self.confirm(plan, scale, own)
        options = self.config.replace(lbfgs_history=plan.lbfgs_history)
        previous = coarser.optimizer if coarser is not None else None
        optimizer = make_strip_optimizer(own, options, self.strip, previous)
        average = IterateAverage(own, self.config.average_decay) if self.config.average_decay else None
        self.rules.next_scale(first)
        return Stage(scale, first, plan, optimizer, Guard(own, self.config.divergence_factor), average)

    def confirmed(self, scale: Scale, pastiche: Tensor) -> Choice:
        assert self.planned is not None  # every stage begins with its plan
        return confirmed_together(self.problem, self.choice, scale, self.planned, pastiche)

    @property
    def strip(self) -> Strip:
        assert self.planned is not None  # every stage begins with its plan
        return self.planned.strip

    def plan(self, scale: Scale) -> Plan:
        self.planned = strip_plan_at(self.problem, self.choice, scale, self.ranks, place())
        self.record.plan = describe(self.planned.plan) | {"ranks": self.ranks.size}
        self.listeners.detail(str(self.planned))
        return self.planned.plan

    def evaluation(self, stage: Stage) -> tuple[Objective, Evaluator]:
        assert self.planned is not None
        return strip_evaluation_at(self.problem, self.choice, stage.scale, self.planned, self.agreement.renew)

    def run_stage(self, stage: Stage, *, last: bool) -> tuple[Tensor, int]:
        own, updates = super().run_stage(stage, last=last)
        return self.strip.whole(own), updates

    def course(self) -> Course:
        config = self.config
        every = [config.save_every, config.log_every, GUARD_STEPS]
        return replace(super().course(), due=EventClock(every, clock=self.agreement.clock))

    def elapsed(self) -> float:
        return self.agreement.clock()

    def stop(self) -> bool:
        self.stopped = self.agreement.stop()
        return self.stopped

    def keep(self, step: int, stopping: bool) -> None:
        """Keep the state when rank 0 finds that due, and before a stop; all ranks bring their rows."""
        if self.config.checkpoint_interval is None:
            return
        due = self.keeper is not None and self.keeper.due(step)
        if stopping or self.ranks.highest([float(due)])[0]:
            state = self.checkpoint(step)
            if self.keeper is not None:
                self.keeper.keep(state)

    def checkpoint(self, step: int) -> Checkpoint:
        state = super().checkpoint(step)
        parts = ("pastiche", "optimizer", "guard", "average")
        return replace(state, **{name: self.whole(getattr(state, name)) for name in parts})

    def whole(self, state: Any) -> Any:
        """A state with strips put together to pictures; whatever else it holds is the same on all ranks."""
        if isinstance(state, Mapping):
            return {name: self.whole(value) for name, value in state.items()}
        assert self.stage is not None
        is_strip = isinstance(state, Tensor) and state.shape[1:] == self.stage.optimizer.pastiche.shape[1:]
        return self.strip.whole(state) if is_strip else state

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """As in a run alone; for a snapshot all ranks bring their rows."""
        every = self.config.save_every
        if every and event.step and event.step % every == 0:
            event = replace(event, pastiche=self.strip.whole(event.pastiche))
        super().hear(event, monitor)
