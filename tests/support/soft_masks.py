"""Guides of soft masks: a region and the rest, of a pastiche and of two style images."""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.objective.guides import Guides

Size = tuple[int, int]  # height and width


def masks(height: int, width: int, count: int) -> list[Tensor]:
    """Soft masks that add up to at most 1."""
    generator = torch.Generator().manual_seed(height)
    drawn = torch.rand((count + 1, 1, height, width), dtype=torch.float64, generator=generator).cumsum(0)
    return list((drawn[:-1] / drawn[-1]).diff(dim=0, prepend=torch.zeros(1, 1, height, width)).split(1))


def pastiche_guides(size: Size) -> Guides:
    left, right, content = masks(*size, 3)
    return Guides(content, {"left": left, "rest": right}, {"left": 0.7, "rest": 0.4}, 0.8)


def style_guides(size: Size) -> list[Guides]:
    """The first style is of the one region, the second a part of both, with another weight in each."""
    one, other, third = masks(*size, 3)
    return [
        Guides(None, {"left": one}, {"left": 1.0}),
        Guides(None, {"left": other, "rest": third}, {"left": 3.0, "rest": 1.0}),
    ]
