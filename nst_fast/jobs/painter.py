"""The side of a batch that makes pictures, each at a place of its own; :mod:`.batch` puts them into theirs."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from nst_fast.errors import InputError, NstFastError, ResumeError
from nst_fast.jobs.inputs import STATE
from nst_fast.jobs.runner import Job, JobFolder, JobObserver, Record
from nst_fast.jobs.storage import Fetched, Place, Url, delete, delete_folder, write
from nst_fast.options.config import StylizeConfig
from nst_fast.run.checkpoint import CheckpointWriter, remove_checkpoints
from nst_fast.run.observer import Observer
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Networks, Problem
from nst_fast.run.provenance import Provenance, readable_sha256
from nst_fast.run.resumption import check_same, newest
from nst_fast.run.run import run
from nst_fast.system.files import make_folder, shown, write_atomic

ATTEMPTS = f"{STATE}/attempts"
CHECKPOINTS = f"{STATE}/checkpoints"


@dataclass(frozen=True)
class Picture:
    """One picture of a batch.

    Attributes:
        name: within the batch.
        output: below the batch's folder, with slashes.
        number: its place among all, as ``2/9``.
        attempt: names one attempt to make it: a worker that was given up may still write.
    """

    name: str
    output: str
    content: Place
    number: str = ""
    attempt: str = ""

    @property
    def title(self) -> str:
        return f"{self.number} {shown(self.name)}"

    @property
    def written(self) -> str:
        """Where a worker writes it."""
        return f"{ATTEMPTS}/{self.attempt}/{self.output}"

    def attempted(self) -> Picture:
        return replace(self, attempt=secrets.token_hex(8))


@dataclass(frozen=True)
class Spec:
    """What all pictures of a batch have in common.

    Attributes:
        wanted: the provenance of its pictures, but for their contents.
        home: the folder that relative paths of options start from.
    """

    config: StylizeConfig
    styles: Sequence[Place]
    folder: Place
    wanted: Provenance
    home: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Made:
    """What came of a picture: a record, an error, or neither after a stop. ``worker``: if another than the driver."""

    picture: Picture
    record: Record | None = None
    error: NstFastError | None = None
    seconds: float = 0.0
    worker: str = ""


def this_process() -> str:
    """Host and process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Painter(JobFolder):
    """Makes pictures, keeping networks and targets from one to the next. Continues from checkpoints."""

    def __init__(self, spec: Spec, networks: Networks | None = None) -> None:
        self._fetched = Fetched()
        self._remote = spec.folder if isinstance(spec.folder, Url) else None
        super().__init__(self._fetched.path if isinstance(spec.folder, Url) else spec.folder)
        self.networks = networks or self.networks
        self.spec = spec
        self.styles = [self._fetched.local(style) for style in spec.styles]
        self._written: dict[str, str] = {}

    def make(self, pictures: Sequence[Picture], observer: JobObserver) -> Iterator[Made]:
        """What came of every picture, with the file at its ``written``; several are made in one loop.

        Raises:
            NstFastError: what concerns not one picture alone.
        """
        known = {picture.name: picture for picture in pictures}
        self._written = {picture.name: picture.written for picture in pictures}
        worker, jobs = this_process(), []
        for picture in pictures:
            try:
                content = self._fetched.local(picture.content)
            except InputError as error:
                yield Made(picture, error=error, worker=worker)
            else:
                number = picture.number
                jobs.append(Job(picture.name, picture.output, self.spec.config, content, self.styles, number=number))
        for outcome in self.run(jobs, observer):
            picture = known[outcome.job.name]
            problem = self._fetched.renamed(outcome.error, picture.content)
            self._fetched.forget(picture.content)
            yield Made(picture, outcome.record, problem, outcome.seconds, worker)

    def files(self, job: Job) -> OutputFiles:
        return OutputFiles(self.folder / self._written[job.name])

    def finished(self, job: Job) -> None:
        """Only what is not finished is given to a painter."""

    def paint(self, job: Job, problem: Problem, observer: Observer) -> Pastiche:
        """Continue from the checkpoint of a worker that died or was stopped, or start."""
        files, writer = self._checkpoints(job), None
        if interval := job.config.checkpoint_every:
            make_folder(files.picture.parent)
            for name, place in checkpoints_at(self._remote, job.output).items() if self._remote is not None else ():
                write_atomic(files.picture.with_name(name), place.read_bytes())
            writer = CheckpointWriter(files, interval, observer.note, lambda: self._publish_checkpoints(job))
        if files.checkpoints():
            try:
                checkpoint = newest(files, observer.note)
                assert job.content is not None
                wanted = replace(self.spec.wanted, content=readable_sha256(job.content))
                if wanted.differences(Provenance.of_record(checkpoint.record)):
                    raise ResumeError("what was kept is of another input or other options")
                check_same(checkpoint, problem, observer.note)
                observer.note(f"continuing after step {checkpoint.step} of {job.config.steps}")
                return run(problem, files, observer, writer, checkpoint)
            except ResumeError as error:
                observer.note(f"started anew: {error.message}")
                remove_checkpoints(files)
        return run(problem, files, observer, writer)

    def store(self, job: Job, pastiche: Pastiche) -> None:
        super().store(job, pastiche)
        if self._remote is not None:
            picture = self.files(job).picture
            write(self._remote / self._written[job.name], picture.read_bytes())
            delete_folder(picture.parent)
            remove_checkpoints(self._checkpoints(job))

    def _checkpoints(self, job: Job) -> OutputFiles:
        """The files of a picture's checkpoints: not among the pictures, and of use to this batch alone."""
        return OutputFiles(self.folder / CHECKPOINTS / job.output)

    def _publish_checkpoints(self, job: Job) -> None:
        """Bring those of an address to the state of those here."""
        if self._remote is None:
            return
        here = {path.name: path for path in self._checkpoints(job).checkpoints()}
        there = checkpoints_at(self._remote, job.output)
        folder = (self._remote / CHECKPOINTS / job.output).parent
        for name in here.keys() - there.keys():
            write(folder / name, here[name].read_bytes())
        for name in there.keys() - here.keys():
            delete(there[name])


def checkpoints_at(folder: Url, output: str) -> dict[str, Url]:
    """Name -> address of the checkpoints of a picture."""
    picture = folder / CHECKPOINTS / output
    pattern = re.compile(re.escape(PurePosixPath(picture.name).stem) + r"-checkpoint-\d{6,}\.safetensors")
    return {name: place for name, place in picture.parent.files() if pattern.fullmatch(name)}


def remove_checkpoints_of(folder: Place, output: str) -> None:
    """Remove those of a picture that is made, or that cannot be."""
    if isinstance(folder, Path):
        remove_checkpoints(OutputFiles(folder / CHECKPOINTS / output))
    else:
        for place in checkpoints_at(folder, output).values():
            delete(place)
