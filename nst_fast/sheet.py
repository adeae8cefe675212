"""Contact sheets: pictures side by side in labelled cells, for demonstrations, reconstructions and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
LABEL_HEIGHT = 26
PAPER = (250, 250, 248)
INK = (40, 40, 40)
HOLE = (225, 225, 222)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet, uint8 [H, W, 3], with its label; ``picture`` None is a marked hole."""

    label: str
    picture: np.ndarray | None


def contact_sheet(rows: Sequence[Sequence[Cell]], *, cell_size: int = 320, title: str = "") -> np.ndarray:
    """Draw rows of cells on one sheet, uint8 [H, W, 3].

    Args:
        rows: cells from top to bottom, left to right; rows may differ in length.
        cell_size: longest side of a picture on the sheet, in pixels; smaller pictures are not enlarged.
        title: a line above the first row.
    """
    fitted = [[(cell.label, fit(cell.picture, cell_size)) for cell in row] for row in rows]
    widths = [max(row[c][1].width for row in fitted if c < len(row)) for c in range(max(map(len, fitted)))]
    heights = [max(picture.height for _, picture in row) for row in fitted]
    top = MARGIN + (LABEL_HEIGHT if title else 0)
    width = MARGIN + sum(w + MARGIN for w in widths)
    height = top + sum(h + LABEL_HEIGHT + MARGIN for h in heights)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font(17))
    for row, row_height in zip(fitted, heights, strict=True):
        left = MARGIN
        for (label, picture), column_width in zip(row, widths, strict=False):
            sheet.paste(picture, (left, top))
            draw.text((left, top + row_height + 5), shorten(draw, label, column_width), fill=INK, font=font(14))
            left += column_width + MARGIN
        top += row_height + LABEL_HEIGHT + MARGIN
    return np.asarray(sheet)


def fit(picture: np.ndarray | None, cell_size: int) -> Image.Image:
    """The picture, shrunk if need be so that its longest side fits the cell; a crossed box in place of a hole."""
    if picture is None:
        hole = Image.new("RGB", (cell_size, cell_size * 3 // 4), HOLE)
        draw = ImageDraw.Draw(hole)
        draw.line((0, 0, *hole.size), fill=INK)
        draw.line((0, hole.height, hole.width, 0), fill=INK)
        return hole
    image = Image.fromarray(picture)
    image.thumbnail((cell_size, cell_size), Image.Resampling.LANCZOS)
    return image


def shorten(draw: ImageDraw.ImageDraw, label: str, width: int) -> str:
    """The label, cut with an ellipsis where it would run over its cell."""
    while len(label) > 1 and draw.textlength(label, font=font(14)) > width:
        label = label.rstrip("…")[:-1] + "…"
    return label


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
