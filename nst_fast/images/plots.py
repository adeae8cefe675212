"""Plots of run records, drawn by matplotlib without a display and written like every other file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.system.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST_SHARE = 1000  # terms below this share of the smallest total are not shown
TERM_COLOURS = {"total": "#222222", "content": "#1f77b4", "style": "#d95f02", "tv": "#7570b3"}
# Twelve colours that differ in lightness too; runs beyond get the same colours dashed.
RUN_COLOURS = (
    *("#1b6ca8", "#d95f02", "#2a9d5c", "#8e44ad", "#c0392b", "#b8860b"),
    *("#17a2b8", "#e377c2", "#556b2f", "#7f7f7f", "#000080", "#ff9f7a"),
)
WIDE_LABEL = 36  # characters of a legend's label that take more than half a plot
AGAINST = {"step": "step", "seconds": "seconds"}  # axis -> its label


def save_loss_curve(record: Mapping[str, Any], path: Path) -> None:
    """The loss terms of a run on a logarithmic axis, with the monitor's readings as marks."""
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    draw_losses(axes, record)
    save_figure(figure, path)


def save_comparison(
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    path: Path,
    *,
    terms: Sequence[str] = ("total",),
    against: str = "step",
) -> None:
    """One loss curve per run in one plot, logarithmic; several terms stand side by side, each with its own axis.

    Args:
        records: of the runs.
        labels: for the legend, one per record.
        path: the picture to write.
        terms: among ``total``, ``content``, ``style`` and ``tv``.
        against: what runs to the right, ``step`` or ``seconds``.
    """
    figure = new_figure(7.2 if len(terms) == 1 else 4.4 * len(terms), 4.4)
    panels = list(figure.subplots(1, len(terms), squeeze=False)[0])
    for axes, term in zip(panels, terms, strict=True):
        for index, (record, label) in enumerate(zip(records, labels, strict=True)):
            column = grouped(record["history"]).get(term, [])
            style = "-" if index < len(RUN_COLOURS) else "--"
            colour = RUN_COLOURS[index % len(RUN_COLOURS)]
            if column and max(column) > 0:
                x = positions(record, len(column), against)
                axes.plot(x, column, style, label=label, color=colour, linewidth=1.5)
        finish_axes(axes, f"weighted {term} loss", AGAINST[against])
        later = [min(grouped(record["history"]).get(term, [])[1:], default=0) for record in records]
        show_above(axes, min(filter(None, later), default=0))
    handles, names = panels[0].get_legend_handles_labels()
    if handles:  # below the plot: a legend of many runs would hide the curves
        columns = 2 if len(names) > 3 and max(map(len, names)) < WIDE_LABEL else 1
        figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=columns)
    save_figure(figure, path)


def save_beside(
    pictures: Sequence[np.ndarray], records: Sequence[Mapping[str, Any]], labels: Sequence[str], path: Path
) -> None:
    """Every run's picture, uint8 [H, W, 3], with its loss curve beside it; one row per run."""
    figure = new_figure(10.4, 4.2 * len(pictures))
    grid = figure.subplots(len(pictures), 2, squeeze=False)
    for (left, right), picture, record, label in zip(grid, pictures, records, labels, strict=True):
        left.imshow(picture, interpolation="bicubic")
        left.set_title(label, fontsize=10)
        left.set_axis_off()
        draw_losses(right, record)
    save_figure(figure, path)


def draw_losses(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw content, style, total variation and total; zero terms are left out (the axis is logarithmic)."""
    columns = grouped(record["history"])
    monitored = grouped(record.get("monitor", {}).get("terms", {}))
    steps = record.get("monitor", {}).get("steps", [])
    for name, colour in TERM_COLOURS.items():
        if name in columns and max(columns[name]) > 0:
            x = positions(record, len(columns[name]), "step")
            axes.plot(x, columns[name], label=name, color=colour, linewidth=1.5)
        if monitored.get(name) and max(monitored[name]) > 0:
            label = "ONNX Runtime monitor" if name == "total" else None
            axes.plot(steps, monitored[name], "o", color=colour, markersize=3.5, fillstyle="none", label=label)
    finish_axes(axes, "weighted loss", "step")
    if "total" in columns:
        show_above(axes, min(columns["total"]))
    axes.legend(frameon=False)


def show_above(axes: Axes, smallest: float) -> None:
    """Cut the axis far below what matters: a content loss that starts at rounding error must not stretch it."""
    if smallest > 0 and axes.get_ylim()[0] < smallest / SMALLEST_SHARE:
        axes.set_ylim(bottom=smallest / SMALLEST_SHARE)


def finish_axes(axes: Axes, y_label: str, x_label: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)


def positions(record: Mapping[str, Any], rows: int, against: str) -> list[float]:
    """Where the rows of a loss history stand: evenly from 0 to the last step, or to the last second.

    The record inside a picture keeps but some of the rows, evenly spaced, so a row's number is not its step.
    """
    end = record["seconds"] if against == "seconds" else record.get("steps") or rows - 1
    return [end * row / max(1, rows - 1) for row in range(rows)]


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
