"""A small batch: its pictures, its options, and a run of it that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tiny
from PIL import Image

from nst_fast.jobs.batch import BatchRequest, BatchResult, run_batch
from nst_fast.jobs.runner import JobObserver
from nst_fast.options.commands import BatchConfig
from nst_fast.run.observer import Observer, StepEvent

TINY = BatchConfig(**tiny.TINY)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


class Watcher(JobObserver):
    """Records what it is given; stops at a run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.titles: list[str] = []  # of the runs
        self.updates: list[int] = []  # of each run
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.stop_at = stop_at

    @contextmanager
    def begin(self, title: str) -> Iterator[Observer]:
        self.titles.append(title)
        self.updates.append(0)
        yield self

    def kept(self, title: str) -> None:
        """Not a run."""

    def event(self, event: StepEvent) -> None:
        self.updates[-1] = event.step

    def note(self, text: str) -> None:
        self.notes.append(text)

    def detail(self, text: str) -> None:
        self.notes.append(text)

    def failed(self, text: str) -> None:
        self.failures.append(text)

    def stop(self) -> bool:
        return self.stop_at is not None and len(self.titles) >= self.stop_at

    @property
    def painted(self) -> list[str]:
        """The names of the pictures that were really painted, or of the first of several in one loop."""
        return [title.split()[1] for title in self.titles]


def batch_of(photos: Path, *inputs: Path, **options: object) -> BatchRequest:
    config = TINY.replace(**{name: options.pop(name) for name in list(options) if name in TINY.as_dict()})
    given = {"inputs": inputs or (photos,), "styles": [photos.parent / "style.png"], "folder": photos.parent / "out"}
    return BatchRequest(**{**given, "config": config, **options})  # type: ignore[arg-type]


def run(photos: Path, *inputs: Path, **options: object) -> tuple[BatchResult, list[str]]:
    """The result, and the names of the pictures that were really painted."""
    watcher = Watcher()
    result = run_batch(batch_of(photos, *inputs, **options), watcher)
    return result, watcher.painted
