"""How many bytes a step takes, from the anatomy of the network: what is kept between the passes, and the worst moment.

Counted is what the engines keep, layer by layer, as their code says; what convolutions need besides, and what a
process holds on to, is in the few constants below, which were fitted to measured peaks (docs/large-pictures.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nst_fast.taps import channels_of, convolutions, cut, smallest_side

MIB = 2**20
IMAGE = 12  # bytes per pixel of a picture: three channels of float32
INDEX = 8  # bytes that max pooling keeps per cell: which of the window was the largest
PRECISION_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}
# What a run of 64 pixels takes beside its network: primitives, thread buffers, small objects; with PyTorch's optimisers
# also its compiler, which they bring along.
FIXED = {"adam": 120 * MIB, "lbfgs": 30 * MIB}
AUTOGRAD_HOLES = 0.09  # share of what autograd keeps that is lost between its blocks
# Holes in the heap of the C library when a picture is evaluated whole; in tiles it is told to leave none.
HOLES = 80 * MIB
WEIGHT_COPIES = 2  # as they were loaded, kept for other encoders, and in the encoder
PREPARED_COPIES = 2  # the fast engine keeps every weight in its own layout, and flipped


def elements(layer: str) -> float:
    """Numbers per pixel of the picture in the output of a layer: 64 for ``relu1_1``, 2 for ``relu5_1``."""
    return channels_of(layer) / smallest_side([layer]) ** 2


def weight_bytes(network: str, taps: Iterable[str]) -> int:
    """The convolutions' weights and biases up to the deepest tap, in float32."""
    layers = set(cut(network, taps))
    shapes = (shape for layer, shape in convolutions(network).items() if layer in layers)
    return sum(4 * outputs * (9 * inputs + 1) for _, inputs, outputs in shapes)


def kept_bytes(network: str, taps: Iterable[str], pooling: str, size: int) -> float:
    """Bytes per pixel kept from the forward to the backward pass: 1,532 with max pooling down to ``relu5_1``."""
    taps = set(taps)
    total = float(IMAGE)
    for layer in cut(network, taps):
        if layer.startswith("relu") or layer in taps:
            total += size * elements(layer)
        if layer.startswith("pool") and pooling == "max":
            total += INDEX * elements(layer)
    return total


@dataclass(frozen=True)
class Network:
    """What of the encoder decides how much memory a step takes."""

    name: str
    content_taps: tuple[str, ...]
    style_taps: tuple[str, ...]
    pooling: str

    @property
    def taps(self) -> list[str]:
        return list(dict.fromkeys([*self.content_taps, *self.style_taps]))


def step_bytes(network: Network, engine: str, size: int, *, tiled: bool) -> float:
    """Bytes per pixel of the crop (or of the whole picture) at the worst moment of one evaluation.

    Args:
        network: what is computed.
        engine: ``eager`` or ``fast``.
        size: bytes per number of features.
        tiled: whether seeds come tap by tap. They do in the fast engine anyway; in eager evaluation of a whole
            picture autograd computes the slopes of all Gram matrices before it enters the network.
    """
    layers = cut(network.name, network.taps)
    kept = kept_bytes(network.name, network.taps, network.pooling, size)
    slopes = 0.0
    if engine == "eager":
        # Autograd keeps the input of every convolution.
        kept += sum(size * elements(layer) for layer in layers if layer.startswith("pool") and layer != layers[-1])
        if not tiled:
            per_tap = [size * elements(tap) for tap in (*network.content_taps, *network.style_taps)]
            slopes = AUTOGRAD_HOLES * kept + sum(per_tap) + 2 * max(per_tap)
    worst = _backward(network, layers, engine, size, kept, tiled=tiled)
    return max(kept + slopes, worst, _forward(layers, engine, size))


def _backward(network: Network, layers: list[str], engine: str, size: int, kept: float, *, tiled: bool) -> float:
    """The worst moment of the backward pass: what is still kept, two gradients, a seed and its makings."""
    worst = kept
    for layer, before in zip(layers[::-1], [*layers[-2::-1], ""], strict=True):
        out = size * elements(layer)
        into = size * elements(before) if before else IMAGE
        reordered = out + into if engine == "eager" else 0.0  # oneDNN's own layout, from and to NCHW
        worst = max(worst, kept + out + _seed(network, layer, size, tiled=tiled), kept + out + into + reordered)
        if layer.startswith("relu") or layer in network.taps:
            kept -= out
        if layer.startswith("pool"):
            kept -= INDEX * elements(layer) if network.pooling == "max" else 0.0
            kept -= size * elements(layer) if engine == "eager" else 0.0
    return worst


def _seed(network: Network, tap: str, size: int, *, tiled: bool) -> float:
    """A seed and its makings: the product with a Gram's slope; for content, differences and squares in float32."""
    out, wide = size * elements(tap), 4 * elements(tap)
    seed = out if tap in network.style_taps else 0.0
    if tap in network.content_taps:
        seed += 2 * wide + (wide + out if size < 4 else 0.0)
    own_cells = 2 * out  # a copy of them, and the seed that they are put into
    return seed + own_cells if tiled and seed else seed


def _forward(layers: list[str], engine: str, size: int) -> float:
    """The first block of the forward pass: its two convolutions, and one more buffer where layouts are changed."""
    first = size * elements(layers[0])
    return IMAGE + first * min(len(layers), 4 if engine == "eager" else 3)


def forward_bytes(network: str, taps: Iterable[str]) -> float:
    """Bytes per pixel at the worst moment of a forward pass without a graph, as whole targets are built with."""
    taps = list(taps)
    layers = cut(network, taps)
    return max(_forward(layers, "eager", 4), IMAGE + 4 * (sum(map(elements, taps)) + 2 * elements(layers[-1])))


def target_bytes(taps: Iterable[str], size: int) -> float:
    """Bytes per pixel of the content targets."""
    return sum(size * elements(tap) for tap in taps)
