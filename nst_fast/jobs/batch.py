"""A batch: many pictures in one style, by any number of workers, until each is made or known not to be possible."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import msgspec

from nst_fast.errors import InputError, OutOfMemoryError, OutputError, ResumeError, UsageError
from nst_fast.images import READABLE, WRITABLE, check_output_suffix
from nst_fast.jobs.claims import Worker, at_work
from nst_fast.jobs.inputs import (
    STATE,
    WHOLE,
    Shard,
    check_files_named,
    check_folder,
    find_pictures,
    folded,
    identity,
    output_name,
    output_names,
    stem_key,
)
from nst_fast.jobs.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.jobs.runner import NOT_RUN, Job, JobFolder, JobObserver, Outcome, Record, Runner
from nst_fast.options.config import StylizeConfig
from nst_fast.run.checkpoint import checkpoint_writer, remove_checkpoints
from nst_fast.run.observer import Observer
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Problem, check_styles, files_read, read_picture
from nst_fast.run.provenance import Provenance, readable_sha256
from nst_fast.run.record import current_options, read_record
from nst_fast.run.resumption import check_same, newest
from nst_fast.run.run import run
from nst_fast.run.together import check_joinable
from nst_fast.system.files import (
    check_writable,
    make_folder,
    refuse_inputs,
    sha256_bytes,
    shown,
    user_path,
    write_atomic,
)
from nst_fast.system.machine import resolve_device

MANIFEST = "manifest.jsonl"
WATCH_SECONDS = 2.0  # between two looks for new pictures; one that did not change in between is complete
WAIT_SECONDS = 0.5  # between two looks at pictures that other workers claim
PLAN_SCHEMA: Final = "nst-fast/batch-plan/1"
# Workers of one batch may compute on different devices, and find the weights, which have a hash, in different places.
NOT_COMPARED = ("device", "engine_provider", "weights")
MOST_DEATHS = 3  # of workers at one picture before it counts as failed


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """What to make.

    Attributes:
        inputs: pictures and folders.
        styles: all blended in every picture, as ``stylize`` does.
        folder: for the outputs, in a tree like that of the inputs.
        format: of the outputs: png, jpg, webp, tif or bmp.
        overwrite: replace pictures that this batch did not make, or made with other options.
        retry_failed: try again what failed before this call.
        shard: the part to do.
        keep_watching: look for new pictures until stopped.
        together: how many pictures of one size may share a loop, see :mod:`nst_fast.run.together`.
    """

    inputs: Sequence[Path]
    styles: Sequence[Path]
    folder: Path
    config: StylizeConfig
    format: str = "png"
    overwrite: bool = False
    retry_failed: bool = True
    shard: Shard = WHOLE
    keep_watching: bool = False
    together: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", [user_path(path) for path in self.inputs])
        object.__setattr__(self, "styles", [user_path(path) for path in self.styles])
        object.__setattr__(self, "folder", user_path(self.folder))

    def check(self) -> None:
        """Raise :class:`UsageError` for options that make no sense."""
        if f".{self.format}" not in WRITABLE:
            raise UsageError(f"`format` {self.format}: cannot be written", f"Use {', '.join(WRITABLE)}")
        check_output_suffix(f"*.{self.format}", self.config.bit_depth, self.config.image_size)
        if self.together < 1:
            raise UsageError(f"`together` {self.together}: must be at least 1")
        if self.together > 1:
            check_joinable(self.config)


@dataclass(frozen=True)
class BatchResult:
    """The state of a batch, or of a shard of it.

    Attributes:
        entries: what the manifest says of each input, whichever worker did it; ``left`` are the other inputs.
        made, seconds: of this worker.
    """

    entries: Mapping[str, Entry]
    left: Sequence[str]
    made: int
    seconds: float

    @property
    def done(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == DONE]

    @property
    def failed(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == FAILED]

    @property
    def count(self) -> int:
        return len(self.entries) + len(self.left)


class _PlanFiles(TypedDict):
    weights: str
    styles: list[str]
    init: str


class _PlanFile(TypedDict):
    """What decides the pictures of a batch, in a file of its folder, so that two batches do not mix in one."""

    schema: Literal["nst-fast/batch-plan/1"]
    format: str
    options: dict[str, Any]
    files: _PlanFiles


class BatchFolder(JobFolder):
    """The folder that the workers of a batch share.

    Attributes:
        plan: what decides a picture, but for its content; ``options_sha256`` is its hash in the manifest.
        worker: this process; ``made`` counts its pictures.
    """

    worker: Worker

    def __init__(self, batch: BatchRequest, observer: JobObserver) -> None:
        """Raises :class:`InputError` for a style picture that cannot be used: it must not count as a fault of each."""
        super().__init__(batch.folder)
        config = batch.config
        self.batch, self.observer = batch, observer
        self.manifest = Manifest(batch.folder / MANIFEST)
        self.manifest.refresh()
        self.made = 0
        self._lines_before = self.manifest.lines
        self._verified: set[object] = set()
        check_styles(config, Path(), batch.styles)
        masks = [path for value in config.mask_files.values() for path in value.files]
        for path in filter(None, (*batch.styles, config.init_file, *masks)):
            read_picture(path, config, config.image_size)
        _, weights = self.networks.encoder(config, config.taps, resolve_device(config.device))
        whole = Provenance.of_run(config, None, batch.styles, weights["sha256"])
        options = {name: value for name, value in whole.options.items() if name not in NOT_COMPARED}
        self.plan = replace(whole, options=options)
        files: _PlanFiles = {"weights": weights["sha256"], "styles": list(whole.styles), "init": whole.init}
        self._plan: _PlanFile = {"schema": PLAN_SCHEMA, "format": batch.format, "options": options, "files": files}
        self.options_sha256 = sha256_bytes(json.dumps(self._plan, sort_keys=True).encode())

    def check_plan(self) -> None:
        """Raise :class:`OutputError` if the folder has pictures of another plan, or a manifest of something else."""
        manifest = self.manifest.path
        foreign = manifest.exists() and manifest.stat().st_size and not self.manifest.entries
        if foreign and not self.batch.overwrite and not (self.folder / STATE).exists():
            raise OutputError(f"{shown(manifest)} is no manifest of a batch", "Choose another folder, or rename it")
        if not self.batch.overwrite and self.manifest.made and (differences := self._plan_differences()):
            raise OutputError(
                f"{shown(self.folder)} holds a batch that was made otherwise: {'; '.join(differences)}",
                "Choose another folder, use the same options, or `overwrite` to make its pictures again",
            )

    def _plan_differences(self) -> list[str]:
        try:
            stored = msgspec.json.decode((self.folder / STATE / "plan.json").read_bytes(), type=_PlanFile)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError):
            return ["its plan cannot be read"]
        options = current_options(stored["options"])
        differences = self.plan.differences(Provenance(options=options, content=None, **stored["files"]))
        if stored["format"] != self.batch.format:
            differences.append(f"`format` {stored['format']}, not {self.batch.format}")
        return differences

    def save_plan(self) -> None:
        write_atomic(self.folder / STATE / "plan.json", (json.dumps(self._plan, indent=1) + "\n").encode())

    def jobs(self, pictures: Mapping[str, Path]) -> list[Job]:
        """A job for each picture, also of other shards and workers, which give the same names."""
        known = {name: entry.output for name, entry in self.manifest.entries.items()}
        outputs = output_names(list(pictures), f".{self.batch.format}", known)
        return [Job(name, outputs[name], self.batch.config, path, self.batch.styles) for name, path in pictures.items()]

    def entries(self) -> dict[str, Entry]:
        """What the manifest says by now, with these options."""
        self.manifest.refresh()
        entries = self.manifest.entries
        return {name: entry for name, entry in entries.items() if entry.options_sha256 == self.options_sha256}

    def wanted(self, job: Job) -> Provenance:
        assert job.content is not None  # every picture of a batch has one
        return replace(self.plan, content=readable_sha256(job.content))

    def finished(self, job: Job) -> Record | None:
        """As in any folder, for a worker that died between picture and manifest. Raises :class:`OutOfMemoryError` for
        a picture at which too many workers have died, as they do when memory runs out on a CPU.
        """
        found = super().finished(job)
        if found is None and self.worker.deaths(stem_key(job.name)) >= MOST_DEATHS:
            raise OutOfMemoryError(
                f"{MOST_DEATHS} workers were killed while they made it, as they are when memory runs out",
                "Use `max_memory` or a smaller `image_size`",
            )
        return found

    @contextmanager
    def claimed(self, job: Job) -> Iterator[bool]:
        with self.worker.claimed(stem_key(job.name)) as ours:
            self.manifest.refresh()
            yield ours

    def settled(self, job: Job) -> bool:
        """Whether there is nothing to do: made and whole, or failed and not to be tried again."""
        entry, place = self.manifest.entries.get(job.name), self.manifest.place.get(job.name, 0)
        if entry is None or entry.options_sha256 != self.options_sha256:
            return False
        assert job.content is not None
        known = (job.name, place, stamp(job.content))
        if known not in self._verified:
            if entry.status == FAILED:
                whole = place > self._lines_before or not self.batch.retry_failed
            else:
                whole = readable_sha256(self.files(job).picture) == entry.output_sha256
            if not whole or readable_sha256(job.content) != entry.input_sha256:
                return False
            self._verified.add(known)
        return True

    def placed(self, job: Job) -> Job:
        """The job with another output where a picture that came since names were given has taken its own."""
        others = {folded(entry.output) for name, entry in self.manifest.entries.items() if name != job.name}
        if folded(job.output) not in others:
            return job
        return replace(job, output=output_name(job.name, Path(job.output).suffix, others))

    def check_outputs(self, jobs: Sequence[Job]) -> None:
        """Raise :class:`OutputError`, before any work, if something that this batch did not make would be replaced."""
        inputs = {path for job in jobs for path in job.inputs}
        identities = {identity(path) for path in inputs} - {None}
        for job in jobs:
            for path in (self.files(job).picture, self.files(job).record):
                if identity(path) in identities:
                    refuse_inputs([path], inputs)  # names the input that it is
        if refused := [refusal for job in jobs if (refusal := self.refusal(job))]:
            more = f", nor were {len(refused) - 1} others" if len(refused) > 1 else ""
            raise OutputError(refused[0].message + more, refused[0].remedy)

    def refusal(self, job: Job) -> OutputError | None:
        """What is wrong with writing the job's files: something that this batch did not make would be replaced."""
        files = self.files(job)
        blocked = files.picture if files.picture.exists() else files.record
        if self.batch.overwrite or not blocked.exists() or (job.name, job.output) in self.manifest.made:
            return None
        # A picture of this batch whose worker was killed before it wrote its line, or a record without picture.
        for carrier in (files.record, files.picture):
            with suppress(InputError):
                record = read_record(carrier)
                whole = record["status"] != "stopped" or blocked == files.record
                if record["output"] == files.picture.name and whole and not self._differences(job, record):
                    return None
        return OutputError(
            f"{shown(blocked)} exists and was not made by this batch",
            "Choose another folder, or use `overwrite` to replace it",
        )

    def _differences(self, job: Job, record: Mapping[str, Any]) -> list[str]:
        return self.wanted(job).differences(Provenance.of_record(record))

    def may_share(self, job: Job) -> bool:
        """A job whose worker has died must not end others with it."""
        free = self.placed(job) is job and self.refusal(job) is None
        return free and not self.worker.deaths(stem_key(job.name))

    def checkpoints(self, job: Job) -> OutputFiles:
        """The files of a job's checkpoints: not among the pictures, and of use to this batch alone."""
        return OutputFiles(self.folder / STATE / "checkpoints" / job.output)

    def paint(self, job: Job, problem: Problem, observer: Observer) -> Pastiche:
        """Continue from the checkpoint of a worker that died or was stopped, or start."""
        files = self.checkpoints(job)
        writer = checkpoint_writer(files, job.config.checkpoint_interval, observer.note)
        if writer is not None:
            make_folder(files.picture.parent)
        if files.checkpoints():
            try:
                checkpoint = newest(files, observer.note)
                if self._differences(job, checkpoint.record):
                    raise ResumeError("what was kept is of another input or other options")
                check_same(checkpoint, problem, observer.note)
                observer.note(f"continuing after step {checkpoint.step} of {job.config.steps}")
                return run(problem, files, observer, writer, checkpoint)
            except ResumeError as error:
                observer.note(f"started anew: {error.message}")
                remove_checkpoints(files)
        return run(problem, files, observer, writer)

    def store(self, job: Job, pastiche: Pastiche) -> bool:
        if self.worker.holds(stem_key(job.name)):
            return super().store(job, pastiche)
        self.observer.note(f"{shown(job.name)}: given up; another worker took it over, as this one seemed to be dead")
        return False

    def ended(self, outcome: Outcome) -> None:
        """Add the line about a picture to the manifest."""
        job, record, error = outcome.job, outcome.record, outcome.error
        assert job.content is not None
        remove_checkpoints(self.checkpoints(job))
        self.manifest.append(
            Entry(
                input=job.name,
                input_sha256=record["inputs"]["content"]["sha256"] if record else readable_sha256(job.content),
                options_sha256=self.options_sha256,
                status=DONE if record else FAILED,
                output=job.output,
                output_sha256=record["output_sha256"] if record else "",
                seconds=round(outcome.seconds, 3),
                error=error.as_dict() if error is not None else None,
                worker=self.worker.title,
            )
        )
        self.worker.forget_deaths(stem_key(job.name))
        if error is not None:
            self.observer.failed(f"{shown(job.name)}: {error.as_dict()['message']}")
        else:
            self.made += 1
            self.observer.made(f"{job.title}: {shown(job.output)} in {outcome.seconds:.1f} s")


def stamp(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does; None when it is not there."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino) if status is not None else None


def run_batch(batch: BatchRequest, observer: JobObserver) -> BatchResult:
    """Make every picture that the manifest does not show as made, and write each into the manifest.

    Made means: a line of the manifest says so for this input with this content and these options, and the output has
    the hash it states. Any number of workers may share the folder; this call ends when nothing is left for any of them.

    Raises:
        InputError: there is no picture to be found, or a style picture cannot be used.
        UsageError: pictures whose names clash, or a format that cannot be written.
        OutputError: before any work, if something that the batch did not make would be replaced; later, if writing
            fails.
        ModelError, DeviceError: before any work.
    """
    started = time.perf_counter()
    batch.check()
    check_folder(batch.folder)
    check_files_named(batch.styles)
    passed_over: Counter[str] = Counter()
    pictures = find_pictures(batch.inputs, batch.folder, passed_over)
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
    if not pictures and not batch.keep_watching:
        where = ", ".join(shown(path) for path in batch.inputs)
        raise InputError(
            f"no pictures in {where}" + (f" (files of other kinds: {others})" if others else ""),
            f"Looked for {', '.join(sorted(READABLE))}; hidden files are left",
        )
    inputs = files_read(batch.config, [*pictures.values(), *batch.styles])
    check_writable(batch.folder / MANIFEST, overwrite=True, inputs=inputs)
    if others:
        observer.note(f"files of other kinds are passed over: {others}")
    folder = BatchFolder(batch, observer)
    folder.check_plan()
    with at_work(batch.folder / STATE) as folder.worker:
        folder.check_outputs(folder.jobs(pictures))
        folder.save_plan()
        mine = work(folder, pictures)
    entries = folder.entries()
    ours = {name: entries[name] for name in mine if name in entries}
    left = [name for name in mine if name not in ours]
    return BatchResult(ours, left, folder.made, time.perf_counter() - started)


def work(folder: BatchFolder, pictures: Mapping[str, Path]) -> list[str]:
    """Run this shard's jobs until nothing is left; when watching, until stopped. Returns the names of its pictures."""
    batch, observer = folder.batch, folder.observer
    stamps: dict[str, object] = {}
    notes: set[str] = set()
    while True:
        mine = [job for job in folder.jobs(pictures) if batch.shard.holds(job.name)]
        ready = mine
        if batch.keep_watching:  # a picture is taken once it has stayed the same between two looks
            before, stamps = stamps, {job.name: now for job in mine if (now := stamp(job.content)) is not None}
            ready = [job for job in mine if job.name in stamps and stamps[job.name] == before.get(job.name)]
        todo = [job for job in ready if not folder.settled(job)]
        first = len(mine) - len(todo) + 1
        todo = [replace(job, number=f"{number}/{len(mine)}") for number, job in enumerate(todo, first)]
        outcomes = Runner(folder, observer, batch.together).run(todo)
        left = any(outcome.status == NOT_RUN for outcome in outcomes)
        if observer.stop() or not (left or batch.keep_watching):
            return [job.name for job in mine]
        reason = "waiting for other workers" if left else "looking for new pictures until stopped"
        if reason not in notes:
            notes.add(reason)
            observer.note(reason)
        pause(WAIT_SECONDS if left else WATCH_SECONDS, observer)
        if batch.keep_watching:
            pictures = find_pictures(batch.inputs, batch.folder)


def pause(seconds: float, observer: JobObserver) -> None:
    """Sleep in short intervals, so that a stop ends it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not observer.stop():
        time.sleep(0.1)
