"""What following a run costs: python bench/trackers/trackers.py

One run per round with each tracker whose package is installed, with an event at every step. The CPU time that the
loop's thread spends in a follower's calls, and that of the threads that it has started, stand apart from the loop's
own, so that what else the machine does hardly matters. ``slow_down`` is of a run of 150 steps with an event at every
fifth, as runs have them without options, beginning and end among it; ``slow_down_every_step`` with one at every step.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nst_fast import Networks, Observer, stylize
from nst_fast.benchmark.scripts import conditions, flags, keep, script
from nst_fast.cli.console import Messages
from nst_fast.cli.display import Display
from nst_fast.cli.signals import Stop
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.run.films import TimeLapse
from nst_fast.run.guard import GUARD_STEPS
from nst_fast.run.observer import StepEvent
from nst_fast.run.outputs import Pastiche
from nst_fast.run.record import RunRecord
from nst_fast.run.trackers import LossTable, MLflow, TensorBoard, WeightsAndBiases

STEPS = 150  # of the run that a slow-down is given for
Row = dict[str, float]
Follower = contextlib.AbstractContextManager[Observer]
PACKAGES = {"--film out.mp4": "av", "TensorBoard": "tensorboard", "MLflow": "mlflow", "Weights & Biases": "wandb"}


def say(text: str) -> None:
    raise SystemExit(text)  # a tracker that has failed costs nothing, and must not be measured


@contextlib.contextmanager
def as_json() -> Iterator[Observer]:
    with (
        contextlib.redirect_stderr(io.StringIO()),
        Display(Messages(quiet=False, progress="json"), Stop()).begin() as it,
    ):
        yield it


def followers(folder: Path) -> dict[str, Callable[[], Follower]]:
    """Name -> what makes it; those whose package is missing are left out."""
    kinds: dict[str, Callable[[], Follower]] = {
        "none": lambda: contextlib.nullcontext(Observer()),
        "--progress json": as_json,
        "--csv": lambda: LossTable(folder / "losses.csv", say),
        "--film out.mp4": lambda: TimeLapse(folder / "out.mp4", say),
        "TensorBoard": lambda: TensorBoard(folder / "tensorboard", say),
        "MLflow": lambda: MLflow(say),
        "Weights & Biases": lambda: WeightsAndBiases(say),
    }
    return {
        name: make for name, make in kinds.items() if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name])
    }


class Timed(Observer):
    """Passes a run's calls on to a follower.

    Attributes:
        events: milliseconds of CPU time that each took.
        fixed: those of the beginning and the result.
        steps: those of the loop between two events.
    """

    def __init__(self, follower: Observer) -> None:
        self.follower = follower
        self.events: list[float] = []
        self.steps: list[float] = []
        self.fixed = 0.0
        self._ended = 0.0

    def started(self, record: RunRecord) -> None:
        self.fixed += self._timed(lambda: self.follower.started(record))

    def event(self, event: StepEvent) -> None:
        if self.events:
            self.steps.append(1000 * (time.thread_time() - self._ended))
        self.events.append(self._timed(lambda: self.follower.event(event)))

    def finished(self, pastiche: Pastiche) -> None:
        self.fixed += self._timed(lambda: self.follower.finished(pastiche))

    def _timed(self, call: Callable[[], None]) -> float:
        began = time.thread_time()
        call()
        self._ended = time.thread_time()
        return 1000 * (self._ended - began)


def followed(make: Callable[[], Follower], run: Callable[[Observer], Pastiche]) -> Row:
    """Milliseconds of CPU: of the loop by step, of the follower by event, and of its beginning and end."""
    with make() as follower:
        timed = Timed(follower)
        others = time.process_time() - time.thread_time()
        run(timed)
    behind = 1000 * (time.process_time() - time.thread_time() - others)  # the follower's threads, to their end
    return {
        "step_ms": median(timed.steps),
        "event_ms": median(timed.events) + behind / len(timed.events),
        "fixed_ms": timed.fixed,
    }


def measured(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "MLFLOW_TRACKING_URI": (folder / "ml").as_uri()}
    torch.set_num_threads(1)  # other threads are then those of followers
    pair, networks = (draw_content(arguments.size), draw_style(arguments.size)), Networks()
    options: dict[str, Any] = {"image_size": arguments.size, "steps": arguments.steps, "monitor_every": 0}
    options |= {"precision": "fp32", "device": "cpu", "scales": 1, "convolution": "direct", "log_every": 1}
    kinds = followers(folder)
    found: dict[str, list[Row]] = {name: [] for name in kinds}
    for turn in range(-1, arguments.rounds):  # the first warms what is loaded once
        for name, make in kinds.items():
            row = followed(make, lambda observer: stylize(*pair, options, listeners=observer, networks=networks))
            found[name] += [row] if turn >= 0 else []
    return [row_of(name, rows) for name, rows in found.items()]


def row_of(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The medians over the rounds, and the slow-down that they mean."""
    step, event, fixed = (median(row[key] for row in rows) for key in ("step_ms", "event_ms", "fixed_ms"))
    figures = {"step_ms": step, "event_ms": event, "fixed_ms": fixed}
    for key, events in {"slow_down": STEPS / GUARD_STEPS, "slow_down_every_step": STEPS}.items():
        figures[key] = (fixed + events * event) / (STEPS * step)
    return {"follower": name} | {key: round(value, 5) for key, value in figures.items()}


@script
def main() -> None:
    parser = flags(__doc__, __file__)
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--size", type=int, default=256)
    add("--steps", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(arguments, Path(folder))
    own = {"rounds": arguments.rounds, "size": arguments.size, "steps": arguments.steps}
    (path,) = keep(arguments.results, "trackers", conditions("nst-fast/trackers/1") | {"conditions": own, "rows": rows})
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
