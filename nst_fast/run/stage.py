"""One scale of a run: what changes there from step to step, written to a checkpoint and restored from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nst_fast.objective.objective import Objective
from nst_fast.optimizers import Stepper
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.guard import Guard
from nst_fast.run.layout import ScalePlan
from nst_fast.run.scales import Scale


@dataclass(frozen=True)
class Stage:
    """What lives as long as one scale does. Stepper, guard and average change from step to step.

    Attributes:
        first: updates done before it.
        plan: of its memory, with the part of the picture that this process has.
        average: of the iterates, if it was asked for.
        done: updates done at this scale before, by a run that was interrupted.
    """

    scale: Scale
    first: int
    plan: ScalePlan
    objective: Objective
    stepper: Stepper
    guard: Guard
    average: IterateAverage | None
    done: int = 0

    def state(self) -> dict[str, Any]:
        """Its fields of a :class:`Checkpoint`: live tensors, to be written before the run continues."""
        parts = {
            "pastiche": self.stepper.pastiche,
            "optimizer": self.stepper.state(),
            "guard": self.guard.state(),
            "average": self.average.state() if self.average is not None else None,
        }
        return {"scale": self.scale.index, "first": self.first, **self.whole(parts)}

    def whole(self, state: Any) -> Any:
        """A state with the strips of all ranks put together to pictures; everything else is the same on all ranks."""
        if isinstance(state, Mapping):
            return {name: self.whole(value) for name, value in state.items()}
        is_strip = isinstance(state, Tensor) and state.shape[1:] == self.stepper.pastiche.shape[1:]
        return self.plan.strip.whole(state) if is_strip else state

    def restored(self, interrupted: Checkpoint) -> Stage:
        """This stage, which has the checkpoint's picture and is fresh otherwise, in the checkpoint's state."""
        self.stepper.restore(interrupted.optimizer)
        self.guard.restore(interrupted.guard)
        if self.average is not None and interrupted.average is not None:
            self.average.restore(interrupted.average)
        return replace(self, done=interrupted.step - interrupted.first)
