"""Contact sheets: pictures side by side in labelled cells, for demonstrations, reconstructions and sweeps."""

from __future__ import annotations

import functools
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
font = functools.cache(ImageFont.load_default)  # of a size in pixels
PAPER, INK, FAINT, HOLE = (250, 250, 248), (40, 40, 40), (120, 120, 118), (232, 230, 226)


@dataclass(frozen=True)
class Cell:
    """A picture of a sheet, uint8 [H, W, 3], with its label; without a picture a crossed box with the reason."""

    label: str
    picture: np.ndarray | None
    hole: str = ""


@dataclass(frozen=True)
class Heading:
    """Above a column or beside a row: ``content-weight`` in faint ink, its value below."""

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
    """Draw rows of cells, which may differ in length, on one sheet, uint8 [H, W, 3], below a title and headings.

    ``cell_size`` is the longest side of a picture on the sheet, in pixels; smaller pictures are not enlarged.
    """
    sizes = (_shrunk(cell.picture, cell_size).size for row in rows for cell in row if cell.picture is not None)
    box = next(sizes, (cell_size, cell_size * 3 // 4))
    pictures = [
        [_hole(cell.hole, box) if cell.picture is None else _shrunk(cell.picture, cell_size) for cell in row]
        for row in rows
    ]
    widths = [max(row[c].width for row in pictures if c < len(row)) for c in range(max(map(len, rows)))]
    if columns:
        pairs = zip(columns, widths, strict=True)
        widths = [max(width, min(HEADING_WIDTH, _width(headings))) for headings, width in pairs]
    space = LINE + 3 if any(cell.label for row in rows for cell in row) else 0
    table = [
        [_labelled(*block, space) for block in zip(line, (cell.label for cell in row), widths, strict=False)]
        for line, row in zip(pictures, rows, strict=True)
    ]
    if columns:
        table.insert(0, [_block(headings, width) for headings, width in zip(columns, widths, strict=True)])
    if row_headings:
        gutter = min(GUTTER, max(map(_width, row_headings)))
        beside = [_block((), gutter)] * bool(columns) + [_block(headings, gutter) for headings in row_headings]
        table = [[block, *row] for block, row in zip(beside, table, strict=True)]
    return np.asarray(_assembled(table, title))


def _assembled(table: Sequence[Sequence[Image.Image]], title: str) -> Image.Image:
    """Blocks in rows and columns, each at the top left of its place, under a title."""
    widths = [max(row[c].width for row in table if c < len(row)) for c in range(max(map(len, table)))]
    heights = [max(block.height for block in row) for row in table]
    titled = min(TITLE_WIDTH, round(font(TITLE_SIZE).getlength(title)))
    width = max(sum(widths) + MARGIN * (len(widths) - 1), titled)
    top = MARGIN + (LINE + 8 if title else 0)
    sheet = Image.new("RGB", (width + 2 * MARGIN, top + sum(heights) + MARGIN * len(heights)), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 2), shorten(title, width, TITLE_SIZE), INK, font(TITLE_SIZE))
    for row, height in zip(table, heights, strict=True):
        left = MARGIN
        for block, column in zip(row, widths, strict=False):
            sheet.paste(block, (left, top))
            left += column + MARGIN
        top += height + MARGIN
    return sheet


def _labelled(picture: Image.Image, label: str, width: int, space: int) -> Image.Image:
    block = Image.new("RGB", (width, picture.height + space), PAPER)
    block.paste(picture)
    ImageDraw.Draw(block).text((0, picture.height + 3), shorten(label, width), INK, font(LABEL_SIZE))
    return block


def _block(headings: Sequence[Heading], width: int) -> Image.Image:
    """Headings as lines of text, wrapped to a width in pixels."""
    texts = [(text, ink) for heading in headings for text, ink in ((heading.name, FAINT), (heading.value, INK))]
    lines = [(line, ink) for text, ink in texts for line in wrap(text, width)]
    block = Image.new("RGB", (width, max(1, LINE * len(lines))), PAPER)
    for index, (line, ink) in enumerate(lines):
        ImageDraw.Draw(block).text((0, LINE * index), line, ink, font(LABEL_SIZE))
    return block


def _shrunk(picture: np.ndarray, cell_size: int) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((cell_size, cell_size), Image.Resampling.LANCZOS)
    return image


def _hole(why: str, size: tuple[int, int]) -> Image.Image:
    """A crossed box in place of a picture."""
    box = Image.new("RGB", size, HOLE)
    draw = ImageDraw.Draw(box)
    right, bottom = size[0] - 1, size[1] - 1
    draw.line((0, 0, right, bottom), FAINT)
    draw.line((0, bottom, right, 0), FAINT)
    draw.rectangle((0, 0, right, bottom), outline=FAINT)
    if why:
        lines, middle = "\n".join(wrap(why, size[0] - 2 * MARGIN)), (size[0] / 2, size[1] / 2)
        draw.font = font(LABEL_SIZE)
        draw.rectangle(draw.multiline_textbbox(middle, lines, anchor="mm", align="center"), HOLE, HOLE, 4)
        draw.multiline_text(middle, lines, INK, anchor="mm", align="center")
    return box


def _width(headings: Sequence[Heading]) -> int:
    """How wide headings are that stand on one line each, in pixels."""
    return max(1 + round(font(LABEL_SIZE).getlength(text)) for h in headings for text in (h.name, h.value))


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
