"""Optimisers of pixels behind one small interface: ``adam``, ``lbfgs`` within [0, 1], ``wolfe`` of PyTorch's.

``captured`` replays updates on a GPU, ``ort_adam`` leaves them to ONNX Runtime, ``strips`` serves one rank's rows.

May import: distributed, engines, errors, network, onnx, options.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nst_fast.optimizers.adam import Adam
from nst_fast.optimizers.base import PixelOptimizer, learning_rate_at, smoothed, smooths_at
from nst_fast.optimizers.lbfgs import LBFGS
from nst_fast.optimizers.wolfe import WolfeLBFGS
from nst_fast.options.config import OptimizerOptions


def make_lbfgs(pastiche: Tensor, options: OptimizerOptions) -> PixelOptimizer:
    """Our own, or PyTorch's where a line search is asked for."""
    return LBFGS(pastiche, options) if options.line_search == "none" else WolfeLBFGS(pastiche, options)


OPTIMIZERS: dict[str, Callable[[Tensor, OptimizerOptions], PixelOptimizer]] = {"adam": Adam, "lbfgs": make_lbfgs}


def make_optimizer(
    pastiche: Tensor, options: OptimizerOptions, previous: PixelOptimizer | None = None
) -> PixelOptimizer:
    """The optimiser that the options name, for a pastiche [B, 3, H, W] that it will change in place.

    ``previous`` is the optimiser of the coarser scale: Adam carries its moments over (crowsonkb), resized; L-BFGS
    begins anew, because its curvature pairs belong to another space.
    """
    optimizer = OPTIMIZERS[options.optimizer](pastiche, options)
    if isinstance(optimizer, Adam) and isinstance(previous, Adam):
        optimizer.take_over(previous)
    return optimizer


__all__ = [
    "LBFGS",
    "OPTIMIZERS",
    "Adam",
    "PixelOptimizer",
    "WolfeLBFGS",
    "learning_rate_at",
    "make_optimizer",
    "smoothed",
    "smooths_at",
]
