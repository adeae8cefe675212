"""What a command says while it works: messages on stderr, results on stdout, a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nst_fast.system.files import shown

if TYPE_CHECKING:
    from nst_fast.options.config import ReportOptions
    from nst_fast.run.observer import StepEvent

PLAIN_SECONDS = 10.0  # off a terminal: a line every so often ...
PLAIN_SHARE = 0.1  # ... or whenever this much more of the run is done


def with_flags(text: str) -> str:
    """A message of the library for the command line: options that it names as ```image_size``` become flags."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: f"--{found[1].replace('_', '-')}", text)


class LastingConsole(Console):
    """Rich's console ends the program when nobody reads on; the work must not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(sys.stderr)


class Messages:
    """Writes notes to stderr unless told to be quiet. File names are printed as they are, never as markup."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.console = LastingConsole(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """One line; what a terminal would obey rather than print, as in odd file names, is escaped."""
        if not self.quiet:
            self.console.print(Text(shown(with_flags(text))), soft_wrap=True)


class PlainProgress:
    """A line every ten seconds or ten per cent, for logs and CI."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.said_at = -PLAIN_SECONDS
        self.said_share = -1.0

    def __call__(self, event: StepEvent) -> None:
        share = event.step / event.steps
        due = time.monotonic() - self.said_at >= PLAIN_SECONDS or share - self.said_share >= PLAIN_SHARE
        if due or event.step == event.steps:
            self.said_at, self.said_share = time.monotonic(), share
            speed = f"  {event.steps_per_second:.2f} steps/s" if event.steps_per_second else ""
            self.messages.say(f"step {event.step}/{event.steps}  {losses_line(event.terms)}{speed}")


class LogLines:
    """A line at every so many steps, in the form that the options name."""

    def __init__(self, messages: Messages, options: ReportOptions) -> None:
        self.messages = messages
        self.options = options

    def __call__(self, event: StepEvent) -> None:
        if event.step % self.options.log_every == 0 or event.step == event.steps:
            self.messages.say(log_line(event, self.options.log_format))


def log_line(event: StepEvent, form: str) -> str:
    """What is logged of a step. ``run`` is the PyTorch tutorial's line, ``epoch`` that of courses with TensorFlow."""
    sums = sums_by_kind(event.terms)
    if form == "run":
        content, style = sums.get("content", 0.0), sums.get("style", 0.0)
        return f"run [{event.step}]: Style Loss: {style:.6f}, Content Loss: {content:.6f}"
    if form == "epoch":
        return f"Epoch {event.step}, Loss: {sums['total']:.6g}"
    return f"step {event.step}/{event.steps}  {losses_line(event.terms)}"


class BarProgress:
    """A Rich progress bar with the losses, the speed and the time left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=None, losses="preparing", speed="")

    def __call__(self, event: StepEvent) -> None:
        speed = f"{event.steps_per_second:.2f} steps/s" if event.steps_per_second else ""
        self.progress.update(
            self.task, completed=event.step, total=event.steps, losses=losses_line(event.terms), speed=speed
        )


def losses_line(terms: dict[str, float]) -> str:
    """``total 1.23  content 0.8  style 0.43``: terms added up by kind."""
    sums = sums_by_kind(terms)
    order = ["total", *(kind for kind in sums if kind != "total")]
    return "  ".join(f"{kind} {sums[kind]:.4g}" for kind in order)


def sums_by_kind(terms: dict[str, float]) -> dict[str, float]:
    """``style/relu1_1`` and its like added up to ``style``, and so on."""
    sums: dict[str, float] = {}
    for name, value in terms.items():
        kind = name.split("/")[0]
        sums[kind] = sums.get(kind, 0.0) + value
    return sums


@contextmanager
def progress(messages: Messages, options: ReportOptions | None = None) -> Iterator[Callable[[StepEvent], None]]:
    """The progress display that suits stderr; log lines, if asked for, in place of plain ones or above the bar."""
    log = LogLines(messages, options) if options is not None and options.log_every else None
    if messages.quiet or not messages.console.is_terminal or messages.console.is_dumb_terminal:
        yield log or PlainProgress(messages)
        return
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages.console, transient=True) as display:
        bar = BarProgress(display)

        def both(event: StepEvent) -> None:
            bar(event)
            if log is not None:
                log(event)

        yield both


def emit(line: str) -> None:
    """A result, on stdout. When nobody reads it any more, the work goes on all the same."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)


_objects: list[str] = []  # the schemas of what --json has given


def emit_json(facts: Mapping[str, Any], *, indent: int | None = None) -> None:
    """The one JSON object that --json gives; ``facts`` begin with their ``schema``. ASCII, for any locale."""
    _objects.append(facts["schema"])
    emit(json.dumps(facts, indent=indent))


def emit_error(text: str, *, code: int, kind: str, as_json: bool) -> None:
    """The line on stderr that every error ends in; with --json also an object, unless the result was given before."""
    text = with_flags(text)
    complain(f"error: {text}")
    if as_json and not _objects:
        emit_json({"schema": "nst-fast/error/1", "status": "error", "code": code, "kind": kind, "message": text})


def complain(text: str) -> None:
    """A line on stderr, also for those who want to hear of nothing but errors."""
    try:
        sys.stderr.write(shown(text) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let what is still written to a stream vanish; Python would complain of it at its very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_streams() -> None:
    """Make stdout and stderr take every text: there may be none, or one that knows ASCII only.

    Names of files that are not UTF-8 come out as the bytes that they are.
    """
    _objects.clear()
    sys.stdout = sys.stdout or nowhere()
    sys.stderr = sys.stderr or nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def nowhere() -> TextIO:
    """For a stream that whoever started us has closed."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
