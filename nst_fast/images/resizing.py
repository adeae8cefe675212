"""Sizes of pictures, the filter that brings a picture to one, and reading in bands at the size that is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nst_fast.errors import NstFastError, UsageError

FILTER_REACH = 4  # pixels of the smaller size, beyond which the filter sees nothing
BAND_PIXELS = 2**20  # converted at a time


def scaled_size(width: int, height: int, longest_side: int | None) -> tuple[int, int]:
    """Width and height in pixels for a longest side, rounded, never below 1; ``None`` keeps them."""
    if longest_side is None:
        return width, height
    if longest_side < 1:
        raise UsageError(f"a longest side of {longest_side} pixels", "Give a positive number")
    scale = longest_side / max(width, height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def resize(image: Tensor, longest_side: int) -> Tensor:
    """Image [B, 3, H, W] brought to a longest side in pixels, smaller or larger; only rounding changes the aspect."""
    height, width = image.shape[-2:]
    width, height = scaled_size(width, height, longest_side)
    return resize_to(image, (height, width))


def resize_to(image: Tensor, size: tuple[int, int], extent: tuple[float, float] | None = None) -> Tensor:
    """Image [B, 3, H, W] brought to (height, width) in pixels: antialiased bicubic, clamped to [0, 1].

    ``extent`` is the true height and width of a picture that ends within the image's last pixels.
    """
    extent = extent or (image.shape[-2], image.shape[-1])
    if tuple(image.shape[-2:]) == tuple(size) == tuple(extent):
        return image
    return _resampled(image, extent, size).clamp(0, 1)


def resize_wrapped(image: Tensor, size: tuple[int, int], wraps: tuple[bool, bool]) -> Tensor:
    """As :func:`resize_to`, for an image that continues at its opposite side along rows, columns or both."""
    kept, wanted = [slice(None)] * 4, list(size)
    for axis, wrapped in zip((2, 3), wraps, strict=True):
        before, after = image.shape[axis], size[axis - 2]
        if wrapped and before != after:
            # Margins that are whole numbers of pixels before and after, wider than the filter.
            parts = math.gcd(before, after)
            count = min(parts, math.ceil(FILTER_REACH * max(1, before / after) * parts / before))
            old, new = count * before // parts, count * after // parts
            image = torch.cat([image.narrow(axis, before - old, old), image, image.narrow(axis, 0, old)], axis)
            wanted[axis - 2] += 2 * new
            kept[axis] = slice(new, new + after)
    return resize_to(image, (wanted[0], wanted[1]))[tuple(kept)].contiguous()


def _resampled(image: Tensor, extent: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Not clamped: width and height may be resized one after the other."""
    # PyTorch takes the size as the integer part of side * factor, and places pixels by the factor itself.
    factors = [1.0 if wanted == true else (wanted + 1e-6) / true for wanted, true in zip(size, extent, strict=True)]
    resized = F.interpolate(image, scale_factor=factors, mode="bicubic", align_corners=False, antialias=True)
    if tuple(resized.shape[-2:]) != tuple(size):
        raise NstFastError(f"an extent of {extent} does not give {size} from {tuple(image.shape)}")
    return resized


@dataclass(frozen=True)
class Change:
    """What happens to the size of a picture, width and height in pixels, as it is read."""

    size: tuple[int, int]  # as decoded
    extent: tuple[float, float]  # the same, where the picture ends within the last pixels
    reduction: int  # by averaging squares of so many pixels; 1 leaves them
    wanted: tuple[int, int]


def read_bands(read: Callable[[int, int], NDArray[np.float32]], change: Change) -> Tensor:
    """The picture at the size wanted, [1, 3, H, W], in memory bounded by that size: squares are averaged and the width
    resized band by band, then the height.

    ``read(top, bottom)`` gives the rows from one to before another, [h, W, 3], or 4 with alpha, from top to bottom.
    """
    width, height = (math.ceil(side / change.reduction) for side in change.size)
    across, down = (side / change.reduction for side in change.extent)
    pieces = _pieces(read, change)
    if change.wanted[0] < width:
        return _narrowed(pieces, (height, down), across, change.wanted)
    image = torch.empty(0)
    for top, piece in pieces:
        if not top:
            image = piece.new_empty(1, piece.shape[1], height, width)
        image[:, :, top : top + piece.shape[2]] = piece
    return resize_to(image, change.wanted[::-1], (down, across))


def _pieces(read: Callable[[int, int], NDArray[np.float32]], change: Change) -> Iterator[tuple[int, Tensor]]:
    """The picture, reduced, from top to bottom: the row where a piece begins, and the piece [1, 3, h, W]."""
    width, height = change.size
    step = max(1, BAND_PIXELS // (width * change.reduction)) * change.reduction
    for top in range(0, height, step):
        piece = torch.from_numpy(read(top, min(height, top + step))).permute(2, 0, 1)[None]
        if change.reduction > 1:
            piece = F.avg_pool2d(piece, change.reduction, ceil_mode=True)
        yield top // change.reduction, piece


def _narrowed(
    pieces: Iterator[tuple[int, Tensor]], rows: tuple[int, float], across: float, wanted: tuple[int, int]
) -> Tensor:
    """Pieces resized in width as they come, then in height.

    One channel after the other, each freed when it is done: PyTorch resizes the width first, even to itself, and keeps
    the result.
    """
    (height, down), (width, _) = rows, wanted
    planes: list[Tensor] = []
    for top, piece in pieces:
        planes = planes or [torch.empty(1, 1, height, width) for _ in range(piece.shape[1])]
        narrow = _resampled(piece, (piece.shape[2], across), (piece.shape[2], width))
        for channel, plane in enumerate(planes):
            plane[:, :, top : top + piece.shape[2]] = narrow[:, channel : channel + 1]
    image = torch.empty(1, len(planes), *wanted[::-1])
    for channel in range(len(planes)):
        resized = _resampled(planes.pop(0), (down, width), wanted[::-1])
        torch.clamp(resized, 0, 1, out=image[:, channel : channel + 1])
    return image
