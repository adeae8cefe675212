"""A picture read a band of rows at a time and brought to its size at once, so that memory is bounded by the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nst_fast.images.color import ColourReader
from nst_fast.images.resizing import resampled, resize_part

BAND_PIXELS = 2**20  # converted at a time
Rows = Callable[[int, int], Image.Image]  # the rows from one to before another, asked for from top to bottom


@dataclass(frozen=True)
class Change:
    """What happens to the size of a picture as it is read.

    Attributes:
        size: width and height as decoded, in pixels.
        extent: the same, where the picture ends within the last pixels.
        reduction: by averaging squares of so many pixels; 1 leaves them.
        wanted: width and height in the end.
    """

    size: tuple[int, int]
    extent: tuple[float, float]
    reduction: int
    wanted: tuple[int, int]


def read_bands(rows: Rows, reader: ColourReader, change: Change) -> Tensor:
    """The whole picture at the size wanted: [1, 3, H, W].

    Squares are averaged, then the width and at last the height is resized: what is kept of the picture meanwhile has
    its own height, reduced, but never more than the width wanted, unless the picture is enlarged.
    """
    width, height = (math.ceil(side / change.reduction) for side in change.size)
    across, down = (side / change.reduction for side in change.extent)
    pieces = _pieces(rows, reader, change)
    if change.wanted[0] < width:
        return _narrowed(pieces, (height, down), across, change.wanted)
    image = torch.empty(1, 3, height, width)
    for top, piece in pieces:
        image[:, :, top : top + piece.shape[2]] = piece
    return resize_part(image, (down, across), change.wanted[::-1])


def _pieces(rows: Rows, reader: ColourReader, change: Change) -> Iterator[tuple[int, Tensor]]:
    """The picture, reduced, from top to bottom: the row where a piece begins, and the piece [1, 3, h, W]."""
    width, height = change.size
    step = max(1, BAND_PIXELS // (width * change.reduction)) * change.reduction
    for top in range(0, height, step):
        band = reader.read(rows(top, min(height, top + step)))
        piece = torch.from_numpy(band).permute(2, 0, 1)[None]
        if change.reduction > 1:
            piece = F.avg_pool2d(piece, change.reduction, ceil_mode=True)
        yield top // change.reduction, piece


def _narrowed(
    pieces: Iterator[tuple[int, Tensor]], rows: tuple[int, float], across: float, wanted: tuple[int, int]
) -> Tensor:
    """Pieces resized in width as they come, then in height.

    One channel after the other, given up when it is done: PyTorch resizes the width first, even to itself, and keeps
    what comes of it.
    """
    (height, down), (width, _) = rows, wanted
    planes = [torch.empty(1, 1, height, width) for _ in range(3)]
    for top, piece in pieces:
        narrow = resampled(piece, (piece.shape[2], across), (piece.shape[2], width))
        for channel, plane in enumerate(planes):
            plane[:, :, top : top + piece.shape[2]] = narrow[:, channel : channel + 1]
    image = torch.empty(1, 3, *wanted[::-1])
    for channel in range(3):
        resized = resampled(planes.pop(0), (down, width), wanted[::-1])
        torch.clamp(resized, 0, 1, out=image[:, channel : channel + 1])
    return image
