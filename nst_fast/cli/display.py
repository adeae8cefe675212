"""Runs on stderr: a bar on a terminal, lines elsewhere. Imports the loop's observer, and so torch: import it late."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nst_fast.cli.console import Messages, Stream, complain, emit_event
from nst_fast.cli.signals import Stop
from nst_fast.jobs.runner import JobObserver
from nst_fast.options.config import ReportOptions
from nst_fast.run.observer import StepEvent, sums_by_kind

STEP_FIELDS = ("step", "steps", "scale", "seconds", "steps_per_second", "peak_memory_mib", "terms")  # of an event
LINE_SECONDS = 10.0  # off a terminal: a line every so often ...
LINE_SHARE = 0.1  # ... or whenever this much more of the run is done


class Display(JobObserver):
    """Shows one run, or several in turn, and stops them at a signal.

    Log lines, if ``options`` ask for any, come in place of progress lines or above the bar.
    """

    def __init__(self, messages: Messages, stop: Stop, options: ReportOptions | None = None) -> None:
        self.messages, self._stop = messages, stop
        self.log_every = options.log_every if options is not None else 0
        self.log_format = options.log_format if options is not None else ""
        console = messages.console
        self.has_bar = (
            not Stream.is_json and console.is_terminal and not console.is_dumb_terminal and not messages.quiet
        )
        self._said: set[str] = set()
        self._progress = Progress()
        self._reset()

    @contextmanager
    def begin(self, title: str = "") -> Iterator[Self]:
        """The display of a run, announced by its title."""
        if title:
            self.messages.say(title, "begin")
        self._reset()
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self.messages.console, transient=True, disable=not self.has_bar)
        with self._progress:
            self._progress.add_task("", total=None, losses="preparing", speed="")
            yield self

    def event(self, event: StepEvent) -> None:
        if Stream.is_json:
            if not self.messages.quiet:
                emit_event("step", **{name: getattr(event, name) for name in STEP_FIELDS})
            return
        speed = f"{event.steps_per_second:.2f} steps/s" if event.steps_per_second else ""
        if self.has_bar:
            losses = losses_line(event.terms)
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=event.step, total=event.steps, losses=losses, speed=speed)
        if self.log_every:
            if event.step % self.log_every == 0 or event.step == event.steps:
                self.messages.say(log_line(event, self.log_format))
        elif not self.has_bar and self.is_due(event):
            self._line_at, self._share = time.monotonic(), event.step / event.steps
            self.messages.say("  ".join(filter(None, [log_line(event, "plain"), speed])))

    def note(self, text: str) -> None:
        if self._is_new(text):
            self.messages.note(text)

    def detail(self, text: str) -> None:
        if self._is_new(text):
            self.messages.detail(text)

    def stop(self) -> bool:
        return self._stop()

    def made(self, text: str) -> None:
        self.messages.say(text)

    def failed(self, text: str) -> None:
        """Printed with --quiet too."""
        complain(f"failed: {text}")

    def is_due(self, event: StepEvent) -> bool:
        """Whether a progress line is."""
        passed, done = time.monotonic() - self._line_at, event.step / event.steps - self._share
        return passed >= LINE_SECONDS or done >= LINE_SHARE or event.step == event.steps

    def kind(self, text: str) -> str:
        """What is shown once of texts that are alike."""
        return text

    def _reset(self) -> None:
        self._line_at, self._share = -math.inf, -1.0

    def _is_new(self, text: str) -> bool:
        kind = self.kind(text)
        if kind in self._said:
            return False
        self._said.add(kind)
        return True


class ManyDisplay(Display):
    """Shows the runs of a batch. Off a terminal only long ones have lines: each picture has one when it is finished."""

    _picture = ""

    @contextmanager
    def begin(self, title: str = "") -> Iterator[Self]:
        self._picture = f"{PurePosixPath(title).name}:"
        announced = self.messages.console.is_terminal or self.log_every
        with super().begin(title if announced else ""):
            self._line_at = self._line_at if announced else time.monotonic()
            yield self

    def is_due(self, event: StepEvent) -> bool:
        if self.messages.console.is_terminal:
            return super().is_due(event)
        return time.monotonic() - self._line_at >= LINE_SECONDS and event.step < event.steps

    def kind(self, text: str) -> str:
        # Free memory and the like differ from run to run: texts that differ in figures alone are printed once.
        return text if text.startswith(self._picture) else re.sub(r"\d+", "#", text)


def log_line(event: StepEvent, form: str) -> str:
    """What is logged of a step. ``run`` is the PyTorch tutorial's line, ``epoch`` that of courses with TensorFlow."""
    sums = sums_by_kind(event.terms)
    if form == "run":
        content, style = sums.get("content", 0.0), sums.get("style", 0.0)
        return f"run [{event.step}]: Style Loss: {style:.6f}, Content Loss: {content:.6f}"
    if form == "epoch":
        return f"Epoch {event.step}, Loss: {sums['total']:.6g}"
    return f"step {event.step}/{event.steps}  {losses_line(event.terms)}"


def losses_line(terms: dict[str, float]) -> str:
    """``total 1.23  content 0.8  style 0.43``: terms added up by kind."""
    sums = sums_by_kind(terms)
    order = ["total", *(kind for kind in sums if kind != "total")]
    return "  ".join(f"{kind} {sums[kind]:.4g}" for kind in order)
