"""Borders of scanned pictures, strips of paper, frame, passe-partout or bars along a side: found, and left out.

A strip is a border when it has one colour along the whole side and ends at a straight, sharp edge along (nearly) the
whole side. That is strict: a border that stays shows, a picture that is cut is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.images.decoding import SMALLEST_SIDE, Decoded, Limits
from nst_fast.images.resizing import resize_to, scaled_size

# Borders are looked for at this longest side, or the file's if that is smaller, whatever size is wanted: they are the
# same at every size.
OVERVIEW = 512
WIDEST = 0.12  # of a side's depth: a wider strip is part of the picture
SMALLEST_PICTURE = 64  # pixels: in a smaller one a border and a stroke are the same few pixels
FLAT = 0.07  # a pixel of the strip is at most so far from the strip's colour, in its worst channel
EDGE = 0.10  # a pixel inside is at least so far from it
FLAT_SHARE, EDGE_SHARE = 0.995, 0.9  # of the side's length for which that holds
REACH = 0.008  # of the longest side: an edge may be as slanted or blurred as this
CONTINUED = 1 / 4  # a gradient continues behind its "edge" by more than this share of the step, a border does not


class Borders(NamedTuple):
    """How much of a picture is border: shares of its width (left, right) and height (top, bottom), each in [0, 1)."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    def inside(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part that is no border, as left, top, right and bottom ends in whole pixels, rounded inwards."""
        left, top = _up(self.left * width), _up(self.top * height)
        return left, top, width - _up(self.right * width), height - _up(self.bottom * height)

    def left_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the part that is no border, in whole pixels."""
        left, top, right, bottom = self.inside(width, height)
        return right - left, bottom - top


NO_BORDERS = Borders()
Crop = Borders | Literal["auto"]
Decode = Callable[[Limits], Decoded]  # decodes a picture within limits


def _up(pixels: float) -> int:
    return -int(-(pixels - 1e-6) // 1)  # 3.0000001 is 3: shares are quotients of whole pixels


def find_borders(image: Tensor) -> Borders:
    """The borders of an image [1, 3, H, W] in [0, 1], at most ``WIDEST`` of each side's depth.

    The rest is searched again, so that a frame and the paper in it are both found. A side whose strips continue beyond
    ``WIDEST`` has none: it is a pattern of stripes.
    """
    image = image[0]
    height, width = image.shape[1:]
    if min(height, width) < SMALLEST_PICTURE:
        return NO_BORDERS
    cut = [0, 0, 0, 0]
    deepest = [int(WIDEST * side) for side in (width, height, width, height)]
    while True:
        left, top, right, bottom = cut
        rest = image[:, top : height - bottom, left : width - right]
        # Twice as deep as a border may be, to see whether strips continue.
        room = [2 * most - done for most, done in zip(deepest, cut, strict=True)]
        found = [strip_depth(rows, most) for rows, most in zip(_from_each_side(rest), room, strict=True)]
        if not any(found):
            break
        cut = [done + more for done, more in zip(cut, found, strict=True)]
    sides = zip(cut, deepest, (width, height, width, height), strict=True)
    return Borders(*(depth / side if depth <= most else 0.0 for depth, most, side in sides))


def _from_each_side(image: Tensor) -> Iterator[Tensor]:
    """The image [3, H, W] turned so that its left, top, right and bottom side comes first: [3, depth, length]."""
    yield image.transpose(1, 2)
    yield image
    yield image.transpose(1, 2).flip(1)
    yield image.flip(1)


def strip_depth(rows: Tensor, most: int) -> int:
    """How many of the first rows are a border, which ends before row ``most``, and its blurred edge; 0 for none.

    ``rows`` [3, depth, length] in [0, 1], the side in question first.
    """
    reach = max(1, round(REACH * max(rows.shape[1:])))
    rows = rows[:, : most + 2 * reach + 1]
    color = rows[:, 0].median(dim=1).values[:, None, None]
    off = rows - color
    strip = int(_is_flat(off).cumprod(0).sum())  # rows before the first that is not flat
    if not 0 < strip < most or strip + 2 * reach >= rows.shape[1]:
        return 0
    # The ends of the side may lie in the borders of the neighbouring sides.
    ends = int(WIDEST * rows.shape[2])
    middle = off[:, strip : strip + 2 * reach + 1, ends : rows.shape[2] - ends]
    other = (middle.abs().amax(0) >= EDGE).float().mean(1) >= EDGE_SHARE
    if not other[: reach + 1].any() or _continues(middle, reach):
        return 0
    edge = int(other.int().argmax())  # rows that are neither; a slanted or blurred edge is a little longer
    return strip + edge + (2 if edge else 1)


def _is_flat(off: Tensor) -> Tensor:
    """Which rows of the differences [3, depth, length] are about 0 all along, but for the grain of paper; [depth]."""
    window = off.shape[2] // 100 * 2 + 1
    smooth = F.avg_pool1d(off.transpose(0, 1), window, stride=1, padding=window // 2, count_include_pad=False)
    return smooth.abs().amax(1).quantile(FLAT_SHARE, dim=1) <= FLAT


def _continues(off: Tensor, reach: int) -> bool:
    """Whether the colour changes behind the edge as it does at it: a gradient. ``off`` is [3, rows, length]."""
    at_edge, further = off[:, reach].median(dim=1).values, off[:, 2 * reach].median(dim=1).values
    return bool(torch.dot(further - at_edge, at_edge) > CONTINUED * torch.dot(at_edge, at_edge))


def decode_cropped(decode: Decode, name: str, limits: Limits, crop: Crop) -> Decoded:
    """Decode a picture without its borders; the longest side of ``limits`` is that of the rest.

    The picture is decoded again to look for borders (``auto``), and once more where there is one. A picture that would
    be too small without them keeps them. Raises :class:`InputError` as ``decode`` does, and if too little is left.
    """
    decoded = decode(limits)
    borders = find_borders(_overview(decode, limits, decoded).tensor) if crop == "auto" else crop
    left = borders.left_of(*decoded.size)
    too_small = min(*left, *scaled_size(*left, limits.longest_side)) < SMALLEST_SIDE
    if borders == NO_BORDERS or (crop == "auto" and too_small):
        return decoded
    limits.check(*left, f"{name} without its border")
    size, notes = decoded.size, decoded.notes
    if crop == "auto":
        sides = [f"{side} {100 * share:.1f} %" for side, share in borders._asdict().items() if share]
        notes = (*notes, f"border left out: {', '.join(sides)} (`style_crop` none keeps it)")
    if limits.longest_side is not None:  # only then is the picture read at another size
        # A little more than enough, as pixels are rounded inwards; not enlarged before the cut, which may leave little.
        side = min(max(size), math.ceil(limits.longest_side * max(size) / max(left)) + 2)
        del decoded
        decoded = decode(replace(limits, longest_side=side))
    return replace(decoded, tensor=_cut(decoded.tensor, borders, scaled_size(*left, limits.longest_side)), notes=notes)


def _overview(decode: Decode, limits: Limits, decoded: Decoded) -> Decoded:
    longest, shortest = max(decoded.size), min(decoded.size)
    enough = math.ceil(SMALLEST_SIDE * longest / shortest)
    side = min(longest, max(OVERVIEW, enough))
    if side == limits.longest_side or (limits.longest_side is None and side == longest):
        return decoded
    return decode(replace(limits, longest_side=side))


def _cut(image: Tensor, borders: Borders, size: tuple[int, int]) -> Tensor:
    """The part without borders, [1, 3, H, W], of exactly a width and height: cut, or enlarged if it is too small."""
    left, top, right, bottom = borders.inside(image.shape[3], image.shape[2])
    image = image[:, :, top:bottom, left:right]
    (width, height), (rows, columns) = size, image.shape[2:]
    if rows < height or columns < width:
        return resize_to(image, (height, width))
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[:, :, top : top + height, left : left + width].contiguous()
