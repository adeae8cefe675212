"""The loop: evaluate, report when an event is due, update. Nothing reads the device in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.errors import NumericsError
from nst_fast.optimizers import PixelOptimizer
from nst_fast.run.averaging import IterateAverage
from nst_fast.run.guard import GUARD_STEPS, Guard, Recovery
from nst_fast.run.observer import StepEvent
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


@dataclass(frozen=True)
class Course:
    """How a loop behaves from step to step. None of these may look at the device, but for ``keep`` when it keeps.

    Attributes:
        learning_rate: step -> rate of the update that follows.
        due: step -> whether to report.
        elapsed: seconds since the run began, on the host.
        smooths: step -> whether the picture is smoothed after that update.
        stop: asked once a step; the run ends early, in good order, when it returns True.
        recovered: told of every return to the best picture.
        keep: told of every step, and whether it is the last for the user's wish; may keep the state for later.
    """

    learning_rate: Callable[[int], float]
    due: Callable[[int], bool]
    elapsed: Callable[[], float]
    smooths: Callable[[int], bool] = lambda step: False
    stop: Callable[[], bool] = lambda: False
    recovered: Callable[[Recovery], None] = lambda recovery: None
    keep: Callable[[int, bool], None] = lambda step, stopping: None


def optimize(
    evaluate: Evaluator,
    optimizer: PixelOptimizer,
    guard: Guard,
    history: LossHistory,
    span: Span,
    course: Course,
    average: IterateAverage | None = None,
) -> Iterator[StepEvent]:
    """Run the loop; yield an event at every step that is due, and one when the run ends.

    Args:
        evaluate: the engine.
        optimizer: holds the pastiche and changes it in place.
        guard: knows the best picture; steps in when an event shows a divergence.
        history: receives the terms of every step.
        span: the steps to do.
        course: when to report, smooth, stop, and how fast to go.
        average: takes in every iterate.

    Raises:
        NumericsError: the run diverged once more than the guard tries; the pastiche is then the best picture.
    """
    begin = span.first + span.done
    for step in range(begin, span.first + span.steps + span.last):
        evaluation = evaluate(optimizer.pastiche)
        history.append(evaluation)
        guard.observe(step, optimizer.pastiche, evaluation)
        stopping = course.stop()
        # Before the guard steps in, which a stop makes it do at other steps: who goes on from here evaluates again.
        course.keep(step, stopping)
        ends = stopping or step == span.first + span.steps
        if ends or step == begin or course.due(step):
            seen = event_at(step, optimizer.pastiche, history, span, course)
            recovery = guard.check(step, seen.totals) if ends or step % GUARD_STEPS == 0 else None
            if recovery:
                recover(optimizer, guard, recovery, course, average)
                evaluation = evaluate(optimizer.pastiche)
                history.replace_last(evaluation)
                seen = event_at(step, optimizer.pastiche, history, span, course)
            yield seen
        if ends:
            return
        optimizer.update(evaluation, evaluate, course.learning_rate(step) * guard.learning_rate_factor)
        del evaluation  # its gradient, as large as the picture, would lie beside the next one
        if average is not None:
            average.add(optimizer.pastiche)
        if course.smooths(step + 1):
            optimizer.smooth()
            guard.forget(optimizer.pastiche)
            if average is not None:
                average.restart()


def event_at(step: int, pastiche: Tensor, history: LossHistory, span: Span, course: Course) -> StepEvent:
    """The event of the newest row of the history. Synchronises with the device."""
    row = history.newest.tolist()  # waits for the device, so the time that follows is true
    seconds = course.elapsed()
    rate = step / seconds if step else 0.0
    terms = {name: sum(values) / len(values) for name, values in zip(history.names, row, strict=True)}
    memory = peak_memory_mib(pastiche.device)
    return StepEvent(span.scale, step, span.total, terms, seconds, rate, memory, pastiche, tuple(row[-1]))


def recover(
    optimizer: PixelOptimizer, guard: Guard, recovery: Recovery, course: Course, average: IterateAverage | None
) -> None:
    """Go back to the best picture; give up, with that picture in place, when it has been tried often enough."""
    optimizer.restart_from(guard.best)
    if average is not None:
        average.restart()
    course.recovered(recovery)
    if guard.exhausted:
        raise NumericsError(
            f"the run diverged {guard.tries} times: {recovery}",
            "Lower --learning-rate, or use --optimizer adam or --line-search strong_wolfe",
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
