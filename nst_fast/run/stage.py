"""One scale of a run: what changes there from step to step, how that is put into a checkpoint and taken out again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nst_fast.optimizers import PixelOptimizer
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.guard import Guard
from nst_fast.run.layout import ScalePlan
from nst_fast.run.scales import Scale


@dataclass(frozen=True)
class Stage:
    """What lives as long as one scale does. Optimiser, guard and average change from step to step.

    Attributes:
        first: updates done before it.
        plan: of its memory.
        optimizer: holds the pastiche.
        average: of the iterates, if it was asked for.
        done: updates done at this scale before, by a run that was interrupted.
    """

    scale: Scale
    first: int
    plan: ScalePlan
    optimizer: PixelOptimizer
    guard: Guard
    average: IterateAverage | None
    done: int = 0

    def state(self) -> dict[str, Any]:
        """Its fields of a :class:`Checkpoint`: live tensors, to be written before the run goes on."""
        return {
            "scale": self.scale.index,
            "first": self.first,
            "pastiche": self.optimizer.pastiche,
            "optimizer": self.optimizer.state(),
            "guard": self.guard.state(),
            "average": self.average.state() if self.average is not None else None,
        }

    def restored(self, interrupted: Checkpoint) -> Stage:
        """This stage, which holds the checkpoint's picture and is fresh otherwise, put into the checkpoint's state."""
        self.optimizer.restore(interrupted.optimizer)
        self.guard.restore(interrupted.guard)
        if self.average is not None and interrupted.average is not None:
            self.average.restore(interrupted.average)
        return replace(self, done=interrupted.step - interrupted.first)
