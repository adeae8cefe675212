"""What a batch adds to the seconds of a picture, by where pictures are made: here, in a process, in a Ray cluster.

``python bench/batch/overhead.py RESULT.json`` makes the same small pictures by one worker each way, in turns. The time
between two lines of the manifest, less the seconds that the worker took for the picture (reading, painting and
writing included), is what the batch adds: handing out, putting into place, the line. With the worker elsewhere the
driver's own processor time says how many pictures one driver can hand out and keep.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nst_fast.benchmark.scripts import conditions, write_json
from nst_fast.jobs.batch import BatchRequest, run_batch
from nst_fast.jobs.runner import JobObserver
from nst_fast.options.commands import BatchConfig

WAYS: dict[str, dict[str, Any]] = {"here": {}, "process": {"workers": 1}, "ray": {"on": "ray", "workers": 1}}
SMALL = BatchConfig().replace(
    weights="random:0",
    content_taps="relu1_2",
    style_taps="relu1_1",
    image_size=64,
    steps=60,
    engine="eager",
    precision="fp32",
    device="cpu",
)


class Clock(JobObserver):
    """When each picture was in its place and in the manifest, and the processor time of this process till then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.used: list[float] = []

    def made(self, text: str) -> None:
        self.times.append(time.perf_counter())
        self.used.append(time.process_time())


def overheads(config: BatchConfig, folder: Path, out: str, way: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Of each picture but the first, which waits for its worker: the seconds that the batch adds, the picture's, and
    the driver's of the processor.
    """
    clock = Clock()
    request = BatchRequest(
        inputs=[folder / "photos"], styles=[folder / "style.png"], folder=folder / out, config=config, **way
    )
    taken = [entry.seconds for entry in run_batch(request, clock).entries.values()][1:]
    ends, used = ([b - a for a, b in itertools.pairwise(moments)] for moments in (clock.times, clock.used))
    return [(between - own, own, driver) for between, own, driver in zip(ends, taken, used, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=SMALL.steps, help="which decide the seconds of a picture")
    given = parser.parse_args()
    config = SMALL.replace(steps=given.steps)
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "photos").mkdir()
        random = np.random.default_rng(0)
        names = [f"photos/{number:03}.png" for number in range(given.pictures)]
        for name in (*names, "style.png"):
            Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
        for turn in range(given.rounds):
            for way, options in WAYS.items():
                found[way] += overheads(config, folder, f"{way}-{turn}", options)
    rows = {}
    for way, pictures in found.items():
        added, taken, used = zip(*pictures, strict=True)
        rows[way] = {
            "median_ms": round(1e3 * statistics.median(added), 2),
            "p90_ms": round(1e3 * sorted(added)[int(0.9 * len(added))], 2),
            "picture_seconds": round(statistics.median(taken), 3),
            "driver_cpu_ms": round(1e3 * statistics.median(used), 2) if WAYS[way] else None,
            "pictures": len(pictures),
        }
    options = {name: getattr(config, name) for name in ("image_size", "steps", "engine")}
    write_json(given.result, conditions("nst-fast/batch-overhead/1") | {"config": options, "overhead": rows})


if __name__ == "__main__":
    main()
