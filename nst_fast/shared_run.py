"""One run of a problem by several processes: each has a strip of the picture, all take the same decisions.

What :class:`nst_fast.run.Run` hands from one scale to the next are whole pictures here too; strips live as long as
their scale does. A run that is shared takes the same steps, and comes to the same picture, as one that is not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from torch import Tensor

from nst_fast.averaging import IterateAverage
from nst_fast.config import StylizeConfig
from nst_fast.errors import UsageError
from nst_fast.evaluators import Choice, Evaluator
from nst_fast.evaluators.strips import Strip
from nst_fast.guard import GUARD_STEPS, Guard
from nst_fast.loop import Course, EventClock, StepEvent
from nst_fast.memory.planner import Plan, describe
from nst_fast.memory.strips import StripPlan, strip_evaluation_at, strip_plan_at
from nst_fast.monitor import Monitor
from nst_fast.objective import Objective
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Problem, at_size
from nst_fast.ranks import Place, place
from nst_fast.ranks.agreement import Agreement
from nst_fast.ranks.group import Ranks
from nst_fast.run import Listeners, Pastiche, Run, Stage
from nst_fast.scales import Scale
from nst_fast.strip_adam import StripAdam


def run_shared(
    problem: Problem, files: OutputFiles | None, listeners: Listeners, ranks: Ranks, where: Place | None = None
) -> Pastiche:
    """Run every scale together with the other ranks; every rank has to call it, with the same problem.

    Rank 0 alone tells its listeners and writes snapshots; the others' can stop the run. Every rank gets the picture.

    Raises:
        UsageError: an option that cannot be shared.
        DeviceError: another rank is gone.
    """
    check_shareable(problem.config)
    if ranks.rank:
        files, listeners = None, Listeners(stop=listeners.stop)
    for note in problem.notes:
        listeners.note(note)
    return SharedRun(problem, files, listeners, ranks, where or place()).run()


def check_shareable(config: StylizeConfig) -> None:
    """Raise :class:`UsageError` where an option needs the whole picture in one process."""
    if config.optimizer != "adam":
        raise UsageError(
            f"--optimizer {config.optimizer}: its steps need products over the whole picture, which ranks do not share",
            "Use --optimizer adam, or a single process",
        )
    if config.engine == "ort":
        raise UsageError("--engine ort: computes whole pictures only", "Use --engine fast, or a single process")
    if config.on_oom == "tile":
        raise UsageError("--on-oom tile: ranks cannot begin anew one by one", "Give --max-memory, or more ranks")


class SharedRun(Run):
    """This rank's part of a run."""

    def __init__(
        self, problem: Problem, files: OutputFiles | None, listeners: Listeners, ranks: Ranks, where: Place
    ) -> None:
        # ONNX Runtime evaluates whole pictures: as in tiles, there is no monitor.
        super().__init__(replace(problem, config=problem.config.replace(monitor_every=0)), files, listeners)
        self.ranks = ranks
        self.place = where
        self.choice = Choice(**json.loads(ranks.word_of_first(json.dumps(asdict(self.choice)))))
        self.agreement = Agreement(ranks, listeners.stop)
        self.planned: StripPlan | None = None

    def begin(self, scale: Scale, first: int, pastiche: Tensor, coarser: Stage | None) -> Stage:
        """The stage of a scale, from the whole picture of the coarser one."""
        plan = self.plan(scale)
        own = self.strip.own(at_size(pastiche, scale.height, scale.width))
        optimizer = StripAdam(own, self.config, self.strip)
        if coarser is not None and isinstance(coarser.optimizer, StripAdam):
            optimizer.take_over(coarser.optimizer)
        average = IterateAverage(own, self.config.average_decay) if self.config.average_decay else None
        self.rules.next_scale(first)
        return Stage(scale, first, plan, optimizer, Guard(own, self.config.divergence_factor), average)

    @property
    def strip(self) -> Strip:
        assert self.planned is not None  # every stage begins with its plan
        return self.planned.strip

    def plan(self, scale: Scale) -> Plan:
        self.planned = strip_plan_at(self.problem, self.choice, scale, self.ranks, self.place)
        self.record.plan = describe(self.planned.plan) | {"ranks": self.ranks.size}
        self.listeners.note(str(self.planned))
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

    def hear(self, event: StepEvent, monitor: Monitor | None) -> None:
        """As in a run alone; for a snapshot all ranks bring their rows."""
        every = self.config.save_every
        if every and event.step and event.step % every == 0:
            event = replace(event, pastiche=self.strip.whole(event.pastiche))
        super().hear(event, monitor)
