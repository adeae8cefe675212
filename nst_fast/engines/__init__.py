"""The engines: ``eager`` is the reference; the others compute the same within a tolerance.

May import: distributed, errors, network, objective, onnx, options, system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nst_fast.engines.choice import Choice, choose, confirm_precision
from nst_fast.engines.crop_network import CropNetwork, EagerNetwork
from nst_fast.engines.cuda_graph import GraphedEvaluator
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.precision import DTYPES, set_float32_arithmetic
from nst_fast.errors import UsageError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import EagerEvaluator, Evaluation, Evaluator
from nst_fast.objective.objective import Objective
from nst_fast.options.config import StylizeConfig

if TYPE_CHECKING:
    from nst_fast.onnx.session import Session


Kept = dict[tuple[Encoder, str, bool, tuple[str, ...]], FastNetwork]


def make_evaluator(
    options: StylizeConfig,
    choice: Choice,
    encoder: Encoder,
    objective: Objective,
    opened: Callable[[Session], None] = lambda session: None,
    kept: Kept | None = None,
) -> Evaluator:
    """The evaluator of a whole picture for the chosen engine and precision (:func:`choose`).

    Args:
        opened: receives every session of ONNX Runtime that computes for it.
        kept: networks of the fast engine, for further evaluators: preparing their weights takes as long as some steps.

    Raises:
        UsageError: ``cuda_graph`` is on, and there is no GPU.
    """
    set_float32_arithmetic(choice.precision)
    if choice.engine == "eager":
        return EagerEvaluator(encoder, objective)
    if choice.engine == "ort":
        from nst_fast.engines.ort import OrtEvaluator  # and with it onnx and ONNX Runtime

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
        raise UsageError("`cuda_graph` on: there is no GPU to capture for", "Use `device` cuda, or leave it out")
    dtype, key = DTYPES[choice.precision], (encoder, choice.precision, choice.kernels, choice.winograd)
    network = kept.get(key) if kept is not None else None
    fast = FastEvaluator(encoder, objective, dtype, kernels=choice.kernels, winograd=choice.winograd, network=network)
    if kept is not None and choice.engine == "fast":
        kept[key] = fast.network
    if choice.engine == "compiled":
        fast.compile()
    return GraphedEvaluator(fast) if on_cuda and options.cuda_graph != "off" else fast


def make_crop_network(choice: Choice, encoder: Encoder) -> CropNetwork:
    """The network of a tiled evaluation for the chosen engine and precision.

    ``compiled`` becomes ``fast``: it compiles for one shape, and crops have several.

    Raises:
        UsageError: the engine computes whole pictures only.
    """
    set_float32_arithmetic(choice.precision)
    if choice.engine == "ort":
        raise UsageError("engine ort computes whole pictures only", "Use `engine` fast for tiles")
    if choice.engine == "eager":
        return EagerNetwork(encoder)
    return FastNetwork(encoder, DTYPES[choice.precision], kernels=choice.kernels, winograd=choice.winograd)


__all__ = [
    "Choice",
    "Evaluation",
    "Evaluator",
    "Kept",
    "choose",
    "confirm_precision",
    "make_crop_network",
    "make_evaluator",
]
