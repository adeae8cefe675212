"""What live previews cost the loop: python bench/server/previews.py --size 512

One run, in turns with and without the previews of the server: the same loop, picture and events. A turn gives seconds
per step, of the wall clock and of the processor (all threads, that of the previews too); the ratios are of neighbouring
turns, and their median counts. Time without previews earns them no allowance.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from nst_fast.api import Observer, StepEvent, stylize
from nst_fast.benchmark.scripts import conditions, flags, keep, say
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.server.pictures import Previews


class Turns(Observer):
    """Gives the events of every other turn to the previews, and stops the run after the last turn."""

    every = 1  # the server's own interval in a run of 20 steps: the most that it asks for

    def __init__(self, turns: int, seconds: float) -> None:
        self.turns, self.seconds = turns, seconds
        self.shown, self.step = 0, 0
        self.rows: list[dict[str, float]] = []
        self.previews = Previews(self.show)
        self.begun: tuple[int, float, float] | None = None

    def show(self, step: int, data: bytes) -> None:
        self.shown += 1

    def event(self, event: StepEvent) -> None:
        self.step = event.step
        now = time.perf_counter(), time.process_time()
        if self.begun is None or now[1] - self.begun[2] >= self.seconds:
            self.end_turn(*now)
        if len(self.rows) % 2:
            self.previews.offer(event)

    def end_turn(self, wall: float, cpu: float) -> None:
        if self.begun is not None:
            steps = self.step - self.begun[0]
            self.rows.append({"wall": (wall - self.begun[1]) / steps, "cpu": (cpu - self.begun[2]) / steps})
            if len(self.rows) % 2:  # a turn without previews has ended
                begun = self.previews._begun
                self.previews._begun = begun[0] + wall - self.begun[1], begun[1] + cpu - self.begun[2]
            say(f"{len(self.rows)}: {self.rows[-1]['cpu']:.4f} s per step, {self.shown} previews")
        self.begun = self.step, time.perf_counter(), time.process_time()

    def stop(self) -> bool:
        return len(self.rows) >= self.turns


def measured(size: int, turns: int, seconds: float) -> dict[str, Any]:
    """Medians over pairs of turns of one run at one scale."""
    observer = Turns(turns, seconds)
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / "content.png", Path(name) / "style.png"]
        for path, draw in zip(paths, (draw_content, draw_style), strict=True):
            save_image(from_uint8(draw(min(size, 512))), path)
        options = {"weights": "random:0", "image_size": size, "scales": 1, "steps": 100_000, "monitor_every": 0}
        stylize(paths[0], paths[1], {**options, "convolution": "direct"}, listeners=observer)
    observer.previews.close()
    without, shown = observer.rows[::2], observer.rows[1::2]
    ratios = {key: [b[key] / a[key] for a, b in zip(without, shown, strict=False)] for key in ("wall", "cpu")}
    return {
        "size": size,
        "previews": observer.shown,
        "seconds_per_step": {key: round(median(row[key] for row in without), 5) for key in ratios},
        "ratios": {key: [round(each, 4) for each in values] for key, values in ratios.items()},
        "median_ratio": {key: round(median(values), 4) for key, values in ratios.items()},
    }


def main() -> None:
    parser = flags(__doc__, __file__)
    parser.add_argument("--size", default="256", help="longest sides, comma-separated")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn, of the processor")
    arguments = parser.parse_args()
    rows = [measured(int(size), arguments.turns, arguments.seconds) for size in arguments.size.split(",")]
    own = {"turns": arguments.turns, "seconds": arguments.seconds}
    data = conditions("nst-fast/previews/1") | {"conditions": own, "rows": rows}
    (path,) = keep(arguments.results, "previews", data)
    say(f"{path}")


if __name__ == "__main__":
    main()
