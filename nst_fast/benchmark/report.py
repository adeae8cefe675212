"""Reports as JSON, CSV, tables and charts. All from plain data, fresh or read from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.benchmark.rows import OK
from nst_fast.system.files import write_atomic
from nst_fast.system.tables import csv_table

if TYPE_CHECKING:
    from rich.table import Table

Data = Mapping[str, Any]

# The columns of what a row is about come first; what it measured follows in the order of the rows themselves.
IDENTITY = (
    *("kind", "engine", "runtime", "requested", "actual", "device"),
    *("precision", "width", "height", "batch", "status"),
)
NO_FIGURE = "–"


def write_results(data: Data, json_file: Path | None, csv_file: Path | None, plot_file: Path | None) -> list[Path]:
    """Write the files that are named; those written: a plot only if there is something to draw."""
    from nst_fast.benchmark.charts import save_plot

    written = []
    for path, text in ((json_file, to_json), (csv_file, to_csv)):
        if path is not None:
            write_atomic(path, text(data).encode())
            written.append(path)
    if plot_file is not None and save_plot(data, plot_file):
        written.append(plot_file)
    return written


def to_json(data: Data) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(data: Data) -> str:
    """All rows in one table, a column per figure, empty where a kind has none; the run's facts end every line.

    Curves, which no cell of a table holds, are in the JSON only.
    """
    known = facts(data)
    rows = [{name: value for name, value in row.items() if not isinstance(value, list)} for row in data["rows"]]
    return csv_table([row | known for row in rows], IDENTITY)


def facts(data: Data) -> dict[str, Any]:
    """What a row means little without: machine, versions and date."""
    machine, packages = data["machine"], data["machine"]["packages"]
    return {
        "machine": machine_name(data),
        "torch": packages.get("torch"),
        "onnxruntime": packages.get("onnxruntime-gpu") or packages.get("onnxruntime"),
        "nst_fast": data["nst_fast"],
        "commit": machine["commit"],
        "created": data["created"],
    }


def machine_name(data: Data) -> str:
    """The GPU that the run used, or the processor and its cores."""
    machine = data["machine"]
    kind, _, index = data["device"].partition(":")
    if kind == "cuda" and machine["gpus"]:
        return str(machine["gpus"][int(index or 0)]["name"])
    return f"{machine['cpu']}, {machine['cores_physical']} cores"


def file_stem(name: str, data: Data) -> str:
    """The name of a result, its conditions in it: ``steps-amd-epyc-2-cores-pt215-ort131-2026-11-20``."""
    machine = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)|processor", "", machine_name(data).lower())).strip("-")
    known = facts(data)
    torch, onnxruntime = ("".join((known[name] or "0").split(".")[:2]) for name in ("torch", "onnxruntime"))
    return "-".join([name, machine, f"pt{torch}", f"ort{onnxruntime}", data["created"][:10]])


def size_of(row: Data) -> str:
    """``512`` for a square, else ``512x384``, width first; ``8 of 512`` for several pictures in a step."""
    width, height, batch = row["width"], row["height"], row.get("batch", 1)
    size = str(width) if width == height else f"{width}x{height}"
    return size if batch == 1 else f"{batch} of {size}"


Column = tuple[str, Callable[[Data], str]]


def _number(name: str, pattern: str = "{:.4g}", factor: float = 1.0) -> Callable[[Data], str]:
    return lambda row: NO_FIGURE if row[name] is None else pattern.format(factor * row[name])


def _spread(name: str) -> Callable[[Data], str]:
    """The median and, in brackets, p10 and p90, with three significant digits."""

    def text(row: Data) -> str:
        if row[f"{name}_p10"] is None:
            return NO_FIGURE
        middle, low, high = (f"{float(f'{row[name + suffix]:.3g}'):g}" for suffix in ("", "_p10", "_p90"))
        return f"{middle} ({low}–{high})"

    return text


def _provider(row: Data) -> str:
    if row.get("runtime") == "pytorch":
        return f"PyTorch, {row['requested']}"
    fallback = f" (ran on {row['actual']})" if row["actual"] not in ("", row["requested"]) else ""
    return f"{row['requested']}{fallback}"


def _engine(row: Data) -> str:
    return f"{row['engine']}, {row['precision']}"


WORK: list[Column] = [
    ("GFLOP/s", _number("gflops", "{:,.0f}")),
    ("of\nceiling", _number("ceiling_share", "{:.0f} %", 100)),
    ("of\nWinograd", _number("winograd_share", "{:.0f} %", 100)),
    ("peak\nMiB", _number("peak_memory_mib", "{:,.0f}")),
]
TABLES: dict[str, tuple[str, list[Column]]] = {
    "loop": (
        "The loop: steps per second",
        [
            ("size", size_of),
            ("engine", _engine),
            ("steps/s", _number("steps_per_second")),
            ("ms/step\n(p10–p90)", _spread("step_ms")),
            ("vs\neager", _number("ratio_to_eager", "{:.2f}x")),
            *WORK,
            ("gradient\ncosine", _number("gradient_cosine", "{:.5f}")),
            ("later", _number("gradient_cosine_late", "{:.5f}")),
            ("final\nloss", _number("final_loss_change", "{:+.2f} %", 100)),
        ],
    ),
    "quality": (
        "Time to quality: seconds to the loss of the best plain run of eager",
        [
            ("pair", lambda row: row["pair"]),
            ("recipe", lambda row: f"{_engine(row)}, {row['recipe']}"),
            ("size", size_of),
            ("a third\nof the steps", _number("early_seconds", "{:.1f} s")),
            ("vs\nplain", _number("early_share", "{:.2f}")),
            ("all\nsteps", _number("late_seconds", "{:.1f} s")),
            ("vs\nplain", _number("late_share", "{:.2f}")),
            ("last\nloss", lambda row: f"{row['losses'][-1]:.4g}"),
        ],
    ),
    "evaluation": (
        "One evaluation of the objective: ONNX Runtime and PyTorch",
        [
            ("size", size_of),
            ("provider", _provider),
            ("evaluations\nper second", _number("evaluations_per_second")),
            ("ms\n(p10–p90)", _spread("latency_ms")),
            ("vs\nPyTorch", _number("ratio_to_pytorch", "{:.2f}x")),
            *WORK,
        ],
    ),
    "monitor": (
        "What the monitor costs",
        [
            ("size", size_of),
            ("engine", _engine),
            ("provider", _provider),
            ("every", lambda row: f"{row['monitor_every']} steps"),
            ("steps/s\nwith", _number("steps_per_second")),
            ("steps/s\nwithout", _number("steps_per_second_without")),
            ("slower\nby", _number("slowdown_percent", "{:.1f} %")),
            ("readings", lambda row: f"{row['readings']}, {row['dropped']} dropped"),
        ],
    ),
}


def tables(data: Data) -> list[Table]:
    """A Rich table per kind of row that was measured; rows without a figure are left to :func:`remarks`."""
    from rich import box
    from rich.table import Table

    found = []
    for kind, (title, columns) in TABLES.items():
        rows = [row for row in data["rows"] if row["kind"] == kind and row["status"] == OK]
        if not rows:
            continue
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, (heading, _) in enumerate(columns):
            table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(text(row) for _, text in columns))
        found.append(table)
    return found


def remarks(data: Data) -> list[str]:
    """A sentence for every case that has no figures, or lacks some: sizes with the same error share one."""
    sizes: dict[str, list[str]] = {}
    for row in data["rows"]:
        if row["error"]:
            name = row["requested"] if row["kind"] == "evaluation" else row["engine"]
            status = row["status"] if row["status"] != OK else "ok, but"
            sizes.setdefault(f"{row['kind']} {name} {{}}: {status}: {row['error']}", []).append(size_of(row))
    return [text.replace("{}", ", ".join(at), 1) for text, at in sizes.items()]
