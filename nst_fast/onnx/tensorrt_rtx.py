"""Proof that TensorRT takes a graph, where no GPU is: TensorRT for RTX parses and builds on the CPU, ahead of time.

It proves that TensorRT's parser accepts the whole graph and that its optimiser makes an engine of it. It proves no
numbers and no speed, for nothing runs; nor the tactics of TensorRT 10, which shares the parser but not the builder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nst_fast.errors import DeviceError, UsageError, VerificationError
from nst_fast.onnx.graph.step import PADS

# Height and width that an engine is built for: the smallest, the best and the largest.
SIZES = ((32, 32), (384, 512), (1024, 1024))


def prove(model: bytes, inputs: Sequence[Mapping[str, Any]], capabilities: Sequence[str]) -> dict[str, Any]:
    """Parse a graph and build an engine for every capability.

    Args:
        model: an ONNX model.
        inputs: name and shape of its inputs, as an export's manifest lists them.
        capabilities: of GPUs, as "8.9".

    Returns:
        ``version``, the graph's ``nodes``, and of ``engines`` each ``capability``, ``bytes``, and ``seconds`` of
        building.

    Raises:
        DeviceError: TensorRT for RTX is not installed.
        UsageError: it knows no such capability.
        VerificationError: it refuses a node, cuts the graph into parts, or builds no engine.
    """
    trt = _library()
    for capability in capabilities:
        _capability(trt, capability)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # the parser does not keep it alive
    parser = trt.OnnxParser(network, logger)
    whole = parser.supports_model_v2(model) and parser.num_subgraphs == 1
    if not whole:
        raise VerificationError(f"TensorRT for RTX {trt.__version__} does not take the whole graph: {_errors(parser)}")
    nodes = len(parser.get_subgraph_nodes(0))
    engines = [_build(trt, builder, logger, model, inputs, capability) for capability in capabilities]
    return {"version": trt.__version__, "nodes": nodes, "engines": engines}


def _library() -> Any:
    try:
        import tensorrt_rtx_bindings
    except ImportError as error:
        raise DeviceError(
            f"TensorRT for RTX cannot be imported: {error}",
            "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
        ) from error
    return tensorrt_rtx_bindings


def _capability(trt: Any, capability: str) -> Any:
    known = {name[2:-1] + "." + name[-1]: value for name, value in trt.ComputeCapability.__members__.items()
             if name.startswith("SM")}  # fmt: skip
    if capability not in known:
        raise UsageError(
            f"TensorRT for RTX builds nothing for compute capability {capability}", f"Known are {', '.join(known)}"
        )
    return known[capability]


def _build(
    trt: Any, builder: Any, logger: Any, model: bytes, inputs: Sequence[Mapping[str, Any]], capability: str
) -> dict[str, Any]:
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise VerificationError(f"TensorRT for RTX cannot parse the graph: {_errors(parser)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(_capability(trt, capability), 0)
    config.add_optimization_profile(_profile(builder, inputs))
    started = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise VerificationError(
            f"TensorRT for RTX builds no engine for compute capability {capability}: {'; '.join(logger.errors)}"
        )
    seconds = round(time.perf_counter() - started, 2)
    return {"capability": capability, "bytes": engine.nbytes, "seconds": seconds}


def _profile(builder: Any, inputs: Sequence[Mapping[str, Any]]) -> Any:
    """The range of every input whose shape, or for ``pads/...`` whose values, depend on the size of the picture."""
    profile = builder.create_optimization_profile()
    for item in inputs:
        if item["name"].startswith(PADS):
            even, odd = [0] * 8, [0] * 6 + [1] * 2
            profile.set_shape_input(item["name"], even, even, odd)
        elif any(isinstance(extent, str) for extent in item["shape"]):
            profile.set_shape(item["name"], *([_extent(extent, *size) for extent in item["shape"]] for size in SIZES))
    return profile


def _extent(extent: int | str, height: int, width: int) -> int:
    """A number, or a formula as ``height//2``."""
    if isinstance(extent, int):
        return extent
    name, _, divisor = extent.partition("//")
    return {"height": height, "width": width}[name] // int(divisor or 1)


def _errors(parser: Any) -> str:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    text = "; ".join(f"{error.node_operator()} ({error.desc()})" for error in found)
    return text or f"it was cut into {parser.num_subgraphs} subgraphs"


def _logger(trt: Any) -> Any:
    """Keeps what the builder complains of, and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()
