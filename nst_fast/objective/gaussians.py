"""Losses of Gaussians: how far the mean and the covariance of features are from those of the style.

Both come from one statistic, the mean of f [f; 1]ᵀ over positions, [B, C, C + 1]. Roots of matrices are iterated with
products alone, so that every engine and device has them, a graph of ONNX too.

Sources: Kolkin, Salavon & Shakhnarovich 2019, "Style Transfer by Relaxed Optimal Transport and Self-Similarity"
(arXiv:1904.12785), equation 7, for moments; Dowson & Landau 1982, "The Fréchet distance between multivariate normal
distributions", for the Wasserstein distance, used for style by crowsonkb/style-transfer-pytorch; Higham 2008,
"Functions of Matrices", equation 6.35, for the iteration; Chen & Chow 2014, "A stable scaling of Newton-Schulz for
improving the sign function computation of a Hermitian matrix", for its scaling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# White noise that both distributions are given, as a fraction of the sum of the style's variances: it keeps matrices
# that are nearly singular (a ReLU that never fires) away from the root.
RIDGE = 1e-4
# The smallest singular value, as a share of the largest, that the iteration has to bring to 1: of the style's own
# covariance, and of the product of both, where the picture's may be an order of magnitude larger than the style's.
TARGET_SPREAD, PRODUCT_SPREAD = 0.5 * RIDGE**0.5, 0.3 * RIDGE
# How near to 1 it brings them before its last step, which squares what is left, by the bytes of a number.
REST = {4: 3e-4, 8: 1e-9}
SMALLEST = 1e-30  # of sums of squares: an all-dark style gives no division by zero
LEAST_VARIANCE = 1e-14  # its square, and the inverse of that, are numbers in single precision too


def moments(features: Tensor, weights: Tensor | None = None) -> Tensor:
    """Features [B, C, H, W] to the mean of f [f; 1]ᵀ over positions, by their weights [1, 1, H, W], [B, C, C + 1]."""
    rows = features.flatten(2)
    counted = rows if weights is None else rows * weights.flatten(2)
    sums = torch.cat([counted @ rows.transpose(1, 2), counted.sum(2, keepdim=True)], 2)
    return sums / (rows.shape[2] if weights is None else weights.sum())


def split(statistic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [B, C], covariance [B, C, C], and the mean of |f|² [B]."""
    gram, mean = statistic[:, :, :-1], statistic[:, :, -1]
    return mean, gram - mean[:, :, None] * mean[:, None, :], trace(gram)


def moments_loss(statistic: Tensor, target: Tensor) -> Tensor:
    """Squared distances of mean and covariance, each relative to the style's own, [B].

    |m - m_s|² / |m_s|² + |S - S_s|² / |S_s|². Differs from Kolkin et al., who sum absolute differences.
    """
    mean, covariance, _ = split(statistic)
    of_style, style_covariance, _ = split(target)
    by_mean = (mean - of_style).square().sum(1) / (of_style.square().sum(1) + SMALLEST)
    differences = (covariance - style_covariance).square().sum((1, 2))
    return by_mean + differences / (style_covariance.square().sum((1, 2)) + SMALLEST)


def ridge(target: Tensor) -> Tensor:
    """The variance [B, 1, 1] that is added to both covariances."""
    _, covariance, energy = split(target)
    return (RIDGE * (trace(covariance) + RIDGE * energy) + LEAST_VARIANCE)[:, None, None]


def target_root(target: Tensor) -> Tensor:
    """The square root [B, C, C] of the style's covariance with its ridge."""
    _, covariance, _ = split(target)
    return roots(covariance + ridge(target) * eye(covariance), schedule(TARGET_SPREAD, target.element_size()))[0]


def wasserstein_loss(statistic: Tensor, target: Tensor, root: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance of two Gaussians, relative to the style's mean |f|², [B].

    (|m - m_s|² + tr S + tr S_s - 2 tr (R S R)^½) / E|f_s|², R = S_s^½, both covariances with the ridge.

    Args:
        statistic, target: of the picture and of the style, [B, C, C + 1].
        root: R, :func:`target_root` of the target.
    """
    mean, covariance, _ = split(statistic)
    of_style, style_covariance, energy = split(target)
    noise = ridge(target) * eye(covariance)
    shared = trace_of_root(root @ (covariance + noise) @ root)
    spread = trace(covariance + noise) + trace(style_covariance + noise) - 2 * shared
    return ((mean - of_style).square().sum(1) + spread) / (energy + LEAST_VARIANCE)


def trace_of_root(matrix: Tensor) -> Tensor:
    """The trace [B] of the square root of symmetric positive matrices [B, C, C]."""
    found: Tensor = _TraceOfRoot.apply(matrix)
    return found


class _TraceOfRoot(torch.autograd.Function):
    """The derivative of tr A^½ by A is A^-½ / 2, which the iteration gives as well: autograd need not follow it."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        root, inverse = roots(matrix, schedule(PRODUCT_SPREAD, matrix.element_size()))
        ctx.save_for_backward(inverse)
        return trace(root)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        half: Tensor = slopes[0][:, None, None] * inverse / 2
        return half


def roots(matrix: Tensor, scales: list[float]) -> tuple[Tensor, Tensor]:
    """A^½ and A^-½ of symmetric positive matrices A [B, C, C], by the coupled Newton-Schulz iteration.

    Y = A / s, Z = I; then T = (a / 2) (3 I - a² Z Y), Y = Y T, Z = T Z, which converge to (A / s)^½ and (A / s)^-½ for
    s at least the largest eigenvalue; a from ``scales`` is 1 in the end.
    """
    identity = eye(matrix)
    size = trace(matrix)[:, None, None]  # no eigenvalue is larger
    y, z = matrix / size, identity.expand_as(matrix)
    for scale in scales:
        step = (1.5 * scale) * identity - (0.5 * scale**3) * (z @ y)
        y, z = y @ step, step @ z
    return y * size.sqrt(), z / size.sqrt()


def schedule(smallest: float, size: int) -> list[float]:
    """The factors a of :func:`roots` for singular values from ``smallest`` to 1, in numbers of so many bytes.

    Each step takes [l, 1] to [l', 1], l' = (a l / 2) (3 - a² l²), with the a that makes l' largest: a small value grows
    by 2.6, where the plain iteration has 1.5.
    """
    scales = []
    while smallest < 1 - REST[size]:
        scales.append(math.sqrt(3 / (1 + smallest + smallest**2)))
        smallest *= 0.5 * scales[-1] * (3 - (scales[-1] * smallest) ** 2)
    return [*scales, 1.0]


def trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)


def eye(like: Tensor) -> Tensor:
    """The identity of matrices [B, C, C]."""
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
