"""Plots of run records, drawn by matplotlib without a display and written like every other file."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nst_fast.system.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST_SHARE = 1000  # terms below this share of the smallest total are not shown
TERM_COLORS = {"total": "#222222", "content": "#1f77b4", "style": "#d95f02", "tv": "#7570b3"}
# Twelve colours that differ in lightness too; further runs get the same colours dashed.
RUN_COLORS = (
    *("#1b6ca8", "#d95f02", "#2a9d5c", "#8e44ad", "#c0392b", "#b8860b"),
    *("#17a2b8", "#e377c2", "#556b2f", "#7f7f7f", "#000080", "#ff9f7a"),
)
WIDE_LABEL = 36  # characters of a legend's label that take more than half a plot
RUN_KEY = "nst-fast-run"  # the name of the text in a loss curve that says when its run began
AGAINST = ("step", "seconds")  # what a horizontal axis may show


@contextmanager
def own_style() -> Iterator[None]:
    """Matplotlib's own style for as long as a plot is drawn, whatever the caller has set; also a decorator."""
    # Without a handler Python prints its warnings, as that its folder is read-only.
    logging.getLogger("matplotlib").addHandler(logging.NullHandler())
    from matplotlib import style

    with style.context("default"):
        yield


@own_style()
def save_loss_curve(record: Mapping[str, Any], path: Path) -> None:
    """The loss terms of a run on a logarithmic axis, with the monitor's readings as marks; says whose they are."""
    figure = new_figure(7.2, 4.4)
    _draw_losses(figure.subplots(), record)
    save_figure(figure, path, {RUN_KEY: record.get("created", "")})


@own_style()
def save_comparison(
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    path: Path,
    *,
    terms: Sequence[str] = ("total",),
    against: str = "step",
) -> None:
    """One loss curve per run, logarithmic, with its label in the legend; several terms stand side by side.

    ``terms`` are among :data:`TERM_COLORS`; ``against`` is the horizontal axis, one of :data:`AGAINST`.
    """
    figure = new_figure(7.2 if len(terms) == 1 else 4.4 * len(terms), 4.4)
    panels = list(figure.subplots(1, len(terms), squeeze=False)[0])
    for axes, term in zip(panels, terms, strict=True):
        columns = [grouped(record["history"]).get(term, []) for record in records]
        for index, (record, column, label) in enumerate(zip(records, columns, labels, strict=True)):
            style = "-" if index < len(RUN_COLORS) else "--"
            _draw(
                axes, positions(record, len(column), against), column, style, RUN_COLORS[index % len(RUN_COLORS)], label
            )
        smallest = min(filter(None, (min(column[1:], default=0) for column in columns)), default=0)
        _finish(axes, f"weighted {term} loss", against, smallest)
    handles, names = panels[0].get_legend_handles_labels()
    if handles:  # below the plot: a legend of many runs would hide the curves
        ncols = 2 if len(names) > 3 and max(map(len, names)) < WIDE_LABEL else 1
        figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=ncols)
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
        _draw_losses(right, record)
    save_figure(figure, path)


def _draw_losses(axes: Axes, record: Mapping[str, Any]) -> None:
    columns = grouped(record["history"])
    monitor = record.get("monitor", {})
    monitored = grouped(monitor.get("terms", {}))
    for name, color in TERM_COLORS.items():
        column = columns.get(name, [])
        _draw(axes, positions(record, len(column), "step"), column, "-", color, name)
        label = "ONNX Runtime monitor" if name == "total" else None
        _draw(axes, monitor.get("steps", []), monitored.get(name, []), "o", color, label)
    _finish(axes, "weighted loss", "step", min(columns.get("total", [0])))
    axes.legend(frameon=False)


def _draw(axes: Axes, x: Sequence[float], y: Sequence[float], style: str, color: str, label: str | None) -> None:
    """One line or row of marks; a term that is zero everywhere has no place on a logarithmic axis."""
    if max(y, default=0) > 0:
        axes.plot(x, y, style, label=label, color=color, linewidth=1.5, markersize=3.5, fillstyle="none")


def _finish(axes: Axes, y_label: str, x_label: str, smallest: float) -> None:
    """A logarithmic axis, cut below the smallest value that matters, as a content loss may begin at rounding error."""
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    if smallest > 0 and axes.get_ylim()[0] < smallest / SMALLEST_SHARE:
        axes.set_ylim(bottom=smallest / SMALLEST_SHARE)


def positions(record: Mapping[str, Any], rows: int, against: str) -> list[float]:
    """Where the rows of a loss history stand: evenly from 0 to the last step, or to the last second.

    The record inside a picture keeps only some of the rows, evenly spaced.
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


def save_figure(figure: Figure, path: Path, text: Mapping[str, str] | None = None) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=text)
    write_atomic(path, buffer.getvalue())
