"""Scenarios: what to measure, as a TOML file, and where the result of one goes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.benchmark.charts import save_plot
from nst_fast.benchmark.config import BenchConfig
from nst_fast.benchmark.report import file_stem, to_csv, to_json
from nst_fast.benchmark.suite import run_benchmark
from nst_fast.errors import InputError, UsageError, nearest
from nst_fast.options.declaration import declared
from nst_fast.system.files import check_writable, shown, write_atomic


@dataclass(frozen=True)
class Scenario:
    """A named benchmark. The name is the file's, the rest is in it: ``description`` and a table ``[options]``."""

    name: str
    description: str
    config: BenchConfig


def load_scenario(path: Path, changes: Sequence[str] = ()) -> Scenario:
    """Read a scenario file; ``changes`` (``NAME=VALUE``) take the place of its own options.

    Raises:
        InputError: the file cannot be read or is not TOML.
        UsageError: it holds something else than ``description`` and ``[options]``, or an option that makes no sense.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{shown(path)}: cannot be read as TOML: {error}") from error
    unknown = ", ".join(data.keys() - {"description", "options"})
    if unknown:
        raise UsageError(f"{shown(path)}: unknown key {unknown}", "A scenario has a description and [options]")
    options = data.get("options", {}) | dict(map(assignment, changes))
    return Scenario(path.stem, data.get("description", ""), BenchConfig().replace(**options))


def assignment(text: str) -> tuple[str, object]:
    """``NAME=VALUE`` as an option of a scenario; what is not text is written as in TOML. Raises :class:`UsageError`."""
    name, equals, value = text.partition("=")
    kinds = {item.name: item.kind for item in declared(BenchConfig)}
    if not equals or name not in kinds:
        raise UsageError(f"--set {text!r} is not NAME=VALUE", nearest(name, kinds) or "As --set weights=FILE")
    try:
        return name, value if kinds[name] is str else tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise UsageError(f"--set {text!r}: {name} is no text", "Write the value as in TOML: 3, 0.5 or true") from None


def run_scenario(scenario: Scenario, folder: Path, note: Callable[[str], None]) -> list[Path]:
    """Run a scenario and write its result: .json, .csv and, if there is something to draw, .png.

    Returns:
        The files written, named after scenario, machine, versions and day; a result of the same name is replaced.
    """
    note(f"{scenario.name}: {scenario.description}")
    check_writable(folder / f"{scenario.name}.json", overwrite=True)
    data = run_benchmark(scenario.config, note=note).as_dict()
    stem = folder / file_stem(scenario.name, data)
    written = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("json", "csv", "png")]
    write_atomic(written[0], to_json(data).encode())
    write_atomic(written[1], to_csv(data).encode())
    return written if save_plot(data, written[2]) else written[:2]
