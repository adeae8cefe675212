"""Transparency: colours that are spread under what is transparent, and pictures put on a background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nst_fast.errors import InputError
from nst_fast.images.color import Color

VISIBLE = 0.5 / 255  # the least alpha that 8 bits do not round to 0


def straight(pixels: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
    """Colours [1, 3, H, W], and alpha [1, 1, H, W] or None, of such colours, or of premultiplied ones with alpha.

    Under what is invisible the colours of its surroundings are spread, so that there is no edge for a network to see;
    none of those in the file come through. Raises :class:`InputError` where nothing is visible.
    """
    colors, alpha = pixels[:, :3], pixels[:, 3:]
    if bool((alpha == 1).all()):  # or there is none
        return colors.contiguous(), None
    if float(alpha.max()) < VISIBLE:
        raise InputError(f"{name} is transparent all over", "Give a picture with something on it")
    return _spread(colors, alpha).clamp(0, 1).contiguous(), alpha.contiguous()


def _spread(colors: Tensor, alpha: Tensor) -> Tensor:
    """Colours without their alpha; from halves of the size, and again, where there is none (pull and push)."""
    visible = alpha >= VISIBLE
    own = colors / alpha.clamp_min(VISIBLE)
    if bool(visible.all()) or max(alpha.shape[2:]) == 1:
        return own
    coarse = _spread(F.avg_pool2d(colors, 2, ceil_mode=True), F.avg_pool2d(alpha, 2, ceil_mode=True))
    around = F.interpolate(coarse, size=(alpha.shape[2], alpha.shape[3]), mode="bilinear", align_corners=False)
    return torch.where(visible, own, around)


def on_background(colors: Tensor, alpha: Tensor, background: Color) -> Tensor:
    """Colours [1, 3, H, W] of an alpha [1, 1, H, W] on a background."""
    return colors.new_tensor(background).view(1, 3, 1, 1).lerp(colors, alpha)
