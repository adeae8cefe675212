"""What the commands that run a series have in common: the display, the summary, the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nst_fast.cli.console import Messages, complain, emit, emit_json
from nst_fast.cli.signals import Stop, graceful_stop

if TYPE_CHECKING:
    from nst_fast.jobs.runner import Outcome
    from nst_fast.jobs.series import Series


def run_and_conclude(series: Series, folder: Path, messages: Messages, *, as_json: bool, **settings: Any) -> None:
    """Run a series, display each run and end the command; ``settings`` are those of ``run_series``."""
    from nst_fast.cli.display import Display
    from nst_fast.jobs.series import run_series

    with graceful_stop(messages.say) as stop:
        outcomes = run_series(series, folder, Display(messages, stop), **settings)
    conclude_series(series, outcomes, folder, messages, stop, as_json=as_json)


def conclude_series(
    series: Series, outcomes: Sequence[Outcome], folder: Path, messages: Messages, stop: Stop, *, as_json: bool
) -> None:
    """A line for every failure, the sheet's path on stdout or one JSON object, and the exit code.

    Raises :class:`PartialError` where a run failed.
    """
    from nst_fast.jobs.series import check_complete

    for outcome in outcomes:
        if outcome.error is not None:
            complain(f"failed: {outcome.job.label}: {' '.join(str(outcome.error).split())}")
    finished = sum(outcome.record is not None for outcome in outcomes)
    if as_json:
        emit_json(facts_of(series, outcomes, folder, stopped=stop()))
    if stop():
        messages.say(f"stopped: {finished} of {len(outcomes)} runs are finished; the same command continues")
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
