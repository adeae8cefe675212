"""Parity: what PyTorch computes against what an ONNX Runtime provider computes of the same exported module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nst_fast.errors import VerificationError
from nst_fast.onnx.export import INPUT_NAME, ExportModule
from nst_fast.onnx.session import Session, TensorrtOptions, make_session

SIZES = ((64, 48), (33, 47), (96, 80))  # height, width; the odd one catches a pool that rounds up
TOLERANCE = 1e-4
WORST_ROWS = 3  # how many an error message names

TENSORRT_REMEDY = "TensorRT rounds fp32 to TF32 unless the environment has NVIDIA_TF32_OVERRIDE=0"

Array = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParityRow:
    """How far one output of one provider is from PyTorch's, for one picture.

    Attributes:
        tap: the graph's output: a tap, ``content/TAP`` or ``gram/TAP``.
        size: height and width of the picture in pixels.
        provider: the one that really computed.
        max_abs_err, mean_abs_err: of the elements.
        relative_err: max |ours - PyTorch's| / max |PyTorch's|.
        rms_relative_err: the root mean square of the difference / that of PyTorch's values. Never hides a small, wide
            error behind a single large activation, as the line above can.
    """

    tap: str
    size: tuple[int, int]
    provider: str
    max_abs_err: float
    mean_abs_err: float
    relative_err: float
    rms_relative_err: float

    @property
    def worst_err(self) -> float:
        """The larger relative error; infinite for NaN, which no comparison would catch."""
        both = (self.relative_err, self.rms_relative_err)
        return math.inf if any(map(math.isnan, both)) else max(both)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}


def check_parity(
    module: ExportModule,
    model: bytes,
    provider: str,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    tolerance: float = TOLERANCE,
) -> list[ParityRow]:
    """Compare every output at every size; the rows, in the order of sizes and outputs.

    The session computes in full fp32: TF32, which keeps 10 bits of each factor, is off. The tolerance leaves room for
    another order of summation and for Winograd convolutions, and none for TF32 or a wrong weight.

    Args:
        module: on the CPU, in float32: the reference.
        model: the module as ONNX.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; no fallback is taken.
        sizes: height and width of each picture.
        tolerance: the largest relative error, see :class:`ParityRow`, that passes.

    Raises:
        VerificationError: some output is further away than that; the worst are named.
        DeviceError: the provider does not work here.
    """
    session = make_session(model, provider, allow_tf32=False, tensorrt=TensorrtOptions(profile=_profile(sizes)))
    rows = [row for size in sizes for row in _compare(module, session, size)]
    failed = [row for row in rows if row.worst_err > tolerance]
    if failed:
        worst = sorted(failed, key=lambda row: row.worst_err, reverse=True)[:WORST_ROWS]
        raise VerificationError(
            f"parity failed: {len(failed)} of {len(rows)} outputs of provider {session.actual} differ from PyTorch's "
            f"by more than {tolerance:g} relative; worst are {', '.join(_in_words(row) for row in worst)}",
            TENSORRT_REMEDY if session.actual == "tensorrt" else "",
        )
    return rows


def parity_row(tap: str, size: tuple[int, int], provider: str, actual: Array, expected: Array) -> ParityRow:
    """Measure the distance of two arrays of the same shape, in float64."""
    reference = expected.astype(np.float64)
    error = np.abs(actual - reference)
    return ParityRow(
        tap=tap,
        size=size,
        provider=provider,
        max_abs_err=float(error.max()),
        mean_abs_err=float(error.mean()),
        relative_err=_ratio(float(error.max()), float(np.abs(reference).max())),
        rms_relative_err=_ratio(float(np.sqrt(np.square(error).mean())), float(np.sqrt(np.square(reference).mean()))),
    )


def probe_picture(size: tuple[int, int]) -> torch.Tensor:
    """A picture [1, 3, H, W] of gradients and noise, so that flat and busy places are both met; always the same."""
    height, width = size
    generator = torch.Generator().manual_seed(height * 100_003 + width)
    noise = torch.rand(1, 3, height, width, generator=generator)
    ramps = [torch.linspace(0, 1, height)[:, None].expand(size), torch.linspace(1, 0, width).expand(size)]
    smooth = torch.stack([*ramps, (ramps[0] + ramps[1]) / 2])[None]
    return (noise + smooth) / 2


@torch.no_grad()
def _compare(module: ExportModule, session: Session, size: tuple[int, int]) -> list[ParityRow]:
    picture = probe_picture(size)
    expected: Mapping[str, torch.Tensor] = module(picture)
    actual = session.run(picture.numpy())
    rows = []
    for name, reference in expected.items():
        found = actual.get(name)
        if found is None or found.shape != tuple(reference.shape):
            shape = "missing" if found is None else f"{list(found.shape)}"
            raise VerificationError(f"parity failed: output {name} is {shape}, expected {list(reference.shape)}")
        rows.append(parity_row(name, size, session.actual, found, reference.numpy()))
    return rows


def _profile(sizes: Sequence[tuple[int, int]]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Shapes for TensorRT: one engine for all sizes instead of one after another."""
    heights, widths = zip(*sizes, strict=True)
    smallest, largest = (1, 3, min(heights), min(widths)), (1, 3, max(heights), max(widths))
    return {INPUT_NAME: (smallest, largest, largest)}


def _ratio(error: float, scale: float) -> float:
    """0 when there is no error, even against a reference of zeros; infinite when only the reference is zero."""
    if error == 0:
        return 0.0
    return error / scale if scale else math.inf


def _in_words(row: ParityRow) -> str:
    height, width = row.size
    return f"{row.tap} at {width}x{height}: {row.worst_err:.2g}"
