"""Plots of run records, drawn by matplotlib without a display and written like every other file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST_SHARE = 1000  # terms below this share of the smallest total are not shown


def save_loss_curve(record: Mapping[str, Any], path: Path) -> None:
    """The loss terms of a run on a logarithmic axis, with the monitor's readings as marks."""
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    draw_losses(axes, record)
    save_figure(figure, path)


def draw_losses(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw content, style, total variation and total; zero terms are left out (the axis is logarithmic)."""
    colours = {"total": "#222222", "content": "#1f77b4", "style": "#d95f02", "tv": "#7570b3"}
    columns = grouped(record["history"])
    monitored = grouped(record.get("monitor", {}).get("terms", {}))
    steps = record.get("monitor", {}).get("steps", [])
    for name, colour in colours.items():
        if name in columns and max(columns[name]) > 0:
            axes.plot(range(len(columns[name])), columns[name], label=name, color=colour, linewidth=1.5)
        if monitored.get(name) and max(monitored[name]) > 0:
            label = "ONNX Runtime monitor" if name == "total" else None
            axes.plot(steps, monitored[name], "o", color=colour, markersize=3.5, fillstyle="none", label=label)
    axes.set_yscale("log")
    if "total" in columns:  # a content loss that starts at rounding error must not stretch the axis
        axes.set_ylim(bottom=min(columns["total"]) / SMALLEST_SHARE)
    axes.set_xlabel("step")
    axes.set_ylabel("weighted loss")
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False)


def grouped(columns: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Per-tap columns (``style/relu1_1`` ...) added up to ``content``, ``style``, ``tv`` and ``total``."""
    sums: dict[str, list[float]] = {}
    for name, column in columns.items():
        kind = name.split("/")[0]
        sums[kind] = [a + b for a, b in zip(sums[kind], column, strict=True)] if kind in sums else list(column)
    return sums


def new_figure(width: float, height: float) -> Figure:
    """A figure, size in inches, that needs no display and belongs to no global state."""
    from matplotlib.figure import Figure  # 0.3 s of import, only when something is drawn

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
