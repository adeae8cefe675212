"""Masks from files, and the guides of a problem made of them: which positions count, for which region, at a scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nst_fast.errors import InputError, UsageError
from nst_fast.images import NO_BORDERS, Borders, LoadedImage, load_image, to_uint8
from nst_fast.images.borders import Crop
from nst_fast.images.matching import luminance
from nst_fast.images.transparency import VISIBLE
from nst_fast.objective.guides import EVERYWHERE, PLAIN, Guides
from nst_fast.options.config import StylizeConfig
from nst_fast.system.files import shown

REST = "rest"  # the region that no mask has
Size = tuple[int, int]  # height and width

# Of maps: colours so near, in the worst of 0 to 255, are one; a region has at least this share of the pixels.
SAME_COLOR, LEAST_SHARE, MOST_COLORS = 48, 0.002, 32
LEAST_PART = 1e-4  # of the picture: a smaller region is the rounding of masks that add up to all of it
LARGEST_STRETCH = 1.02  # between the shapes of a mask and of its picture, without a note


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a problem, each [1, 1, H, W] in [0, 1] on the CPU at the size of its picture.

    Attributes:
        content: of the content loss.
        regions: name -> mask of the pastiche; empty for a picture of one region.
        weights: of those regions' styles.
        styles: for each style image, those of regions last: name of a region -> what of the image is its style.
        notes: for the user.
    """

    content: Tensor | None
    regions: Mapping[str, Tensor]
    weights: Mapping[str, float]
    styles: Sequence[Mapping[str, Tensor | None]]
    notes: tuple[str, ...] = ()


def load_masks(
    config: StylizeConfig, size: Size, content: LoadedImage | None, styles: Sequence[LoadedImage], own: int
) -> Masks:
    """Read the masks that the options name.

    Args:
        size: height and width of the pastiche.
        content: the content image, whose shape the masks of the pastiche should have.
        own: how many style images are not those of regions; they come first.

    Raises:
        InputError: a mask that cannot be read or has no white; maps that do not agree.
    """
    notes: list[str] = []
    shape = content.original_size if content is not None else (size[1], size[0])

    def of_pastiche(path: Path) -> Tensor:
        return read_mask(path, config, size, shape, notes)

    content_mask = next((of_pastiche(path) for path in config.content_mask.files), None)
    used: list[Tensor | None] = [None] * own
    for index, path in enumerate(config.style_mask.files):
        style = styles[index]
        used[index] = read_mask(path, config, size_of(style), style.original_size, notes, style_crop(config))
    parts: list[dict[str, Tensor | None]]
    if config.map.files:
        regions, style_regions = read_maps(config, size, size_of(styles[0]))
        weights, mask = dict.fromkeys(regions, 1.0), used[0]
        parts = [{name: part if mask is None else part * mask for name, part in style_regions.items()}]
    else:
        names = [str(number) for number in range(1, len(config.region.masks) + 1)]
        regions = dict(zip(names, map(of_pastiche, config.region.masks), strict=True))
        name = REST if regions else EVERYWHERE
        parts = [{name: mask} for mask in used] + [{region: None} for region in names]
        each = config.style_weight_each[own:] or config.region.weights
        weights = dict(zip(names, each, strict=True))
    return checked(Masks(content_mask, regions, weights, parts, tuple(notes)), content, styles)


def checked(masks: Masks, content: LoadedImage | None, styles: Sequence[LoadedImage]) -> Masks:
    """The masks. Raises :class:`InputError` where masks and alpha leave nothing of a style, or of a region."""
    for style, regions in zip(styles, masks.styles, strict=True):
        for name, mask in regions.items():
            if not left_of(mask, style.alpha):
                part = f"region {name} of " if name not in (EVERYWHERE, REST) else ""
                raise InputError(
                    f"masks leave nothing of {part}{style.path.name}", "Give masks that have white in common"
                )
    alpha = content.alpha if content is not None else None
    named = [*masks.regions.items(), *([("of the content", masks.content)] if masks.content is not None else [])]
    for name, mask in named:
        if not left_of(mask, alpha):
            raise InputError(f"nothing of the content is visible in mask {name}", "Give a mask that has white there")
    return masks


def left_of(mask: Tensor | None, alpha: Tensor | None) -> bool:
    """Whether a mask and an alpha have pixels in common."""
    if mask is None:
        return True
    seen = mask if alpha is None else mask * mask_at(alpha, (mask.shape[2], mask.shape[3]))
    return float(seen.max()) >= VISIBLE


def style_crop(config: StylizeConfig) -> Crop:
    """The borders that style images are read without; none are looked for where a mask says what is used."""
    borders = config.style_crop.borders
    if borders is not None:
        return Borders(*borders)
    return NO_BORDERS if config.style_mask.files or config.map.files else "auto"


def size_of(image: LoadedImage) -> Size:
    return image.tensor.shape[2], image.tensor.shape[3]


def read_mask(
    path: Path, config: StylizeConfig, size: Size, shape: tuple[int, int], notes: list[str], crop: Crop = NO_BORDERS
) -> Tensor:
    """A mask [1, 1, H, W] stretched to a height and width: its luminance, on black where it is transparent.

    ``shape``: width and height of the picture that it belongs to; a mask of another shape is noted.
    """
    image = load_image(path, background="black", max_megapixels=config.max_megapixels, crop=crop)
    mask = mask_at(luminance(image.tensor), size).clamp(0, 1)
    if float(mask.max()) < VISIBLE:
        raise InputError(f"{shown(path)} is black all over: a mask needs white", "White is what counts")
    stretch = image.original_size[0] * shape[1] / (image.original_size[1] * shape[0])
    if max(stretch, 1 / stretch) > LARGEST_STRETCH:
        width, height = image.original_size
        notes.append(f"{path.name}: {width}x{height}, of another shape than its picture, to which it is stretched")
    return mask


def mask_at(mask: Tensor, size: Size) -> Tensor:
    """A mask brought to a size; masks that add up to 1 still do."""
    if mask.shape[2:] == size:
        return mask
    return functional.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)


def read_maps(config: StylizeConfig, size: Size, style_size: Size) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two maps as masks by colour, ``rrggbb``: of the pastiche, and of the style image.

    Raises:
        InputError: a colour of the content's map that the style's has not, or more colours than regions.
    """
    content_path, style_path = config.map.files
    limit = config.max_megapixels
    content = to_uint8(load_image(content_path, max_megapixels=limit).tensor)
    style = to_uint8(load_image(style_path, max_megapixels=limit, crop=style_crop(config)).tensor)
    known = palette(style, style_path)
    wanted = palette(content, content_path)
    regions, style_regions = one_hot(content, wanted), one_hot(style, known)
    found = {}
    for color, name in zip(wanted, regions, strict=True):
        same = [index for index, other in enumerate(known) if np.abs(color - other).max() <= SAME_COLOR]
        if not same:
            message = f"{shown(style_path)} has no region of the colour #{name}, which {shown(content_path)} has"
            raise InputError(message, "Paint both maps with the same colours")
        nearest = min(same, key=lambda index: int(np.abs(color - known[index]).max()))
        found[name] = mask_at(list(style_regions.values())[nearest], style_size)
    return {name: mask_at(mask, size) for name, mask in regions.items()}, found


def palette(picture: NDArray[np.uint8], path: Path) -> list[NDArray[np.int64]]:
    """The colours of a map, the most frequent first; those of edges and of compression are none."""
    colors, counts = np.unique(picture[inside(picture)], axis=0, return_counts=True)
    chosen: list[NDArray[np.int64]] = []
    for index in np.argsort(-counts, kind="stable"):
        if counts[index] < LEAST_SHARE * counts.sum():
            break
        color = colors[index].astype(np.int64)
        if all(np.abs(color - other).max() > SAME_COLOR for other in chosen):
            chosen.append(color)
    if not 0 < len(chosen) <= MOST_COLORS:
        message = f"{shown(path)} is no map: it has {len(chosen)} colours that cover a region"
        raise InputError(message, f"Paint each region in one colour, at most {MOST_COLORS}")
    return chosen


def inside(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels [H, W] of a map have neighbours of their own colour on all sides: those of soft edges have not."""
    found = np.ones(picture.shape[:2], bool)
    for axis in (0, 1):
        same = np.abs(np.diff(picture.astype(np.int64), axis=axis)).max(2) <= SAME_COLOR // 2
        before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        before[axis], after[axis] = (1, 0), (0, 1)
        found &= np.pad(same, before, constant_values=True) & np.pad(same, after, constant_values=True)
    return found


def one_hot(picture: NDArray[np.uint8], colors: Sequence[NDArray[np.int64]]) -> dict[str, Tensor]:
    """Colour -> mask [1, 1, H, W]: 1 where it is the nearest of the colours."""
    pixels = picture.astype(np.int64)
    distances = np.stack([np.square(pixels - color).sum(2) for color in colors])
    labels = torch.from_numpy(distances.argmin(0))
    names = ["".join(f"{channel:02x}" for channel in color) for color in colors]
    return {name: (labels == index)[None, None].float() for index, name in enumerate(names)}


def pastiche_guides(masks: Masks, size: Size, alpha: Tensor | None, device: torch.device) -> Guides:
    """The guides of the pastiche at a size: its regions, the rest, and what of each is visible.

    Terms are weighed by their part of what is visible, so that a pixel's pull does not depend on how large its region
    is. Where masks overlap, all their styles count.
    """
    visible = alpha.to(device) if alpha is not None else None
    regions: dict[str, Tensor | None] = {EVERYWHERE: visible}
    factors = {EVERYWHERE: 1.0}
    whole = float(visible.sum()) if visible is not None else math.prod(size)

    def seen(mask: Tensor) -> Tensor:
        return mask if visible is None else mask * visible

    if masks.regions:
        at_size = {name: mask_at(mask, size).to(device) for name, mask in masks.regions.items()}
        rest = (1 - torch.stack(list(at_size.values())).sum(0)).clamp_min(0)
        at_size |= {REST: rest} if REST in {name for part in masks.styles for name in part} else {}
        shares = {name: float(seen(mask).sum()) / whole for name, mask in at_size.items()}
        regions = {name: seen(mask) for name, mask in at_size.items() if shares[name] > LEAST_PART}
        factors = {name: masks.weights.get(name, 1.0) * shares[name] for name in regions}
    content, content_factor = visible, 1.0
    if masks.content is not None:
        content = seen(mask_at(masks.content, size).to(device))
        content_factor = float(content.sum()) / whole
    made = Guides(content, regions, factors, content_factor)
    return PLAIN if made.plain else made


def style_guides(masks: Mapping[str, Tensor | None], size: Size, alpha: Tensor | None, device: torch.device) -> Guides:
    """What of one style image, brought to a size, is measured for which region."""
    visible = mask_at(alpha, size) if alpha is not None else None
    regions: dict[str, Tensor | None] = {}
    for name, mask in masks.items():
        seen = mask_at(mask, size) if mask is not None else None
        parts = [part for part in (seen, visible) if part is not None]
        regions[name] = torch.stack(parts).prod(0).to(device) if parts else None
    made = Guides(None, regions, dict.fromkeys(regions, 1.0))
    return PLAIN if made.plain else made


def check_guided(config: StylizeConfig, *, content: bool, styles: int) -> None:
    """Raise :class:`UsageError` where masks do not suit the pictures."""
    if config.content_mask.files and not content:
        raise UsageError(f"`content_mask` {config.content_mask}: there is no content image")
    count = len(config.style_mask.files)
    if count and count != styles:
        message = f"`style_mask` {config.style_mask}: {count} masks for {styles} style images"
        raise UsageError(message, "Give one mask for each style image, in their order")
    if config.map.files and styles != 1:
        raise UsageError(f"`map` {config.map}: is of one style image, and there are {styles}", "Give one style image")
