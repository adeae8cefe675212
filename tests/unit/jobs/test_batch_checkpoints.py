"""What a worker kept of a picture when it died or was stopped, and how the next continues."""

from __future__ import annotations

from pathlib import Path

import pytest
from batches import Watcher, batch_of, run
from PIL import Image

from nst_fast.jobs.batch import run_batch
from nst_fast.jobs.inputs import STATE
from nst_fast.run.observer import StepEvent

OPTIONS = {"steps": 12, "optimizer": "lbfgs", "checkpoint_every": "1", "log_every": 1}


class DeathError(BaseException):
    """Nobody catches it: the worker ends where it is."""


class Killer(Watcher):
    """Ends the worker at a step of the first picture."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def event(self, event: StepEvent) -> None:
        if event.step == self.step:
            raise DeathError


def kept(photos: Path) -> list[str]:
    folder = photos.parent / "out" / STATE / "checkpoints"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))


def killed_at(step: int, photos: Path, **options: object) -> None:
    with pytest.raises(DeathError):
        run_batch(batch_of(photos, **{**OPTIONS, **options}), Killer(step))


def finished(photos: Path, **options: object) -> list[str]:
    """Run the batch to its end; the notes."""
    watcher = Watcher()
    outcome = run_batch(batch_of(photos, **{**OPTIONS, **options}), watcher)
    assert len(outcome.done) == 2
    return watcher.notes


def test_a_picture_continues_where_its_worker_died_to_the_same_pixels(photos: Path) -> None:
    killed_at(7, photos)
    assert kept(photos) == ["a-checkpoint-000006.safetensors", "a-checkpoint-000007.safetensors"]
    assert "continuing after step 7 of 12" in finished(photos)
    assert kept(photos) == []
    again = photos.parent / "again"
    run(photos, folder=again, **OPTIONS)
    for name in ("a.png", "deep/er/b.png"):
        with Image.open(photos.parent / "out" / name) as one, Image.open(again / name) as other:
            assert one.tobytes() == other.tobytes()


def test_a_stopped_picture_continues_too(photos: Path) -> None:
    watcher = Watcher(stop_at=1)
    run_batch(batch_of(photos, **OPTIONS), watcher)
    assert kept(photos) == ["a-checkpoint-000000.safetensors"]
    assert "continuing after step 0 of 12" in finished(photos)


def test_nobody_continues_from_other_options_another_input_or_what_is_damaged(photos: Path) -> None:
    killed_at(5, photos)
    notes = finished(photos, content_weight=3.0)  # may change, for nothing has been made yet
    assert "started anew: what was kept is of another input or other options" in notes
    other = photos.parent / "other"
    killed_at(5, photos, folder=other)
    for path in (other / STATE / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    assert any(note.startswith("started anew: ") for note in finished(photos, folder=other))


def test_without_checkpoints_nothing_is_kept(photos: Path) -> None:
    killed_at(5, photos, checkpoint_every="0")
    assert not (photos.parent / "out" / STATE / "checkpoints").exists()
    assert not any("continuing" in note for note in finished(photos, checkpoint_every="0"))
