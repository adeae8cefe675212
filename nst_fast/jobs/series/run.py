"""Run a series in one process: the network is loaded once, finished runs are kept, a failed one is a marked hole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from nst_fast.api import Listeners, Pastiche, run
from nst_fast.errors import InputError, ModelError, NumericsError, OutOfMemoryError, PartialError, UsageError
from nst_fast.jobs.series.folder import Measure, Outcome, Record, SeriesFolder
from nst_fast.jobs.series.jobs import Job, Series
from nst_fast.run.checkpoint import Checkpoint, CheckpointWriter
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.problem import Networks, Problem, load_problem
from nst_fast.system.files import lock
from nst_fast.system.machine import resolve_device

# What concerns one run alone. A full disk or a missing device would fail all the others too, and ends the series.
ERRORS_OF_ONE = (UsageError, InputError, ModelError, NumericsError, OutOfMemoryError)

Watch = Callable[[str], AbstractContextManager[Listeners]]  # says which run begins, and gives who hears of it
Label = Callable[[Outcome], str]


def run_series(
    series: Series,
    folder: Path,
    watch: Watch,
    *,
    overwrite: bool = False,
    label: Label = lambda outcome: "",
    measure: Measure = lambda job, picture: {},
) -> list[Outcome]:
    """Run the jobs that are not finished yet; write pictures, records, table, curves and sheet into the folder.

    A job is finished when its record's options and inputs are its own and the picture has the hash that the record
    states. A stopped run leaves no picture, so that the next call does it again from its start.

    Args:
        series: what to run.
        folder: where everything goes.
        watch: called with a line about each job that is run; the listeners' ``stop`` ends the series.
        overwrite: replace the pictures of another series.
        label: what stands under a picture on the sheet; must not depend on time.
        measure: further columns of the table.

    Returns:
        One outcome per job, in order; those after a stop are neither done nor failed.

    Raises:
        OutputError: before any work, if something of another origin would be replaced; later, if writing fails.
        BusyError: another process writes to this folder.
    """
    files = SeriesFolder(folder)
    files.check(series, overwrite=overwrite)
    with lock(files.plan):
        files.write_plan(series)
        networks = Networks()
        outcomes: list[Outcome] = []
        stopped = False
        for number, job in enumerate(series.jobs, start=1):
            if stopped:
                outcomes.append(Outcome(job))
                continue
            with watch(f"{number}/{len(series.jobs)} {job.label}") as listeners:
                outcomes.append(attempt(job, files, networks, listeners, measure))
                stopped = listeners.stop()
        files.conclude(series, outcomes, label)
    return outcomes


def attempt(job: Job, files: SeriesFolder, networks: Networks, listeners: Listeners, measure: Measure) -> Outcome:
    """A job's outcome: found finished, run now, failed, or given up when the user stops."""
    try:
        record = finish(job, files, networks, listeners)
        measured = measure(job, files.files(job).picture) if record is not None else {}
    except ERRORS_OF_ONE as error:
        return Outcome(job, error=error)
    return Outcome(job, record, measured=measured)


def finish(job: Job, files: SeriesFolder, networks: Networks, listeners: Listeners) -> Record | None:
    """The record of the finished job, which is run unless it was; None when the user stopped it."""
    _, weights = networks.encoder(job.config, job.config.taps, resolve_device(job.config.device))
    if (found := files.finished(job, weights["sha256"])) is not None:
        listeners.note("finished before, kept")
        return found
    problem = load_problem(job.config, job.content, job.styles, networks, size=job.size)
    pastiche = paint(problem, files.files(job), listeners)
    if pastiche is None:
        return None
    files.files(job).save_picture(pastiche.image, pastiche.record)
    return pastiche.record.as_dict()


def paint(
    problem: Problem,
    files: OutputFiles,
    listeners: Listeners,
    keeper: CheckpointWriter | None = None,
    interrupted: Checkpoint | None = None,
) -> Pastiche | None:
    """Run a problem to its end; None when the user stopped it. Snapshots are written, the picture itself is not."""
    warm_up()
    pastiche = run(problem, files, listeners, keeper, interrupted)
    if pastiche.failure is not None:
        raise pastiche.failure
    return None if listeners.stop() and pastiche.record.status != "complete" else pastiche


@functools.cache
def warm_up() -> None:
    """Let PyTorch load what it loads at the first update: seconds that would count as the first run's."""
    pixel = torch.zeros(1)
    pixel.grad = torch.zeros(1)
    torch.optim.Adam([pixel]).step()


def check_complete(series: Series, outcomes: Sequence[Outcome]) -> None:
    """Raise :class:`PartialError` if a job failed."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        raise PartialError(
            f"{failed} of {len(outcomes)} runs of the {series.kind} failed",
            "Mend what the lines above name and run the same command again: finished runs are kept",
        )
