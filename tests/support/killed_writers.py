"""A process that forks a child for every point of every piece of work, ends it there, and looks at what is left.

Run by test_crash_points.py with a folder; writes one JSON object per death to stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from faulty_disk import points, watched

from nst_fast.errors import NstFastError
from nst_fast.images import load_image
from nst_fast.network.weights import cache
from nst_fast.network.weights.checkpoints import read_features
from nst_fast.run.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.record import RunRecord, read_record
from nst_fast.system import files


@dataclass(frozen=True)
class Work:
    """Something that is written: ``before`` makes the old state; ``state`` is what is found: old, new or a fault."""

    name: str
    before: Callable[[Path], object]
    write: Callable[[Path], object]
    state: Callable[[Path], str]


def halves(stream: BinaryIO) -> None:
    stream.write(b"new ")
    stream.write(b"content")


def one_file(folder: Path) -> str:
    return {b"old": "old", b"new content": "new"}.get((folder / "a").read_bytes(), "mixed")


def save_run(folder: Path, gray: float) -> None:
    record = RunRecord(
        options={"gray": gray}, inputs={}, weights={}, machine={}, device="cpu", engine="eager", precision="fp32"
    )
    OutputFiles(folder / "a.png").save_picture(torch.full((1, 3, 16, 16), gray), record)


def a_run(folder: Path) -> str:
    """Picture and record are each readable, the picture carries its own record, and the hash shows a half-done pair."""
    picture, record = read_record(folder / "a.png"), read_record(folder / "a.json")
    gray = picture["options"]["gray"]
    if abs(float(load_image(folder / "a.png").tensor.mean()) - gray) > 0.01:
        return "mixed"
    whole = record["output_sha256"] == files.sha256_of(folder / "a.png")
    if whole != (record["options"] == picture["options"]):
        return "mixed"
    return "old" if gray == 0 else "new"


def save_copy(folder: Path, value: float) -> None:
    cache.write_copy(folder / "w.safetensors", {"features.0.bias": torch.full((64,), value)}, "x", "")


def a_copy(folder: Path) -> str:
    """The copy is whole; one whose note is newer counts as damaged and is fetched again, which is the safe side."""
    value = float(read_features(folder / "w.safetensors")["features.0.bias"][0])
    if value and not cache.is_intact(folder / "w.safetensors"):
        return "mixed"
    return "new" if value else "old"


def save_checkpoint(folder: Path, value: float) -> None:
    image = torch.full((1, 3, 4, 4), value)
    state = Checkpoint(
        record={"steps": 2}, places={}, step=2, scale=0, first=0, seconds=1.0, history=torch.ones(2, 2),
        pastiche=image, optimizer={"moments": [image, image]}, guard={}, rules={}, average=None,
    )  # fmt: skip
    write_checkpoint(folder / "a.safetensors", state)


def a_checkpoint(folder: Path) -> str:
    found = read_checkpoint(folder / "a.safetensors")
    values = {float(tensor[0, 0, 0, 0]) for tensor in (found.pastiche, *found.optimizer["moments"])}
    return {frozenset({0.0}): "old", frozenset({1.0}): "new"}.get(frozenset(values), "mixed")


def of_values(name: str, save: Callable[[Path, float], None], state: Callable[[Path], str]) -> Work:
    return Work(name, lambda folder: save(folder, 0.0), lambda folder: save(folder, 1.0), state)


WORKS = [
    Work(
        "one file",
        lambda folder: (folder / "a").write_bytes(b"old"),
        lambda folder: files.write_atomic(folder / "a", halves),
        one_file,
    ),
    of_values("checkpoint", save_checkpoint, a_checkpoint),
    of_values("picture and record", save_run, a_run),
    of_values("weights and note", save_copy, a_copy),
]


def die_at(index: int, work: Callable[[], object]) -> int:
    """The exit status of a child that ends at this point, without any clean-up."""
    child = os.fork()
    if not child:
        passed = 0
        ends = os._exit

        def act(name: str, when: str) -> None:
            nonlocal passed
            if passed == index:
                ends(9)
            passed += 1

        with watched(act):
            work()
        ends(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path) -> None:
    for work in WORKS:
        template = root / work.name
        template.mkdir(parents=True)
        work.before(template)
        trial = root / "trial"
        shutil.copytree(template, trial)
        names = points(lambda: work.write(trial))  # noqa: B023 - called at once
        for index, name in enumerate(names):
            shutil.rmtree(trial)
            shutil.copytree(template, trial)
            died = die_at(index, lambda: work.write(trial))  # noqa: B023 - as above
            try:
                state = work.state(trial)
            except (NstFastError, OSError, ValueError) as error:
                state = f"unreadable: {error}"
            litter = [entry.name for entry in trial.iterdir() if entry.name.startswith(files.TEMP_PREFIX)]
            work.write(trial)  # a re-run completes
            again = work.state(trial)
            report = {"work": work.name, "point": name, "died": died, "state": state, "litter": litter, "again": again}
            sys.stdout.write(json.dumps(report) + "\n")
        shutil.rmtree(trial)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
