"""VGG-16 and VGG-19 as frozen encoders with named taps, cut at the deepest tap in use, normalisation inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from nst_fast.network.taps import convolutions, cut

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Average pooling lowers the magnitude of what follows; doubling makes up for it (crowsonkb, style-transfer-pytorch).
AVERAGE_POOLING_SCALE = 2.0

Found = TypeVar("Found")


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
        self.layers = nn.ModuleDict({name: self._layer(name) for name in cut(network, self.taps)})
        self.requires_grad_(False).eval()

    def _layer(self, name: str) -> nn.Module:
        if name.startswith("conv"):
            _, inputs, outputs = convolutions(self.network)[name]
            mode = self.padding if name == "conv1_1" else "zeros"
            padding_mode = cast(Literal["zeros", "reflect", "replicate"], mode)  # the config has checked it
            # Without memory until weights are loaded, which leaves the caller's random numbers as they are.
            return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding_mode, device="meta")
        if name.startswith("relu"):
            return nn.ReLU()  # not in place: a conv tap must keep its negative values
        return nn.MaxPool2d(2) if self.pooling == "max" else ScaledAveragePool()

    def load_features(self, state: Mapping[str, Tensor]) -> Encoder:
        """Take torchvision-named tensors (``features.0.weight`` ...), not copies; layers beyond the cut are ignored."""
        for name, (index, _, _) in convolutions(self.network).items():
            if name in self.layers:
                weights = {kind: state[f"features.{index}.{kind}"] for kind in ("weight", "bias")}
                self.layers[name].load_state_dict(weights, assign=True)
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.measured(image, dict.fromkeys(self.taps, lambda features: features))

    def measured(self, image: Tensor, measures: Mapping[str, Callable[[Tensor], Found]]) -> dict[str, Found]:
        """Tap -> what its measure makes of its features [B, C, h, w] as they pass; they are not kept.

        Layers beyond the deepest of these taps are not computed.
        """
        features = self.normalize(image)
        found: dict[str, Found] = {}
        for name, layer in self.layers.items():
            if len(found) == len(measures):
                break
            features = layer(features)
            if name in measures:
                found[name] = measures[name](features)
        return {tap: found[tap] for tap in measures}
