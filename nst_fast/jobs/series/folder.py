"""The folder of a series: which of its runs are finished, and the table, the curves and the sheet made of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nst_fast.errors import InputError, NstFastError, OutputError
from nst_fast.images import encode_image, from_uint8, load_image, to_uint8
from nst_fast.images.plots import grouped, save_comparison
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.jobs.series.jobs import Job, Series
from nst_fast.options.declaration import declared
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.record import read_record, rounded
from nst_fast.system.files import check_writable, sha256_of, shown, write_atomic

PLAN_SCHEMA = "nst-fast/series/1"
MOST_COLUMNS = 6  # of a sheet with one axis
MOST_CURVES = 12  # more lines in one plot cannot be told apart

Record = Mapping[str, Any]
Measure = Callable[[Job, Path], Mapping[str, float]]  # further columns of the table, from the finished picture


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a record, an error, or neither when it was not run."""

    job: Job
    record: Record | None = None
    error: NstFastError | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.error is not None:
            return "failed"
        return str(self.record["status"]) if self.record is not None else "not run"


class SeriesFolder:
    """The files of a series. ``plan.json``, written first, marks the folder as one that a series may write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan, self.sheet, self.table, self.curves = (
            folder / name for name in ("plan.json", "sheet.png", "table.csv", "curves.png")
        )

    def files(self, job: Job) -> OutputFiles:
        return OutputFiles(self.folder / "pictures" / f"{job.name}.png")

    def check(self, series: Series, *, overwrite: bool) -> None:
        """Refuse, before any work, to replace what is not this series' own.

        Raises:
            OutputError: the folder cannot be written, or holds files of another origin or of runs with other options.
        """
        inputs = [path for job in series.jobs for path in (job.content, *job.styles) if path is not None]
        ours = overwrite or is_plan(self.plan)
        for path in (self.plan, self.sheet, self.table, self.curves):
            check_writable(path, ours, inputs)
        for job in series.jobs:
            files = self.files(job)
            check_writable(files.picture, True, inputs)
            if not overwrite and (difference := self._difference(job)):
                raise OutputError(
                    f"{shown(files.picture)} {difference}", "Use --overwrite to replace it, or choose another folder"
                )

    def _difference(self, job: Job) -> str:
        """Why a picture that lies where the job's will be is not the job's own; empty when it is, or there is none."""
        files = self.files(job)
        if not files.picture.exists():
            return ""
        for carrier in (files.record, files.picture):
            with suppress(InputError):
                found = differences(read_record(carrier), job)
                return f"was made otherwise: {found[0]}" if found else ""
        return "was not made by this series"

    def write_plan(self, series: Series) -> None:
        plan = {
            "schema": PLAN_SCHEMA,
            "kind": series.kind,
            "axes": {name: list(values) for name, values in series.axes.items()},
            "pictures": [{"name": f"{job.name}.png", **job.values} for job in series.jobs],
        }
        write_atomic(self.plan, (json.dumps(plan, indent=1, ensure_ascii=False) + "\n").encode())

    def finished(self, job: Job, weights_sha256: str) -> Record | None:
        """The record of a job that was run to its end before; None unless record and picture are whole and its own."""
        files = self.files(job)
        try:
            record = read_record(files.record)
            whole = record["output_sha256"] == sha256_of(files.picture)
            own = not differences(record, job) and record["weights"]["sha256"] == weights_sha256
        except (InputError, KeyError, TypeError):  # missing, damaged, or of another version
            return None
        return record if whole and own else None

    def conclude(self, series: Series, outcomes: Sequence[Outcome], label: Callable[[Outcome], str]) -> None:
        """Write the table, the curves and the sheet. What the sheet shows does not depend on when the runs were done.

        Args:
            series: all of it.
            outcomes: one for each job, in order.
            label: what stands under the picture of an outcome.
        """
        write_atomic(self.table, table(series, outcomes).encode())
        finished = [outcome for outcome in outcomes if outcome.record is not None]
        if 1 <= len(finished) <= MOST_CURVES:
            names = [outcome.job.label for outcome in finished]
            save_comparison([outcome.record for outcome in finished if outcome.record], names, self.curves)
        write_atomic(self.sheet, encode_image(from_uint8(self.draw(series, outcomes, label)), ".png"))

    def draw(self, series: Series, outcomes: Sequence[Outcome], label: Callable[[Outcome], str]) -> np.ndarray:
        """The sheet, uint8 [H, W, 3]: columns are the last axis, rows the others; a long single axis is wrapped."""
        cells = [self._cell(outcome, label) for outcome in outcomes]
        columns, rows = series.column_headings, series.row_headings
        width = len(columns)
        if not rows and width > MOST_COLUMNS:
            names = [outcome.job.label for outcome in outcomes]
            cells = [
                replace(cell, label=f"{name} {cell.label}".strip()) for name, cell in zip(names, cells, strict=True)
            ]
            columns, width = [], MOST_COLUMNS
        lines = [cells[start : start + width] for start in range(0, len(cells), width)]
        return contact_sheet(lines, title=series.title, columns=columns, row_headings=rows)

    def _cell(self, outcome: Outcome, label: Callable[[Outcome], str]) -> Cell:
        if outcome.record is None:
            hole = f"failed: {type(outcome.error).__name__}" if outcome.error is not None else outcome.status
            return Cell("", None, hole)
        picture = load_image(self.files(outcome.job).picture).tensor
        return Cell(label(outcome), to_uint8(picture))


def is_plan(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text("utf-8"))["schema"] == PLAN_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def differences(record: Record, job: Job) -> list[str]:
    """What a record says otherwise than the job: options that change the picture, inputs, size. One phrase each."""
    found = []
    wanted = rounded(job.config.as_dict())
    for item in declared(type(job.config)):
        stored = record["options"].get(item.name, "unknown")
        if not item.option.cosmetic and stored != wanted[item.name]:
            found.append(f"{item.flag} {stored}, not {wanted[item.name]}")
    content, *styles = [hash_of(path) for path in (job.content, *job.styles)]
    inputs = record["inputs"]
    if (inputs["content"] or {}).get("sha256") != content:
        found.append("another content picture")
    if [style["sha256"] for style in inputs["styles"]] != styles:
        found.append("another style picture")
    if inputs.get("init", {}).get("sha256") != hash_of(job.config.init_file):
        found.append("another picture to start from")
    if job.size is not None and record["size"] != [job.size[1], job.size[0]]:
        found.append("another size")
    return found


def hash_of(path: Path | None) -> str | None:
    """The sha256 of an input; None for no input. One that cannot be read agrees with no record."""
    if path is None:
        return None
    try:
        return sha256_of(path)
    except InputError:
        return "unreadable"


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
            # Rounded before they are added up, as they are in a record that was read: else the last digit would tell.
            losses = grouped({name: [value] for name, value in rounded(outcome.record["losses"]).items()})
            row |= {name: outcome.record[name] for name in facts} | {name: losses[name][0] for name in losses}
            row["picture"] = f"{outcome.job.name}.png"
        if outcome.error is not None:
            row["error"] = str(outcome.error)
        writer.writerow(rounded(row))
    return sink.getvalue()
