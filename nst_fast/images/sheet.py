"""Contact sheets: pictures side by side in labelled cells, for demonstrations, reconstructions and sweeps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
LINE = 19
GUTTER = 170  # the most that row headings take, in pixels
HEADING_WIDTH = 150  # of a column whose pictures are narrower, where its heading needs it
TITLE_WIDTH = 520  # for which a narrower sheet is widened
LABEL_SIZE, TITLE_SIZE = 14, 17
PAPER = (250, 250, 248)
INK = (40, 40, 40)
FAINT = (120, 120, 118)
HOLE = (232, 230, 226)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet, uint8 [H, W, 3], with its label; ``picture`` None is a marked hole that says why."""

    label: str
    picture: np.ndarray | None
    hole: str = ""


@dataclass(frozen=True)
class Heading:
    """What stands above a column or beside a row: ``content-weight`` in faint ink, its value below."""

    name: str
    value: str


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    cell_size: int = 320,
    title: str = "",
    columns: Sequence[Sequence[Heading]] = (),
    row_headings: Sequence[Sequence[Heading]] = (),
) -> np.ndarray:
    """Draw rows of cells on one sheet, uint8 [H, W, 3].

    Args:
        rows: cells from top to bottom, left to right; rows may differ in length.
        cell_size: longest side of a picture on the sheet, in pixels; smaller pictures are not enlarged.
        title: a line above the first row.
        columns: headings above each column, one list per column.
        row_headings: headings left of each row, one list per row.
    """
    shape = _hole_shape(rows, cell_size)
    fitted = [[fit(cell, cell_size, shape) for cell in row] for row in rows]
    widths = _column_widths(fitted, columns)
    gutter = min(GUTTER, max(map(_width, row_headings), default=0))
    left = MARGIN + (gutter + MARGIN if row_headings else 0)
    titled = min(TITLE_WIDTH, math.ceil(font(TITLE_SIZE).getlength(title))) + 2 * MARGIN
    width = max(left + sum(w + MARGIN for w in widths), titled)
    above = [_lines(headings, column) for headings, column in zip(columns, widths, strict=bool(columns))]
    beside = [_lines(headings, gutter) for headings in row_headings] or [[] for _ in rows]
    label = LINE + 3 if any(cell.label for row in rows for cell in row) else 0
    heights = [
        max(*(picture.height + label for picture in row), LINE * len(lines))
        for row, lines in zip(fitted, beside, strict=True)
    ]
    title_height = LINE + 8 if title else 0
    header = LINE * max(map(len, above), default=0) + (4 if above else 0)
    page = Page(width, MARGIN + title_height + header + sum(h + MARGIN for h in heights))
    page.text(MARGIN, MARGIN - 2, title, width - 2 * MARGIN, TITLE_SIZE)
    lefts = [left + sum(w + MARGIN for w in widths[:c]) for c in range(len(widths))]
    for x, lines in zip(lefts, above, strict=bool(above)):
        page.lines(x, MARGIN + title_height + header - 4 - LINE * len(lines), lines)
    top = MARGIN + title_height + header
    for cells, pictures, lines, height in zip(rows, fitted, beside, heights, strict=True):
        page.lines(MARGIN, top, lines)
        for cell, picture, x in zip(cells, pictures, lefts, strict=False):
            page.sheet.paste(picture, (x, top))
            page.text(x, top + picture.height + 3, cell.label, widths[lefts.index(x)])
        top += height + MARGIN
    return np.asarray(page.sheet)


class Page:
    """The paper of a sheet and the pens that write on it."""

    def __init__(self, width: int, height: int) -> None:
        self.sheet = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.sheet)

    def text(self, x: int, y: int, text: str, width: int, size: int = LABEL_SIZE) -> None:
        self._draw.text((x, y), shorten(text, width, size), fill=INK, font=font(size))

    def lines(self, x: int, y: int, lines: Sequence[tuple[str, bool]]) -> None:
        for index, (line, faint) in enumerate(lines):
            self._draw.text((x, y + LINE * index), line, fill=FAINT if faint else INK, font=font(LABEL_SIZE))


def fit(cell: Cell, cell_size: int, hole_shape: tuple[int, int]) -> Image.Image:
    """The picture, shrunk if need be so that its longest side fits the cell; a crossed box in place of a hole."""
    if cell.picture is not None:
        image = Image.fromarray(cell.picture)
        image.thumbnail((cell_size, cell_size), Image.Resampling.LANCZOS)
        return image
    hole = Image.new("RGB", hole_shape, HOLE)
    draw = ImageDraw.Draw(hole)
    right, bottom = hole.width - 1, hole.height - 1
    draw.line((0, 0, right, bottom), fill=FAINT)
    draw.line((0, bottom, right, 0), fill=FAINT)
    draw.rectangle((0, 0, right, bottom), outline=FAINT)
    lines = wrap(cell.hole, hole.width - 2 * MARGIN) if cell.hole else []
    for index, line in enumerate(lines):
        x = (hole.width - font(LABEL_SIZE).getlength(line)) / 2
        y = (hole.height - LINE * len(lines)) / 2 + LINE * index
        draw.rectangle((x - 4, y, hole.width - x + 4, y + LINE), fill=HOLE)
        draw.text((x, y), line, fill=INK, font=font(LABEL_SIZE))
    return hole


def _hole_shape(rows: Sequence[Sequence[Cell]], cell_size: int) -> tuple[int, int]:
    """Width and height of a hole: those of the first picture on the sheet."""
    for cell in (cell for row in rows for cell in row):
        if cell.picture is not None:
            return fit(cell, cell_size, (1, 1)).size
    return cell_size, cell_size * 3 // 4


def _column_widths(rows: Sequence[Sequence[Image.Image]], columns: Sequence[Sequence[Heading]]) -> list[int]:
    """How wide each column is: as its widest picture, or wide enough for its heading if that is short."""
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(max(map(len, rows)))]
    for c, headings in enumerate(columns[: len(widths)]):
        widths[c] = max(widths[c], min(HEADING_WIDTH, _width(headings)))
    return widths


def _width(headings: Sequence[Heading]) -> int:
    """How wide headings are that stand on one line each, in pixels."""
    return max(math.ceil(font(LABEL_SIZE).getlength(text)) for h in headings for text in (h.name, h.value))


def _lines(headings: Sequence[Heading], width: int) -> list[tuple[str, bool]]:
    """Headings as lines of text with whether they are faint, wrapped to a width in pixels."""
    found: list[tuple[str, bool]] = []
    for heading in headings:
        found += [(line, True) for line in wrap(heading.name, width)]
        found += [(line, False) for line in wrap(heading.value, width)]
    return found


def wrap(text: str, width: int) -> list[str]:
    """The text in lines that fit a width in pixels, broken after spaces and commas; a longer word is shortened."""
    lines = [""]
    for word in re.findall(r"[^ ,]+[ ,]*", text):
        if lines[-1] and font(LABEL_SIZE).getlength((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [shorten(line.rstrip(), width) for line in lines]


def shorten(text: str, width: int, size: int = LABEL_SIZE) -> str:
    """The text, cut with an ellipsis where it would run over its cell."""
    while len(text) > 1 and font(size).getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def font(size: int) -> Font:
    return ImageFont.load_default(size)
