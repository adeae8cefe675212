"""The engines: ``eager`` is the reference, the others are its twins: same signature, same answer within a tolerance."""

from __future__ import annotations

from collections.abc import Callable

from nst_fast.config import DeviceOptions
from nst_fast.evaluators.base import Evaluation, Evaluator
from nst_fast.evaluators.choice import Choice, choose
from nst_fast.evaluators.cuda_graph import GraphedEvaluator
from nst_fast.evaluators.eager import EagerEvaluator
from nst_fast.evaluators.fast import FastEvaluator
from nst_fast.evaluators.ort import OrtEvaluator
from nst_fast.evaluators.precision import DTYPES, set_float32_arithmetic
from nst_fast.evaluators.tile_engine import EagerTileEngine, TileEngine
from nst_fast.objective import Objective
from nst_fast.vgg import Encoder

ENGINES = ("eager", "fast", "compiled", "ort")
TILE_ENGINES: dict[str, Callable[[Encoder], TileEngine]] = {"eager": EagerTileEngine}


def make_evaluator(options: DeviceOptions, choice: Choice, encoder: Encoder, objective: Objective) -> Evaluator:
    """The evaluator of the engine and precision that were chosen, see :func:`choose`."""
    set_float32_arithmetic("tf32" if choice.precision == "tf32" else "ieee")
    if choice.engine == "eager":
        return EagerEvaluator(encoder, objective)
    if choice.engine == "ort":
        return OrtEvaluator(
            encoder, objective, provider=options.engine_provider, precision=choice.precision
        )
    fast = FastEvaluator(encoder, objective, DTYPES[choice.precision])
    if choice.engine == "compiled":
        fast.network.compile()
    on_cuda = next(encoder.parameters()).is_cuda
    return GraphedEvaluator(fast) if on_cuda else fast


__all__ = ["ENGINES", "TILE_ENGINES", "Choice", "Evaluation", "Evaluator", "choose", "make_evaluator"]
