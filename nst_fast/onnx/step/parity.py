"""Parity of gradient and step graphs: what an ONNX Runtime provider computes of them against PyTorch's autograd.

That the rules are right is proven in float64 by the tests. In float32 two libraries round differently, a few ReLU and
max-pool decisions flip, and each flip changes the gradient where it happens; so the gradient's tolerance is wide here,
and catches a wrong weight, a lost layer or a broken provider. Losses have no such excuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nst_fast.errors import VerificationError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.coefficients import Array
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.onnx.parity import SIZES, ParityRow, parity_row, probe_picture
from nst_fast.onnx.providers import TensorrtOptions
from nst_fast.onnx.session import make_session
from nst_fast.onnx.step.export import graph_for, objective_feeds
from nst_fast.onnx.step.spec import GRADIENT_SCALE, AdamConstants
from nst_fast.options.config import ExportConfig

LOSS_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
GRADIENT_TOLERANCE = {"fp32": 0.05, "fp16": 0.5}  # of the root mean square
UPDATE_TOLERANCE = 1e-5  # of the update, given the graph's own gradient
PROBE_SCALE = 1024.0
RATE, STEPS_BEFORE = 0.02, 3  # of the probed update

Feeds = Mapping[str, Array]


def check_step_parity(encoder: Encoder, options: ExportConfig, model: bytes, provider: str) -> list[ParityRow]:
    """Compare losses and gradient, and for a step graph the update, at several sizes.

    Args:
        encoder: on the CPU, in float32: the reference.
        options: of the export.
        model: a gradient or step graph of any size.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; no fallback is taken.

    Raises:
        VerificationError: some output is out of tolerance.
        DeviceError: the provider does not work here.
    """
    tensorrt = TensorrtOptions(precision=options.precision)
    session = make_session(model, provider, allow_tf32=False, tensorrt=tensorrt)
    rows: list[ParityRow] = []
    for size in SIZES:
        expected, feeds = _reference(encoder, options, size)
        actual = session.evaluate(feeds)
        if options.graph == "step":
            expected |= _adam(feeds, actual["gradient"])
        rows += [parity_row(name, size, session.actual, actual[name], array) for name, array in expected.items()]
    failed = [row for row in rows if not row.rms_relative_err <= _tolerance(row.tap, options.precision)]
    if failed:
        worst = max(failed, key=lambda row: row.worst_err)
        raise VerificationError(
            f"parity failed: {len(failed)} of {len(rows)} outputs of provider {session.actual} differ from PyTorch's; "
            f"worst is {worst.tap} at {worst.size[1]}x{worst.size[0]}: {worst.rms_relative_err:.2g}"
        )
    return rows


def _reference(
    encoder: Encoder, options: ExportConfig, size: tuple[int, int]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What PyTorch computes, and what the graph must be fed to compute the same."""
    picture = probe_picture(size)
    content, style = picture.flip(3), probe_picture((size[1], size[0]))
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    evaluation = EagerEvaluator(encoder, objective)(picture)
    feeds = {
        "pastiche": picture.numpy(),
        **objective_feeds(graph_for(encoder, options), options, objective.targets, size),
    }
    if options.precision == "fp16":
        feeds[GRADIENT_SCALE] = np.array([PROBE_SCALE], np.float32)
    if options.graph == "step":
        gradient = evaluation.gradient.numpy()
        feeds |= {"m": gradient[:, :, ::-1].copy(), "v": np.square(gradient[:, :, :, ::-1]).copy()}
        corrections = (1 - beta**STEPS_BEFORE for beta in (AdamConstants.beta1, AdamConstants.beta2))
        scalars = zip(("learning_rate", "correction1", "correction2"), (RATE, *corrections), strict=True)
        feeds |= {name: np.array([value], np.float32) for name, value in scalars}
    losses = torch.stack([*evaluation.terms.values()]).flatten().numpy()
    return {"losses": losses, "total": evaluation.total.numpy(), "gradient": evaluation.gradient.numpy()}, feeds


def _adam(feeds: Feeds, gradient: Array) -> dict[str, Array]:
    """One update in float64, from the graph's own gradient."""
    constants: Any = AdamConstants()
    g = gradient.astype(np.float64)
    m = constants.beta1 * feeds["m"] + (1 - constants.beta1) * g
    v = constants.beta2 * feeds["v"] + (1 - constants.beta2) * g * g
    denominator = np.sqrt(v / feeds["correction2"]) + constants.epsilon
    moved = feeds["pastiche"] - feeds["learning_rate"] / feeds["correction1"] * m / denominator
    return {"new_pastiche": np.clip(moved, 0, 1), "new_m": m, "new_v": v}


def _tolerance(output: str, precision: str) -> float:
    if output.startswith("new_"):
        return UPDATE_TOLERANCE
    return (GRADIENT_TOLERANCE if output == "gradient" else LOSS_TOLERANCE)[precision]
