"""Optimizers of pixels: ``adam``, ``lbfgs`` within [0, 1], ``wolfe`` of PyTorch's; and the stepper of the loop.

``captured`` replays updates on a GPU, ``ort_adam`` leaves evaluation and update to ONNX Runtime.

May import: distributed, engines, errors, network, onnx, options.
"""

from __future__ import annotations

import sys

from torch import Tensor

from nst_fast.distributed.strips import Strip
from nst_fast.engines import Evaluator
from nst_fast.optimizers.adam import Adam, resized_moments
from nst_fast.optimizers.base import PixelOptimizer, State, Stepper, TorchStepper, learning_rate_at, smooths_at
from nst_fast.optimizers.captured import graphed
from nst_fast.optimizers.lbfgs import LBFGS
from nst_fast.optimizers.wolfe import WolfeLBFGS
from nst_fast.options.config import OptimizerOptions, StylizeConfig


def make_optimizer(
    pastiche: Tensor,
    options: OptimizerOptions,
    strip: Strip | None = None,
    *,
    near: bool = False,
) -> PixelOptimizer:
    """The optimizer that the options name, for a pastiche [B, 3, H, W] that it changes in place.

    Args:
        strip: the rows that the pastiche has, of a picture that ranks share.
        near: whether the pastiche is close to its end, as that of a film's frame is.
    """
    if options.optimizer == "adam":
        return Adam(pastiche, options, strip)
    if options.line_search == "none":
        return LBFGS(pastiche, options, strip, near=near)
    return WolfeLBFGS(pastiche, options)


def make_stepper(
    evaluator: Evaluator,
    pastiche: Tensor,
    options: StylizeConfig,
    moments: State | None = None,
    strip: Strip | None = None,
    *,
    near: bool = False,
) -> Stepper:
    """The stepper of a scale; Adam with ONNX Runtime is one graph, updates of L-BFGS on a GPU are captured.

    Args:
        moments: state of the coarser scale's Adam, resized (:func:`resized_moments`); L-BFGS starts anew, because its
            curvature pairs belong to another space.
        strip, near: as for :func:`make_optimizer`.
    """
    stepper = ort_stepper(evaluator, pastiche, options) if options.optimizer == "adam" else None
    if stepper is None:
        optimizer = make_optimizer(pastiche, options, strip, near=near)
        captured = options.cuda_graph != "off" and (strip is None or strip.ranks.size == 1)
        stepper = TorchStepper(evaluator, graphed(optimizer) if captured else optimizer)
    if moments and options.optimizer == "adam":
        stepper.restore(moments)
    return stepper


def ort_stepper(evaluator: Evaluator, pastiche: Tensor, options: StylizeConfig) -> Stepper | None:
    """The stepper whose updates ONNX Runtime computes, if it is what evaluates."""
    if "nst_fast.engines.ort" not in sys.modules:  # then it is not; importing it takes 0.2 s
        return None
    from nst_fast.engines.ort import OrtEvaluator
    from nst_fast.optimizers.ort_adam import OrtAdam

    return OrtAdam(evaluator, pastiche, options) if isinstance(evaluator, OrtEvaluator) else None


__all__ = ["Stepper", "learning_rate_at", "make_optimizer", "make_stepper", "resized_moments", "smooths_at"]
