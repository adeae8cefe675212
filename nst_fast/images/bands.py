"""A picture read a band of rows at a time and brought to its size at once, so that memory is bounded by the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from nst_fast.images.colour import ColourReader
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
    narrows = change.wanted[0] < width
    image = torch.empty(1, 3, height, change.wanted[0] if narrows else width)
    step = max(1, BAND_PIXELS // (change.size[0] * change.reduction)) * change.reduction
    for top in range(0, change.size[1], step):
        band = reader.read(rows(top, min(change.size[1], top + step)))
        piece = torch.from_numpy(band).permute(2, 0, 1)[None]
        if change.reduction > 1:
            piece = F.avg_pool2d(piece, change.reduction, ceil_mode=True)
        if narrows:
            piece = resampled(piece, (piece.shape[2], across), (piece.shape[2], change.wanted[0]))
        first = top // change.reduction
        image[:, :, first : first + piece.shape[2]] = piece
    extent, size = (down, change.wanted[0] if narrows else across), change.wanted[::-1]
    if not narrows:
        return resize_part(image, extent, size)
    # One channel after the other: PyTorch resizes the width first, even to itself, and keeps what comes of it.
    return torch.cat([resize_part(image[:, one : one + 1], extent, size) for one in range(3)], dim=1)
