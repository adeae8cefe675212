"""Reading a picture without its borders, at the size that what is left should have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor

from nst_fast.images.borders import NO_BORDERS, Borders, find_borders
from nst_fast.images.decoding import SMALLEST_SIDE, Decoded, Limits
from nst_fast.images.resizing import resize_to, scaled_size

Crop = Borders | Literal["auto"]
Decode = Callable[[Limits], Decoded]

# Borders are looked for at this longest side, or the file's if that is smaller, whatever size is wanted: they are the
# same at every size.
OVERVIEW = 512


def decode_cropped(decode: Decode, name: str, limits: Limits, crop: Crop) -> Decoded:
    """Decode a picture and leave its borders out; without any it is what ``decode`` gives.

    The picture is decoded again for the overview, and once more where there is a border.

    Args:
        decode: decodes the picture.
        name, limits: as for :func:`nst_fast.images.decoding.decode`; the longest side is that of what is left.
        crop: the borders, or ``auto`` to look for them: a picture that would be too small without them keeps them.

    Raises:
        InputError: as from ``decode``; too little is left.
    """
    decoded = decode(limits)
    borders = crop
    if borders == "auto":
        borders = find_borders(_overview(decode, limits, decoded).tensor)
        if not _is_large_enough(_left_of(decoded.size, borders), limits):
            return decoded
    if borders == NO_BORDERS:
        return decoded
    left = _left_of(decoded.size, borders)
    limits.check(*left, f"{name} without its border")
    size, notes = decoded.size, decoded.notes
    if limits.longest_side is not None:  # only then is the picture read at another size
        # A little more than enough, as pixels are rounded inwards; not enlarged before the cut, which may leave little.
        side = min(max(size), math.ceil(limits.longest_side * max(size) / max(left)) + 2)
        del decoded
        decoded = decode(replace(limits, longest_side=side))
    tensor = _cut(decoded, borders, scaled_size(*left, limits.longest_side))
    return replace(decoded, tensor=tensor, notes=(*notes, *([note_of(borders)] if crop == "auto" else [])))


def note_of(borders: Borders) -> str:
    """What a user should know of borders that were found."""
    sides = [f"{side} {100 * share:.1f} %" for side, share in borders._asdict().items() if share]
    return f"border left out: {', '.join(sides)} (--style-crop none keeps it)"


def _overview(decode: Decode, limits: Limits, decoded: Decoded) -> Decoded:
    longest, shortest = max(decoded.size), min(decoded.size)
    enough = math.ceil(SMALLEST_SIDE * longest / shortest)
    side = min(longest, max(OVERVIEW, enough))
    if side == limits.longest_side or (limits.longest_side is None and side == longest):
        return decoded
    return decode(replace(limits, longest_side=side))


def _left_of(size: tuple[int, int], borders: Borders) -> tuple[int, int]:
    """Width and height in the file of what is left without the borders, in pixels."""
    left, top, right, bottom = borders.inside(*size)
    return right - left, bottom - top


def _is_large_enough(size: tuple[int, int], limits: Limits) -> bool:
    return min(*size, *scaled_size(*size, limits.longest_side)) >= SMALLEST_SIDE


def _cut(decoded: Decoded, borders: Borders, size: tuple[int, int]) -> Tensor:
    """What is left, [1, 3, H, W], of exactly a width and height: a part of the picture, enlarged if it is too small."""
    image = decoded.tensor
    left, top, right, bottom = borders.inside(image.shape[3], image.shape[2])
    image = image[:, :, top:bottom, left:right]
    (width, height), (rows, columns) = size, image.shape[2:]
    if rows < height or columns < width:
        return resize_to(image, (height, width))
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[:, :, top : top + height, left : left + width].contiguous()
