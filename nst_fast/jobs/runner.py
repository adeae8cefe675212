"""One runner of many jobs: finished results are kept, a failure concerns its job alone, the user can stop it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nst_fast.errors import InputError, ModelError, NstFastError, NumericsError, OutOfMemoryError, UsageError
from nst_fast.jobs.inputs import check_folder
from nst_fast.options.config import StylizeConfig
from nst_fast.run.observer import Observer
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Networks, Problem, files_read, load_problem
from nst_fast.run.provenance import Provenance
from nst_fast.run.record import read_record
from nst_fast.run.run import run
from nst_fast.run.together import run_together
from nst_fast.system.files import make_folder, sha256_of, shown
from nst_fast.system.machine import resolve_device

# Errors of a single job. A full disk or a missing device would fail all others too, and ends the work.
ERRORS_OF_ONE = (UsageError, InputError, ModelError, NumericsError, OutOfMemoryError)

NOT_RUN = "not run"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One picture to be made.

    Attributes:
        name: unique among the jobs that run together.
        output: path of the picture below the folder of the results, with slashes.
        content, styles: None for a texture; empty for a reconstruction.
        size: height and width of the pastiche; by default the content's shape at ``image_size``.
        number: its place among all, as ``2/9``.
        values: of a series: axis -> value, as people read them.
    """

    name: str
    output: str
    config: StylizeConfig
    content: Path | None
    styles: Sequence[Path]
    size: tuple[int, int] | None = None
    number: str = ""
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its values, as ``style great_wave, content-weight 10``, or its name."""
        return ", ".join(f"{axis} {value}" for axis, value in self.values.items()) or shown(self.name)

    @property
    def title(self) -> str:
        return f"{self.number} {self.label}"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read."""
        return files_read(self.config, [path for path in (self.content, *self.styles) if path is not None])

    def provenance(self, weights: str | None) -> Provenance:
        size = self.size[::-1] if self.size is not None else None
        return Provenance.of_run(self.config, self.content, self.styles, weights, size)


@dataclass(frozen=True)
class Outcome:
    """The result of a job: a record, an error, or neither where it was not run or was stopped."""

    job: Job
    record: Record | None = None
    error: NstFastError | None = None
    seconds: float = 0.0
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.error is not None:
            return "failed"
        return str(self.record["status"]) if self.record is not None else NOT_RUN


class JobObserver(Observer):
    """Follows many runs; ``stop`` is also asked between them."""

    @contextmanager
    def begin(self, title: str) -> Iterator[Observer]:
        """A run of one job, or of several in one loop; gives its observer."""
        yield self

    def kept(self, title: str) -> None:
        """A job was finished before."""
        with self.begin(title) as observer:
            observer.note("finished before, kept")

    def made(self, text: str) -> None:
        """One sentence on a picture that is written."""

    def failed(self, text: str) -> None:
        """One sentence on a picture that cannot be made."""


class JobFolder:
    """Runs jobs, one after the other or several of one size in one loop; the results are in its folder.

    A subclass adds checkpoints or measures.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self.folder = folder
        self.networks = Networks()

    def files(self, job: Job) -> OutputFiles:
        return OutputFiles(self.folder / job.output)

    def finished(self, job: Job) -> Record | None:
        """The record of a picture that is whole and has the job's provenance; else None."""
        files = self.files(job)
        _, weights = self.networks.encoder(job.config, job.config.taps, resolve_device(job.config.device))
        wanted = job.provenance(weights["sha256"])
        try:
            record = read_record(files.record)
            whole = record["output_sha256"] == sha256_of(files.picture) and record["status"] != "stopped"
        except InputError:
            return None
        return record if whole and not wanted.differences(Provenance.of_record(record)) else None

    def paint(self, job: Job, problem: Problem, observer: Observer) -> Pastiche:
        """Run the job's problem, without writing the picture."""
        return run(problem, self.files(job), observer)

    def store(self, job: Job, pastiche: Pastiche) -> None:
        """Write a picture and its record."""
        self.files(job).save_picture(pastiche.image, pastiche.record, pastiche.alpha)

    def measure(self, job: Job) -> Mapping[str, float]:
        """Further figures about a finished picture."""
        return {}

    def run(self, jobs: Sequence[Job], observer: JobObserver) -> Iterator[Outcome]:
        """Run jobs in one loop, then those without a result one by one: a fault there concerns one job alone.

        One outcome for each job; ``NOT_RUN`` are those after a stop.
        """
        made = set()
        for outcome in self._run_together(jobs, observer) if len(jobs) > 1 and not observer.stop() else ():
            made.add(outcome.job.name)
            yield outcome
        for job in jobs:
            if job.name not in made:
                yield Outcome(job) if observer.stop() else self._run_one(job, observer)

    def _run_together(self, jobs: Sequence[Job], observer: JobObserver) -> Iterator[Outcome]:
        problems = [(job, problem) for job in jobs if (problem := self._shareable(job)) is not None]
        if len(problems) < 2:
            return
        title = f"{problems[0][0].title} and {len(problems) - 1} more of its size"
        warm_up()
        try:
            with observer.begin(title) as own:
                runs = run_together([problem for _, problem in problems], [None] * len(problems), own)
                for index, pastiche in runs:
                    job, record = problems[index][0], pastiche.record
                    if pastiche.failure is not None:
                        raise pastiche.failure
                    if record.status == "stopped":
                        break
                    self.store(job, pastiche)
                    yield Outcome(job, record.as_dict(), seconds=record.seconds / record.plan.get("together", 1))
        except ERRORS_OF_ONE as error:
            observer.note(f"{title}: {error}; continuing one by one")

    def _shareable(self, job: Job) -> Problem | None:
        """The problem of a job; None where :meth:`_run_one` must find its result or its fault."""
        try:
            return self._load(job) if self.finished(job) is None else None
        except ERRORS_OF_ONE:
            return None

    def _run_one(self, job: Job, observer: JobObserver) -> Outcome:
        started = time.perf_counter()
        try:
            record = self._result(job, observer)
            outcome = Outcome(job, record, measured=self.measure(job) if record is not None else {})
        except ERRORS_OF_ONE as error:
            outcome = Outcome(job, error=error)
        return replace(outcome, seconds=time.perf_counter() - started)

    def _result(self, job: Job, observer: JobObserver) -> Record | None:
        """The record of the job's picture, found or made now; None if it was stopped."""
        if (found := self.finished(job)) is not None:
            observer.kept(job.title)
            return found
        with observer.begin(job.title) as own:
            problem = self._load(job)
            warm_up()
            pastiche = self.paint(job, problem, own)
        if pastiche.failure is not None:
            raise pastiche.failure
        if pastiche.record.status == "stopped":
            return None
        self.store(job, pastiche)
        return pastiche.record.as_dict()

    def _load(self, job: Job) -> Problem:
        make_folder(self.files(job).picture.parent)
        return load_problem(job.config, job.content, job.styles, self.networks, size=job.size)


@functools.cache
def warm_up() -> None:
    """Let PyTorch load now what it loads at the first update, which would count as the first run's seconds."""
    pixel = torch.zeros(1)
    pixel.grad = torch.zeros(1)
    torch.optim.Adam([pixel]).step()
