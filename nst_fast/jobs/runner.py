"""One runner of many jobs: finished results are kept, a failure concerns its job alone, the user can stop it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nst_fast.errors import InputError, ModelError, NstFastError, NumericsError, OutOfMemoryError, UsageError
from nst_fast.images.decoding import size_at
from nst_fast.jobs.inputs import check_folder, stem_key
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
    """The folder of the results. A subclass adds claims, a manifest, checkpoints or measures."""

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self.folder = folder
        self.networks = Networks()

    def files(self, job: Job) -> OutputFiles:
        return OutputFiles(self.folder / job.output)

    def wanted(self, job: Job) -> Provenance:
        _, weights = self.networks.encoder(job.config, job.config.taps, resolve_device(job.config.device))
        return job.provenance(weights["sha256"])

    def finished(self, job: Job) -> Record | None:
        """The record of a picture that is whole and has the job's provenance; else None."""
        files, wanted = self.files(job), self.wanted(job)
        try:
            record = read_record(files.record)
            whole = record["output_sha256"] == sha256_of(files.picture) and record["status"] != "stopped"
        except InputError:
            return None
        return record if whole and not wanted.differences(Provenance.of_record(record)) else None

    def claimed(self, job: Job) -> AbstractContextManager[bool]:
        """Whether this process may run the job during the block."""
        return nullcontext(True)

    def settled(self, job: Job) -> bool:
        """Whether another process has run the job in the meantime."""
        return False

    def placed(self, job: Job) -> Job:
        """The job with the output that is free for it now."""
        return job

    def refusal(self, job: Job) -> NstFastError | None:
        """Why the job may not be run, if so."""
        return None

    def may_share(self, job: Job) -> bool:
        """Whether the job may run in one loop with others."""
        return True

    def paint(self, job: Job, problem: Problem, observer: Observer) -> Pastiche:
        """Run the job's problem, without writing the picture."""
        return run(problem, self.files(job), observer)

    def store(self, job: Job, pastiche: Pastiche) -> bool:
        """Write a picture and its record; False where this process has lost its claim."""
        self.files(job).save_picture(pastiche.image, pastiche.record, pastiche.alpha)
        return True

    def measure(self, job: Job) -> Mapping[str, float]:
        """Further figures about a finished picture."""
        return {}

    def ended(self, outcome: Outcome) -> None:
        """Called with every record and every error."""


@dataclass(frozen=True)
class Runner:
    """Runs jobs one after the other, or up to ``together`` of one size in one loop."""

    folder: JobFolder
    observer: JobObserver
    together: int = 1

    def run(self, jobs: Iterable[Job]) -> list[Outcome]:
        """One outcome for each job but those settled by other processes; ``NOT_RUN`` are jobs that others claim, and
        all after a stop.
        """
        outcomes: list[Outcome] = []
        for group in groups_of(jobs, self.together):
            if self.observer.stop():
                outcomes += map(Outcome, group)
                continue
            with ExitStack() as claims:
                ours = []
                for job in group:
                    if not claims.enter_context(self.folder.claimed(job)):
                        outcomes.append(Outcome(job))
                    elif not self.folder.settled(job):
                        ours.append(job)
                outcomes += self._run_group(ours)
        return outcomes

    def _run_group(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run jobs in one loop, then those without a result one by one: a fault there concerns one job alone."""
        outcomes = self._run_together(jobs) if len(jobs) > 1 else []
        made = {outcome.job.name for outcome in outcomes}
        for job in jobs:
            if job.name not in made:
                outcomes.append(Outcome(job) if self.observer.stop() else self._run_one(job))
        return outcomes

    def _run_together(self, jobs: Sequence[Job]) -> list[Outcome]:
        problems = [(job, problem) for job in jobs if (problem := self._shareable(job)) is not None]
        outcomes: list[Outcome] = []
        if len(problems) < 2:
            return outcomes
        title = f"{problems[0][0].title} and {len(problems) - 1} more of its size"
        warm_up()
        try:
            with self.observer.begin(title) as observer:
                runs = run_together([problem for _, problem in problems], [None] * len(problems), observer)
                for index, pastiche in runs:
                    job, record = problems[index][0], pastiche.record
                    if pastiche.failure is not None:
                        raise pastiche.failure
                    if record.status == "stopped":
                        break
                    if self.folder.store(job, pastiche):
                        share = record.seconds / record.plan.get("together", 1)
                        outcomes.append(Outcome(job, record.as_dict(), seconds=share))
                        self.folder.ended(outcomes[-1])
        except ERRORS_OF_ONE as error:
            self.observer.note(f"{title}: {error}; continuing one by one")
        return outcomes

    def _shareable(self, job: Job) -> Problem | None:
        """The problem of a job; None where :meth:`_run_one` must find its result or its fault."""
        try:
            return self._load(job) if self.folder.may_share(job) and self.folder.finished(job) is None else None
        except ERRORS_OF_ONE:
            return None

    def _run_one(self, job: Job) -> Outcome:
        started = time.perf_counter()
        job = self.folder.placed(job)
        outcome = Outcome(job, error=self.folder.refusal(job))
        if outcome.error is None:
            try:
                record = self._result(job)
                outcome = Outcome(job, record, measured=self.folder.measure(job) if record is not None else {})
            except ERRORS_OF_ONE as error:
                outcome = Outcome(job, error=error)
        outcome = replace(outcome, seconds=time.perf_counter() - started)
        if outcome.record is not None or outcome.error is not None:
            self.folder.ended(outcome)
        return outcome

    def _result(self, job: Job) -> Record | None:
        """The record of the job's picture, found or made now; None if it was stopped or the claim is lost."""
        if (found := self.folder.finished(job)) is not None:
            self.observer.kept(job.title)
            return found
        with self.observer.begin(job.title) as observer:
            problem = self._load(job)
            warm_up()
            pastiche = self.folder.paint(job, problem, observer)
        if pastiche.failure is not None:
            raise pastiche.failure
        if pastiche.record.status == "stopped" or not self.folder.store(job, pastiche):
            return None
        return pastiche.record.as_dict()

    def _load(self, job: Job) -> Problem:
        make_folder(self.folder.files(job).picture.parent)
        return load_problem(job.config, job.content, job.styles, self.folder.networks, size=job.size)


@functools.cache
def warm_up() -> None:
    """Let PyTorch load now what it loads at the first update, which would count as the first run's seconds."""
    pixel = torch.zeros(1)
    pixel.grad = torch.zeros(1)
    torch.optim.Adam([pixel]).step()


def groups_of(jobs: Iterable[Job], together: int) -> Iterator[list[Job]]:
    """The jobs in groups of one size, at most so many in each; a group is given as soon as it is full.

    Pictures of unknown size, and those that compete with another for one output, are alone.
    """
    waiting: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        size = size_of(job) if together > 1 else None
        group = waiting.setdefault(size, []) if size is not None else []
        if any(stem_key(other.name) == stem_key(job.name) for other in group):
            yield [job]
            continue
        group.append(job)
        if size is None:
            yield group
        elif len(group) == together:
            yield waiting.pop(size)
    yield from waiting.values()


def size_of(job: Job) -> tuple[int, int] | None:
    """Height and width of the pastiche; None when they are unknown before the picture is decoded."""
    config = job.config
    if config.content_fit == "square":
        return config.image_size, config.image_size
    return size_at(job.content, config.image_size, config.max_megapixels) if job.content is not None else None
