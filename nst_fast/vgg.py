"""VGG-16 and VGG-19 as encoders with named taps (Simonyan & Zisserman 2015, arXiv:1409.1556, table 1: D and E).

A tap is a named intermediate activation: ``conv3_1`` (before the ReLU), ``relu3_1`` (after it) or ``pool3``. The
position of a layer in :func:`layer_names` is its index in torchvision's ``features``, so that ``features.10.weight``
is ``conv3_1`` for VGG-19. This module owns the architecture; where weights come from is the business of
:mod:`nst_fast.weights`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nst_fast.errors import UsageError, nearest

CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
BLOCK_CHANNELS = (64, 128, 256, 512, 512)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Average pooling lowers the magnitude of what follows; doubling makes up for it (crowsonkb, style-transfer-pytorch).
AVERAGE_POOLING_SCALE = 2.0


def layer_names(network: str) -> list[str]:
    """All layers of a network in order, named as taps; the position is torchvision's index in ``features``."""
    names = []
    for block, convs in enumerate(CONVS_PER_BLOCK[network], start=1):
        for conv in range(1, convs + 1):
            names += [f"conv{block}_{conv}", f"relu{block}_{conv}"]
        names.append(f"pool{block}")
    return names


def check_taps(network: str, taps: Iterable[str]) -> None:
    """Raise :class:`UsageError` for a tap that the network does not have, naming the nearest that it has."""
    known = layer_names(network)
    for tap in taps:
        if tap not in known:
            hint = nearest(tap, known) or "Taps are named like conv3_1, relu3_1 or pool3."
            raise UsageError(f"unknown tap {tap!r} for {network}", f"{hint} `nst-fast taps` lists all")


def cut(network: str, taps: Iterable[str]) -> list[str]:
    """The layers needed to compute the taps: everything up to and including the deepest of them."""
    wanted = set(taps)
    check_taps(network, sorted(wanted))
    names = layer_names(network)
    return names[: 1 + max(names.index(tap) for tap in wanted)]


def block_of(layer: str) -> int:
    """The block (1 to 5) that a layer belongs to: 3 for ``relu3_1``."""
    match = re.fullmatch(r"(?:conv|relu|pool)(\d)(?:_\d)?", layer)
    if match is None:
        raise UsageError(f"not a layer name: {layer!r}", "Layers are named like conv3_1, relu3_1 or pool3")
    return int(match[1])


def channels_of(layer: str) -> int:
    """How many channels a tap has: 256 for ``relu3_1``."""
    return BLOCK_CHANNELS[block_of(layer) - 1]


def convolutions(network: str) -> dict[str, tuple[int, int, int]]:
    """Conv layer -> (index in torchvision's ``features``, input channels, output channels), in order."""
    shapes = {}
    inputs = 3
    for index, name in enumerate(layer_names(network)):
        if name.startswith("conv"):
            shapes[name] = (index, inputs, channels_of(name))
            inputs = channels_of(name)
    return shapes


def tap_size(tap: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of a tap for an image of the given size; pooling floors."""
    halvings = block_of(tap) - (0 if tap.startswith("pool") else 1)
    return height >> halvings, width >> halvings


def smallest_side(taps: Iterable[str]) -> int:
    """The shortest image side, in pixels, for which every tap has at least one cell."""
    return max(1 << (block_of(tap) - (0 if tap.startswith("pool") else 1)) for tap in taps)


class Normalize(nn.Module):
    """Subtract ImageNet's mean and divide by its standard deviation: what the pretrained networks expect."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class ScaledAveragePool(nn.Module):
    """2x2 average pooling, rescaled so that activations keep the magnitude that max pooling gives them."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(features, 2) * AVERAGE_POOLING_SCALE


class Encoder(nn.Module):
    """Image [B, 3, H, W], RGB in [0, 1], to a mapping tap -> features [B, C, h, w]. Frozen; cut at the deepest tap.

    Args:
        network: ``vgg16`` or ``vgg19``.
        taps: the activations to return, in any order.
        pooling: ``max`` as trained, or ``average`` (Gatys et al. 2016, section 2), rescaled.
        padding: of the first convolution: ``zeros`` as trained; ``replicate`` or ``reflect`` against edge artefacts.
        normalize_input: subtract ImageNet's mean and divide by its deviation first.
    """

    def __init__(
        self,
        network: str,
        taps: Iterable[str],
        *,
        pooling: str = "max",
        padding: str = "zeros",
        normalize_input: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.taps = tuple(dict.fromkeys(taps))
        self.pooling = pooling
        self.padding = padding
        self.normalize = Normalize() if normalize_input else nn.Identity()
        self.layers = nn.ModuleDict()
        shapes = convolutions(network)
        for name in cut(network, self.taps):
            self.layers[name] = self._layer(name, shapes)
        self.requires_grad_(False).eval()

    def _layer(self, name: str, shapes: Mapping[str, tuple[int, int, int]]) -> nn.Module:
        if name.startswith("conv"):
            _, inputs, outputs = shapes[name]
            padding_mode = self.padding if name == "conv1_1" else "zeros"
            return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding_mode)
        if name.startswith("relu"):
            return nn.ReLU()  # not in place: a conv tap must keep its negative values
        return nn.MaxPool2d(2) if self.pooling == "max" else ScaledAveragePool()

    def load_features(self, state: Mapping[str, Tensor]) -> Encoder:
        """Take torchvision-named tensors (``features.0.weight`` ...); layers beyond the cut are ignored."""
        for name, (index, _, _) in convolutions(self.network).items():
            if name in self.layers:
                weights = {kind: state[f"features.{index}.{kind}"] for kind in ("weight", "bias")}
                self.layers[name].load_state_dict(weights)
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.normalize(image)
        found = {}
        for name, layer in self.layers.items():
            features = layer(features)
            if name in self.taps:
                found[name] = features
        return {tap: found[tap] for tap in self.taps}
