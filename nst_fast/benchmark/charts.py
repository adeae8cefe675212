"""The plot of a report: steps per second of every engine and evaluations per second of every provider, over size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.benchmark.report import Data, facts, size_of
from nst_fast.benchmark.rows import OK
from nst_fast.images.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#222222", "#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d")
MARKERS = "osD^vP"
DASHES = ("--", ":", "-.")
PANELS = {
    "loop": ("The loop", "steps per second", "step_ms"),
    "evaluation": ("Forward evaluation of the objective", "evaluations per second", "latency_ms"),
}


def save_plot(data: Data, path: Path) -> bool:
    """Draw the panels that have something to show; False, and no file, when none has."""
    panels = [partial(_draw, kind=kind, rows=rows) for kind in PANELS if (rows := _with_figures(data, kind))]
    pairs = dict.fromkeys(row["pair"] for row in data["rows"] if row["kind"] == "quality")
    panels += [partial(_draw_curves, pair=pair, rows=data["rows"]) for pair in pairs]
    if not panels:
        return False
    figure = new_figure(0.8 + 5.2 * len(panels), 4.4)
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
    known = facts(data)
    figure.suptitle(
        f"{known['machine']}  ·  PyTorch {known['torch']}  ·  ONNX Runtime {known['onnxruntime']}  ·  "
        f"nst-fast {known['nst_fast']}  ·  {known['created'][:10]}",
        fontsize=8,
        color="#555555",
    )
    save_figure(figure, path)
    return True


def _with_figures(data: Data, kind: str) -> list[Mapping[str, Any]]:
    time = PANELS[kind][2]
    return [row for row in data["rows"] if row["kind"] == kind and row["status"] == OK and row[time] is not None]


def _draw_curves(axes: Axes, pair: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss over seconds of every run on one pair, and the late goal as a line across."""
    runs = [row for row in rows if row["kind"] == "quality" and row["pair"] == pair and row["status"] == OK]
    for index, row in enumerate(runs):
        label = f"{row['engine']}, {row['precision']}, {row['recipe']}"
        axes.plot(row["seconds"], row["losses"], label=label, color=COLOURS[index % len(COLOURS)], linewidth=1.4)
        if row["late_loss"] is not None:
            axes.axhline(row["late_loss"], color="#999999", linewidth=0.6, linestyle=DASHES[0])
    last = [row["losses"][-1] for row in runs]
    axes.set_yscale("log")
    axes.set_ylim(0.8 * min(last, default=1), 20 * min(last, default=1))  # the first steps fall by hundreds
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of the loop")
    axes.set_ylabel("loss, eager in fp32")
    axes.set_title(f"Time to quality: {pair}", fontsize=10)
    axes.grid(True, alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)


def _draw(axes: Axes, kind: str, rows: list[Mapping[str, Any]]) -> None:
    """Medians with p10 to p90 as bars, on logarithmic axes; the ceiling of a precision as a dashed line."""
    from matplotlib.ticker import LogLocator

    title, unit, time = PANELS[kind]
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(_label(row), []).append(row)
    for index, (label, unordered) in enumerate(series.items()):
        line = sorted(unordered, key=_side)
        rates = [1e3 / row[time] for row in line]
        spread = (
            [rate - 1e3 / row[f"{time}_p90"] for rate, row in zip(rates, line, strict=True)],
            [1e3 / row[f"{time}_p10"] - rate for rate, row in zip(rates, line, strict=True)],
        )
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        sides = [_side(row) for row in line]
        axes.errorbar(sides, rates, spread, label=label, color=colour, marker=marker, capsize=2.5, markersize=4.5)
    _draw_ceilings(axes, rows)
    names = {_side(row): size_of(row) for row in rows}
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    tilted = any("x" in name for name in names.values())  # those are long, and close to squares
    slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axes.set_xticks(list(names), list(names.values()), **slant)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.12)
    axes.set_xlabel("picture, pixels")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.grid(True, alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)


def _draw_ceilings(axes: Axes, rows: list[Mapping[str, Any]]) -> None:
    ceilings: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["ceiling_share"]:
            rate = row["gflops"] / row["ceiling_share"] / row["gflop"]
            ceilings.setdefault(row["precision"], {})[_side(row)] = rate
    for index, (precision, rates) in enumerate(ceilings.items()):
        sides = sorted(rates)
        style, label = DASHES[index % len(DASHES)], f"ceiling, {precision}"
        axes.plot(sides, [rates[side] for side in sides], style, color="#999999", linewidth=1, label=label)


def _side(row: Mapping[str, Any]) -> float:
    """The side of the square of as many pixels."""
    return float((row["width"] * row["height"]) ** 0.5)


def _label(row: Mapping[str, Any]) -> str:
    if row["kind"] == "loop":
        return f"{row['engine']}, {row['precision']}"
    if row["runtime"] == "pytorch":
        return f"PyTorch, {row['actual']}"
    return f"ONNX Runtime, {row['actual']}"
