"""A series in its folder: pictures with records, and the table, the curves and the sheet made of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nst_fast.errors import InputError, OutputError, PartialError
from nst_fast.images import encode_image, from_uint8, load_image, to_uint8
from nst_fast.images.plots import grouped, save_comparison
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.jobs.runner import Job, JobFolder, JobObserver, Outcome, Runner
from nst_fast.jobs.series import Series
from nst_fast.run.provenance import Provenance
from nst_fast.run.record import read_record, rounded
from nst_fast.system.files import check_writable, lock, shown, write_atomic

PLAN_SCHEMA = "nst-fast/series/1"
MOST_COLUMNS = 6  # of a sheet with one axis
MOST_CURVES = 12  # more lines in one plot cannot be distinguished

Label = Callable[[Outcome], str]
Measure = Callable[[Job, Path], Mapping[str, float]]  # further columns of the table, from the finished picture


def run_series(
    series: Series,
    folder: Path,
    observer: JobObserver,
    *,
    overwrite: bool = False,
    label: Label = lambda outcome: "",
    measure: Measure = lambda job, picture: {},
) -> list[Outcome]:
    """Run the jobs that are not finished; write pictures, records, table, curves and sheet into the folder.

    A job is finished when its record has the job's provenance and the picture has the hash that the record states. A
    stopped run leaves no picture. Returns one outcome per job, in order.

    Args:
        overwrite: replace the pictures of another series.
        label: the text under a picture on the sheet; must not depend on time.
        measure: further columns of the table.

    Raises:
        OutputError: before any work, if something of another origin would be replaced; later, if writing fails.
        BusyError: another process writes to this folder.
    """
    files = SeriesFolder(folder, measure)
    files.check(series, overwrite=overwrite)
    with lock(files.plan):
        files.write_plan(series)
        outcomes = Runner(files, observer).run(series.jobs)
        files.conclude(series, outcomes, label)
    return outcomes


def check_complete(series: Series, outcomes: Sequence[Outcome]) -> None:
    """Raise :class:`PartialError` if a job failed."""
    if failed := sum(outcome.error is not None for outcome in outcomes):
        raise PartialError(
            f"{failed} of {len(outcomes)} runs of the {series.kind} failed",
            "Mend what the lines above name and run the same command again: finished runs are kept",
        )


class SeriesFolder(JobFolder):
    """The files of a series. ``plan.json``, written first, marks the folder as one that a series may write to."""

    def __init__(self, folder: Path, measure: Measure) -> None:
        super().__init__(folder)
        names = ("plan.json", "sheet.png", "table.csv", "curves.png")
        self.plan, self.sheet, self.table, self.curves = (folder / name for name in names)
        self._measure = measure

    def measure(self, job: Job) -> Mapping[str, float]:
        return self._measure(job, self.files(job).picture)

    def check(self, series: Series, *, overwrite: bool) -> None:
        """Raise :class:`OutputError`, before any work, if the folder cannot be written or holds files of others."""
        inputs = [path for job in series.jobs for path in (job.content, *job.styles) if path is not None]
        ours = overwrite or is_plan(self.plan)
        for path in (self.plan, self.sheet, self.table, self.curves):
            check_writable(path, ours, inputs)
        for job in series.jobs:
            picture = self.files(job).picture
            check_writable(picture, True, inputs)
            if not overwrite and picture.exists() and (difference := self._difference(job)):
                raise OutputError(
                    f"{shown(picture)} {difference}", "Use `overwrite` to replace it, or choose another folder"
                )

    def _difference(self, job: Job) -> str:
        """Why a picture in the place of the job's is not the job's own; empty when it is."""
        for carrier in (self.files(job).record, self.files(job).picture):
            with suppress(InputError):
                found = job.provenance(None).differences(Provenance.of_record(read_record(carrier)))
                return f"was made otherwise: {found[0]}" if found else ""
        return "was not made by this series"

    def write_plan(self, series: Series) -> None:
        pictures = [{"name": f"{job.name}.png", **job.values} for job in series.jobs]
        plan = {"schema": PLAN_SCHEMA, "kind": series.kind, "axes": series.axes, "pictures": pictures}
        write_atomic(self.plan, (json.dumps(plan, indent=1, ensure_ascii=False) + "\n").encode())

    def conclude(self, series: Series, outcomes: Sequence[Outcome], label: Label) -> None:
        """Write the table, the curves and the sheet, which does not depend on when the runs were done."""
        write_atomic(self.table, table(series, outcomes).encode())
        curves = {outcome.job.label: outcome.record for outcome in outcomes if outcome.record is not None}
        if 1 <= len(curves) <= MOST_CURVES:
            save_comparison(list(curves.values()), list(curves), self.curves)
        write_atomic(self.sheet, encode_image(from_uint8(self.draw(series, outcomes, label)), ".png"))

    def draw(self, series: Series, outcomes: Sequence[Outcome], label: Label) -> np.ndarray:
        """The sheet, uint8 [H, W, 3]: columns are the last axis, rows the others; a long single axis is wrapped."""
        cells = [self._cell(outcome, label) for outcome in outcomes]
        columns, rows = series.headings()
        width = len(columns)
        if not rows and width > MOST_COLUMNS:
            cells = [
                replace(cell, label=f"{outcome.job.label} {cell.label}".strip())
                for outcome, cell in zip(outcomes, cells, strict=True)
            ]
            columns, width = [], MOST_COLUMNS
        lines = [cells[start : start + width] for start in range(0, len(cells), width)]
        return contact_sheet(lines, title=series.title, columns=columns, row_headings=rows)

    def _cell(self, outcome: Outcome, label: Label) -> Cell:
        if outcome.record is None:
            hole = f"failed: {type(outcome.error).__name__}" if outcome.error is not None else outcome.status
            return Cell("", None, hole)
        return Cell(label(outcome), to_uint8(load_image(self.files(outcome.job).picture).tensor))


def is_plan(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text("utf-8"))["schema"] == PLAN_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def table(series: Series, outcomes: Sequence[Outcome]) -> str:
    """The outcomes as CSV: axes, status, steps, times, final losses by kind, measures, error."""
    measures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.measured))
    facts = ["status", "steps", "seconds", "steps_per_second"]
    kinds = ["total", "content", "style", "tv"]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [*series.axes, "picture", *facts, *kinds, *measures, "error"], lineterminator="\n")
    writer.writeheader()
    for outcome in outcomes:
        row: dict[str, Any] = {**outcome.job.values, "status": outcome.status, **outcome.measured}
        if outcome.record is not None:
            # Rounded before they are added up, as they are in a record that was read: else the last digit would differ.
            losses = grouped({name: [value] for name, value in rounded(outcome.record["losses"]).items()})
            row |= {name: outcome.record[name] for name in facts} | {name: losses[name][0] for name in losses}
            row["picture"] = f"{outcome.job.name}.png"
        if outcome.error is not None:
            row["error"] = str(outcome.error)
        writer.writerow(rounded(row))
    return sink.getvalue()
