"""What following a run costs: python bench/trackers/trackers.py

The same run with nothing that follows it, and with each tracker whose package is installed, in one process by turns;
every other round is in reverse order. The figure is the CPU time of the loop's process, threads of trackers among it,
per step; ``ratio`` is the median over the rounds of that to the bare run of the same round. Each is measured at the
events of a usual run, and with an event at every step (``log_every`` 1), both beside a bare run with the same events.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from nst_fast import Networks, Observer, __version__, stylize
from nst_fast.benchmark.report import file_stem
from nst_fast.cli.console import Messages
from nst_fast.cli.display import Display
from nst_fast.cli.signals import Stop
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.run.trackers import LossTable, MLflow, TensorBoard, WeightsAndBiases
from nst_fast.system.files import write_atomic
from nst_fast.system.machine import describe_machine

SCHEMA = "nst-fast/trackers/1"
ROOT = Path(__file__).parents[2]
PACKAGES = {"TensorBoard": "tensorboard", "MLflow": "mlflow", "Weights & Biases": "wandb"}


def say(text: str) -> None:
    raise SystemExit(text)  # a tracker that has failed costs nothing, and must not be measured


@contextlib.contextmanager
def as_json() -> Iterator[Observer]:
    with (
        contextlib.redirect_stderr(io.StringIO()),
        Display(Messages(quiet=False, progress="json"), Stop()).begin() as it,
    ):
        yield it


def followers(folder: Path) -> dict[str, Callable[[], contextlib.AbstractContextManager[Observer]]]:
    """Name -> what makes it; those whose package is missing are left out."""
    kinds: dict[str, Callable[[], contextlib.AbstractContextManager[Observer]]] = {
        "none": lambda: contextlib.nullcontext(Observer()),
        "--progress json": as_json,
        "--csv": lambda: LossTable(folder / "losses.csv", say),
        "TensorBoard": lambda: TensorBoard(folder / "tensorboard", say),
        "MLflow": lambda: MLflow(say),
        "Weights & Biases": lambda: WeightsAndBiases(say),
    }
    return {
        name: make for name, make in kinds.items() if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name])
    }


def measured(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "MLFLOW_TRACKING_URI": (folder / "ml").as_uri()}
    pair, networks = (draw_content(arguments.size), draw_style(arguments.size)), Networks()
    options: dict[str, Any] = {"image_size": arguments.size, "steps": arguments.steps, "monitor_every": 0}
    options |= {"precision": "fp32", "device": "cpu", "scales": 1}
    kinds = followers(folder)
    cases = [(name, every) for every in (0, 1) for name in kinds]
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for turn in range(-1, arguments.rounds):  # the first warms what is loaded once
        for name, every in cases[:: -1 if turn % 2 else 1]:
            with kinds[name]() as observer:
                started = time.process_time()
                stylize(*pair, options, log_every=every, listeners=observer, networks=networks)
            times[name, every] += [time.process_time() - started] if turn >= 0 else []
    return [
        {
            "follower": name,
            "log_every": every,
            "cpu_ms_per_step": round(1000 * median(found) / arguments.steps, 3),
            "ratio": round(median(a / b for a, b in zip(found, times["none", every], strict=True)), 4),
        }
        for (name, every), found in times.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=9)
    add("--size", type=int, default=128)
    add("--steps", type=int, default=60)
    add("--results", type=Path, default=ROOT / "bench" / "results", help="the folder to write to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(arguments, Path(folder))
    conditions = {"rounds": arguments.rounds, "size": arguments.size, "steps": arguments.steps}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    data: dict[str, Any] = {"schema": SCHEMA, "created": created, "nst_fast": __version__, "device": "cpu"}
    data |= {"machine": describe_machine(), "conditions": conditions, "load": os.getloadavg()[0], "rows": rows}
    path = arguments.results / f"{file_stem('trackers', data)}.json"
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
