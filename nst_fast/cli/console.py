"""What a command says while it works: messages on stderr, results on stdout, a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from nst_fast.loop import StepEvent

PLAIN_SECONDS = 10.0  # off a terminal: a line every so often ...
PLAIN_SHARE = 0.1  # ... or whenever this much more of the run is done


class Messages:
    """Writes notes to stderr unless told to be quiet. File names are printed as they are, never as markup."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(f"note: {text}"), soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(text), soft_wrap=True)


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
    sums: dict[str, float] = {}
    for name, value in terms.items():
        kind = name.split("/")[0]
        sums[kind] = sums.get(kind, 0.0) + value
    order = ["total", *(kind for kind in sums if kind != "total")]
    return "  ".join(f"{kind} {sums[kind]:.4g}" for kind in order)


@contextmanager
def progress(messages: Messages) -> Iterator[PlainProgress | BarProgress]:
    """The progress display that suits stderr."""
    if messages.quiet or not messages.console.is_terminal:
        yield PlainProgress(messages)
        return
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages.console, transient=True) as display:
        yield BarProgress(display)


def emit(line: str) -> None:
    """A result, on stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
