"""From the full-size results of an entry to the JPEG files of the docs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from entries import Entry, Run
from numpy.typing import NDArray
from PIL import Image
from work import Work

from nst_fast.images import load_image, to_uint8
from nst_fast.images.sheet import Cell, Heading, contact_sheet
from nst_fast.jobs.comparison import show_beside
from nst_fast.system.files import write_atomic

Pixels = NDArray[np.uint8]
MOST_BYTES = 150_000  # of a file: a page of the docs has up to ten
QUALITIES = range(92, 55, -4)  # of JPEG: the first whose file is small enough; then the picture is made narrower
CELL = 384  # longest side of a cell of a sheet, in pixels


def lay_out(entry: Entry, runs: Sequence[Run], work: Work) -> dict[str, bytes]:
    """File name -> JPEG: one for the entry, with ``pairs`` one for each of its runs. Inputs are on none."""
    if entry.show == "beside":
        target = work.of(runs[0]) / "beside.png"
        show_beside([work.picture(runs[0])], target, overwrite=True)
        return {f"{entry.name}.jpg": jpeg(read(target), entry.width)}
    if entry.show == "looks":
        return {f"{entry.name}.jpg": jpeg(sheet_of_looks(runs, work), entry.width)}
    if entry.show == "pairs":
        return {f"{run.name}.jpg": jpeg(read(work.picture(run)), entry.width) for run in runs}
    return {f"{entry.name}.jpg": jpeg(read(work.of(runs[0]) / entry.show), entry.width)}


def sheet_of_looks(runs: Sequence[Run], work: Work) -> Pixels:
    """A row per look, a column per pair."""
    rows = [list(group) for _, group in itertools.groupby(runs, key=lambda run: run.look)]
    cells = [[Cell("", read(work.picture(run))) for run in row] for row in rows]
    # Entries that show looks have pairs.
    columns = [[Heading(Path(run.pair[0]).stem, Path(run.pair[1]).stem)] for run in rows[0] if run.pair]
    beside = [[Heading("preset", row[0].look)] for row in rows]
    return contact_sheet(cells, cell_size=CELL, columns=columns, row_headings=beside)


def read(path: Path) -> Pixels:
    return to_uint8(load_image(path).tensor)


def jpeg(picture: Pixels, width: int) -> bytes:
    """The picture as JPEG, no wider than a width, in the best quality whose file has at most ``MOST_BYTES``."""
    whole = Image.fromarray(picture)
    while True:
        image = whole.copy()
        image.thumbnail((width, width * whole.height), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            sink = io.BytesIO()
            image.save(sink, "JPEG", quality=quality, optimize=True)
            if sink.tell() <= MOST_BYTES:
                return sink.getvalue()
        width = image.width * 9 // 10


def write(files: Mapping[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
