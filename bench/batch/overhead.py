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


def overheads(
    config: BatchConfig, folder: Path, out: str, way: dict[str, Any]
) -> tuple[list[float], list[float], list[float]]:
    """Of each picture but the first, which waits for its worker: the seconds that the batch adds, the picture's, and
    the driver's of the processor.
    """
    clock = Clock()
    request = BatchRequest(
        inputs=[folder / "photos"], styles=[folder / "style.png"], folder=folder / out, config=config, **way
    )
    seconds = [entry.seconds for entry in run_batch(request, clock).entries.values()]
    ends = zip(clock.times, clock.times[1:], seconds[1:], strict=False)
    added = [later - earlier - own for earlier, later, own in ends]
    return added, seconds[1:], [later - earlier for earlier, later in itertools.pairwise(clock.used)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=SMALL.steps, help="which decide the seconds of a picture")
    given = parser.parse_args()
    config = SMALL.replace(steps=given.steps)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    used: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "photos").mkdir()
        random = np.random.default_rng(0)
        names = [f"photos/{number:03}.png" for number in range(given.pictures)]
        for name in (*names, "style.png"):
            Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
        for turn in range(given.rounds):
            for way, options in WAYS.items():
                added, taken, own = overheads(config, folder, f"{way}-{turn}", options)
                found[way] += added
                seconds[way] += taken
                used[way] += own
    rows = {
        way: {
            "median_ms": round(1e3 * statistics.median(values), 2),
            "p90_ms": round(1e3 * sorted(values)[int(0.9 * len(values))], 2),
            "picture_seconds": round(statistics.median(seconds[way]), 3),
            "driver_cpu_ms": round(1e3 * statistics.median(used[way]), 2) if WAYS[way] else None,
            "pictures": len(values),
        }
        for way, values in found.items()
    }
    options = {name: getattr(config, name) for name in ("image_size", "steps", "engine")}
    write_json(given.result, conditions("nst-fast/batch-overhead/1") | {"config": options, "overhead": rows})


if __name__ == "__main__":
    main()
