"""The loop: evaluate, report when an event is due, update. Nothing reads the device in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.evaluators import Evaluation, Evaluator
from nst_fast.machine import peak_memory_mib
from nst_fast.optimizers import PixelOptimizer


@dataclass(frozen=True)
class StepEvent:
    """The state of a run after ``step`` updates: the picture and the losses of that very picture.

    Attributes:
        scale: index of the scale, from 0 (coarsest).
        step: updates done, at all scales; ``steps`` of them are planned.
        terms: weighted terms and ``total``, as Python floats (means over the batch).
        seconds: since the run started, the device synchronised.
        steps_per_second: over the whole run so far; 0 before the first update.
        peak_memory_mib: highest memory so far; on a GPU its own, on a CPU the process's.
        pastiche: the live tensor [B, 3, H, W]; copy it before the generator goes on.
    """

    scale: int
    step: int
    steps: int
    terms: dict[str, float]
    seconds: float
    steps_per_second: float
    peak_memory_mib: float
    pastiche: Tensor


class LossHistory:
    """The loss terms of every step, written to a buffer on the device and read back only when asked.

    Row k holds the terms of the picture after k updates.
    """

    def __init__(self, names: list[str], steps: int, device: torch.device) -> None:
        self.names = [*names, "total"]
        self.length = 0
        self._buffer = torch.zeros(steps + 1, len(self.names), device=device)

    def append(self, evaluation: Evaluation) -> None:
        row = torch.stack([*evaluation.terms.values(), evaluation.total]).mean(1)
        self._buffer[self.length].copy_(row)
        self.length += 1

    def last(self) -> dict[str, float]:
        """The newest row. Synchronises with the device."""
        return dict(zip(self.names, self._buffer[self.length - 1].tolist(), strict=True))

    def rows(self) -> dict[str, list[float]]:
        """All rows, column by column. Synchronises with the device."""
        columns = self._buffer[: self.length].T.tolist()
        return dict(zip(self.names, columns, strict=True))


@dataclass(frozen=True)
class Span:
    """Which part of a run a loop covers: ``steps`` updates at a scale, after ``first`` earlier ones, of ``total``."""

    scale: int
    first: int
    steps: int
    total: int

    @property
    def end(self) -> int:
        return self.first + self.steps


def optimize(
    evaluate: Evaluator,
    optimizer: PixelOptimizer,
    history: LossHistory,
    span: Span,
    *,
    learning_rate: Callable[[int], float],
    due: Callable[[int], bool],
    elapsed: Callable[[], float],
    smooths: Callable[[int], bool] = lambda step: False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepEvent]:
    """Run the loop; yield an event at every step for which ``due`` says so, and one when the run ends.

    A scale that is not the last one ends with its last update, without an event: the next scale's first event shows
    the picture that it made.

    Args:
        evaluate: the engine.
        optimizer: holds the pastiche and changes it in place.
        history: receives the terms of every step.
        span: the steps to do.
        learning_rate: step -> rate of the update that follows.
        due: step -> whether to report; must not look at the device.
        elapsed: seconds since the run began, on the host.
        smooths: step -> whether the picture is smoothed after that update.
        stop: asked once a step; the run ends early, in good order, when it returns True.
    """
    device = optimizer.pastiche.device

    def event(step: int) -> StepEvent:
        terms = history.last()  # waits for the device, so the time that follows is true
        seconds = elapsed()
        rate = step / seconds if step else 0.0
        pastiche = optimizer.pastiche
        return StepEvent(span.scale, step, span.total, terms, seconds, rate, peak_memory_mib(device), pastiche)

    for step in range(span.first, span.end):
        evaluation = evaluate(optimizer.pastiche)
        history.append(evaluation)
        if stop():
            yield event(step)
            return
        if due(step):
            yield event(step)
        optimizer.update(evaluation, evaluate, learning_rate(step))
        if smooths(step + 1):
            optimizer.smooth()
    if span.end == span.total:
        history.append(evaluate(optimizer.pastiche))
        yield event(span.end)
