"""The loop on small problems: a quadratic, and what a run of the loop left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.optimizers import Stepper, make_optimizer
from nst_fast.optimizers.base import TorchStepper
from nst_fast.options.config import OptimizerOptions
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.guard import Guard, Recovery
from nst_fast.run.loop import LossHistory, Span, optimize
from nst_fast.run.observer import LoopObserver, StepEvent


def bowl(pastiche: Tensor) -> Evaluation:
    """A quadratic with its minimum at 0.5."""
    total = pastiche.sub(0.5).square().sum((1, 2, 3)) + 0.01
    return Evaluation(total, {"bowl": total}, 2 * (pastiche - 0.5))


class Spiking(TorchStepper):
    """Multiplies the learning rate of one update."""

    def __init__(self, evaluator: Evaluator, optimizer: object, at: int, factor: float) -> None:
        super().__init__(evaluator, optimizer)  # type: ignore[arg-type]
        self.factors = iter([1.0] * at + [factor])

    def update(self, rate: float) -> None:
        super().update(rate * next(self.factors, 1.0))


@dataclass
class Followed(LoopObserver):
    """An observer that keeps recoveries, and stops at a step."""

    stop_at: int | None = None
    asked: int = -1
    recoveries: list[Recovery] = field(default_factory=list)

    def recovered(self, recovery: Recovery) -> None:
        self.recoveries.append(recovery)

    def stop(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


@dataclass
class Loop:
    """What a run of the loop left: events with the energy of their pictures at that time, history, guard, observer."""

    stepper: Stepper
    history: LossHistory
    guard: Guard
    observer: Followed
    events: list[StepEvent] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    best_steps: list[list[int]] = field(default_factory=list)


def run_loop(
    stepper: Stepper,
    options: OptimizerOptions,
    *,
    every: int = 5,
    factor: float = 10.0,
    stop_at: int | None = None,
    average: IterateAverage | None = None,
    names: Sequence[str] = ("bowl",),
    double: bool = False,
    loop: list[Loop] | None = None,
) -> Loop:
    """Run ``options.steps`` steps; ``loop`` receives what is there even where the loop raises."""
    pastiche, steps = stepper.pastiche, options.steps
    history = LossHistory(list(names), steps, pastiche.device, pictures=len(pastiche))
    if double:
        history._buffer = history._buffer.double()
    made = Loop(stepper, history, Guard(pastiche, factor), Followed(stop_at))
    if loop is not None:
        loop.append(made)
    span = Span(scale=0, first=0, steps=steps, total=steps, last=True)
    rule = {"due": lambda step: step % every == 0, "elapsed": lambda: 1.0}
    for event in optimize(stepper, made.guard, history, span, options, observer=made.observer, average=average, **rule):
        made.events.append(event)
        made.energies.append(event.pastiche.square().sum().item())
        made.best_steps.append(made.guard.best_steps.tolist())
    return made


def stepper_on(pastiche: Tensor, options: OptimizerOptions, evaluator: Evaluator = bowl) -> TorchStepper:
    return TorchStepper(evaluator, make_optimizer(pastiche, options))


def ramp(pictures: int = 1) -> Tensor:
    """Pictures [B, 3, 4, 4] with values from 0 to 1."""
    return torch.linspace(0, 1, 48 * pictures).view(pictures, 3, 4, 4).clone()
