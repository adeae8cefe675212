"""The loop: evaluate, report when an event is due, update. Nothing reads the device in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nst_fast.engines import Evaluation
from nst_fast.errors import NumericsError
from nst_fast.optimizers import Stepper, learning_rate_at, smooths_at
from nst_fast.options.config import OptimizerOptions
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.guard import GUARD_STEPS, Guard, Recovery
from nst_fast.run.observer import LoopObserver, StepEvent
from nst_fast.system.machine import peak_memory_mib

EVENT_SECONDS = 0.5  # the progress display is fed at least this often


class LossHistory:
    """The loss terms of every step, written to a buffer on the device and read back only when asked.

    Row k holds the terms of each of the ``pictures`` of a batch after k updates.
    """

    def __init__(self, names: list[str], steps: int, device: torch.device, pictures: int = 1) -> None:
        self.names = [*names, "total"]
        self.length = 0
        self._buffer = torch.zeros(steps + 1, len(self.names), pictures, device=device)

    def append(self, evaluation: Evaluation) -> None:
        self._buffer[self.length].copy_(row_of(evaluation))
        self.length += 1

    def replace_last(self, evaluation: Evaluation) -> None:
        """Overwrite the newest row: the picture was exchanged for another."""
        self.length -= 1
        self.append(evaluation)

    def first_rows(self, count: int) -> Tensor:
        """The oldest rows of a single picture [count, terms + 1], on the device."""
        return self._buffer.squeeze(2)[:count]

    def restore(self, rows: Tensor) -> None:
        """Begin with the rows of an earlier run of a single picture."""
        self.length = len(rows)
        self._buffer.squeeze(2)[: self.length].copy_(rows)

    @property
    def newest(self) -> Tensor:
        """The newest row [terms + 1, B], on the device."""
        return self._buffer[self.length - 1]

    def at(self, steps: Tensor) -> Tensor:
        """The row [terms + 1, B] that has, for each picture, its terms after so many updates [B]; on the device."""
        return self._buffer[steps, :, torch.arange(len(steps), device=steps.device)].T

    def named(self, row: Tensor) -> list[dict[str, float]]:
        """A row [terms + 1, B], picture by picture. Synchronises with the device."""
        return [dict(zip(self.names, column, strict=True)) for column in row.T.tolist()]

    def rows(self, picture: int = 0) -> dict[str, list[float]]:
        """All rows of a picture, column by column. Synchronises with the device."""
        columns = self._buffer[: self.length, :, picture].T.tolist()
        return dict(zip(self.names, columns, strict=True))


def row_of(evaluation: Evaluation) -> Tensor:
    """The terms and the total of each picture as one tensor [terms + 1, B] on the device."""
    return torch.stack([*evaluation.terms.values(), evaluation.total])


@dataclass(frozen=True)
class Span:
    """Which part of a run a loop covers: ``steps`` updates at a scale, after ``first`` earlier ones, of ``total``.

    The loop of the ``last`` scale ends with an evaluation of the finished picture. The others end with their last
    update: the next scale's first event shows the picture that it made. ``done`` of the steps were done before, by a
    run that was interrupted.
    """

    scale: int
    first: int
    steps: int
    total: int
    last: bool
    done: int = 0


def optimize(
    stepper: Stepper,
    guard: Guard,
    history: LossHistory,
    span: Span,
    options: OptimizerOptions,
    *,
    due: Callable[[int], bool],
    elapsed: Callable[[], float],
    observer: LoopObserver | None = None,
    average: IterateAverage | None = None,
    begin_step: Callable[[int, int], None] = lambda seed, step: None,
) -> Iterator[StepEvent]:
    """Run the loop; yield an event at every step that is due, and one when the run ends.

    Args:
        history, average: receive the terms of every step, and every iterate.
        options: learning rate and smoothing by step.
        due, elapsed: step -> whether to report; seconds since the run began.
        observer: may stop the run; is notified of recoveries and of every evaluation.
        begin_step: called with seed and step before a step is evaluated.

    Raises:
        NumericsError: the run diverged once more than the guard tries; the pastiche is then the best picture.
    """
    observer = observer or LoopObserver()

    def rate_at(step: int) -> float:
        return learning_rate_at(options, step) * guard.learning_rate_factor

    begin = span.first + span.done
    for step in range(begin, span.first + span.steps + span.last):
        begin_step(options.seed, step)
        evaluation = stepper.evaluate(rate_at(step))
        history.append(evaluation)
        guard.observe(step, stepper.pastiche, evaluation)
        stopping = observer.stop()
        # Before the guard steps in, which a stop makes it do at other steps: a resumed run evaluates again.
        observer.evaluated(step, stopping)
        ends = stopping or step == span.first + span.steps
        if ends or step == begin or due(step):
            seen = event_at(step, stepper.pastiche, history, span, elapsed)
            recovery = guard.check(step, seen.totals) if ends or step % GUARD_STEPS == 0 else None
            if recovery:
                recover(stepper, guard, recovery, observer, average)
                evaluation = stepper.evaluate(rate_at(step))
                history.replace_last(evaluation)
                seen = event_at(step, stepper.pastiche, history, span, elapsed)
            yield seen
        if ends:
            return
        del evaluation  # its gradient, as large as the picture, would lie beside the next one
        stepper.update(rate_at(step))
        if average is not None:
            average.add(stepper.pastiche)
        if smooths_at(options, step + 1):
            stepper.smooth()
            guard.forget(stepper.pastiche)  # a higher loss is then no divergence
            if average is not None:
                average.restart()


def event_at(step: int, pastiche: Tensor, history: LossHistory, span: Span, elapsed: Callable[[], float]) -> StepEvent:
    """The event of the newest row of the history. Synchronises with the device."""
    row = history.newest.tolist()  # waits for the device, so the time that follows is true
    seconds = elapsed()
    rate = step / seconds if step else 0.0
    terms = {name: sum(values) / len(values) for name, values in zip(history.names, row, strict=True)}
    memory = peak_memory_mib(pastiche.device)
    return StepEvent(span.scale, step, span.total, terms, seconds, rate, memory, pastiche, tuple(row[-1]))


def recover(
    stepper: Stepper, guard: Guard, recovery: Recovery, observer: LoopObserver, average: IterateAverage | None
) -> None:
    """Return to the best picture; give up, with that picture in place, when that has been tried often enough."""
    stepper.restart_from(guard.best)
    if average is not None:
        average.restart()
    observer.recovered(recovery)
    if guard.exhausted:
        raise NumericsError(
            f"the run diverged {guard.tries} times: {recovery}",
            "Lower `learning_rate`, or use the optimizer adam or the line search strong_wolfe",
        )


@dataclass
class EventClock:
    """Says when an event is due: at multiples of the given steps, and when half a second has passed on the clock."""

    every: Sequence[int]
    clock: Callable[[], float] = time.monotonic
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def __call__(self, step: int) -> bool:
        now = self.clock()
        if now - self._last > EVENT_SECONDS or any(step % every == 0 for every in self.every if every):
            self._last = now
            return True
        return False
