"""VGG weights: original (``original``), torchvision's (``cache``, ``hub``), of a file (``checkpoints``), or random."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst_fast.errors import UsageError, WeightsError
from nst_fast.network.taps import block_of, check_network, convolutions, cut, layer_names
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights.cache import pretrained_features
from nst_fast.network.weights.checkpoints import check_shapes, read_features, select, servable_taps
from nst_fast.network.weights.original import (
    NETWORK,
    SHA256,
    SOURCE,
    for_torchvision_input,
    order_in_255,
    original_features,
)
from nst_fast.system.files import sha256_of, user_path

# There is no original VGG-16 in any package that this program could depend on.
AUTO = {"vgg19": "original", "vgg16": "imagenet"}

# Random weights: variance of a filter's sum, relative to the mean square of its inputs. He et al. 2015
# (arXiv:1502.01852) give 2 for inputs behind a ReLU. These are larger because the filters lose energy to the two
# reductions below; after a pool a little less is needed. Tuned on photographs, paintings and 1/f noise, 64 to 512 px.
FIRST_GAIN, CONV_GAIN, POOLED_GAIN = 4.0, 3.2, 2.9
# Random filters with their low frequencies reduced by this share: maximum and (doubled) average pooling then give the
# same magnitude. With plain He filters smooth pictures double at every average pool, to 10 in block 5.
LOW_FREQUENCY_REDUCTION = 1 / 3
_RANDOM_RECIPE = 1  # to be raised with every change of the random numbers


@dataclass(frozen=True, eq=False)
class Weights:
    """The tensors that an encoder needs and where they came from.

    Attributes:
        state: ``features.N.weight`` [out, in, 3, 3] and ``features.N.bias`` [out], float32 on the CPU, for exactly the
            convolutions up to the deepest tap; for pictures normalised as torchvision's networks expect.
        sha256: of the source, whatever the cut: of the file's bytes for a path and for ``original``, of the cached
            features-only copy for ``imagenet``, of recipe, network and seed for ``random``.
        source: a description: a path, ``original VGG-19 (...)``, ``imagenet (torchvision)``, ``random, seed 0``.
        network: ``vgg16`` or ``vgg19``.
        raw: those tensors of ``state`` that were rewritten for that input, as they were published.
        note: what a user should know of them.
    """

    state: dict[str, Tensor]
    sha256: str
    source: str
    network: str
    raw: dict[str, Tensor] = field(default_factory=dict)
    note: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What records say: source without its folder, sha256, and the note if there is one."""
        facts = {"source": Path(self.source).name, "sha256": self.sha256}
        return facts | {"note": self.note} if self.note else facts

    def encoder(self, taps: Iterable[str], *, normalize_input: bool = True, **keywords: Any) -> Encoder:
        """An encoder with these weights; one that does not normalise its input gets them as they were published.

        ``keywords``: further ones of :class:`nst_fast.network.vgg.Encoder`.
        """
        made = Encoder(self.network, taps, normalize_input=normalize_input, **keywords)
        return made.load_features(self.state if normalize_input else self.state | self.raw)


def load_weights(spec: str, network: str, taps: Iterable[str]) -> Weights:
    """Load what the network needs up to its deepest tap.

    Args:
        spec: ``auto``, ``original``, ``imagenet``, ``random``, ``random:SEED``, or the path of a .safetensors, .pth or
            .pt file.
        network: ``vgg16`` or ``vgg19``.
        taps: the taps that will be read.

    Raises:
        UsageError: an unknown network or tap, a seed that is no number.
        WeightsError: weights that are missing, damaged, of another network, or that lack a needed layer.
    """
    check_network(network)
    taps = tuple(taps)
    layers = cut(network, taps)
    if (seed := _random_seed(spec)) is not None:
        recipe = f"nst-fast random weights {_RANDOM_RECIPE}: {network} {seed}"
        digest = hashlib.sha256(recipe.encode()).hexdigest()
        return Weights(random_state(network, layers, seed), digest, f"random, seed {seed}", network)
    spec = resolved(spec, network)
    if spec == "original":
        check_original(network)
        state, raw = original_features(layers)
        return Weights(state, SHA256, SOURCE, network, raw)
    if spec == "imagenet":
        features, digest, path = pretrained_features(network)
        return Weights(select(features, network, taps, path), digest, "imagenet (torchvision)", network)
    path = user_path(spec)
    state, digest = select(read_features(path), network, taps, path), sha256_of(path)
    return in_torchvisions_convention(Weights(state, digest, str(path), network))


def in_torchvisions_convention(weights: Weights) -> Weights:
    """The weights of a file; those that take 0 to 255, as Caffe's do, rewritten for torchvision's input."""
    raw = {name: tensor for name, tensor in weights.state.items() if name.startswith("features.0.")}
    weight, bias = raw["features.0.weight"], raw["features.0.bias"]  # every tap needs them
    order = order_in_255(weight, bias, weights.sha256)
    if not order:
        return weights
    rewritten = for_torchvision_input(weight, bias, bgr=order == "BGR")
    note = f"converted from {order} in 0 to 255, as Caffe's networks take it, to torchvision's input"
    state = weights.state | dict(zip(("features.0.weight", "features.0.bias"), rewritten, strict=True))
    return replace(weights, state=state, raw=raw, note=note)


def make_encoder(spec: str, network: str, taps: Iterable[str], **keywords: Any) -> tuple[Encoder, Weights]:
    """An encoder with its weights loaded, and the weights' provenance. Raises what :func:`load_weights` raises.

    ``keywords``: those of :class:`nst_fast.network.vgg.Encoder`.
    """
    taps = tuple(taps)
    weights = load_weights(spec, network, taps)
    return weights.encoder(taps, **keywords), weights


def resolved(spec: str, network: str) -> str:
    """The source that a spec comes to for a network: ``auto`` by :data:`AUTO`, any other itself."""
    return AUTO[network] if spec == "auto" else spec


def check_original(network: str) -> None:
    """Raise :class:`WeightsError` unless it is the network whose original weights there are."""
    if network != NETWORK:
        raise WeightsError(
            f"`weights` original is VGG-19, and `network` is {network}",
            f"Give `network` {NETWORK}, or `weights` imagenet for torchvision's {network}",
        )


def available_taps(spec: str, network: str) -> list[str]:
    """The taps that a source of weights can serve, in order; a file may serve fewer than all.

    Raises:
        UsageError: an unknown network, a seed that is no number.
        WeightsError: weights of another network, a file that cannot be read.
    """
    check_network(network)
    spec = resolved(spec, network)
    if spec == "original":
        check_original(network)
    if spec in ("original", "imagenet") or _random_seed(spec) is not None:
        return layer_names(network)
    path = user_path(spec)
    features = read_features(path)
    check_shapes(features, network, path)
    return servable_taps(features, network)


def random_state(network: str, layers: Iterable[str], seed: int) -> dict[str, Tensor]:
    """Random filters for the given layers whose ReLU activations keep a root mean square near 1 at every depth.

    Each layer has its own generator, so that it does not depend on the other layers. The numbers are the same on
    every machine: uniform ones are multiples of 2^-24, whose sums are exact in float64.
    """
    state = {}
    wanted = set(layers)
    previous = None
    for name, (index, inputs, outputs) in convolutions(network).items():
        if name in wanted:
            state[f"features.{index}.weight"] = _random_filters(name, previous, outputs, inputs, seed)
            state[f"features.{index}.bias"] = torch.zeros(outputs)
        previous = name
    return state


def _random_filters(name: str, previous: str | None, outputs: int, inputs: int, seed: int) -> Tensor:
    """Filters [outputs, inputs, 3, 3] of one layer; ``previous`` is the convolution before it, None for the first."""
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "big"))  # torch's CPU generator takes 32 bits
    uniform = torch.rand(outputs, inputs, 3, 3, generator=generator).double() * 2 - 1
    low = uniform.sum((2, 3), keepdim=True) / 9
    filters = uniform - LOW_FREQUENCY_REDUCTION * low
    gain = FIRST_GAIN
    if previous is not None:
        # The mean of a ReLU's outputs would grow with depth and dominate the deep taps; filters that sum to zero
        # remove it.
        overall = uniform.sum((1, 2, 3), keepdim=True) / (9 * inputs)
        filters = filters - (1 - LOW_FREQUENCY_REDUCTION) * overall
        gain = CONV_GAIN if block_of(name) == block_of(previous) else POOLED_GAIN
    return (filters * math.sqrt(3 * gain / (9 * inputs))).float()  # the variance of uniform(-1, 1) is 1/3


def _random_seed(spec: str) -> int | None:
    """The seed of ``random[:SEED]``, None for any other spec."""
    name, colon, text = spec.partition(":")
    if name != "random":
        return None
    if colon and not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{text!r} in `weights` {spec!r} is no seed", "Seeds are whole numbers: random:0, random:7")
    return int(text or 0)
