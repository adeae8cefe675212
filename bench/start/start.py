"""Where the time of one picture goes, from the command to the file: python bench/start/start.py --against CHECKOUT

Every run is a fresh process. Its time until it says that it loads, until the losses of the first step and until its end
is taken from outside, so that any checkout can be measured; the split between them is the run record's ``phases``.
Checkouts take turns; every other round is in reverse order. CPU seconds stand beside wall-clock ones, because they
depend less on what else the machine does. Help is measured too. Caches are warm: one run before the first round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from nst_fast.benchmark.scripts import conditions, flags, keep, say
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.system.machine import git_commit

ROOT = Path(__file__).parents[2]
HELP = (["--help"], ["stylize", "--help"])
# Phases up to the losses of the first step.
BEFORE = ("pictures", "weights", "targets", "trial", "engine", "first step")
MARKS = {"loading": "called", "step 0/": "first_step"}  # the beginning of a line of the run -> the name of that moment


def observed(checkout: Path, arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds of the wall clock and of the CPU (``cpu_``) from the start of a command to each mark and to its end."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "nst_fast", *arguments]
    found: dict[str, float] = {}
    started = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    for line in child.stderr:
        moment = next((name for text, name in MARKS.items() if line.startswith(text)), "")
        if moment:
            times = psutil.Process(child.pid).cpu_times()
            found |= {moment: time.perf_counter() - started, f"cpu_{moment}": times.user + times.system}
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} of {checkout.name} ended with {child.returncode}")
    return found | {"total": time.perf_counter() - started, "cpu_total": used.ru_utime + used.ru_stime}


def run(checkout: Path, arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """One picture: the moments of :func:`observed`, and the phases of its record, if it has any."""
    found = observed(checkout, ["stylize", "c.png", "s.png", "-o", "o.png", "--overwrite", *arguments], folder)
    phases: dict[str, float] = json.loads((folder / "o.json").read_text()).get("phases", {})
    if phases:
        before = sum(phases.get(name, 0) for name in BEFORE)
        found["import"] = found["first_step"] - before
        found["write and exit"] = found["total"] - found["import"] - sum(phases.values())
    return found | phases


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per checkout and number of steps, and one per help: the median of every figure."""
    checkouts = {"this": ROOT} | ({"against": arguments.against.resolve()} if arguments.against else {})
    cases: list[tuple[str, Sequence[str]]] = [(" ".join(command), command) for command in HELP]
    for steps in arguments.steps.split(","):
        cases.append((f"{steps} steps", ["--image-size", str(arguments.size), "--steps", steps, *arguments.options]))
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_image(from_uint8(draw_content(512)), folder / "c.png")
        save_image(from_uint8(draw_style(512)), folder / "s.png")
        for turn in range(-1, arguments.rounds):  # the first warms the caches
            for case, command in cases[len(HELP) :][:1] if turn < 0 else cases:
                for which, checkout in list(checkouts.items())[:: -1 if turn % 2 else 1]:
                    measure = observed if "--help" in command else run
                    found = measure(checkout, command, folder)
                    if turn >= 0:
                        runs.setdefault((case, which), []).append(found)
                        say(f"{case}, {which}: {found['total']:.2f} s, CPU {found['cpu_total']:.2f}")
    return [
        {"case": case, "checkout": which, "commit": git_commit(checkouts[which])}
        | {key: round(median(each[key] for each in found), 4) for key in found[0]}
        for (case, which), found in runs.items()
    ]


def main() -> None:
    parser = flags(__doc__, __file__)
    add = parser.add_argument
    add("--against", type=Path, help="another checkout, measured by turns")
    add("--rounds", type=int, default=5)
    add("--size", type=int, default=256)
    add("--steps", default="1,60", help="numbers of steps, comma-separated")
    add("options", nargs="*", help="more options of stylize, after --")
    arguments = parser.parse_args()
    rows = measured(arguments)
    own = {"rounds": arguments.rounds, "size": arguments.size, "options": arguments.options}
    data = conditions("nst-fast/start/1") | {"conditions": own, "rows": rows}
    (path,) = keep(arguments.results, f"start-{arguments.steps.replace(',', '-')}", data)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
