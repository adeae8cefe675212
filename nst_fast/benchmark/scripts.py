"""What the scripts in bench/ share: the head of a result and its files, and cases that take turns."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from nst_fast import __version__
from nst_fast.benchmark.report import file_stem, to_json
from nst_fast.errors import NstFastError
from nst_fast.system.files import write_atomic
from nst_fast.system.machine import describe_machine


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def script(main: Callable[[], None]) -> Callable[[], int]:
    """A main that gives an exit code, for an error of ours with its message on stderr."""

    @functools.wraps(main)
    def ended() -> int:
        try:
            main()
        except NstFastError as error:
            say(f"error: {error}")
            return error.exit_code
        return 0

    return ended


def flags(description: str | None, file: str) -> argparse.ArgumentParser:
    """The parser of a script in a folder of bench/, which is this file: with ``--results``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(file).resolve().parents[1] / "results"
    made.add_argument("--results", type=Path, default=folder, help="where the result goes (default: bench/results)")
    return made


def conditions(schema: str) -> dict[str, Any]:
    """The head of a result: what it is, when, of which version, and on what, how busy, it was measured."""
    return {
        "schema": schema,
        "nst_fast": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "load": psutil.getloadavg()[0],
        "machine": describe_machine(),
    }


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_atomic(path, to_json(data).encode())


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` has written; empty if there is no file."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def keep(folder: Path, name: str, data: Mapping[str, Any], **texts: str) -> list[Path]:
    """Write a result as JSON, and texts by their suffixes, under a name that has its conditions; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, paths = file_stem(name, data), []
    for suffix, text in {"json": to_json(data), **texts}.items():
        paths.append(folder / f"{stem}.{suffix}")
        write_atomic(paths[-1], text.encode())
    return paths


def by_turns(
    cases: Mapping[str, Callable[[], object]], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """The seconds of every case in every turn, backwards in every other; the first turn is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(1 + turns):
        for name in list(cases)[:: -1 if turn % 2 else 1]:
            started = clock()
            cases[name]()
            if turn:
                seconds[name].append(clock() - started)
    return seconds


def paired_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median over turns."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
