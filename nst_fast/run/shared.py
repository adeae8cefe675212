"""One run of a problem by several processes: each has a strip of the picture, all take the same decisions.

What :class:`nst_fast.run.run.Run` hands from one scale to the next are whole pictures here too; strips live as long as
their scale does. A run that is shared takes the same steps, and comes to the same picture, as one that is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import Strip
from nst_fast.onnx.monitor import Monitor
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.guard import GUARD_STEPS
from nst_fast.run.keeper import Keeper
from nst_fast.run.layout import SharedPicture, check_shareable
from nst_fast.run.loop import Course, EventClock
from nst_fast.run.observer import Listeners, StepEvent
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.pastiche import Pastiche
from nst_fast.run.problem import Problem
from nst_fast.run.run import Run
from nst_fast.run.stage import Stage


def run_shared(
    problem: Problem, files: OutputFiles | None, listeners: Listeners, ranks: Ranks, keeper: Keeper | None = None
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


class SharedRun(Run):
    """This rank's part of a run."""

    def __init__(
        self,
        problem: Problem,
        files: OutputFiles | None,
        listeners: Listeners,
        ranks: Ranks,
        keeper: Keeper | None,
    ) -> None:
        self.ranks = ranks
        # ONNX Runtime evaluates whole pictures: as in tiles, there is no monitor.
        problem = replace(problem, config=problem.config.replace(monitor_every=0))
        super().__init__(problem, files, listeners, keeper, layout=SharedPicture(ranks))

    @property
    def strip(self) -> Strip:
        assert self.stage is not None  # the loop runs
        return self.stage.plan.strip

    def run_stage(self, stage: Stage, *, last: bool) -> tuple[Tensor, int]:
        own, updates = super().run_stage(stage, last=last)
        return self.strip.whole(own), updates

    def course(self) -> Course:
        config = self.config
        every = [config.save_every, config.log_every, GUARD_STEPS]
        return replace(super().course(), due=EventClock(every, clock=self.layout.clock))

    def keep(self, step: int, stopping: bool) -> None:
        """Keep the state when rank 0 finds that due, and before a stop; all ranks bring their rows."""
        if self.config.checkpoint_interval is None:
            return
        due = self.keeper is not None and self.keeper.due(step)
        if stopping or self.layout.any(due):
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
