"""The measures as functions. Images are [1, 3, H, W], RGB, float32 in [0, 1]; features are [1, C, h, w].

Sources: Rabin, Peyré, Delon & Bernot 2011, "Wasserstein Barycenter and its Application to Texture Mixing"; Heitz,
Vanhoey, Chambon & Belcour 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis" (arXiv:2006.07229); Rowland,
Hron, Tang, Choromanski, Sarlós & Weller 2019, "Orthogonal Estimation of Wasserstein Distances"; Wang, Bovik, Sheikh &
Simoncelli 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity"; Zhang, Isola, Efros,
Shechtman & Wang 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924).
"""

from __future__ import annotations

import functools
import math
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_fast.images import to_uint8
from nst_fast.images.matching import luminance
from nst_fast.objective.samples import ascending, quantiles
from nst_fast.system.files import sha256_of

CHUNK = 16  # directions at a time: 64 MiB for a tap of 1024x1024
BLUR_SIGMA = 2.0  # pixels; what a Gaussian of this width takes away is high-frequency
IQ = ((0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))  # chroma of YIQ from RGB (scikit-image)
# The energy of I and Q that rounding to 8 bits leaves: the least divisor, so that a grey style gives finite scores.
ROUNDING_ENERGY = sum(weight**2 for row in IQ for weight in row) / 12 / 255**2
SMALLEST_LPIPS_SIDE = 31  # pixels, below which nothing is left for AlexNet's third convolution


def directions(tap: str, channels: int) -> Tensor:
    """A random orthonormal basis of the features' space, [channels, channels], float32: for a tap always the same.

    Differs from Heitz et al. 2021 in that the directions are orthogonal (Rowland et al. 2019): that leaves 0.1 to 1 %
    of a distance to chance, where twice as many independent ones left 1 to 9 %.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(tap.encode()))
    normal = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(normal)[0]  # uniform but for the signs, which change no distance
    return basis.T.float()


def sorted_projections(features: Tensor, along: Tensor) -> Tensor:
    """The features [1, C, h, w] projected on directions [K, C], every row in ascending order: [1, K, h*w]."""
    return ascending(along.to(features) @ features.flatten(2))


def sliced_wasserstein(features: Tensor, style: Tensor, along: Tensor) -> float:
    """The sliced Wasserstein-2 distance of features to a style's, by the root mean square of the style's.

    sqrt(sum over k, i of (q_k(i) - s_k(i))²  /  sum over k, i of s_k(i)²), q_k and s_k the quantile functions of the
    projections on direction k, at as many levels i as the picture has positions.

    Args:
        features: of the picture, [1, C, h, w].
        style: the style's :func:`sorted_projections`, [1, K, any].
        along: directions [K, C].
    """
    distance, size = 0.0, 0.0
    count = features.shape[2] * features.shape[3]
    for start in range(0, len(along), CHUNK):
        part = slice(start, start + CHUNK)
        wanted = quantiles(style[:, part], count)
        distance += (sorted_projections(features, along[part]) - wanted).square().mean(2).double().sum().item()
        size += wanted.square().mean(2).double().sum().item()
    return math.sqrt(distance / max(size, torch.finfo(torch.float32).tiny))


def structural_similarity(image: Tensor, content: Tensor) -> float:
    """Mean SSIM of the luminance of two images of one size, with the windows and constants of Wang et al. 2004."""
    from skimage.metrics import structural_similarity as ssim

    pair = [luminance(each.double())[0, 0].cpu().numpy() for each in (image, content)]
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(ssim(*pair, **options))


def alexnet_file() -> Path:
    """Where torch.hub keeps torchvision's AlexNet; the file is named after the first digits of its sha256."""
    from torchvision.models import AlexNet_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name


def missing_for_lpips() -> str:
    """What LPIPS lacks on this machine, as a note; empty when nothing.

    torchmetrics has the linear heads, torch.hub's cache the AlexNet below them. Nothing is downloaded.
    """
    if find_spec("torchmetrics") is None:
        return "no LPIPS: torchmetrics is not installed (pip install torchmetrics)"
    file = alexnet_file()
    if not file.is_file():
        return f"no LPIPS: torchvision's {file.name} is not in torch.hub's cache"
    if not sha256_of(file).startswith(file.stem.rpartition("-")[2]):  # torch.hub would load it unchecked
        return f"no LPIPS: {file.name} in torch.hub's cache is damaged"
    return ""


@functools.cache
def _lpips_metric() -> Any:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


def lpips(image: Tensor, content: Tensor) -> float | None:
    """LPIPS of two images of one size, if nothing is :func:`missing_for_lpips`; None for images that are too small."""
    return float(_lpips_metric()(image, content)) if min(image.shape[2:]) >= SMALLEST_LPIPS_SIDE else None


def chroma_energy(image: Tensor) -> float:
    """The mean square of I and Q of YIQ, summed over both, after a Gaussian blur of them is taken away."""
    from skimage.filters import gaussian

    pixels: NDArray[np.float64] = image[0].double().permute(1, 2, 0).cpu().numpy()
    chroma = pixels @ np.array(IQ).T
    fine = chroma - gaussian(chroma, BLUR_SIGMA, mode="reflect", truncate=4.0, channel_axis=-1)
    return float(np.square(fine).sum(2).mean())


def chroma_noise(energy: float, style_energy: float) -> float:
    """High-frequency chroma of a picture by that of the style, which counts as no less than rounding to 8 bits."""
    return energy / max(style_energy, ROUNDING_ENERGY)


def clipped(image: Tensor) -> float:
    """The share of channel values that are 0 or 255 in 8 bits."""
    values = to_uint8(image)
    return float(((values == 0) | (values == 255)).mean())
