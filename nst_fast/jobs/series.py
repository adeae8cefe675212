"""Series: jobs that belong together on one sheet, as the cells of a sweep, and the folder of their results."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nst_fast.errors import InputError, OutputError, PartialError, UsageError
from nst_fast.images import encode_image, from_uint8, load_image, to_uint8
from nst_fast.images.color import parse_color
from nst_fast.images.plots import grouped, save_comparison
from nst_fast.images.sheet import Cell, Heading, contact_sheet
from nst_fast.images.sources import open_source
from nst_fast.jobs.inputs import check_files_named
from nst_fast.jobs.runner import Job, JobFolder, JobObserver, Outcome
from nst_fast.network.weights import available_taps
from nst_fast.options.config import StylizeConfig
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.problem import check_styles
from nst_fast.run.provenance import Provenance
from nst_fast.run.record import read_record
from nst_fast.system.files import check_writable, lock, refuse_inputs, shown, user_path, write_atomic
from nst_fast.system.machine import resolve_device
from nst_fast.system.rounding import rounded
from nst_fast.system.tables import csv_table

PLAIN_AXES = ("content", "style", "tap")  # whose values need no name beside them
LONGEST_NAME = 120  # of a job; file systems allow 255 bytes with suffix and snapshot number
PLAN_SCHEMA = "nst-fast/series/1"
MOST_COLUMNS = 6  # of a sheet with one axis
MOST_CURVES = 12  # more lines in one plot cannot be distinguished

Axes = Mapping[str, Mapping[str, object]]  # axis -> value as shown -> the value itself
Inputs = tuple[StylizeConfig, Path | None, Sequence[Path]]  # config, content and styles of a job


@dataclass(frozen=True)
class Series:
    """Jobs in the order of their sheet: the last axis runs fastest.

    Attributes:
        kind: ``sweep``, ``reconstruction`` or ``texture``.
        axes: axis -> its values; the columns of the sheet are the last axis, its rows all the others.
        jobs: one for each combination of values.
    """

    kind: str
    title: str
    axes: Mapping[str, Sequence[str]]
    jobs: Sequence[Job]

    def headings(self) -> tuple[list[list[Heading]], list[list[Heading]]]:
        """Of the columns and of the rows; no row headings when there is only one row."""
        *rows, columns = ([Heading(name, value) for value in values] for name, values in self.axes.items())
        return [[heading] for heading in columns], [list(row) for row in itertools.product(*rows)] if rows else []


def make_series(
    kind: str,
    title: str,
    axes: Axes,
    inputs_of: Callable[[dict[str, object]], Inputs],
    size: tuple[int, int] | None = None,
) -> Series:
    """The series over all combinations of the axes' values; axes with one value are left out of names and labels.

    Args:
        inputs_of: called with axis -> value itself.
        size: height and width of all pictures, if they are given.
    """
    shown = {name: values for name, values in axes.items() if len(values) > 1} or dict(list(axes.items())[-1:])
    combinations = list(itertools.product(*(values.items() for values in axes.values())))
    jobs = []
    for number, combination in enumerate(combinations, start=1):
        labels = {axis: label for axis, (label, _) in zip(axes, combination, strict=True) if axis in shown}
        config, content, styles = inputs_of({axis: it for axis, (_, it) in zip(axes, combination, strict=True)})
        name, count = job_name(labels), f"{number}/{len(combinations)}"
        jobs.append(Job(name, f"pictures/{name}.png", config, content, styles, size, count, labels))
    return Series(kind, title, {name: list(values) for name, values in shown.items()}, jobs)


def job_name(values: Mapping[str, str]) -> str:
    """A file name for the values: pictures and taps by name, options as ``name=value``; odd characters become ``_``."""
    text = "-".join(value if axis in PLAIN_AXES else f"{axis}={value}" for axis, value in values.items())
    name = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)
    if name == text and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def picture_labels(paths: Sequence[Path]) -> dict[str, object]:
    """Label -> picture: by stem, by name where stems agree, by path where names agree; a repeated path counts once."""
    paths = list(dict.fromkeys(paths))
    stems, names = Counter(path.stem for path in paths), Counter(path.name for path in paths)

    def label(path: Path) -> str:
        if stems[path.stem] == 1:
            return path.stem
        return path.name if names[path.name] == 1 else str(path)

    return {label(path): path for path in paths}


def parse_seeds(text: str) -> dict[str, object]:
    """``0,1`` -> ``{"0": 0, "1": 1}``."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"`seeds` {text!r}: not whole numbers", "Write them as 0,1,2") from None
    if not seeds:
        raise UsageError("`seeds` is empty", "Name at least one, as 0")
    return {str(seed): seed for seed in seeds}


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
    files = SeriesFolder(user_path(folder), measure, overwrite=overwrite)
    files.check(series)
    with lock(files.plan):
        files.write_plan(series)
        outcomes = [outcome for job in series.jobs for outcome in files.run([job], observer)]
        files.conclude(series, outcomes, label)
    return outcomes


def check_complete(series: Series, outcomes: Sequence[Outcome]) -> None:
    """Raise :class:`PartialError` if a job failed."""
    if failed := sum(outcome.error is not None for outcome in outcomes):
        raise PartialError(
            f"{failed} of {len(outcomes)} runs of the {series.kind} failed",
            "Mend what the lines above name and run the same command again: finished runs are kept",
        )


def check_options(jobs: Sequence[Job]) -> None:
    """Raise, before any work, what options alone make impossible; an unusable picture is its job's failure."""
    checked: set[object] = set()
    for job in jobs:
        config = job.config
        check_styles(config, job.content, job.styles)
        parse_color(config.background)
        resolve_device(config.device)
        masks = [path for value in config.mask_files.values() for path in value.files]
        for path in filter(None, (config.init_file, *masks)):
            if path not in checked:
                checked.add(path)
                open_source(path).close()
        if (source := (config.weights, config.network)) not in checked:
            checked.add(source)
            available_taps(*source)


class SeriesFolder(JobFolder):
    """The files of a series. ``plan.json``, written first, marks the folder as one that a series may write to."""

    def __init__(self, folder: Path, measure: Measure, *, overwrite: bool) -> None:
        super().__init__(folder)
        self.overwrite = overwrite
        names = ("plan.json", "sheet.png", "table.csv", "curves.png")
        self.own = [folder / name for name in names]
        self.plan, self.sheet, self.table, self.curves = self.own
        self._measure = measure

    def files(self, job: Job) -> OutputFiles:
        """A run that was killed has left snapshots."""
        return replace(super().files(job), keeps_snapshots=not self.overwrite)

    def measure(self, job: Job) -> Mapping[str, float]:
        return self._measure(job, self.files(job).picture)

    def check(self, series: Series) -> None:
        """Raise :class:`OutputError`, before any work, if the folder cannot be written or holds files of others."""
        inputs = {path for job in series.jobs for path in job.inputs}
        check_files_named([path for job in series.jobs for path in (job.content, *job.styles) if path is not None])
        every = [(job, self.files(job)) for job in series.jobs]
        made = [it for job, files in every for it in (files.picture, files.record, *files.snapshots(job.config))]
        refuse_inputs([*self.own, *filter(Path.exists, made)], inputs)
        check_options(series.jobs)  # which makes no folder
        ours = self.overwrite or continues(self.plan, series)
        for path in self.own:
            check_writable(path, ours, inputs)
        taken: set[Path] = set()
        for job, files in every:
            results, snapshots = {files.picture, files.record}, set(files.snapshots(job.config))
            names = results | snapshots
            if not taken.isdisjoint(names):
                message = f"two runs would write {shown(min(taken & names))}"
                raise UsageError(message, "Rename a picture, or leave `save_every` out")
            taken |= names
            check_writable(files.picture, True, inputs)
            there = [path for path in names if path.exists()]
            blocking = there if not ours else [path for path in there if path in results]
            if blocking and not self.overwrite and (difference := self._difference(job)):
                raise OutputError(
                    f"{shown(min(blocking))} {difference}", "Use `overwrite` to replace it, or choose another folder"
                )

    def _difference(self, job: Job) -> str:
        """Why a picture in the place of the job's is not the job's own; empty when it is."""
        for carrier in (self.files(job).record, self.files(job).picture):
            with suppress(InputError):
                record = read_record(carrier)
                if record["output"] != self.files(job).picture.name:
                    return "was not made by this series"
                found = job.provenance(None).differences(Provenance.of_record(record))
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


def continues(plan: Path, series: Series) -> bool:
    """Whether the plan in a folder is of this series, perhaps with other values too: they share a picture."""
    try:
        found = json.loads(plan.read_text("utf-8"))
        pictures = {picture["name"] for picture in found["pictures"]}
        ours = not pictures.isdisjoint(f"{job.name}.png" for job in series.jobs)
        return bool(found["schema"] == PLAN_SCHEMA and found["kind"] == series.kind and ours)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def table(series: Series, outcomes: Sequence[Outcome]) -> str:
    """The outcomes as CSV: axes, status, steps, times, final losses by kind, measures, error."""
    measures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.measured))
    facts = ["status", "steps", "seconds", "steps_per_second"]
    kinds = ["total", "content", "style", "tv"]
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {**outcome.job.values, "status": outcome.status, **outcome.measured}
        if outcome.record is not None:
            # Rounded before they are added up, as they are in a record that was read: else the last digit would differ.
            losses = grouped({name: [value] for name, value in rounded(outcome.record["losses"]).items()})
            row |= {name: outcome.record[name] for name in facts} | {name: losses[name][0] for name in losses}
            row["picture"] = f"{outcome.job.name}.png"
        if outcome.error is not None:
            row["error"] = str(outcome.error)
        rows.append(rounded(row))
    return csv_table(rows, [*series.axes, "picture", *facts, *kinds, *measures, "error"])
