"""How many bytes a step takes, from the layers of the network: those kept between the passes, and the worst moment.

The engines' tensors are counted layer by layer. The workspace of convolutions and the overhead of a process are
constants, fitted to measured peaks (docs/large-pictures.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nst_fast.network.taps import channels_of, convolutions, cut, smallest_side

MIB = 2**20
IMAGE = 12  # bytes per pixel of a picture: three channels of float32
INDEX = 8  # bytes per cell of max pooling's indices
PRECISION_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
# PyTorch's optimisers import its compiler; everything else that a run of 64 pixels takes is in HOLES.
FIXED = {"adam": 120 * MIB, "lbfgs": 0}
AUTOGRAD_HOLES = 0.09  # share of what autograd keeps that is lost between its blocks
# Holes in the heap of the C library when a picture is evaluated whole; in tiles memory is returned at once.
HOLES = 60 * MIB
WEIGHT_COPIES = 2  # as measured before the encoder shared the loaded ones; a reserve now
WHOLE_COPIES = 5  # of a tap's features in float32, while a loss that compares positions is differentiated
PREPARED_COPIES = 2  # the fast engine keeps every weight in its own layout, and flipped
WINOGRAD_COPIES = 8  # both, where they are transformed for Winograd's algorithm: 36 numbers for 9
SESSION_COPIES = 6  # ONNX Runtime's session on a CPU: of the file, of its constants, and in its own layout; fitted
SESSION_WINOGRAD_PIXELS = 200 * 150  # of pictures from which its graph has transformed weights too; fitted
WINOGRAD_FIXED = 350 * MIB  # Numba, the threads' blocks, and holes: fitted to a run of 256 pixels


def elements(layer: str) -> float:
    """Numbers per pixel of the picture in the output of a layer: 64 for ``relu1_1``, 2 for ``relu5_1``."""
    return channels_of(layer) / smallest_side([layer]) ** 2


def weight_bytes(network: str, taps: Iterable[str]) -> int:
    """The convolutions' weights and biases up to the deepest tap, in float32."""
    layers = set(cut(network, taps))
    shapes = (shape for layer, shape in convolutions(network).items() if layer in layers)
    return sum(4 * outputs * (9 * inputs + 1) for _, inputs, outputs in shapes)


def kept_bytes(
    network: str, taps: Iterable[str], engine: str, pooling: str, size: int, *, wraps: bool = False
) -> float:
    """Bytes per pixel kept from the forward to the backward pass.

    Down to ``relu5_1`` in fp32: 1,532 by eager with max pooling, 1,172 by the fast engine, which keeps no indices.
    """
    taps = set(taps)
    layers = cut(network, taps)
    total = IMAGE + sum(size * elements(layer) for layer in layers if layer.startswith("relu") or layer in taps)
    if engine == "eager":  # autograd keeps the input of every convolution
        total += sum(size * elements(layer) for layer in layers if layer.startswith("pool") and layer not in taps)
        total += sum(_indices(layer, pooling) for layer in layers)
        if wraps:  # that is a padded copy
            total += sum(size * elements(before) for before in _inputs(layers) if before)
    return total


def _inputs(layers: list[str]) -> list[str]:
    """The layer before every convolution; empty for the picture."""
    return [before for before, layer in zip(["", *layers], layers, strict=False) if layer.startswith("conv")]


def _indices(layer: str, pooling: str) -> float:
    """Bytes per pixel of a max pooling's indices; 0 for every other layer."""
    return INDEX * elements(layer) if layer.startswith("pool") and pooling == "max" else 0.0


@dataclass(frozen=True)
class Network:
    """The properties of the encoder that decide the memory of a step."""

    name: str
    content_taps: tuple[str, ...]
    style_taps: tuple[str, ...]
    pooling: str
    wraps: bool = False  # convolutions pad their input themselves
    guided: bool = False  # features are multiplied by weights
    whole_taps: tuple[str, ...] = ()  # of losses that compare positions, one entry for each loss

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
    kept = kept_bytes(network.name, network.taps, engine, network.pooling, size, wraps=network.wraps)
    slopes = 0.0
    if engine == "eager" and not tiled:
        per_tap = [size * elements(tap) for tap in (*network.content_taps, *network.style_taps)]
        per_tap += [WHOLE_COPIES * size * elements(tap) for tap in network.whole_taps]
        slopes = AUTOGRAD_HOLES * kept + sum(per_tap) + 2 * max(per_tap)
    worst = _backward(network, layers, engine, size, kept, tiled=tiled)
    return max(kept + slopes, worst, _forward(layers, engine, size) + network.wraps * size * elements(layers[0]))


def _backward(network: Network, layers: list[str], engine: str, size: int, kept: float, *, tiled: bool) -> float:
    """The worst moment of the backward pass: kept features, two gradients, a seed and its temporaries."""
    worst = kept
    for layer, before in zip(layers[::-1], [*layers[-2::-1], ""], strict=True):
        out = size * elements(layer)
        into = size * elements(before) if before else IMAGE
        again = 0.0
        if engine == "eager":
            again = out + into  # oneDNN's own layout, from and to NCHW
        elif layer.startswith("pool") and network.pooling == "max":
            again = out + _indices(layer, network.pooling)
        if network.wraps and layer.startswith("conv"):
            again += into  # with its margins, while they are folded
        seed = _seed(network, layer, engine, size, tiled=tiled)
        worst = max(worst, kept + out + seed, kept + out + into + again)
        if layer.startswith("relu") or layer in network.taps or (engine == "eager" and layer.startswith("pool")):
            kept -= out
        if engine == "eager":
            kept -= _indices(layer, network.pooling)
    return worst


def _seed(network: Network, tap: str, engine: str, size: int, *, tiled: bool) -> float:
    """To add a seed: eager copies the gradient; for content, differences and squares in float32."""
    if tap not in network.taps:
        return 0.0
    out, wide = size * elements(tap), 4 * elements(tap)
    making = out if engine == "eager" else 0.0
    if tap in network.content_taps:
        making += 2 * wide + (wide + out if size < 4 else 0.0)
    making += 2 * wide if network.guided else 0.0
    if tap in network.whole_taps:
        making += WHOLE_COPIES * wide
    own_cells = 2 * out  # a copy of them, and the product with a Gram's slope
    return making + own_cells if tiled else making


def _forward(layers: list[str], engine: str, size: int) -> float:
    """The first block of the forward pass: its two convolutions, and one more buffer where layouts are changed."""
    first = size * elements(layers[0])
    return IMAGE + first * min(len(layers), 4 if engine == "eager" else 3)


def forward_bytes(network: str, taps: Iterable[str]) -> float:
    """Bytes per pixel at the worst moment of a forward pass that keeps no features, as whole targets are built with."""
    return _forward(cut(network, taps), "eager", 4)


def target_bytes(taps: Iterable[str], size: int) -> float:
    """Bytes per pixel of the content targets."""
    return sum(size * elements(tap) for tap in taps)
