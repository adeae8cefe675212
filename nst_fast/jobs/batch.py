"""A batch: many pictures in one style, by any number of workers, until each is made or known not to be possible."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nst_fast.errors import InputError, UsageError
from nst_fast.images import READABLE, WRITABLE, check_output_suffix
from nst_fast.jobs.batch_folder import BatchFolder, stamp
from nst_fast.jobs.claims import at_work
from nst_fast.jobs.inputs import STATE, WHOLE, Shard, find_pictures, output_names
from nst_fast.jobs.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.jobs.runner import NOT_RUN, Job, JobObserver, Runner
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import check_styles, read_picture
from nst_fast.run.together import check_joinable
from nst_fast.system.files import check_writable, shown

MANIFEST = "manifest.jsonl"
WATCH_SECONDS = 2.0  # between two looks for new pictures; one that did not change in between is complete
WAIT_SECONDS = 0.5  # between two looks at pictures that other workers claim


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

    def check(self) -> None:
        """Raise :class:`UsageError` for options that make no sense."""
        if f".{self.format}" not in WRITABLE:
            raise UsageError(f"`format` {self.format}: cannot be written", f"Use {', '.join(WRITABLE)}")
        check_output_suffix(f"*.{self.format}", self.config.bit_depth, self.config.image_size)
        if self.together < 1:
            raise UsageError(f"`together` {self.together}: must be at least 1")
        if self.together > 1:
            check_joinable(self.config)

    def check_styles(self) -> None:
        """Read what all pictures have in common: a fault of it must not count as a fault of each."""
        check_styles(self.config, Path(), self.styles)
        for path in filter(None, (*self.styles, self.config.init_file)):
            read_picture(path, self.config, self.config.image_size)


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
    pictures = find_pictures(batch.inputs, batch.folder)
    if not pictures and not batch.keep_watching:
        where = ", ".join(shown(path) for path in batch.inputs)
        raise InputError(f"no pictures in {where}", f"Looked for {', '.join(sorted(READABLE))}; hidden files are left")
    manifest = Manifest(batch.folder / MANIFEST)
    check_writable(manifest.path, overwrite=True, inputs=pictures.values())
    manifest.refresh()
    batch.check_styles()
    folder = BatchFolder(batch.folder, manifest, observer, overwrite=batch.overwrite, retry_failed=batch.retry_failed)
    folder.check_plan(batch.config, batch.styles, batch.format)
    with at_work(batch.folder / STATE) as folder.worker:
        folder.check_outputs(jobs_of(batch, pictures, manifest))
        folder.save_plan()
        mine = work(batch, pictures, folder, observer)
    entries = folder.entries()
    ours = {name: entries[name] for name in mine if name in entries}
    left = [name for name in mine if name not in ours]
    return BatchResult(ours, left, folder.made, time.perf_counter() - started)


def jobs_of(batch: BatchRequest, pictures: Mapping[str, Path], manifest: Manifest) -> list[Job]:
    """A job for each picture, also of other shards and workers, which give the same names."""
    known = {name: entry.output for name, entry in manifest.entries.items()}
    outputs = output_names(list(pictures), f".{batch.format}", known)
    return [Job(name, outputs[name], batch.config, path, batch.styles) for name, path in pictures.items()]


def work(batch: BatchRequest, pictures: Mapping[str, Path], folder: BatchFolder, observer: JobObserver) -> list[str]:
    """Run this shard's jobs until nothing is left; when watching, until stopped. Returns the names of its pictures."""
    stamps: dict[str, object] = {}
    notes: set[str] = set()
    while True:
        mine = [job for job in jobs_of(batch, pictures, folder.manifest) if batch.shard.holds(job.name)]
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
