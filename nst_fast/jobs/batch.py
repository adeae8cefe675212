"""A batch: many pictures in one style, until each is made or known not to be possible.

One process drives it: it alone decides what is to be made, puts pictures into place and writes the manifest. Others
(:mod:`.executors`) make them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import msgspec

from nst_fast.errors import DeviceError, InputError, OutputError, UsageError
from nst_fast.images import READABLE, WRITABLE, check_output_suffix
from nst_fast.images.decoding import size_at
from nst_fast.jobs import storage
from nst_fast.jobs.executors import Dispatcher, Executor, InProcess, ProcessBackend
from nst_fast.jobs.inputs import (
    STATE,
    WHOLE,
    Shard,
    check_files_named,
    check_folder,
    find_pictures,
    output_names,
    stem_key,
)
from nst_fast.jobs.manifest import DONE, FAILED, Entry, Manifest
from nst_fast.jobs.painter import ATTEMPTS, Made, Picture, Spec, remove_checkpoints_of, this_process
from nst_fast.jobs.runner import JobObserver, Record
from nst_fast.jobs.storage import Fetched, Place, Url, place_of, sha256_at, stamp
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import Networks, check_styles, files_read, read_picture
from nst_fast.run.provenance import Provenance
from nst_fast.run.record import current_options, read_record, record_text
from nst_fast.run.together import check_joinable
from nst_fast.system.files import check_writable, lock, sha256_bytes, shown
from nst_fast.system.machine import resolve_device

MANIFEST = "manifest.jsonl"
WATCH_SECONDS = 2.0  # between two looks for new pictures; one that did not change in between is complete
PLAN_SCHEMA: Final = "nst-fast/batch-plan/1"
# Workers of one batch may compute on different devices, and find the weights, which have a hash, in different places.
NOT_COMPARED = ("device", "engine_provider", "weights")
LOCAL, RAY = "local", "ray"  # where pictures are made


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
        on: ``local`` or ``ray``.
        workers: how many make pictures; by default this process, or as many as the cluster has room for.
        address, gpus_per_worker: of a Ray cluster, see :class:`nst_fast.jobs.cluster.RayBackend`.
    """

    inputs: Sequence[Place]
    styles: Sequence[Place]
    folder: Place
    config: StylizeConfig
    format: str = "png"
    overwrite: bool = False
    retry_failed: bool = True
    shard: Shard = WHOLE
    keep_watching: bool = False
    together: int = 1
    on: str = LOCAL
    workers: int | None = None
    address: str = ""
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", [place_of(given) for given in self.inputs])
        object.__setattr__(self, "styles", [place_of(given) for given in self.styles])
        object.__setattr__(self, "folder", place_of(self.folder))

    def check(self) -> None:
        """Raise :class:`UsageError` for options that make no sense."""
        if f".{self.format}" not in WRITABLE:
            raise UsageError(f"`format` {self.format}: cannot be written", f"Use {', '.join(WRITABLE)}")
        check_output_suffix(f"*.{self.format}", self.config.bit_depth, self.config.image_size)
        if self.together < 1:
            raise UsageError(f"`together` {self.together}: must be at least 1")
        if self.together > 1:
            check_joinable(self.config)
        if self.on not in (LOCAL, RAY):
            raise UsageError(f"`on` {self.on}: is no place to make pictures", f"Use {LOCAL} or {RAY}")
        for name in ("address", "gpus_per_worker"):
            if self.on == LOCAL and getattr(self, name):
                raise UsageError(f"`{name}` is of a Ray cluster", "Use it with `on` ray")


@dataclass(frozen=True)
class BatchResult:
    """The state of a batch, or of a shard of it.

    Attributes:
        entries: what the manifest says of each input; ``left`` are the other inputs.
        made, seconds: of this call.
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


class BatchFolder:
    """The folder of a batch, seen by the process that drives it.

    Attributes:
        plan: what decides a picture, but for its content; ``options_sha256`` is its hash in the manifest.
        made: how many pictures this call has made.
    """

    def __init__(self, batch: BatchRequest, observer: JobObserver) -> None:
        """Raises :class:`InputError` for a style picture that cannot be used: it must not count as a fault of each."""
        config = batch.config
        self.batch, self.observer = batch, observer
        self.folder, self.state = batch.folder, batch.folder / STATE
        self.manifest = Manifest(batch.folder / MANIFEST)
        self.manifest.refresh()
        self.networks, self.made = Networks(), 0
        self._lines_before = self.manifest.lines
        self._verified: set[object] = set()
        self._fetched = Fetched()
        # One listing in place of a question for every picture: nobody else writes here.
        self._listed = set(dict(self.folder.files()).values()) if isinstance(self.folder, Url) else None
        styles = [self._fetched.local(style) for style in batch.styles]
        check_styles(config, Path(), styles)
        masks = [path for value in config.mask_files.values() for path in value.files]
        for path in filter(None, (*styles, config.init_file, *masks)):
            read_picture(path, config, config.image_size)
        device = resolve_device("cpu" if batch.on == RAY else config.device)
        _, weights = self.networks.encoder(config, config.taps, device)
        whole = Provenance.of_run(config, None, styles, weights["sha256"])
        options = {name: value for name, value in whole.options.items() if name not in NOT_COMPARED}
        self.plan = replace(whole, options=options)
        files: _PlanFiles = {"weights": weights["sha256"], "styles": list(whole.styles), "init": whole.init}
        self._plan: _PlanFile = {"schema": PLAN_SCHEMA, "format": batch.format, "options": options, "files": files}
        self.options_sha256 = sha256_bytes(json.dumps(self._plan, sort_keys=True).encode())

    def check_plan(self) -> None:
        """Raise :class:`OutputError` if the folder has pictures of another plan, or a manifest of something else."""
        manifest = self.manifest.path
        foreign = manifest.exists() and manifest.read_bytes() and not self.manifest.entries
        if foreign and not self.batch.overwrite and not (self.state / "plan.json").exists():
            raise OutputError(f"{shown(manifest)} is no manifest of a batch", "Choose another folder, or rename it")
        if not self.batch.overwrite and self.manifest.made and (differences := self._plan_differences()):
            raise OutputError(
                f"{shown(self.folder)} holds a batch that was made otherwise: {'; '.join(differences)}",
                "Choose another folder, use the same options, or `overwrite` to make its pictures again",
            )

    def _plan_differences(self) -> list[str]:
        try:
            stored = msgspec.json.decode((self.state / "plan.json").read_bytes(), type=_PlanFile)
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
        storage.write(self.state / "plan.json", (json.dumps(self._plan, indent=1) + "\n").encode())

    def executor(self) -> Executor:
        """Where the pictures are made."""
        batch, observer = self.batch, self.observer
        spec = Spec(batch.config, batch.styles, self.folder, self.plan)
        if batch.on == RAY:
            try:
                from nst_fast.jobs.cluster import RayBackend
            except ImportError as error:
                raise DeviceError(f"`on` ray: Ray is missing ({error})", "pip install ray") from error
            ray = RayBackend(spec, observer, batch.address, batch.workers, batch.gpus_per_worker)
            return Dispatcher(ray, observer)
        if batch.workers is not None:
            return Dispatcher(ProcessBackend(spec, batch.workers), observer)
        return InProcess(spec, observer, self.networks)

    def pictures(self, found: Mapping[str, Place]) -> list[Picture]:
        """Those of other shards too, which give the same names."""
        known = {name: entry.output for name, entry in self.manifest.entries.items()}
        outputs = output_names(list(found), f".{self.batch.format}", known)
        return [Picture(name, outputs[name], place) for name, place in found.items()]

    def entries(self) -> dict[str, Entry]:
        """What the manifest says by now, with these options."""
        self.manifest.refresh()
        entries = self.manifest.entries
        return {name: entry for name, entry in entries.items() if entry.options_sha256 == self.options_sha256}

    def finished(self, picture: Picture) -> Record | None:
        """The record of a picture that is in its place, whole, and as it is wanted: the driver died before its line."""
        place = self.folder / picture.output
        try:
            record = self._record_at(place.with_suffix(".json"))
        except InputError:
            return None
        wanted = replace(self.plan, content=sha256_at(picture.content))
        whole = record["output_sha256"] == sha256_at(place) and record["status"] != "stopped"
        return record if whole and not wanted.differences(Provenance.of_record(record)) else None

    def _exists(self, place: Place) -> bool:
        return place.exists() if self._listed is None else place in self._listed

    def _record_at(self, place: Place) -> Record:
        if not self._exists(place):
            raise InputError(f"{shown(place)} does not exist")
        try:
            return read_record(self._fetched.local(place))
        finally:
            self._fetched.forget(place)

    def settled(self, picture: Picture) -> bool:
        """Whether there is nothing to do: made and whole, or failed and not to be tried again."""
        name = picture.name
        entry, place = self.manifest.entries.get(name), self.manifest.place.get(name, 0)
        if entry is None or entry.options_sha256 != self.options_sha256:
            return False
        known = (name, place, stamp(picture.content))
        if known not in self._verified:
            if entry.status == FAILED:
                whole = place > self._lines_before or not self.batch.retry_failed
            else:
                whole = sha256_at(self.folder / picture.output) == entry.output_sha256
            if not whole or sha256_at(picture.content) != entry.input_sha256:
                return False
            self._verified.add(known)
        return True

    def check_outputs(self, pictures: Sequence[Picture]) -> None:
        """Raise :class:`OutputError`, before any work, if something that this batch did not make would be replaced."""
        inputs: set[Place] = {*files_read(self.batch.config, []), *self.batch.styles}
        given = {storage.identity(place): place for place in (*inputs, *(picture.content for picture in pictures))}
        for picture in pictures:
            place = self.folder / picture.output
            for output in (place, place.with_suffix(".json")):
                if (found := storage.identity(output)) is not None and found in given:
                    message = f"{shown(output)} is the input {shown(given[found])}"
                    raise OutputError(message, "Choose another name for the output")
        if refused := [refusal for picture in pictures if (refusal := self.refusal(picture))]:
            more = f", nor were {len(refused) - 1} others" if len(refused) > 1 else ""
            raise OutputError(refused[0].message + more, refused[0].remedy)

    def refusal(self, picture: Picture) -> OutputError | None:
        """What is wrong with writing the picture: something that this batch did not make would be replaced."""
        place = self.folder / picture.output
        beside = place.with_suffix(".json")
        if self.batch.overwrite or (picture.name, picture.output) in self.manifest.made:
            return None
        blocked = next((output for output in (place, beside) if self._exists(output)), None)
        if blocked is None:
            return None
        # A picture of this batch whose driver was killed before it wrote its line, or a record without picture.
        wanted = replace(self.plan, content=sha256_at(picture.content))
        for carrier in (beside, place):
            with suppress(InputError):
                record = self._record_at(carrier)
                whole = record["status"] != "stopped" or blocked == beside
                if record["output"] == place.name and whole and not wanted.differences(Provenance.of_record(record)):
                    return None
        return OutputError(
            f"{shown(blocked)} exists and was not made by this batch",
            "Choose another folder, or use `overwrite` to replace it",
        )

    def keep(self, made: Made) -> None:
        """Put what was made into its place and add a line to the manifest. Nothing, after a stop."""
        picture, record, error = made.picture, made.record, made.error
        if record is None and error is None:
            return
        if record is not None and picture.attempt:
            storage.commit(self.folder / picture.written, self.folder / picture.output, record_text(record))
        if isinstance(self.folder, Path) and picture.attempt:
            storage.delete_folder(self.folder / ATTEMPTS / picture.attempt)
        remove_checkpoints_of(self.folder, picture.output)
        self.manifest.append(
            Entry(
                input=picture.name,
                input_sha256=record["inputs"]["content"]["sha256"] if record else sha256_at(picture.content),
                options_sha256=self.options_sha256,
                status=DONE if record else FAILED,
                output=picture.output,
                output_sha256=record["output_sha256"] if record else "",
                seconds=round(made.seconds, 3),
                error=error.as_dict() if error is not None else None,
                worker=made.worker or this_process(),
            )
        )
        if error is not None:
            self.observer.failed(f"{shown(picture.name)}: {error.as_dict()['message']}")
        elif picture.attempt:
            self.made += 1
            self.observer.made(f"{picture.title}: {shown(picture.output)} in {made.seconds:.1f} s")
        else:
            self.observer.kept(picture.title)


def run_batch(batch: BatchRequest, observer: JobObserver) -> BatchResult:
    """Make every picture that the manifest does not show as made, and write each into the manifest.

    Made means: a line of the manifest says so for this input with this content and these options, and the output has
    the hash it states.

    Raises:
        InputError: there is no picture to be found, or a style picture cannot be used.
        UsageError: pictures whose names clash, or a format that cannot be written.
        OutputError: before any work, if something that the batch did not make would be replaced; later, if writing
            fails.
        ModelError, DeviceError: before any work; also later, if workers find their machine unfit.
        BusyError: another process drives this batch.
    """
    started = time.perf_counter()
    batch.check()
    check_folder(batch.folder)
    check_files_named(batch.styles)
    passed_over: Counter[str] = Counter()
    found = find_pictures(batch.inputs, batch.folder, passed_over)
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed_over.items()))
    if not found and not batch.keep_watching:
        where = ", ".join(shown(path) for path in batch.inputs)
        raise InputError(
            f"no pictures in {where}" + (f" (files of other kinds: {others})" if others else ""),
            f"Looked for {', '.join(sorted(READABLE))}; hidden files are left",
        )
    if isinstance(batch.folder, Path):
        inputs = files_read(
            batch.config, [place for place in (*found.values(), *batch.styles) if isinstance(place, Path)]
        )
        check_writable(batch.folder / MANIFEST, overwrite=True, inputs=inputs)
    if others:
        observer.note(f"files of other kinds are passed over: {others}")
    folder = BatchFolder(batch, observer)
    folder.check_plan()
    with driving(batch):
        folder.manifest.refresh()  # another driver may have ended just now
        folder.check_outputs(folder.pictures(found))
        folder.save_plan()
        mine = work(folder, found)
        if batch.shard == WHOLE:  # else there may be others'
            storage.delete_folder(batch.folder / ATTEMPTS)
    entries = folder.entries()
    ours = {name: entries[name] for name in mine if name in entries}
    left = [name for name in mine if name not in ours]
    return BatchResult(ours, left, folder.made, time.perf_counter() - started)


def driving(batch: BatchRequest) -> AbstractContextManager[None]:
    """Keep other drivers of a shard out of a folder. An object store has no locks."""
    if not isinstance(batch.folder, Path):
        return nullcontext()
    shard = batch.shard
    name = "driver" if shard == WHOLE else f"driver-{shard.index}-of-{shard.count}"
    return lock(batch.folder / STATE / name, folder=batch.folder / STATE, title=f"the batch in {batch.folder}")


def work(folder: BatchFolder, found: Mapping[str, Place]) -> list[str]:
    """Make this shard's pictures; when watching, until stopped. Returns their names."""
    batch, observer = folder.batch, folder.observer
    stamps: dict[str, object] = {}
    executor: Executor | None = None
    with ExitStack() as stack:
        while True:
            mine = [picture for picture in folder.pictures(found) if batch.shard.holds(picture.name)]
            ready = mine
            if batch.keep_watching:  # a picture is taken once it has stayed the same between two looks
                before, stamps = stamps, {it.name: now for it in mine if (now := stamp(it.content)) is not None}
                ready = [it for it in mine if it.name in stamps and stamps[it.name] == before.get(it.name)]
            todo = [picture for picture in ready if not folder.settled(picture)]
            first = len(mine) - len(todo) + 1
            todo = [replace(picture, number=f"{number}/{len(mine)}") for number, picture in enumerate(todo, first)]
            if todo:
                executor = executor or stack.enter_context(closing(folder.executor()))
                make(folder, executor, todo)
            if observer.stop() or not batch.keep_watching:
                return [picture.name for picture in mine]
            observer.note("looking for new pictures until stopped")
            pause(WATCH_SECONDS, observer)
            found = find_pictures(batch.inputs, batch.folder)


def make(folder: BatchFolder, executor: Executor, todo: Sequence[Picture]) -> None:
    """Make pictures and keep them."""

    def unfinished() -> Iterator[Picture]:
        for picture in todo:
            refusal = folder.refusal(picture)
            record = folder.finished(picture) if refusal is None else None
            if record is None and refusal is None:
                yield picture
            else:
                folder.keep(Made(picture, record, refusal))

    for made in executor.run(groups_of(unfinished(), folder.batch)):
        folder.keep(made)
    folder.manifest.flush()


def pause(seconds: float, observer: JobObserver) -> None:
    """Sleep in short intervals, so that a stop ends it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not observer.stop():
        time.sleep(0.1)


def groups_of(pictures: Iterable[Picture], batch: BatchRequest) -> Iterator[list[Picture]]:
    """The pictures in groups of one size, as many as may share a loop; a group is given as soon as it is full.

    Pictures of unknown size, and those that compete with another for one output, are alone.
    """
    waiting: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        size = size_of(picture, batch.config) if batch.together > 1 else None
        group = waiting.setdefault(size, []) if size is not None else []
        if any(stem_key(other.name) == stem_key(picture.name) for other in group):
            yield [picture]
            continue
        group.append(picture)
        if size is None:
            yield group
        elif len(group) == batch.together:
            yield waiting.pop(size)
    yield from waiting.values()


def size_of(picture: Picture, config: StylizeConfig) -> tuple[int, int] | None:
    """Height and width of the pastiche; None when they are unknown before the picture is read."""
    if config.content_fit == "square":
        return config.image_size, config.image_size
    here = isinstance(picture.content, Path)
    return size_at(picture.content, config.image_size, config.max_megapixels) if here else None
