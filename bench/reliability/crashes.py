"""Commands killed at random moments: ``python bench/reliability/crashes.py --kills 200``. See README.md beside this.

Every trial starts a command, ends it by SIGKILL at a moment drawn evenly from the time that it takes undisturbed, looks
whether every file it left can be read, does what its user would do (the same command again, or ``nst-fast resume``),
and compares the outcome with that of an undisturbed run. Commands run in children of a process that has imported all
they need: what is tested is the commands and not the start of Python.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from nst_fast import cli
from nst_fast.benchmark.report import to_json
from nst_fast.benchmark.scripts import conditions, say
from nst_fast.errors import NstFastError
from nst_fast.images import load_image, to_uint8
from nst_fast.onnx.export import open_model
from nst_fast.run.checkpoint import read_checkpoint
from nst_fast.system.files import TEMP_PREFIX, sha256_bytes

# What the commands import when they run.
IMPORTED = (
    *("nst_fast.api", "nst_fast.jobs.series", "nst_fast.jobs.batch", "nst_fast.onnx.checked_export"),
    *("nst_fast.run.resumption", "torchvision", "onnxscript"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)
LIMIT_SECONDS = 300.0  # for a command that is not killed
KILLED = -signal.SIGKILL
SMALL = (
    *("--weights", "random:0", "--content-taps", "relu2_1", "--style-taps", "relu1_1,relu2_1", "--image-size", "48"),
    *("--precision", "fp32", "--engine", "fast", "--monitor-every", "0"),
)


Line = tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command line, and how its user continues after a crash.

    Attributes:
        line: what is run, in a folder with ``content.png``, ``style.png`` and the folder ``photos``.
        again: the command that follows a crash, from what the crash left.
    """

    line: Line
    again: Callable[[Path], Line]


@dataclass
class Tally:
    """The results of the kills of a command. ``killed`` counts those that came before its end."""

    undisturbed_seconds: float = 0.0
    kills: int = 0
    killed: int = 0
    left_something: int = 0
    resumed: int = 0
    litter: int = 0
    unreadable: list[str] = field(default_factory=list)
    not_completed: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


_ON_PICTURES = ("content.png", "style.png", "-o", "out.png")
STYLIZE: Line = ("stylize", *_ON_PICTURES, *SMALL, "--steps", "60", "--save-every", "20", "--checkpoint-every", "10")
_VARIED = ("content.png", "--style", "style.png", "--vary", "init=noise,content", "-o", "sweep")
SWEEP: Line = ("sweep", *_VARIED, *SMALL, "--steps", "20")
BATCH: Line = ("batch", "photos", "--style", "style.png", "-o", "painted", *SMALL[:-2], "--steps", "15")
_ONE_TAP = ("--content-taps", "relu1_1", "--style-taps", "relu1_1")
EXPORT: Line = ("export", "-o", "m.onnx", "--weights", "random:0", *_ONE_TAP)


def resumed_or_repeated(folder: Path) -> Line:
    """The run is resumed from its checkpoint; without one it is started again."""
    if any(folder.glob("out-checkpoint-*")):
        return ("resume", "out.png")
    return (*STYLIZE, "--overwrite")


COMMANDS = {
    "stylize": Command(STYLIZE, resumed_or_repeated),
    "sweep": Command(SWEEP, lambda folder: SWEEP),
    "batch": Command(BATCH, lambda folder: BATCH),
    "export": Command(EXPORT, lambda folder: (*EXPORT, "--overwrite")),
}


def make_inputs(folder: Path) -> None:
    """The pictures that the commands read; the same in every folder."""
    (folder / "photos").mkdir(parents=True)
    places = ["content.png", "style.png", *(f"photos/{number}.png" for number in range(3))]
    for number, place in enumerate(places):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 32), Image.Resampling.BICUBIC).save(folder / place)


def run(line: Line, folder: Path) -> None:
    """In the child: run a command in a session of its own."""
    os.setsid()
    os.chdir(folder)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["nst-fast", *line]
    cli.main()


def ended(line: Line, folder: Path, limit: float) -> int | None:
    """Run a command, and kill it with all that it started after so many seconds; its exit code."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(line, folder))
    child.start()
    child.join(limit)
    if child.exitcode is None and child.pid is not None:
        with suppress(ProcessLookupError):  # it has no session yet
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.join()
    return child.exitcode


def finished(line: Line, folder: Path) -> int | str | None:
    """Run a command to its end; its exit code."""
    code = ended(line, folder, LIMIT_SECONDS)
    return f"no end after {LIMIT_SECONDS:g} seconds" if code == KILLED else code


def unreadable(folder: Path) -> list[str]:
    """The files that their reader refuses. Temporary ones, which are never read, are left out."""
    problems = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith(TEMP_PREFIX):
            continue
        try:
            read(path)
        except (NstFastError, OSError, ValueError) as error:
            problems.append(f"{path.relative_to(folder)}: {error}")
    return problems


def read(path: Path) -> object:
    match path.suffix:
        case ".png":
            return load_image(path)
        case ".json":
            return json.loads(path.read_text("utf-8"))
        case ".safetensors":
            return read_checkpoint(path)
        case ".onnx":
            # A model whose sidecar is not there yet counts as unfinished: export writes it again.
            return path.read_bytes() if not path.with_name("m.onnx.json").exists() else open_model(path)
    return path.read_bytes()


def results(folder: Path) -> dict[str, Any]:
    """What the outputs show, without what depends on the clock: pixels, bytes of models, facts of tables."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".png" and not name.endswith(("losses.png", "curves.png")):
            found[name] = sha256_bytes(to_uint8(load_image(path).tensor).tobytes())
        elif path.suffix == ".onnx":
            found[name] = sha256_bytes(path.read_bytes())
        elif path.suffix == ".csv":
            rows = csv.DictReader(io.StringIO(path.read_text("utf-8")))
            found[name] = [{key: value for key, value in row.items() if "second" not in key} for row in rows]
        elif path.suffix == ".json" and name != "m.onnx.json":
            record = json.loads(path.read_text("utf-8"))
            found[name] = {key: record.get(key) for key in ("status", "steps", "losses", "history", "size")}
        elif path.suffix == ".safetensors":
            found[name] = "a checkpoint"
    return found


def trial(command: Command, name: str, chance: Random, expected: dict[str, Any], tally: Tally, folder: Path) -> None:
    """One kill and what follows."""
    make_inputs(folder)
    moment = chance.uniform(0, tally.undisturbed_seconds)
    tally.killed += ended(command.line, folder, moment) == KILLED
    tally.kills += 1
    at = f"{name}, kill {tally.kills} after {moment:.3f} s"
    before = len(list(folder.rglob("*"))) - 7
    tally.left_something += before > 0
    tally.litter += len(list(folder.rglob(f"{TEMP_PREFIX}*.tmp")))
    tally.unreadable += [f"{at}: {problem}" for problem in unreadable(folder)]
    line = command.again(folder)
    tally.resumed += line[0] == "resume"
    if (code_again := finished(line, folder)) != 0:
        lines = (folder / "output.txt").read_text("utf-8", "replace").strip().splitlines()
        tally.not_completed.append(f"{at}: {line[0]} ended with {code_again}: {lines[-1:]}")
        return
    if (found := results(folder)) != expected:
        names = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        tally.different.append(f"{at}: {', '.join(sorted(names))}")


def campaign(name: str, kills: int, seed: int, root: Path) -> Tally:
    """Two undisturbed runs, which must agree, and then the kills."""
    command, tally = COMMANDS[name], Tally()
    outcomes = []
    for turn in range(3):  # the first fills the cache
        folder = root / f"{name}-undisturbed-{turn}"
        make_inputs(folder)
        started = time.monotonic()
        if (code := finished(command.line, folder)) != 0:
            raise SystemExit(f"{name}, undisturbed, ended with {code}: {(folder / 'output.txt').read_text()}")
        tally.undisturbed_seconds = time.monotonic() - started
        outcomes.append(results(folder))
        shutil.rmtree(folder)
    if outcomes[0] != outcomes[1] or outcomes[1] != outcomes[2]:
        raise SystemExit(f"{name}: undisturbed runs differ from one another")
    for number in range(kills):
        folder = root / f"{name}-{number}"
        trial(command, name, Random(f"{seed} {name} {number}"), outcomes[0], tally, folder)
        shutil.rmtree(folder)
        if (number + 1) % 10 == 0:
            say(f"{name}: {number + 1} kills")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all, dealt to the commands in turn [200]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS, action="append", help="may be given again; by default all")
    arguments = parser.parse_args()
    for module in IMPORTED:
        importlib.import_module(module)
    os.environ["NST_FAST_OFFLINE"] = "1"
    torch.set_num_threads(1)
    names, started = arguments.command or list(COMMANDS), time.monotonic()
    tallies = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NST_FAST_CACHE"] = str(Path(folder) / "cache")
        for index, name in enumerate(names):
            kills = arguments.kills // len(names) + (index < arguments.kills % len(names))
            tallies[name] = campaign(name, kills, arguments.seed, Path(folder))
    bad = sum(len(t.unreadable) + len(t.not_completed) + len(t.different) for t in tallies.values())
    facts = {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
        "kills": sum(tally.kills for tally in tallies.values()),
        "failures": bad,
        "commands": {name: vars(tally) for name, tally in tallies.items()},
    }
    sys.stdout.write(to_json(conditions("nst-fast/crashes/1") | facts))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
