"""The folder of a batch: which pictures are made, by the manifest; which output may be written; claims, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import msgspec

from nst_fast.errors import InputError, OutOfMemoryError, OutputError, ResumeError
from nst_fast.jobs.claims import Worker
from nst_fast.jobs.inputs import STATE, folded, identity, output_name, stem_key
from nst_fast.jobs.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.jobs.runner import Job, JobFolder, JobObserver, Outcome, Record
from nst_fast.options.config import StylizeConfig
from nst_fast.run.checkpoint import checkpoint_writer, remove_checkpoints
from nst_fast.run.observer import Observer
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Problem
from nst_fast.run.provenance import Provenance, readable_sha256
from nst_fast.run.record import current_options, read_record
from nst_fast.run.resumption import check_same, newest
from nst_fast.run.run import run
from nst_fast.system.files import check_writable, make_folder, sha256_bytes, shown, write_atomic
from nst_fast.system.machine import resolve_device

PLAN_SCHEMA: Final = "nst-fast/batch-plan/1"
# Workers of one batch may compute on different devices, and find the weights, which have a hash, in different places.
NOT_COMPARED = ("device", "engine_provider", "weights")
MOST_DEATHS = 3  # of workers at one picture before it counts as failed


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

    plan: Provenance
    worker: Worker

    def __init__(
        self, folder: Path, manifest: Manifest, observer: JobObserver, *, overwrite: bool, retry_failed: bool
    ) -> None:
        super().__init__(folder)
        self.manifest, self.observer = manifest, observer
        self.overwrite, self.retry_failed = overwrite, retry_failed
        self.made = 0
        self._lines_before = manifest.lines
        self._verified: set[object] = set()

    def check_plan(self, config: StylizeConfig, styles: Sequence[Path], format: str) -> None:
        """Decide the plan. Raises :class:`OutputError` if the folder has pictures of another that must stay."""
        _, weights = self.networks.encoder(config, config.taps, resolve_device(config.device))
        whole = Provenance.of_run(config, None, styles, weights["sha256"])
        options = {name: value for name, value in whole.options.items() if name not in NOT_COMPARED}
        self.plan = replace(whole, options=options)
        files: _PlanFiles = {"weights": weights["sha256"], "styles": list(whole.styles), "init": whole.init}
        self._plan: _PlanFile = {"schema": PLAN_SCHEMA, "format": format, "options": options, "files": files}
        self.options_sha256 = sha256_bytes(json.dumps(self._plan, sort_keys=True).encode())
        if not self.overwrite and self.manifest.made and (differences := self._plan_differences()):
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
        if stored["format"] != self._plan["format"]:
            differences.append(f"`format` {stored['format']}, not {self._plan['format']}")
        return differences

    def save_plan(self) -> None:
        write_atomic(self.folder / STATE / "plan.json", (json.dumps(self._plan, indent=1) + "\n").encode())

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
                whole = place > self._lines_before or not self.retry_failed
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
        inputs = [*(job.content for job in jobs if job.content is not None), *(jobs[0].styles if jobs else ())]
        identities = {identity(path) for path in inputs} - {None}
        for job in jobs:
            if identity(self.files(job).picture) in identities:
                check_writable(self.files(job).picture, overwrite=True, inputs=inputs)  # names the input that it is
        if refused := [refusal for job in jobs if (refusal := self.refusal(job))]:
            more = f", nor were {len(refused) - 1} others" if len(refused) > 1 else ""
            raise OutputError(refused[0].message + more, refused[0].remedy)

    def refusal(self, job: Job) -> OutputError | None:
        """What is wrong with writing the job's files: something that this batch did not make would be replaced."""
        files = self.files(job)
        blocked = files.picture if files.picture.exists() else files.record
        if self.overwrite or not blocked.exists() or (job.name, job.output) in self.manifest.made:
            return None
        with suppress(InputError):
            record = read_record(blocked)
            # A picture of this batch whose worker was killed before it wrote its line, or a record without picture.
            if blocked == files.record or (record["status"] != "stopped" and not self._differences(job, record)):
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
                observer.note(f"going on after step {checkpoint.step} of {job.config.steps}")
                return run(problem, files, observer, writer, checkpoint)
            except ResumeError as error:
                observer.note(f"begun anew: {error.message}")
                remove_checkpoints(files)
        return run(problem, files, observer, writer)

    def save(self, job: Job, pastiche: Pastiche) -> bool:
        if self.worker.holds(stem_key(job.name)):
            return super().save(job, pastiche)
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
