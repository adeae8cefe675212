"""Colour matching: luminance, chroma and statistics of images [1, 3, H, W], RGB, float32 in [0, 1].

Source: Gatys, Bethge, Hertzmann & Shechtman 2016, "Preserving Color in Neural Artistic Style Transfer"
(arXiv:1606.05897): luminance-only transfer (section 5.1 there), colour matching (section 5).
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # Y of YIQ
# A single-coloured picture has no spread to divide by; this is the square of a tenth of an 8-bit step.
SMALLEST_VARIANCE = (0.1 / 255) ** 2


def luminance(image: Tensor) -> Tensor:
    """Y of YIQ, [1, 1, H, W]."""
    return (image * image.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def gray(image: Tensor) -> Tensor:
    """The image without chroma: its luminance in all three channels."""
    return luminance(image).expand_as(image).contiguous()


def with_chroma_of(image: Tensor, colors: Tensor) -> Tensor:
    """The luminance of one image with the I and Q of another of the same size.

    A colour outside [0, 1] is made paler, as little as needed: clipping would change luminance and hue. Gatys et al.
    2016 do not mention the matter.
    """
    y = luminance(image).clamp(0, 1)
    offset = colors - luminance(colors)  # I and Q in RGB: what is added to a grey
    room = torch.where(offset > 0, 1 - y, y) / offset.abs().clamp_min(torch.finfo(offset.dtype).tiny)
    return (y + offset * room.amin(1, keepdim=True).clamp_max(1)).clamp(0, 1)


def matched_colors(
    image: Tensor, reference: Tensor, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """The image with the mean colour and the colour covariance of a reference of any size, clipped to [0, 1].

    x -> A (x - mean) + mean of the reference, with A = S_ref^(1/2) S_image^(-1/2), S the covariances over pixels:
    the form with symmetric roots, which mixes hues least. Both statistics count pixels by their weights, if there are.
    """
    mean, covariance = color_statistics(image, weights)
    wanted_mean, wanted_covariance = color_statistics(reference, reference_weights)
    change = _power(wanted_covariance, 0.5) @ _power(covariance, -0.5)
    pixels = change @ (image.double().flatten(2)[0] - mean) + wanted_mean
    return pixels.view(1, 3, *image.shape[2:]).to(image.dtype).clamp(0, 1)


def matched_luminance(
    image: Tensor, reference: Tensor, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """A grey image whose luminance has the mean and the deviation of the reference's, clipped to [0, 1]."""
    y = luminance(image)
    mean, deviation = _spread(y, weights)
    wanted_mean, wanted_deviation = _spread(luminance(reference), reference_weights)
    y = (y - mean) * (wanted_deviation / deviation.clamp_min(SMALLEST_VARIANCE**0.5)) + wanted_mean
    return y.clamp(0, 1).expand_as(image).contiguous()


def _spread(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values, which count by their weights [1, 1, H, W]."""
    if weights is None:
        return values.mean(), values.std(correction=0)
    mean = (values * weights).sum() / weights.sum()
    return mean, ((values - mean).square() * weights).sum().div(weights.sum()).sqrt()


def color_statistics(image: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean [3, 1] and covariance [3, 3] of the pixels, in double precision, by their weights [1, 1, H, W]."""
    pixels = image.double().flatten(2)[0]
    if weights is not None:
        shares = weights.double().flatten() / weights.double().sum()
        mean = (pixels * shares).sum(1, keepdim=True)
        centred = pixels - mean
        return mean, (centred * shares) @ centred.T
    mean = pixels.mean(1, keepdim=True)
    centred = pixels - mean
    return mean, centred @ centred.T / pixels.shape[1]


def _power(covariance: Tensor, exponent: float) -> Tensor:
    """A symmetric matrix raised to a power by its eigenvalues, which are kept above 0."""
    values, vectors = torch.linalg.eigh(covariance.cpu())  # loading a GPU's solver would take 0.2 s
    powers = values.clamp_min(SMALLEST_VARIANCE).pow(exponent)
    return torch.einsum("ik,k,jk->ij", vectors, powers, vectors).to(covariance.device)
