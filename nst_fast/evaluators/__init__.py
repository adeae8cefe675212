"""The registry of engines: name -> how to build its evaluator. ``eager`` is the reference, the others are its twins."""

from __future__ import annotations

from collections.abc import Callable

from nst_fast.evaluators.base import Evaluation, Evaluator
from nst_fast.evaluators.eager import EagerEvaluator
from nst_fast.objective import Objective
from nst_fast.vgg import Encoder

ENGINES: dict[str, Callable[[Encoder, Objective], Evaluator]] = {"eager": EagerEvaluator}

__all__ = ["ENGINES", "Evaluation", "Evaluator"]
