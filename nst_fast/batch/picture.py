"""One picture of a batch: what may be replaced for it, how it is made, and its line in the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst_fast.batch.claims import Worker
from nst_fast.batch.inputs import folded, output_name, stem_key
from nst_fast.batch.job import Batch, Hooks
from nst_fast.batch.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.batch.plan import Plan, hash_or_empty
from nst_fast.errors import InputError, NstFastError, OutputError
from nst_fast.files import check_writable, make_folder, sha256_of, shown
from nst_fast.outputs import OutputFiles
from nst_fast.problem import Networks
from nst_fast.record import read_record
from nst_fast.series.jobs import Job
from nst_fast.series.run import ERRORS_OF_ONE, paint

Record = Mapping[str, Any]


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

    def attempt(self, name: str, path: Path, output: str, title: str) -> bool:
        """Make a picture and write down what came of it. False, and nothing written, if it was given up."""
        started = time.perf_counter()
        others = {folded(entry.output) for other, entry in self.manifest.entries.items() if other != name}
        if folded(output) in others:  # taken by a picture that came, or was made, since names were given
            output = output_name(name, f".{self.batch.format}", others)
        target = self.batch.folder / output
        if blocked := self.in_the_way(name, path, target):
            self.write_failure(name, path, output, refusal(blocked), started)
            return True
        try:
            record = self.finished(OutputFiles(target), path) or self.make(name, path, target, title)
        except ERRORS_OF_ONE as error:
            self.write_failure(name, path, output, error, started)
            return True
        if record is None:
            return False
        digest = record["inputs"]["content"]["sha256"]
        self.write(name, digest, output, started, status=DONE, output_sha256=record["output_sha256"])
        self.made += 1
        self.hooks.made(f"{title}: {shown(output)} in {time.perf_counter() - started:.1f} s")
        return True

    def make(self, name: str, path: Path, output: Path, title: str) -> Record | None:
        """The record of the picture, which is written; None when it was stopped, or is another worker's now."""
        make_folder(output.parent)
        files = OutputFiles(output)
        job = Job(name, {}, self.batch.config, path, tuple(self.batch.styles))
        with self.hooks.watch(title) as listeners:
            pastiche = paint(job, files, self.networks, listeners)
        if pastiche is None:
            return None
        if not self.worker.holds(stem_key(name)):
            self.hooks.note(f"{shown(name)}: given up; another worker took it over, for this one seemed to be dead")
            return None
        files.save_picture(pastiche.image, pastiche.record)
        return pastiche.record.as_dict()

    def finished(self, files: OutputFiles, path: Path) -> Record | None:
        """The record of a picture that was written whole, but whose worker died before the manifest knew of it."""
        try:
            record = read_record(files.record)
            whole = record["output_sha256"] == sha256_of(files.picture)
        except (InputError, KeyError):
            return None
        return record if whole and self.plan.made(record, type(self.batch.config), hash_or_empty(path)) else None

    def write_failure(self, name: str, path: Path, output: str, error: NstFastError, started: float) -> None:
        self.write(name, hash_or_empty(path), output, started, status=FAILED, error=error.as_dict())
        self.hooks.failed(f"{shown(name)}: {error.as_dict()['message']}")

    def write(
        self,
        name: str,
        digest: str,
        output: str,
        started: float,
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
            seconds=round(time.perf_counter() - started, 3),
            error=error,
            worker=self.worker.title,
        )
        self.manifest.append(entry)


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
