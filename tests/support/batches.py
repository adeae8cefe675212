"""A small batch: its pictures, its options, and a run of it that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from nst_fast.jobs.batch.job import Batch, Hooks, Outcome
from nst_fast.jobs.batch.run import run_batch
from nst_fast.options.commands import BatchConfig
from nst_fast.run.observer import Listeners

TINY = BatchConfig(
    weights="random:0",
    content_taps="relu1_2",
    style_taps="relu1_1",
    image_size=24,
    steps=2,
    engine="eager",
    precision="fp32",
)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (32, 24)) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


class Watcher:
    """Counts the updates of each run; stops when it is told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.titles: list[str] = []
        self.stop_at = stop_at

    @contextmanager
    def __call__(self, line: str) -> Iterator[Listeners]:
        self.titles.append(line.split()[1])
        yield Listeners(stop=self.stop)

    def stop(self) -> bool:
        return self.stop_at is not None and len(self.titles) >= self.stop_at


def batch_of(photos: Path, *inputs: Path, **options: object) -> Batch:
    config = TINY.replace(**{name: options.pop(name) for name in list(options) if name in TINY.as_dict()})
    given = {"inputs": inputs or (photos,), "styles": [photos.parent / "style.png"], "folder": photos.parent / "out"}
    return Batch(**{**given, "config": config, **options})  # type: ignore[arg-type]


def run(photos: Path, *inputs: Path, **options: object) -> tuple[Outcome, list[str]]:
    """The outcome, and the names of the pictures that were really painted."""
    watcher = Watcher()
    outcome = run_batch(batch_of(photos, *inputs, **options), Hooks(watch=watcher))
    return outcome, watcher.titles
