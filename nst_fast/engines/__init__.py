"""The engines: ``eager`` is the reference, the others are its twins: same signature, same answer within a tolerance.

May import: distributed, errors, network, objective, onnx, options, system.
"""

from __future__ import annotations

from collections.abc import Callable

from nst_fast.engines.choice import Choice, choose, confirm_precision
from nst_fast.engines.crop_network import CropNetwork, EagerNetwork
from nst_fast.engines.cuda_graph import GraphedEvaluator
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.ort import OrtEvaluator
from nst_fast.engines.precision import DTYPES, set_float32_arithmetic
from nst_fast.errors import UsageError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator, Evaluation, Evaluator
from nst_fast.objective.objective import Objective
from nst_fast.onnx.session import Session
from nst_fast.options.config import StylizeConfig


def make_evaluator(
    options: StylizeConfig,
    choice: Choice,
    encoder: Encoder,
    objective: Objective,
    opened: Callable[[Session], None] = lambda session: None,
) -> Evaluator:
    """The evaluator of the engine and precision that were chosen, see :func:`choose`.

    ``opened`` is told of every session of ONNX Runtime that computes for it.

    Raises:
        UsageError: launches are to be captured where there is no GPU.
    """
    set_float32_arithmetic("tf32" if choice.precision == "tf32" else "ieee")
    if choice.engine == "eager":
        return EagerEvaluator(encoder, objective)
    if choice.engine == "ort":
        return OrtEvaluator(
            encoder,
            objective,
            provider=options.engine_provider,
            precision=choice.precision,
            allow_fallback=options.allow_fallback,
            cuda_graph=options.cuda_graph,
            opened=opened,
        )
    on_cuda = next(encoder.parameters()).is_cuda
    if options.cuda_graph == "on" and not on_cuda:
        raise UsageError("--cuda-graph on: there is no GPU to capture for", "Use --device cuda, or leave it out")
    fast = FastEvaluator(encoder, objective, DTYPES[choice.precision], kernels=choice.kernels)
    if choice.engine == "compiled":
        fast.network.compile()
    return GraphedEvaluator(fast) if on_cuda and options.cuda_graph != "off" else fast


def make_crop_network(choice: Choice, encoder: Encoder) -> CropNetwork:
    """What computes the crops of a tiled evaluation with the engine and precision that were chosen.

    ``compiled`` is tiled as ``fast``: it compiles for one shape, and crops have several.

    Raises:
        UsageError: the engine computes whole pictures only.
    """
    set_float32_arithmetic("tf32" if choice.precision == "tf32" else "ieee")
    if choice.engine == "ort":
        raise UsageError("engine ort computes whole pictures only", "Use --engine fast for tiles")
    if choice.engine == "eager":
        return EagerNetwork(encoder)
    return FastNetwork(encoder, DTYPES[choice.precision], kernels=choice.kernels)


__all__ = ["Choice", "Evaluation", "Evaluator", "choose", "confirm_precision", "make_crop_network", "make_evaluator"]
