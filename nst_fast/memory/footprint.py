"""How many bytes a step takes, from the layers of the network: those kept between the passes, and the worst moment.

The engines' tensors are counted layer by layer. The workspace of convolutions and the overhead of a process are
constants, fitted to measured peaks (docs/large-pictures.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from nst_fast.network.taps import channels_of, convolutions, cut, smallest_side
from nst_fast.options.config import StylizeConfig

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


def kept_bytes(config: StylizeConfig, engine: str, size: int) -> float:
    """Bytes per pixel kept from the forward to the backward pass.

    Down to ``relu5_1`` in fp32: 1,532 by eager with max pooling, 1,172 by the fast engine, which keeps no indices.
    """
    taps = config.taps
    layers = cut(config.network, taps)
    total = IMAGE + sum(size * elements(layer) for layer in layers if layer.startswith("relu") or layer in taps)
    if engine == "eager":  # autograd keeps the input of every convolution
        total += sum(size * elements(layer) for layer in layers if layer.startswith("pool") and layer not in taps)
        total += sum(_indices(layer, config.pooling) for layer in layers)
        if any(config.wraps):  # that is a padded copy
            total += sum(size * elements(before) for before, layer in pairwise(layers) if layer.startswith("conv"))
    return total


def _indices(layer: str, pooling: str) -> float:
    """Bytes per pixel of a max pooling's indices; 0 for every other layer."""
    return INDEX * elements(layer) if layer.startswith("pool") and pooling == "max" else 0.0


def whole_taps(config: StylizeConfig) -> list[str]:
    """The taps of the terms that compare positions, one entry for each term."""
    taps = [tap for tap, loss in config.content_losses.items() if loss != "features"]
    return taps + [term.tap for term in config.style_terms.values() if not term.additive]


def step_bytes(config: StylizeConfig, engine: str, size: int, *, tiled: bool, guided: bool = False) -> float:
    """Bytes per pixel of the crop (or of the whole picture) at the worst moment of one evaluation.

    Args:
        engine: ``eager`` or ``fast``.
        size: bytes per number of features.
        tiled: whether seeds come tap by tap. They do in the fast engine anyway; in eager evaluation of a whole
            picture autograd computes the slopes of all Gram matrices before it enters the network.
        guided: whether features are multiplied by weights.
    """
    layers = cut(config.network, config.taps)
    kept = kept_bytes(config, engine, size)
    slopes = 0.0
    if engine == "eager" and not tiled:
        per_tap = [size * elements(tap) for tap in (*config.content_tap_weights, *config.style_tap_weights)]
        per_tap += [WHOLE_COPIES * size * elements(tap) for tap in whole_taps(config)]
        slopes = AUTOGRAD_HOLES * kept + sum(per_tap) + 2 * max(per_tap)
    seeds = {tap: _seed(config, tap, engine, size, tiled=tiled, guided=guided) for tap in config.taps}
    worst = _backward(config, layers, seeds, engine, size, kept)
    return max(kept + slopes, worst, _forward(layers, engine, size) + any(config.wraps) * size * elements(layers[0]))


def _backward(
    config: StylizeConfig, layers: list[str], seeds: dict[str, float], engine: str, size: int, kept: float
) -> float:
    """The worst moment of the backward pass: kept features, two gradients, a seed and its temporaries."""
    worst = kept
    for layer, before in zip(layers[::-1], [*layers[-2::-1], ""], strict=True):
        out = size * elements(layer)
        into = size * elements(before) if before else IMAGE
        again = 0.0
        if engine == "eager":
            again = out + into  # oneDNN's own layout, from and to NCHW
        elif layer.startswith("pool") and config.pooling == "max":
            again = out + _indices(layer, config.pooling)
        if any(config.wraps) and layer.startswith("conv"):
            again += into  # with its margins, while they are folded
        worst = max(worst, kept + out + seeds.get(layer, 0.0), kept + out + into + again)
        if layer.startswith("relu") or layer in seeds or (engine == "eager" and layer.startswith("pool")):
            kept -= out
        if engine == "eager":
            kept -= _indices(layer, config.pooling)
    return worst


def _seed(config: StylizeConfig, tap: str, engine: str, size: int, *, tiled: bool, guided: bool) -> float:
    """To add a seed: eager copies the gradient; for content, differences and squares in float32."""
    out, wide = size * elements(tap), 4 * elements(tap)
    making = out if engine == "eager" else 0.0
    if tap in config.content_tap_weights:
        making += 2 * wide + (wide + out if size < 4 else 0.0)
    making += 2 * wide if guided else 0.0
    if tap in whole_taps(config):
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
