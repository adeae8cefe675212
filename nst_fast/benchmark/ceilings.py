"""How fast a device could multiply: the denominator of a share of the ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nst_fast.engines.precision import DTYPES, float32_arithmetic
from nst_fast.system.clock import make_clock

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
PROBE_SECONDS, PROBE_REPEATS = 0.5, 50  # how long a probe is repeated, and how often at most


@dataclass(frozen=True)
class Ceiling:
    """The rate that shares are taken of, in GFLOP/s, and where the figure comes from."""

    device: str
    precision: str
    gflops: float
    source: str


def find_ceiling(device: torch.device, precision: str) -> Ceiling:
    """A known GPU's figure, or else what this device reaches here and now.

    Measured is the better of a square matrix product and a 3x3 convolution of 256 channels, because the two come from
    different libraries and on a CPU either can be ahead, by a factor of two.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for part, (source, tflops) in KNOWN_TFLOPS.items():
        if part in name and precision in tflops:
            return Ceiling(str(device), precision, 1e3 * tflops[precision], f"{part}, {source}")
    with float32_arithmetic("tf32" if precision == "tf32" else "ieee"):
        rates = {kind: _rate(work, flop, device) for kind, (work, flop) in _probes(device, precision).items()}
    best = max(rates, key=lambda kind: rates[kind])
    return Ceiling(str(device), precision, rates[best], f"measured here ({best})")


def _probes(device: torch.device, precision: str) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Name -> what to time, and its FLOP."""
    dtype = DTYPES[precision]
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, extent, channels = MATMUL_SIDE[kind], CONV_SIDE[kind], CONV_CHANNELS
    matrix = torch.rand((side, side), device=device, dtype=dtype)
    image = torch.rand((1, channels, extent, extent), device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    kernel = torch.rand((channels, channels, 3, 3), device=device, dtype=dtype)
    kernel = kernel.to(memory_format=torch.channels_last)
    return {
        "matrix product": (lambda: matrix @ matrix, 2.0 * side**3),
        "convolution": (lambda: torch.conv2d(image, kernel, padding=1), 18.0 * channels**2 * extent**2),
    }


@torch.no_grad()
def _rate(work: Callable[[], Tensor], flop: float, device: torch.device) -> float:
    """GFLOP/s of the fastest of a few calls: a ceiling is what is possible, not what is usual."""
    clock = make_clock(device)

    def seconds() -> float:
        started = clock()
        work()
        return clock() - started

    seconds(), seconds()  # warm-up
    first = seconds()
    repeats = max(3, min(PROBE_REPEATS, int(PROBE_SECONDS / first)))
    return flop / min(first, *(seconds() for _ in range(repeats))) / 1e9
