"""Parity: what PyTorch computes against what an ONNX Runtime provider computes of the same exported graph.

Features and Grams agree closely. Gradients do not: in float32 two libraries round differently, a few ReLU and max-pool
decisions flip, and each changes the gradient where it happens. So the gradient's tolerance is wide; it catches
a wrong weight, a lost layer or a broken provider. The tests check the rules in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nst_fast.errors import VerificationError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx.export import INPUT_NAME, ExportModule
from nst_fast.onnx.graph.step import GRADIENT_SCALE, AdamConstants, StepGraph, constant_feeds
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import make_session
from nst_fast.options.config import ExportConfig

Array = NDArray[Any]
Size = tuple[int, int]  # height, width
Evaluate = Callable[[dict[str, Array]], Mapping[str, Array]]

SIZES: tuple[Size, ...] = ((64, 48), (33, 47), (96, 80))  # the odd one catches a pool that rounds up
# The largest relative error. It leaves room for another order of summation and for Winograd convolutions, and none for
# TF32 or a wrong weight.
TOLERANCE = 1e-4
LOSS_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
GRADIENT_TOLERANCE = {"fp32": 0.05, "fp16": 0.5}  # of the root mean square
UPDATE_TOLERANCE = 1e-5  # of the update, given the graph's own gradient
PROBE_SCALE = 1024.0  # of an fp16 gradient
RATE, STEPS_BEFORE = 0.02, 3  # of the probed update
WORST_ROWS = 3  # how many an error message names
TENSORRT_REMEDY = "TensorRT rounds fp32 to TF32 unless the environment has NVIDIA_TF32_OVERRIDE=0"


@dataclass(frozen=True)
class ParityRow:
    """How far one output of one provider is from PyTorch's, for one picture.

    Attributes:
        tap: the graph's output: a tap, ``content/TAP``, ``gram/TAP``, ``losses``, ``gradient``, ``new_m`` and so on.
        size: height and width of the picture in pixels.
        provider: the one that really computed.
        max_abs_err, mean_abs_err: of the elements.
        relative_err: max |ours - PyTorch's| / max |PyTorch's|.
        rms_relative_err: the root mean square of the difference / that of PyTorch's values. Never hides a small, wide
            error behind a single large activation, as the line above can.
    """

    tap: str
    size: Size
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
    encoder: Encoder, options: ExportConfig, model: bytes, provider: str, *, sizes: Sequence[Size] = SIZES
) -> list[ParityRow]:
    """Compare every output at every size; the rows, in the order of sizes and outputs.

    Args:
        encoder: on the CPU, in float32: the reference.
        options: of the export.
        model: the exported graph.
        provider: its name; no fallback is taken.
        sizes: of the pictures.

    Raises:
        VerificationError: some output is out of tolerance; the worst are named.
        DeviceError: the provider does not work here.
    """
    profile = {} if options.has_gradient else _profile(sizes)
    session = make_session(model, provider, SessionConfig(precision=options.precision, profile=profile))
    return compare(encoder, options, session.evaluate, session.actual, sizes=sizes)


def compare(
    encoder: Encoder, options: ExportConfig, evaluate: Evaluate, name: str, *, sizes: Sequence[Size] = SIZES
) -> list[ParityRow]:
    """The same of whatever evaluates the graph: inputs in, outputs out, both by name; ``name`` is its own.

    Raises:
        VerificationError: some output is out of tolerance; the worst are named.
    """
    reference = _gradient_reference if options.has_gradient else _reference
    rows: list[ParityRow] = []
    for size in sizes:
        expected, feeds = reference(encoder, options, size)
        actual = evaluate(feeds)
        if options.graph == "step":
            expected |= _adam(feeds, actual["gradient"])
        rows += [parity_row(output, size, name, actual.get(output), array) for output, array in expected.items()]
    failed = [row for row in rows if _excess(row, options) > 1]
    failed.sort(key=lambda row: _excess(row, options), reverse=True)
    if failed:
        worst = ", ".join(
            f"{row.tap} at {row.size[1]}x{row.size[0]}: {row.worst_err:.2g}" for row in failed[:WORST_ROWS]
        )
        raise VerificationError(
            f"parity failed: {len(failed)} of {len(rows)} outputs of provider {name} differ from PyTorch's "
            f"by more than the tolerance; worst are {worst}, relative",
            TENSORRT_REMEDY if name == "tensorrt" else "",
        )
    return rows


def parity_row(tap: str, size: Size, provider: str, actual: Array | None, expected: Array) -> ParityRow:
    """Measure the distance of an output to PyTorch's, in float64. Raises VerificationError if it has another shape."""
    if actual is None or actual.shape != expected.shape:
        shape = "missing" if actual is None else f"{list(actual.shape)}"
        raise VerificationError(f"parity failed: output {tap} is {shape}, expected {list(expected.shape)}")
    reference = expected.astype(np.float64)
    error = np.abs(actual - reference)
    return ParityRow(
        tap=tap,
        size=size,
        provider=provider,
        max_abs_err=float(error.max()),
        mean_abs_err=float(error.mean()),
        relative_err=_ratio(error.max(), np.abs(reference).max()),
        rms_relative_err=_ratio(np.sqrt(np.square(error).mean()), np.sqrt(np.square(reference).mean())),
    )


def probe_picture(size: Size) -> torch.Tensor:
    """A picture [1, 3, H, W] of gradients and noise, so that flat and busy places are both met; always the same."""
    height, width = size
    generator = torch.Generator().manual_seed(height * 100_003 + width)
    noise = torch.rand(1, 3, height, width, generator=generator)
    ramps = [torch.linspace(0, 1, height)[:, None].expand(size), torch.linspace(1, 0, width).expand(size)]
    smooth = torch.stack([*ramps, (ramps[0] + ramps[1]) / 2])[None]
    return (noise + smooth) / 2


def _excess(row: ParityRow, options: ExportConfig) -> float:
    """The error of an output in units of its tolerance."""
    if not options.has_gradient:
        return row.worst_err / TOLERANCE
    tolerance = GRADIENT_TOLERANCE if row.tap == "gradient" else LOSS_TOLERANCE
    allowed = UPDATE_TOLERANCE if row.tap.startswith("new_") else tolerance[options.precision]
    return math.inf if math.isnan(row.rms_relative_err) else row.rms_relative_err / allowed


@torch.no_grad()
def _reference(encoder: Encoder, options: ExportConfig, size: Size) -> tuple[dict[str, Array], dict[str, Array]]:
    """What PyTorch computes, and what the graph must be fed to compute the same."""
    picture = probe_picture(size)
    expected = ExportModule(encoder, options)(picture)
    return {name: tensor.numpy() for name, tensor in expected.items()}, {INPUT_NAME: picture.numpy()}


def _gradient_reference(
    encoder: Encoder, options: ExportConfig, size: Size
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The same of a gradient or step graph, without the update."""
    picture = probe_picture(size)
    content, style = picture.flip(3), probe_picture((size[1], size[0]))
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    evaluation = EagerEvaluator(encoder, objective)(picture)
    gradient = evaluation.gradient.numpy()
    feeds = constant_feeds(StepGraph(encoder, options, options.precision), objective.targets, size)
    feeds["pastiche"] = picture.numpy()
    if options.precision == "fp16":
        feeds[GRADIENT_SCALE] = np.array([PROBE_SCALE], np.float32)
    if options.graph == "step":
        feeds |= {"m": gradient[:, :, ::-1].copy(), "v": np.square(gradient[:, :, :, ::-1]).copy()}
        corrections = (1 - beta**STEPS_BEFORE for beta in (AdamConstants.beta1, AdamConstants.beta2))
        scalars = zip(("learning_rate", "correction1", "correction2"), (RATE, *corrections), strict=True)
        feeds |= {name: np.array([value], np.float32) for name, value in scalars}
    losses = torch.stack([*evaluation.terms.values()]).flatten().numpy()
    return {"losses": losses, "total": evaluation.total.numpy(), "gradient": gradient}, feeds


def _adam(feeds: dict[str, Array], gradient: Array) -> dict[str, Array]:
    """One update in float64, from the graph's own gradient."""
    adam, g = AdamConstants(), gradient.astype(np.float64)
    m = adam.beta1 * feeds["m"] + (1 - adam.beta1) * g
    v = adam.beta2 * feeds["v"] + (1 - adam.beta2) * g * g
    denominator = np.sqrt(v / feeds["correction2"]) + adam.epsilon
    moved = feeds["pastiche"] - feeds["learning_rate"] / feeds["correction1"] * m / denominator
    return {"new_pastiche": np.clip(moved, 0, 1), "new_m": m, "new_v": v}


def _profile(sizes: Sequence[Size]) -> dict[str, Any]:
    """Shapes for TensorRT: one engine for all sizes instead of one after another."""
    heights, widths = zip(*sizes, strict=True)
    smallest, largest = (1, 3, min(heights), min(widths)), (1, 3, max(heights), max(widths))
    return {INPUT_NAME: (smallest, largest, largest)}


def _ratio(error: Any, scale: Any) -> float:
    """0 when there is no error, even against a reference of zeros; infinite when only the reference is zero."""
    if error == 0:
        return 0.0
    return float(error / scale) if scale else math.inf
