"""The plot of a report: rates of engines and providers over size, and loss over seconds of time to quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.benchmark.report import Data, facts, size_of
from nst_fast.benchmark.rows import OK
from nst_fast.images.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#222222", "#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d")
MARKERS = "osD^vP"
DASHES = ("--", ":", "-.")
PANELS = {
    "loop": ("The loop", "steps per second", "step_ms"),
    "evaluation": ("Forward evaluation of the objective", "evaluations per second", "latency_ms"),
}
Rows = Sequence[Mapping[str, Any]]


def save_plot(data: Data, path: Path) -> bool:
    """Draw the panels that have something to show; False, and no file, when none has."""
    rows = [row for row in data["rows"] if row["status"] == OK]
    panels = []
    for kind, (_, _, time) in PANELS.items():
        timed = [row for row in rows if row["kind"] == kind and row[time] is not None]
        panels += [partial(_draw_rates, kind=kind, rows=timed)] if timed else []
    for pair in dict.fromkeys(row["pair"] for row in data["rows"] if row["kind"] == "quality"):
        runs = [row for row in rows if row["kind"] == "quality" and row["pair"] == pair]
        panels.append(partial(_draw_curves, pair=pair, rows=runs))
    if not panels:
        return False
    figure = new_figure(0.8 + 5.2 * len(panels), 4.4)
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.grid(True, alpha=0.25, linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)
    known = facts(data)
    figure.suptitle(
        f"{known['machine']}  ·  PyTorch {known['torch']}  ·  ONNX Runtime {known['onnxruntime']}  ·  "
        f"nst-fast {known['nst_fast']}  ·  {known['created'][:10]}",
        fontsize=8,
        color="#555555",
    )
    save_figure(figure, path)
    return True


def _draw_curves(axes: Axes, pair: str, rows: Rows) -> None:
    """Loss over seconds of every run on one pair, and the late goal as a line across."""
    for row, color in zip(rows, cycle(COLORS), strict=False):
        label = f"{row['engine']}, {row['precision']}, {row['recipe']}"
        axes.plot(row["seconds"], row["losses"], label=label, color=color, linewidth=1.4)
        if row["late_loss"] is not None:
            axes.axhline(row["late_loss"], color="#999999", linewidth=0.6, linestyle=DASHES[0])
    least = min((row["losses"][-1] for row in rows), default=1)
    axes.set_yscale("log")
    axes.set_ylim(0.8 * least, 20 * least)  # the first steps fall by hundreds
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of the loop")
    axes.set_ylabel("loss, eager in fp32")
    axes.set_title(f"Time to quality: {pair}", fontsize=10)


def _draw_rates(axes: Axes, kind: str, rows: Rows) -> None:
    """Medians with p10 to p90 as bars, on logarithmic axes; the ceiling of a precision as a dashed line."""
    from matplotlib.ticker import LogLocator

    title, unit, time = PANELS[kind]
    lines: dict[str, list[Mapping[str, Any]]] = {label: [] for label in map(_label, rows)}
    ceilings: dict[str, dict[float, float]] = {}
    for row in sorted(rows, key=_side):
        lines[_label(row)].append(row)
        if row["ceiling_share"]:
            rate = row["gflops"] / row["ceiling_share"] / row["gflop"]
            ceilings.setdefault(row["precision"], {})[_side(row)] = rate
    for label, color, marker in zip(lines, cycle(COLORS), cycle(MARKERS), strict=False):
        low, rates, high = ([1e3 / row[time + at] for row in lines[label]] for at in ("_p90", "", "_p10"))
        spread = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((low, rates), (rates, high))]
        sides = [*map(_side, lines[label])]
        axes.errorbar(sides, rates, spread, label=label, color=color, marker=marker, capsize=2.5, markersize=4.5)
    for (precision, rates_by_side), dashes in zip(ceilings.items(), cycle(DASHES), strict=False):
        label = f"ceiling, {precision}"
        axes.plot(*zip(*rates_by_side.items(), strict=True), dashes, color="#999999", linewidth=1, label=label)
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


def _side(row: Mapping[str, Any]) -> float:
    """The side of the square of as many pixels."""
    return float((row["width"] * row["height"]) ** 0.5)


def _label(row: Mapping[str, Any]) -> str:
    if row["kind"] == "loop":
        return f"{row['engine']}, {row['precision']}"
    return f"{'PyTorch' if row['runtime'] == 'pytorch' else 'ONNX Runtime'}, {row['actual']}"
