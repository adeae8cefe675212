"""Run a batch: one worker's way through all pictures, beside others, until each is made or known not to be possible."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from nst_fast.errors import InputError, UsageError
from nst_fast.images import READABLE, WRITABLE, check_output_suffix
from nst_fast.jobs.batch.claims import Worker, at_work
from nst_fast.jobs.batch.groups import Task, groups_of
from nst_fast.jobs.batch.inputs import STATE, find_pictures, output_names, stem_key
from nst_fast.jobs.batch.job import Batch, Hooks, Outcome
from nst_fast.jobs.batch.manifest import FAILED, Manifest
from nst_fast.jobs.batch.picture import Maker
from nst_fast.jobs.batch.plan import Plan, hash_or_empty
from nst_fast.run.problem import Networks, check_styles, read_picture
from nst_fast.run.together import check_joinable
from nst_fast.system.files import check_writable, make_folder, shown
from nst_fast.system.machine import resolve_device

MANIFEST = "manifest.jsonl"
WATCH_SECONDS = 2.0  # between two looks for new pictures; one that did not change in between is complete
WAIT_SECONDS = 0.5  # between two looks at pictures that other workers are at


def run_batch(batch: Batch, hooks: Hooks) -> Outcome:
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
    if f".{batch.format}" not in WRITABLE:
        raise UsageError(f"--format {batch.format}: cannot be written", f"Use {', '.join(WRITABLE)}")
    check_output_suffix(f"*.{batch.format}", batch.config.bit_depth, batch.config.image_size)
    if batch.together < 1:
        raise UsageError(f"--together {batch.together}: must be at least 1")
    if batch.together > 1:
        check_joinable(batch.config)
    pictures = find_pictures(batch.inputs, batch.folder)
    if not pictures and not batch.keep_watching:
        where = ", ".join(shown(path) for path in batch.inputs)
        raise InputError(f"no pictures in {where}", f"Looked for {', '.join(sorted(READABLE))}; hidden files are left")
    manifest = Manifest(batch.folder / MANIFEST)
    check_writable(manifest.path, overwrite=True, inputs=pictures.values())
    manifest.refresh()
    networks = Networks()
    plan = make_plan(batch, networks)
    plan_file = make_folder(batch.folder / STATE) / "plan.json"
    plan.check(plan_file, overwrite=batch.overwrite or not manifest.made)
    with at_work(batch.folder / STATE) as worker:
        run = BatchRun(batch, hooks, manifest, worker, Maker(batch, hooks, plan, manifest, worker, networks))
        run.maker.check_outputs(pictures, run.outputs(pictures))
        plan.save(plan_file)
        return run.work(pictures)


def make_plan(batch: Batch, networks: Networks) -> Plan:
    """Load what all pictures have in common; what is wrong with it must not count as a fault of each."""
    config = batch.config
    check_styles(config, Path(), batch.styles)
    for path in filter(None, (*batch.styles, config.init_file)):
        read_picture(path, config, config.image_size)
    _, weights = networks.encoder(config, config.taps, resolve_device(config.device))
    return Plan.of(config, batch.styles, weights["sha256"], batch.format)


class BatchRun:
    """One worker's run: which pictures are left for it."""

    def __init__(self, batch: Batch, hooks: Hooks, manifest: Manifest, worker: Worker, maker: Maker) -> None:
        self.batch = batch
        self.hooks = hooks
        self.manifest = manifest
        self.worker = worker
        self.maker = maker
        self.lines_before = manifest.lines
        self.started = time.perf_counter()
        self.verified: set[object] = set()
        self.seen: dict[str, object] = {}
        self.noted: set[str] = set()

    def outputs(self, pictures: Mapping[str, Path]) -> dict[str, str]:
        """Input -> output, for all pictures: also those of other shards and workers, which give the same names."""
        known = {name: entry.output for name, entry in self.manifest.entries.items()}
        return output_names(list(pictures), f".{self.batch.format}", known)

    def work(self, pictures: Mapping[str, Path]) -> Outcome:
        """Go through the pictures until nothing is left; when watching, until stopped."""
        while True:
            mine = {name: path for name, path in pictures.items() if self.batch.shard.holds(name)}
            todo = {name: path for name, path in mine.items() if self.is_ready(name, path)}
            left = self.go_through(todo, len(mine), self.outputs(pictures))
            if self.hooks.stop() or not (left or self.batch.keep_watching):
                return self.outcome(mine)
            self.wait(left)
            if self.batch.keep_watching:
                pictures = find_pictures(self.batch.inputs, self.batch.folder)

    def is_ready(self, name: str, path: Path) -> bool:
        """Whether a picture needs work; when watching, not before it has stayed the same between two looks."""
        if self.batch.keep_watching:
            now = stamp(path)
            before, self.seen[name] = self.seen.get(name), now
            if now is None or before != now:
                return False
        return not self.is_settled(name, path)

    def go_through(self, todo: Mapping[str, Path], count: int, outputs: Mapping[str, str]) -> int:
        """Attempt each picture; return how many are left, because other workers are at them."""
        numbers = range(count - len(todo) + 1, count + 1)
        tasks = [
            Task(name, path, outputs[name], f"{number}/{count} {shown(name)}")
            for number, (name, path) in zip(numbers, todo.items(), strict=True)
        ]
        left = 0
        for group in groups_of(tasks, self.batch.together, self.batch.config):
            if self.hooks.stop():
                break
            with ExitStack() as claims:
                ours = [task for task in group if claims.enter_context(self.worker.claimed(stem_key(task.name)))]
                if ours:
                    self.manifest.refresh()
                mine = [task for task in ours if not self.is_settled(task.name, task.path)]
                left += len(group) - len(ours) + self.maker.attempt_all(mine)
        return left

    def is_settled(self, name: str, path: Path) -> bool:
        """Whether there is nothing to do: made and whole, or failed and not to be tried again."""
        entry = self.manifest.entries.get(name)
        if entry is None or entry.options_sha256 != self.maker.plan.sha256:
            return False
        place = self.manifest.place[name]
        known = (name, place, stamp(path))
        if known in self.verified:
            return True
        if entry.status == FAILED:
            whole = place > self.lines_before or not self.batch.retry_failed
        else:
            whole = hash_or_empty(self.batch.folder / entry.output) == entry.output_sha256
        if not whole or hash_or_empty(path) != entry.input_sha256:
            return False
        self.verified.add(known)
        return True

    def wait(self, left: int) -> None:
        """Say once what is waited for, and sleep in small pieces, so that a stop is heard."""
        reason = "waiting for what other workers are at" if left else "looking for new pictures until stopped"
        if reason not in self.noted:
            self.noted.add(reason)
            self.hooks.note(reason)
        until = time.monotonic() + (WAIT_SECONDS if left else WATCH_SECONDS)
        while time.monotonic() < until and not self.hooks.stop():
            time.sleep(0.1)

    def outcome(self, mine: Mapping[str, Path]) -> Outcome:
        """What the manifest says now, with these options, of this worker's share."""
        self.manifest.refresh()
        ours = {n: e for n, e in self.manifest.entries.items() if e.options_sha256 == self.maker.plan.sha256}
        entries = {name: ours[name] for name in mine if name in ours}
        left = [name for name in mine if name not in entries]
        return Outcome(entries, left, self.maker.made, time.perf_counter() - self.started)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
