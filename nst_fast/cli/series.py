"""What the commands that run a series have in common: a display per run, the last words, the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nst_fast.cli.console import Messages, complain, emit, emit_json, progress
from nst_fast.cli.signals import Stop

if TYPE_CHECKING:
    from nst_fast.jobs.runner import JobObserver, Outcome
    from nst_fast.jobs.series import Series
    from nst_fast.run.observer import Observer


def watching(messages: Messages, stop: Stop) -> JobObserver:
    """Announces each run and gives it a display of its own; a note that every run has is shown once."""
    from nst_fast.api import Listeners
    from nst_fast.jobs.runner import JobObserver

    noted: set[str] = set()

    class Display(JobObserver):
        @contextmanager
        def begin(self, title: str) -> Iterator[Observer]:
            messages.say(title)
            with progress(messages) as display:
                yield Listeners(event=display, note=self.note, detail=self.note, stop=stop)

        def note(self, text: str) -> None:
            if text not in noted:
                noted.add(text)
                messages.note(text)

        def stop(self) -> bool:
            return stop()

    return Display()


def conclude_series(
    series: Series, outcomes: Sequence[Outcome], folder: Path, messages: Messages, stop: Stop, *, as_json: bool
) -> None:
    """A line for every failure, the sheet's path on stdout or one JSON object, and the exit code.

    Raises:
        PartialError: a run failed.
    """
    from nst_fast.jobs.series import check_complete

    for outcome in outcomes:
        if outcome.error is not None:
            complain(f"failed: {outcome.job.label}: {' '.join(str(outcome.error).split())}")
    finished = sum(outcome.record is not None for outcome in outcomes)
    if as_json:
        emit_json(facts_of(series, outcomes, folder, stopped=stop()))
    if stop():
        messages.say(f"stopped: {finished} of {len(outcomes)} runs are finished; the same command goes on")
        raise typer.Exit(stop.exit_code)
    check_complete(series, outcomes)
    messages.say(f"complete: {finished} runs")
    if not as_json:
        emit(str(folder / "sheet.png"))


def facts_of(series: Series, outcomes: Sequence[Outcome], folder: Path, *, stopped: bool) -> dict[str, Any]:
    """What --json gives: ``status`` is complete, partial (runs failed) or stopped."""
    failed = any(outcome.error is not None for outcome in outcomes)
    status = "stopped" if stopped else "partial" if failed else "complete"
    runs = [
        {
            **outcome.job.values,
            "status": outcome.status,
            **outcome.measured,
            **({"error": outcome.error.as_dict()} if outcome.error is not None else {}),
        }
        for outcome in outcomes
    ]
    sheet = str(folder / "sheet.png")
    return {"schema": f"nst-fast/{series.kind}/1", "status": status, "sheet": sheet, "runs": runs}
