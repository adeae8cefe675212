"""The registry of engines: name -> how to build its evaluator. ``eager`` is the reference, the others are its twins."""

from __future__ import annotations

from collections.abc import Callable

from nst_fast.config import DeviceOptions
from nst_fast.evaluators.base import Evaluation, Evaluator
from nst_fast.evaluators.eager import EagerEvaluator
from nst_fast.evaluators.ort import OrtEvaluator
from nst_fast.evaluators.tile_engine import EagerTileEngine, TileEngine
from nst_fast.objective import Objective
from nst_fast.vgg import Encoder

ENGINES: dict[str, Callable[[Encoder, Objective], Evaluator]] = {"eager": EagerEvaluator, "ort": OrtEvaluator}
TILE_ENGINES: dict[str, Callable[[Encoder], TileEngine]] = {"eager": EagerTileEngine}


def make_evaluator(options: DeviceOptions, encoder: Encoder, objective: Objective) -> Evaluator:
    """The evaluator of the engine that the options name."""
    if options.engine == "ort":
        return OrtEvaluator(encoder, objective, provider=options.engine_provider)
    return ENGINES[options.engine](encoder, objective)


__all__ = ["ENGINES", "TILE_ENGINES", "Evaluation", "Evaluator", "make_evaluator"]
