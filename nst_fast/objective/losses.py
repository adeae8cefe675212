"""The losses as pure functions of features, Gram matrices and pixels. Every normalisation is named and explicit.

Each loss returns one value per image, shape ``[B]``, so that a batch of pastiches is a batch of independent problems.

Sources: Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks" (equation numbers
below); Johnson et al. 2016 (arXiv:1603.08155) for the Gram divided by C H W; Mahendran & Vedaldi 2015
(arXiv:1412.0035) for total variation; Ruder, Dosovitskiy & Brox 2016 (arXiv:1604.08610) for the temporal loss of films.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nst_fast.images.matching import LUMINANCE
from nst_fast.network.taps import NO_WRAP, Wraps


def gram_sum(features: Tensor, weights: Tensor | None = None) -> Tensor:
    """Features [B, C, H, W] to F Fᵀ, [B, C, C], summed over positions (Gatys et al. 2016, eq. 3).

    ``weights`` [1, 1, H, W]: how much each position counts.
    """
    rows = features.flatten(2)  # [B, C, H*W]
    counted = rows if weights is None else rows * weights.flatten(2)
    return counted @ rows.transpose(1, 2)


def gram_matrix(features: Tensor, weights: Tensor | None = None) -> Tensor:
    """The Gram matrix as a mean over positions, [B, C, C]. Differs from Gatys et al. 2016, who keep the sum.

    A mean does not depend on the size of the image; :func:`gram_factor` turns it into the other conventions.
    """
    if weights is None:
        return gram_sum(features) / (features.shape[2] * features.shape[3])
    return gram_sum(features, weights) / weights.sum()


def gram_factor(normalization: str, channels: int, positions: float) -> float:
    """What a mean Gram is multiplied by: ``hw`` 1, ``chw`` 1/C (Johnson et al. 2016), ``none`` H W (Gatys et al.).

    ``positions`` are those of the pastiche, for the style's Gram too. Differs from Gatys et al. 2016 when the style
    image has another size than the pastiche: their sums could never agree, so the style's is brought to its scale.
    """
    return {"hw": 1.0, "chw": 1.0 / channels, "none": float(positions)}[normalization]


def content_loss(features: Tensor, target: Tensor, normalization: str, weights: Tensor | None = None) -> Tensor:
    """Squared distance of features [B, C, H, W] to a target of the same shape, [B].

    ``weights`` [1, 1, H, W]: how much each position counts, in all the sums.

    ==========  ===============================  ==========================================
    relative    sum d² / sum target²             ours: needs no retuning across networks
    mean        sum d² / (C H W)                 jcjohnson/neural-style, the PyTorch tutorial
    half_sum    sum d² / 2                       Gatys et al. 2016, eq. 1
    size        sum d² / (4 C H W)               deeplearning.ai course
    ==========  ===============================  ==========================================
    """
    squares, energies = (features - target).square(), target.square()
    size: float = target[0].numel()
    if weights is not None:
        squares, energies, size = squares * weights, energies * weights, len(target[0]) * float(weights.sum())
    energy = energies.sum((1, 2, 3)) if normalization == "relative" else None
    return squares.sum((1, 2, 3)) * content_factor(normalization, size, energy)


def content_factor(normalization: str, size: float, energy: Tensor | None) -> Tensor | float:
    """What the sum of squared differences in :func:`content_loss` is multiplied by: a number, or one per image [B].

    ``size`` is C H W of the target, ``energy`` its sum of squares [B], which ``relative`` alone needs.
    """
    if normalization == "relative" and energy is not None:
        return 1 / above_zero(energy)
    return {"mean": 1.0 / size, "half_sum": 0.5, "size": 0.25 / size}[normalization]


def style_loss(gram: Tensor, target: Tensor, normalization: str, factor: float, positions: float) -> Tensor:
    """Squared distance of two mean Gram matrices [B, C, C], both multiplied by ``factor`` first, [B].

    ==========  ===============================  ==========================================
    relative    sum d² / sum target²             ours: every tap counts alike, at any size
    mean        sum d² / C²                      jcjohnson/neural-style, the PyTorch tutorial
    sum         sum d²                           plain
    gatys       sum d² / (4 C² (H W)²)           Gatys et al. 2016, eq. 4
    ==========  ===============================  ==========================================
    """
    squares, energy = (gram - target).square().sum((1, 2)), above_zero(target.square().sum((1, 2)))
    return style_normalized(squares, energy, normalization, factor, gram.shape[1], positions)


def style_normalized(
    squares: Tensor, energy: Tensor, normalization: str, factor: float, channels: int, positions: float
) -> Tensor:
    """What sums of squares [B], or derivatives by them, become in :func:`style_loss`; ``energy`` is the target's."""
    if normalization == "relative":
        return squares / energy
    return squares * style_factor(normalization, factor, channels, positions)


def style_factor(normalization: str, factor: float, channels: int, positions: float) -> float:
    """What the sum of squared differences is multiplied by, for every normalisation of :func:`style_loss` but one."""
    divisor = {"mean": channels**2, "sum": 1, "gatys": 4 * channels**2 * positions**2}[normalization]
    return factor**2 / divisor


def tv_colors(weight: float, chroma_weight: float) -> Tensor:
    """How total variation weights a difference d of two colours: the symmetric M [3, 3], float64, of dᵀ M d.

    dᵀ M d = weight |d|² + chroma_weight |P d|², with P d = d - Y(d) (1, 1, 1) what luminance leaves of d: its chroma.
    """
    identity = torch.eye(3, dtype=torch.float64)
    chroma = identity - identity.new_tensor(LUMINANCE).expand(3, 3)
    return weight * identity + chroma_weight * chroma.T @ chroma


def tv_loss(image: Tensor, colors: Tensor, wraps: Wraps = NO_WRAP) -> Tensor:
    """Total variation of an image [B, 3, H, W]: the mean squared difference of neighbours, both directions, [B].

    Mahendran & Vedaldi 2015 with beta = 2, as jcjohnson/neural-style; a mean, so that it does not grow with size.

    Args:
        image: whose neighbours are compared.
        colors: how a difference is weighted, see :func:`tv_colors`; on the image's device, [3, 3] or [B, 3, 3].
        wraps: whether the last row, and column, has the first for its neighbour.
    """
    counts = tv_counts(image.shape[1], image.shape[2], image.shape[3], wraps)
    rows, columns = (
        torch.cat([image, image.narrow(axis, 0, 1)], axis) if wrapped else image
        for axis, wrapped in zip((2, 3), wraps, strict=True)
    )
    return squared_differences(rows, 2, colors) / counts[0] + squared_differences(columns, 3, colors) / counts[1]


def squared_differences(image: Tensor, axis: int, colors: Tensor) -> Tensor:
    """The sum of dᵀ M d, d the differences of neighbours along one axis of an image [B, 3, H, W], M ``colors``, [B].

    The differences are weighted, not the picture: their rounding errors are small.
    """
    differences = image.diff(dim=axis).flatten(2)  # [B, 3, pairs]
    return (differences * (colors.to(image.dtype) @ differences)).sum((1, 2))


def edge_colors() -> Tensor:
    """The matrix of :func:`tv_colors` that leaves the square of a difference's luminance."""
    luminance = torch.tensor(LUMINANCE, dtype=torch.float64)
    return luminance[:, None] * luminance


def temporal_loss(image: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of squared differences of two pictures [B, 3, H, W], [B] (Ruder et al. 2016, eq. 7).

    ``weights`` [B, 1, H, W]: of each pixel, with the term's weight and the mean over 3 H W in them.
    """
    return (weights * (image - target).square()).sum((1, 2, 3))


def tv_counts(channels: int, height: int, width: int, wraps: Wraps = NO_WRAP) -> tuple[int, int]:
    """How many pairs of neighbours an image has: one above the other, side by side."""
    rows, columns = (side - (not wrapped) for side, wrapped in zip((height, width), wraps, strict=True))
    return channels * rows * width, channels * height * columns


def above_zero(energy: Tensor) -> Tensor:
    """A sum of squares [B], never 0, so that an all-dark target gives no division by zero."""
    return energy.clamp_min(torch.finfo(energy.dtype).tiny)
