"""Sizes of pictures: how large one becomes for a longest side, and the filter that brings it there."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from nst_fast.errors import NstFastError, UsageError


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


def resize_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Image [B, 3, H, W] brought to (height, width) in pixels: antialiased bicubic, clamped to [0, 1]."""
    return resize_part(image, (image.shape[-2], image.shape[-1]), size)


def resize_part(image: Tensor, extent: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """As :func:`resize_to`, for an image whose true height and width, ``extent``, end within its last pixels."""
    if tuple(image.shape[-2:]) == tuple(size) == tuple(extent):
        return image
    return resampled(image, extent, size).clamp(0, 1)


def resampled(image: Tensor, extent: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """As :func:`resize_part`, not clamped: width and height may then be resized one after the other."""
    # PyTorch takes the size as the integer part of side * factor, and places pixels by the factor itself.
    factors = [1.0 if wanted == true else (wanted + 1e-6) / true for wanted, true in zip(size, extent, strict=True)]
    resized = F.interpolate(image, scale_factor=factors, mode="bicubic", align_corners=False, antialias=True)
    if tuple(resized.shape[-2:]) != tuple(size):
        raise NstFastError(f"an extent of {extent} does not give {size} from {tuple(image.shape)}")
    return resized
