"""The pictures of a batch: what may be replaced for one, how it is made, alone or in a loop with others, its line."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst_fast.errors import InputError, NstFastError, OutOfMemoryError, OutputError, ResumeError
from nst_fast.jobs.batch.claims import Worker
from nst_fast.jobs.batch.groups import Task
from nst_fast.jobs.batch.inputs import STATE, folded, output_name, stem_key
from nst_fast.jobs.batch.job import Batch, Hooks
from nst_fast.jobs.batch.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.jobs.batch.plan import Plan, hash_or_empty
from nst_fast.jobs.series.run import ERRORS_OF_ONE, paint, warm_up
from nst_fast.run.checkpoint import Checkpoint, checkpoint_writer, remove_checkpoints
from nst_fast.run.observer import Listeners
from nst_fast.run.outputs import OutputFiles, Pastiche
from nst_fast.run.problem import Networks, Problem, load_problem
from nst_fast.run.record import read_record
from nst_fast.run.resumption import check_same, newest
from nst_fast.run.together import run_together
from nst_fast.system.files import check_writable, make_folder, sha256_of, shown

Record = Mapping[str, Any]
MOST_DEATHS = 3  # of workers at one picture before it counts as failed


@dataclass
class Maker:
    """Makes one picture after the other, and counts them."""

    batch: Batch
    hooks: Hooks
    plan: Plan
    manifest: Manifest
    worker: Worker
    networks: Networks
    made: int = 0

    def check_outputs(self, pictures: Mapping[str, Path], outputs: Mapping[str, str]) -> None:
        """Raise :class:`OutputError`, before any work, if something that this batch did not make would be replaced."""
        inputs = [*pictures.values(), *self.batch.styles]
        identities = {(status.st_dev, status.st_ino) for path in inputs if (status := status_of(path))}
        in_the_way = []
        for name, path in pictures.items():
            target = self.batch.folder / outputs[name]
            status = status_of(target)
            if status and (status.st_dev, status.st_ino) in identities:
                check_writable(target, overwrite=True, inputs=inputs)  # names the input that it is
            in_the_way += self.in_the_way(name, path, target)
        if in_the_way:
            raise refusal(in_the_way)

    def in_the_way(self, name: str, path: Path, output: Path) -> list[Path]:
        """The files that would be replaced, and that this batch did not make; empty with ``overwrite``."""
        files = OutputFiles(output)
        if self.batch.overwrite:
            return []
        if output.exists():
            return [] if self.is_ours(name, path, output) else [output]
        return [files.record] if files.record.exists() and not is_record(files.record) else []

    def is_ours(self, name: str, path: Path, output: Path) -> bool:
        """Whether an output was made here: the manifest names it, or would if its worker had not been killed."""
        if (name, output.relative_to(self.batch.folder).as_posix()) in self.manifest.made:
            return True
        with suppress(InputError):
            return self.plan.made(read_record(output), type(self.batch.config), hash_or_empty(path))
        return False

    def attempt_all(self, tasks: Sequence[Task]) -> int:
        """Attempt pictures of one size; return how many were given up.

        Several are made in one loop first. Those of which nothing came there are attempted one by one: what is wrong
        with one of them, or with all together, then concerns no other.
        """
        made = self.attempt_together(tasks) if len(tasks) > 1 else set()
        rest = [task for task in tasks if task not in made]
        return sum(self.hooks.stop() or not self.attempt(task) for task in rest)

    def attempt_together(self, tasks: Sequence[Task]) -> set[Task]:
        """Make pictures in one loop, as far as they can be loaded, and write them down; return which were made."""
        made: set[Task] = set()
        problems = {task: problem for task in tasks if (problem := self.loaded(task))}
        if len(problems) < 2:
            return made
        several = list(problems)
        title = f"{several[0].title} and {len(several) - 1} more of its size"
        warm_up()
        try:
            with self.hooks.watch(title) as listeners:
                for index, pastiche in run_together(list(problems.values()), [None] * len(several), listeners):
                    task, record = several[index], pastiche.record
                    if pastiche.failure is not None:
                        raise pastiche.failure
                    if record.status == "stopped":
                        break
                    if self.save(task.name, self.batch.folder / task.output, pastiche):
                        self.write_done(
                            task, task.output, record.as_dict(), record.seconds / record.plan.get("together", 1)
                        )
                        made.add(task)
        except ERRORS_OF_ONE as error:
            self.hooks.note(f"{title}: {error}; going on one by one")
        return made

    def loaded(self, task: Task) -> Problem | None:
        """The problem of a picture that is to be made; None where :meth:`attempt` finds it made, or what is wrong."""
        output = self.batch.folder / task.output
        if folded(task.output) in self.outputs_of_others(task.name) or self.in_the_way(task.name, task.path, output):
            return None
        if self.worker.deaths(stem_key(task.name)):
            return None  # whoever dies at it again shall take no other picture along
        try:
            if self.finished(OutputFiles(output), task.path):
                return None
            make_folder(output.parent)
            return load_problem(self.batch.config, task.path, self.batch.styles, self.networks)
        except ERRORS_OF_ONE:
            return None

    def attempt(self, task: Task) -> bool:
        """Make a picture and write down what came of it. False, and nothing written, if it was given up."""
        name, path, output, title = task.name, task.path, task.output, task.title
        started = time.perf_counter()
        others = self.outputs_of_others(name)
        if folded(output) in others:  # taken by a picture that came, or was made, since names were given
            output = output_name(name, f".{self.batch.format}", others)
        target = self.batch.folder / output
        if blocked := self.in_the_way(name, path, target):
            self.write_failure(name, path, output, refusal(blocked), started)
            return True
        try:
            record = self.finished(OutputFiles(target), path) or self.make(name, path, target, title)
        except ERRORS_OF_ONE as error:
            remove_checkpoints(self.kept(output))
            self.write_failure(name, path, output, error, started)
            return True
        if record is not None:
            self.write_done(task, output, record, time.perf_counter() - started)
        return record is not None

    def outputs_of_others(self, name: str) -> set[str]:
        return {folded(entry.output) for other, entry in self.manifest.entries.items() if other != name}

    def make(self, name: str, path: Path, output: Path, title: str) -> Record | None:
        """The record of the picture, which is written; None when it was stopped, or is another worker's now.

        Raises:
            OutOfMemoryError: too many workers have died at it, which is how memory runs out on a CPU.
        """
        if self.worker.deaths(stem_key(name)) >= MOST_DEATHS:
            raise OutOfMemoryError(
                f"{MOST_DEATHS} workers were killed while they made it, as they are when memory runs out",
                "Use --max-memory or a smaller --image-size",
            )
        make_folder(output.parent)
        with self.hooks.watch(title) as listeners:
            problem = load_problem(self.batch.config, path, self.batch.styles, self.networks)
            pastiche = self.paint(problem, self.kept(output.relative_to(self.batch.folder)), listeners)
        if pastiche is None or not self.save(name, output, pastiche):
            return None
        return pastiche.record.as_dict()

    def kept(self, output: str | Path) -> OutputFiles:
        """Where the checkpoints of a picture are: not among the pictures, and of use to this batch alone."""
        return OutputFiles(self.batch.folder / STATE / "checkpoints" / output)

    def paint(self, problem: Problem, kept: OutputFiles, listeners: Listeners) -> Pastiche | None:
        """Go on from what a worker that died, or was stopped, has kept of the picture, or begin it."""
        interval = problem.config.checkpoint_interval
        keeper = checkpoint_writer(kept, interval, listeners.note)
        if keeper is not None:
            make_folder(kept.picture.parent)
        if kept.checkpoints():
            try:
                checkpoint = self.interrupted(problem, kept, listeners)
                listeners.note(f"going on after step {checkpoint.step} of {problem.config.steps}")
                return paint(problem, kept, listeners, keeper, checkpoint)
            except ResumeError as error:
                listeners.note(f"begun anew: {error.message}")
                remove_checkpoints(kept)
        return paint(problem, kept, listeners, keeper)

    def interrupted(self, problem: Problem, kept: OutputFiles, listeners: Listeners) -> Checkpoint:
        """The newest checkpoint. Raises :class:`ResumeError` if it is of other options, files or another device."""
        checkpoint = newest(kept, listeners.note)
        assert problem.content is not None  # every picture of a batch has one
        if not self.plan.began(checkpoint.record, type(self.batch.config), problem.content.sha256):
            raise ResumeError("what was kept is of another input or other options")
        check_same(checkpoint, problem, listeners.note)
        return checkpoint

    def save(self, name: str, output: Path, pastiche: Pastiche) -> bool:
        """Write a picture, unless it is another worker's now."""
        if not self.worker.holds(stem_key(name)):
            self.hooks.note(f"{shown(name)}: given up; another worker took it over, for this one seemed to be dead")
            return False
        OutputFiles(output).save_picture(pastiche.image, pastiche.record)
        return True

    def finished(self, files: OutputFiles, path: Path) -> Record | None:
        """The record of a picture that was written whole, but whose worker died before the manifest knew of it."""
        try:
            record = read_record(files.record)
            whole = record["output_sha256"] == sha256_of(files.picture)
        except (InputError, KeyError):
            return None
        return record if whole and self.plan.made(record, type(self.batch.config), hash_or_empty(path)) else None

    def write_failure(self, name: str, path: Path, output: str, error: NstFastError, started: float) -> None:
        seconds = time.perf_counter() - started
        self.write(name, hash_or_empty(path), output, seconds, status=FAILED, error=error.as_dict())
        self.hooks.failed(f"{shown(name)}: {error.as_dict()['message']}")

    def write_done(self, task: Task, output: str, record: Record, seconds: float) -> None:
        remove_checkpoints(self.kept(output))
        digest = record["inputs"]["content"]["sha256"]
        self.write(task.name, digest, output, seconds, status=DONE, output_sha256=record["output_sha256"])
        self.made += 1
        self.hooks.made(f"{task.title}: {shown(output)} in {seconds:.1f} s")

    def write(
        self,
        name: str,
        digest: str,
        output: str,
        seconds: float,
        *,
        status: str,
        output_sha256: str = "",
        error: dict[str, Any] | None = None,
    ) -> None:
        """Add the line about a picture."""
        entry = Entry(
            input=name,
            input_sha256=digest,
            options_sha256=self.plan.sha256,
            status=status,
            output=output,
            output_sha256=output_sha256,
            seconds=round(seconds, 3),
            error=error,
            worker=self.worker.title,
        )
        self.manifest.append(entry)
        self.worker.forget_deaths(stem_key(name))


def refusal(in_the_way: list[Path]) -> OutputError:
    more = f", nor were {len(in_the_way) - 1} others" if len(in_the_way) > 1 else ""
    return OutputError(
        f"{shown(in_the_way[0])} exists and was not made by this batch{more}",
        "Choose another folder, or use --overwrite to replace it",
    )


def is_record(path: Path) -> bool:
    try:
        read_record(path)
    except InputError:
        return False
    return True


def status_of(path: Path) -> Any:
    """What the system says of a file; None when it is not there."""
    try:
        return path.stat()
    except OSError:
        return None
