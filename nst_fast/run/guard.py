"""The divergence guard and the rules that end a run early; both read the device at events only.

Style transfer runs do diverge: the loss of a published L-BFGS run jumped from 0.46 to 1.5 million at step 525. The
guard keeps the best picture on the device; when an event shows a loss that is not finite, or a jump, the run returns
to that picture with half the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nst_fast.engines import Evaluation
from nst_fast.optimizers.base import State
from nst_fast.options.config import StopOptions

GUARD_STEPS = 5  # between two checks; counted in steps, not in seconds, so that runs repeat exactly
TRIES = 2  # returns before the run fails
SHRINK = 0.5  # factor of the learning rate at every return


@dataclass(frozen=True)
class Recovery:
    """A return to the best picture. In a batch all pictures return; this is about the one with index ``picture``."""

    step: int
    reason: str
    total: float
    best_step: int
    best_total: float
    learning_rate_factor: float
    picture: int = 0

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.reason} (total {self.total:.4g}); back to the picture of step {self.best_step} "
            f"(total {self.best_total:.4g}), learning rate times {self.learning_rate_factor:g} from here on"
        )


class Guard:
    """The best pictures of a scale so far, and whether the run diverges.

    Args:
        pastiche: [B, 3, H, W].
        factor: a total above this multiple of the best one is a jump; 0: only losses that are not finite count.
        floor: the totals that rounding alone makes (:meth:`Objective.rounding`), picture by picture; lower ones are 0.

    Attributes:
        best: the best pictures [B, 3, H, W].
        best_totals, best_steps: their totals and their steps, [B] on the device.
    """

    def __init__(self, pastiche: Tensor, factor: float, floor: Sequence[float] = ()) -> None:
        self.factor = factor
        self.floor = floor or [0.0] * len(pastiche)
        self.tries = 0
        self.learning_rate_factor = 1.0
        self.best = pastiche.clone()
        self.best_totals = torch.full((len(pastiche),), math.inf, device=pastiche.device)
        self.best_steps = torch.zeros(len(pastiche), dtype=torch.long, device=pastiche.device)

    def observe(self, step: int, pastiche: Tensor, evaluation: Evaluation) -> None:
        """Keep each picture that is the best so far. Does not synchronise with the device."""
        better = evaluation.total < self.best_totals  # false for NaN
        self.best_totals = torch.where(better, evaluation.total, self.best_totals)
        self.best_steps = torch.where(better, step, self.best_steps)
        torch.where(better.view(-1, 1, 1, 1), pastiche, self.best, out=self.best)

    def check(self, step: int, totals: Sequence[float]) -> Recovery | None:
        """The return that the totals of an event call for, if any. Synchronises with the device."""
        bests = zip(self.best_totals.tolist(), self.floor, strict=True)
        for picture, (total, (best, floor)) in enumerate(zip(totals, bests, strict=True)):
            if reason := self._fault(total, max(best, floor)):
                self.tries += 1
                self.learning_rate_factor *= SHRINK
                best_step = int(self.best_steps[picture])
                return Recovery(step, reason, total, best_step, best, self.learning_rate_factor, picture)
        return None

    def _fault(self, total: float, best: float) -> str:
        if not math.isfinite(total):
            return "the loss is not finite"
        jumped = self.factor and math.isfinite(best) and total > self.factor * best
        return f"the loss jumped beyond {self.factor:g} times the best" if jumped else ""

    def nothing_left(self, totals: Sequence[float]) -> bool:
        """Whether rounding alone is left of these totals: a step along their gradient would follow noise."""
        return all(total <= floor for total, floor in zip(totals, self.floor, strict=True))

    def forget(self, pastiche: Tensor) -> None:
        """Restart from pictures that were smoothed: a higher loss is then no divergence."""
        self.best.copy_(pastiche)
        self.best_totals.fill_(math.inf)

    def state(self) -> State:
        """Of a single picture, whose total and step have no axis (the format of checkpoints)."""
        best = {"best": self.best, "total": self.best_totals.squeeze(0), "step": self.best_steps.squeeze(0)}
        return {**best, "tries": self.tries, "learning_rate_factor": self.learning_rate_factor}

    def restore(self, state: State) -> None:
        self.best.copy_(state["best"])
        self.best_totals.copy_(state["total"])
        self.best_steps.copy_(state["step"])
        self.tries, self.learning_rate_factor = state["tries"], state["learning_rate_factor"]

    @property
    def exhausted(self) -> bool:
        return self.tries > TRIES


@dataclass
class StopRules:
    """Ends a run that no longer improves, or whose time is up.

    Patience is checked at every ``GUARD_STEPS`` steps, so that the same seed gives the same picture on every machine.
    A batch ends when none of its pictures has improved for long enough.
    """

    options: StopOptions
    _best: list[float] = field(default_factory=list, init=False)
    _improved_at: int = field(default=0, init=False)

    def verdict(self, step: int, totals: Sequence[float], elapsed: float, share: float) -> str:
        """Why the scale should end now: ``converged``, ``out of time``, or an empty string.

        Args:
            totals: the loss of each picture at this step.
            elapsed: seconds since the run began.
            share: the part of the time budget that may be used up by the end of this scale.
        """
        if self.options.time_budget and elapsed >= self.options.time_budget * share:
            return "out of time"
        if not self.options.patience_steps or step % GUARD_STEPS:
            return ""  # other events depend on the time
        best = self._best or [math.inf] * len(totals)
        improved = [
            total < known * (1 - self.options.min_improvement) for total, known in zip(totals, best, strict=True)
        ]
        self._best = [total if better else known for total, known, better in zip(totals, best, improved, strict=True)]
        if any(improved):
            self._improved_at = step
        return "converged" if step - self._improved_at >= self.options.patience_steps else ""

    def next_scale(self, step: int) -> None:
        """Losses of different scales are not comparable: patience restarts."""
        self._best, self._improved_at = [], step

    def state(self) -> State:
        """Of a single picture."""
        return {"best": self._best[0] if self._best else math.inf, "improved_at": self._improved_at}

    def restore(self, state: State) -> None:
        self._best, self._improved_at = [state["best"]], state["improved_at"]
