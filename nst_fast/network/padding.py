"""Padding by one cell on every side, each axis in a mode of its own; ``circular`` continues at the opposite side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nst_fast.network.taps import Wraps

ROWS, COLUMNS = 2, 3  # the axes of [B, C, H, W]
Modes = tuple[str, str]  # of rows and of columns: zeros, replicate, reflect or circular


def modes_of(padding: str, wraps: Wraps) -> Modes:
    """The modes of a convolution: that of its padding, but circular along the axes (rows, columns) that wrap."""
    rows, columns = ("circular" if wrapped else padding for wrapped in wraps)
    return rows, columns


def padded(x: Tensor, modes: Modes) -> Tensor:
    """[B, C, H, W] to [B, C, H + 2, W + 2], in the same memory format."""
    for axis, mode in zip((ROWS, COLUMNS), modes, strict=True):
        if mode == "circular":
            # No sizes: in an exported graph they would be nodes that end on the CPU.
            last, first = (x[..., -1:, :], x[..., :1, :]) if axis == ROWS else (x[..., -1:], x[..., :1])
            x = torch.cat([last, x, first], axis)
        else:
            margins = (0, 0, 1, 1) if axis == ROWS else (1, 1, 0, 0)
            x = functional.pad(x, margins, mode="constant" if mode == "zeros" else mode)
    return x


def folded(gradient: Tensor, axis: int, mode: str) -> Tensor:
    """The gradient of a padding by one along an axis: what a margin received goes to the line that it repeated."""
    size = gradient.shape[axis] - 2
    inside = gradient.narrow(axis, 1, size).clone()
    if mode == "zeros":
        return inside
    before, after = {"replicate": (0, size - 1), "reflect": (1, size - 2), "circular": (size - 1, 0)}[mode]
    inside.select(axis, before).add_(gradient.select(axis, 0))
    inside.select(axis, after).add_(gradient.select(axis, size + 1))
    return inside
