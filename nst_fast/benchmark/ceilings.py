"""The work of an evaluation in FLOP, and what no step can beat: a known GPU's rate, or rates measured in the same run.

Source of the Winograd limit: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nst_fast.engines.precision import DTYPES, float32_arithmetic
from nst_fast.network.taps import channels_of, convolutions, cut, tap_size
from nst_fast.options.config import ObjectiveOptions
from nst_fast.system.clock import make_clock
from nst_fast.system.machine import device_name

# Dense TFLOP/s by a part of the GPU's name. The H200's were measured (bf16) or follow from that; the others are
# NVIDIA's data sheets, which no real matrix product reaches.
KNOWN_TFLOPS = {
    "H200": ("measured on one", {"bf16": 790.0, "tf32": 395.0, "fp32": 60.0}),
    "H100 80GB HBM3": ("data sheet", {"bf16": 989.0, "tf32": 494.0, "fp32": 67.0}),
    "A100": ("data sheet", {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5}),
    "RTX 4090": ("data sheet", {"bf16": 165.0, "tf32": 82.6, "fp32": 82.6}),
}
MATMUL_SIDE = {"cpu": 1536, "cuda": 8192}
CONV_SIDE = {"cpu": 64, "cuda": 512}
CONV_CHANNELS = 256
MATRIX, CONVOLUTION = "matrix product", "convolution"
WINOGRAD_POINTS, WINOGRAD_SAVING = 36, 4  # F(4x4, 3x3): 36 products where the direct sum has 16 x 9 = 144
WINOGRAD_CELLS = 2**16  # T x C of a probe: in the cache, and long enough to be timed
PROBE_SECONDS, PROBE_REPEATS = 0.5, 200  # how long a probe is repeated, and how often at most


@dataclass(frozen=True)
class Ceiling:
    """The rates that shares are taken of, in GFLOP/s.

    Attributes:
        gflops: of dense products or direct convolutions.
        source: where that figure comes from.
        matrix_gflops, convolution_gflops: measured here, of which ``gflops`` is the better; None for a known GPU.
        winograd_gflops: of the batched products of Winograd's F(4x4, 3x3), [36, T, C] x [36, C, K], by ``CxK``;
            measured on a CPU in fp32, elsewhere empty.
    """

    device: str
    precision: str
    gflops: float
    source: str
    matrix_gflops: float | None = None
    convolution_gflops: float | None = None
    winograd_gflops: Mapping[str, float] = field(default_factory=dict)

    def winograd_seconds(self, options: ObjectiveOptions, height: int, width: int) -> float | None:
        """The least time of one evaluation when every convolution is direct or F(4x4, 3x3), whichever is faster.

        The transforms and the tiles beyond the border count nothing, so no engine reaches it. None without the rates.
        """
        if not self.winograd_gflops:
            return None
        shapes, seconds = convolutions(options.network), 0.0
        for layer, flop in layer_flops(options, height, width).items():
            direct = flop / self.gflops
            products = self.winograd_gflops.get(_product(*shapes[layer][1:])) if layer in shapes else None
            seconds += min(direct, flop / WINOGRAD_SAVING / products) if products else direct
        return seconds / 1e9


def layer_flops(options: ObjectiveOptions, height: int, width: int) -> dict[str, int]:
    """FLOP of one forward evaluation of one picture by layer: 2 for each multiply-accumulate of convolutions and Grams.

    Left out is what costs memory traffic rather than arithmetic, together below 1 %: biases, ReLU, pooling, the losses
    on the features, the optimiser. The gradient with respect to the picture costs as much again: a convolution's is a
    convolution of the same size, a Gram's is one product, because the Gram is symmetric. What an engine
    computes beyond that, as autograd does with two products, is not counted.

    Returns:
        Names of convolutions (``conv3_1``) and ``gram/TAP`` -> FLOP.
    """
    found = {}
    shapes = convolutions(options.network)
    for name in (name for name in cut(options.network, options.taps) if name in shapes):
        _, inputs, outputs = shapes[name]
        rows, columns = tap_size(name, height, width)
        found[name] = 18 * inputs * outputs * rows * columns
    for tap in options.style_tap_weights:
        rows, columns = tap_size(tap, height, width)
        found[f"gram/{tap}"] = 2 * channels_of(tap) ** 2 * rows * columns
    return found


def find_ceiling(device: torch.device, precision: str, options: ObjectiveOptions) -> Ceiling:
    """A known GPU's figure, or else what this device reaches here and now.

    Measured is the better of a square matrix product and a 3x3 convolution of 256 channels, because the two come from
    different libraries and on a CPU either can be ahead, by a factor of two.
    """
    name = device_name(device)
    for part, (source, tflops) in KNOWN_TFLOPS.items():
        if part in name and precision in tflops:
            return Ceiling(str(device), precision, 1e3 * tflops[precision], f"{part}, {source}")
    with float32_arithmetic(precision), torch.no_grad():
        rates = {kind: _rate(work, flop, device) for kind, (work, flop) in _probes(device, precision).items()}
        winograd = device.type == "cpu" and precision == "fp32"
        products = _product_rates(device, options) if winograd else {}
    best = max(rates, key=lambda kind: rates[kind])
    source = f"measured here ({best})"
    return Ceiling(str(device), precision, rates[best], source, rates[MATRIX], rates[CONVOLUTION], products)


def _probes(device: torch.device, precision: str) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Name -> what to time, and its FLOP."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, extent, channels = MATMUL_SIDE[kind], CONV_SIDE[kind], CONV_CHANNELS
    dtype = torch.float16 if precision == "fp16" else DTYPES[precision]  # fp16 is ONNX Runtime's alone
    draw = functools.partial(torch.rand, device=device, dtype=dtype)
    matrix = draw((side, side))
    image = draw((1, channels, extent, extent)).to(memory_format=torch.channels_last)
    kernel = draw((channels, channels, 3, 3)).to(memory_format=torch.channels_last)
    return {
        MATRIX: (lambda: matrix @ matrix, 2.0 * side**3),
        CONVOLUTION: (lambda: torch.conv2d(image, kernel, padding=1), 18.0 * channels**2 * extent**2),
    }


def _product_rates(device: torch.device, options: ObjectiveOptions) -> dict[str, float]:
    """``CxK`` -> GFLOP/s of [36, T, C] x [36, C, K], for every pair of channels among the layers; not the first's 3."""
    shapes, needed = convolutions(options.network), cut(options.network, options.taps)
    found: dict[str, float] = {}
    for inputs, outputs in dict.fromkeys(shapes[name][1:] for name in needed if name in shapes):
        if inputs > 3:
            tiles = WINOGRAD_CELLS // inputs
            left = torch.rand(WINOGRAD_POINTS, tiles, inputs, device=device)
            right = torch.rand(WINOGRAD_POINTS, inputs, outputs, device=device)
            into = torch.empty(WINOGRAD_POINTS, tiles, outputs, device=device)  # new pages would be timed too
            flop = 2.0 * WINOGRAD_POINTS * tiles * inputs * outputs
            work = functools.partial(torch.bmm, left, right, out=into)
            found[_product(inputs, outputs)] = _rate(work, flop, device)
    return found


def _product(inputs: int, outputs: int) -> str:
    return f"{inputs}x{outputs}"


def _rate(work: Callable[[], Tensor], flop: float, device: torch.device) -> float:
    """GFLOP/s of the fastest of a few calls: a ceiling is what is possible, not what is usual."""
    clock = make_clock(device)

    def seconds() -> float:
        started = clock()
        work()
        return clock() - started

    for _ in range(2):
        work()  # warm-up
    first = seconds()
    repeats = max(3, min(PROBE_REPEATS, int(PROBE_SECONDS / first)))
    return flop / min(first, *(seconds() for _ in range(repeats))) / 1e9
