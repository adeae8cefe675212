"""ONNX Runtime sessions that run where they were asked to, or say why not. Never imports torch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nst_fast.errors import DeviceError, OnnxModelError
from nst_fast.onnx.providers import FALLBACKS, PROVIDERS, CudaOptions, TensorrtOptions
from nst_fast.onnx.runtime import (
    ORT_ERRORS,
    ProviderStatus,
    SessionConfig,
    check_provider,
    engine_key,
    failure,
    on_device,
    open_session,
    probe_provider,
    working_providers,
)
from nst_fast.system.files import shown

__all__ = [
    "PROVIDERS",
    "Binding",
    "CudaOptions",
    "ProviderStatus",
    "Session",
    "TensorrtOptions",
    "check_provider",
    "make_session",
    "probe_provider",
    "working_providers",
]

Array = npt.NDArray[Any]

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}
# Sizes are computed on the CPU whatever the provider, because it is the CPU that needs them (onnxruntime#4940).
SHAPE_ARITHMETIC = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Range", "ConstantOfShape"}
    | {"Add", "Sub", "Mul", "Div", "ReduceProd"}
)
CPU_NODES = "fallback to CPU EP has been explicitly disabled"  # in ONNX Runtime's refusal of a strict session


class Binding:
    """Inputs laid on the session's device, and room for its outputs, so that :meth:`run` copies nothing to or fro."""

    def __init__(self, session: Session, feeds: Mapping[str, Array]) -> None:
        self._owner = session
        self._binding = session.session.io_binding()
        device = "cpu" if session.actual == "cpu" else "cuda"
        # Kept, because on the CPU what is bound is the arrays' own memory.
        self._arrays = feeds
        for name, array in feeds.items():
            self._binding.bind_ortvalue_input(name, on_device(array, session.actual, session.device_id))
        for name in session.outputs:
            self._binding.bind_output(name, device, session.device_id)

    def run(self) -> None:
        """Compute the outputs; the device has finished when this returns.

        Raises:
            OutOfMemoryError, DeviceError, OnnxModelError: as :func:`make_session`.
        """
        try:
            self._owner.session.run_with_iobinding(self._binding)
        except ORT_ERRORS as error:
            raise failure(error, "the model cannot be run", self._owner.actual) from error

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run, copied to the host."""
        return dict(zip(self._owner.outputs, self._binding.copy_outputs_to_cpu(), strict=True))


@dataclass(frozen=True, eq=False)
class Session:
    """A model, loaded.

    Attributes:
        requested, actual: the provider that was asked for, and the one that computes.
        session: ONNX Runtime's own ``InferenceSession``.
        warnings: what the user should know, above all that ``actual`` is not ``requested``.
        device_id: the GPU's number.
        seconds: what loading it took; with TensorRT that is mostly the building of its engine.
        engine: of TensorRT: ``built`` now, or ``kept`` from an earlier session; empty elsewhere.
        cuda_graph: whether its launches are captured and replayed.
    """

    requested: str
    actual: str
    session: Any
    warnings: tuple[str, ...] = ()
    device_id: int = 0
    seconds: float = 0.0
    engine: str = ""
    cuda_graph: bool = False

    @property
    def inputs(self) -> dict[str, tuple[int | str | None, ...]]:
        """Input -> shape, in which a size that may vary is a name or None."""
        return {item.name: tuple(item.shape) for item in self.session.get_inputs()}

    @property
    def outputs(self) -> list[str]:
        return [item.name for item in self.session.get_outputs()]

    def run(self, image: Array) -> dict[str, Array]:
        """Evaluate a model of one input: image [1, 3, H, W] of float32 to output name -> array."""
        if len(self.inputs) != 1:
            raise OnnxModelError(f"the model takes {', '.join(self.inputs)}; it was given an image alone")
        return self.evaluate({next(iter(self.inputs)): image})

    def evaluate(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate a model of any inputs: input name -> array to output name -> array."""
        binding = self.bind(feeds)
        binding.run()
        return binding.outputs()

    def bind(self, feeds: Mapping[str, Array]) -> Binding:
        """Lay the inputs on the device once, to run on them many times.

        Raises:
            OnnxModelError: a name, a type or a shape is not what the model takes.
        """
        if feeds.keys() != self.inputs.keys():
            raise OnnxModelError(f"the model takes {', '.join(self.inputs)}; it was given {', '.join(feeds)}")
        for item in self.session.get_inputs():
            _check_input(item.name, item.type, item.shape, feeds[item.name])
        return Binding(self, {name: np.ascontiguousarray(array) for name, array in feeds.items()})


def _check_input(name: str, kind: str, shape: Sequence[int | str | None], array: Array) -> None:
    fits = len(shape) == array.ndim and all(
        wanted == given for wanted, given in zip(shape, array.shape, strict=True) if isinstance(wanted, int)
    )
    if not fits or array.dtype != DTYPES.get(kind):
        wanted_shape, given_shape = ("x".join(map(str, sizes)) for sizes in (shape, array.shape))
        raise OnnxModelError(
            f"input {name!r} of the model is {kind} of {wanted_shape}; it was given {array.dtype} of {given_shape}",
            "Export a model for this size",
        )


def make_session(
    model: Path | bytes,
    provider: str = "cpu",
    *,
    allow_fallback: bool = False,
    threads: int | None = None,
    deterministic: bool = False,
    allow_tf32: bool = False,
    cuda: CudaOptions | None = None,
    tensorrt: TensorrtOptions | None = None,
) -> Session:
    """Load a model on a provider, and make sure that it is that provider which runs it.

    Args:
        model: an ONNX file, or its content.
        provider: ``cpu``, ``cuda`` or ``tensorrt``. Nodes that TensorRT leaves to CUDA are a warning, as are sizes
            computed on the CPU.
        allow_fallback: when the provider does not work, or not for all of the model, take the next best and warn.
        threads: threads on the CPU; by default one for each physical core.
        deterministic: choose only operators that give the same bits every time.
        allow_tf32: let CUDA round what it multiplies to 10 bits; faster, and no longer fp32.
        cuda, tensorrt: options of these providers.

    Raises:
        UsageError: there is no provider of this name.
        DeviceError: the provider does not work here, or leaves part of the model to the CPU.
        OnnxModelError: the model is missing, damaged, or newer than ONNX Runtime.
        OutOfMemoryError: the device's memory does not hold the model.
    """
    config = SessionConfig(
        threads=threads,
        deterministic=deterministic,
        allow_tf32=allow_tf32,
        cuda=cuda or CudaOptions(),
        tensorrt=tensorrt or TensorrtOptions(),
    )
    chosen, warnings = _choose(provider, allow_fallback)
    engine = _engine(model, config.tensorrt) if chosen == "tensorrt" else ""
    started = time.perf_counter()
    session = _load(model, chosen, config)
    seconds = time.perf_counter() - started
    actual, complaint, grave = check_placement(_placement(session), chosen)
    if grave and not allow_fallback:
        raise DeviceError(f"provider {provider} does not run the whole model: {complaint}", "Use the provider cpu")
    if complaint:
        warnings.append(complaint)
    options = config.tensorrt if actual == "tensorrt" else config.cuda
    return Session(
        provider,
        actual,
        session,
        tuple(warnings),
        0 if actual == "cpu" else options.device_id,
        seconds,
        engine if actual == "tensorrt" else "",
        options.cuda_graph and actual != "cpu",
    )


def _engine(model: Path | bytes, options: TensorrtOptions) -> str:
    """Whether TensorRT will find its engine for this model in the cache."""
    if isinstance(model, Path) and not model.is_file():
        return ""
    source = str(model) if isinstance(model, Path) else model
    kept = options.cache is not None and engine_key(source, options).kept_in(options.cache)
    return "kept" if kept else "built"


def _choose(provider: str, allow_fallback: bool) -> tuple[str, list[str]]:
    """The provider to use, and a warning when it is not the one asked for."""
    status = probe_provider(provider)
    if allow_fallback and not status.works:
        for name in FALLBACKS[provider]:
            if probe_provider(name).works:
                return name, [f"provider {provider} does not work, {name} is used instead: {status.detail}"]
    check_provider(provider)
    return provider, []


def _load(model: Path | bytes, provider: str, config: SessionConfig) -> Any:
    what = f"model {shown(model)} cannot be loaded" if isinstance(model, Path) else "the model cannot be loaded"
    if isinstance(model, Path) and not model.is_file():
        raise OnnxModelError(f"{what}: there is no such file", "`nst-fast export` makes one")
    source = str(model) if isinstance(model, Path) else model
    try:
        try:
            return open_session(source, provider, config, strict=True)
        except ORT_ERRORS as error:
            if CPU_NODES not in str(error):
                raise
            return open_session(source, provider, config, strict=False)  # to see which nodes, and judge them
    except ORT_ERRORS as error:
        raise failure(error, what, provider) from error


def _placement(session: Any) -> dict[str, list[str]]:
    """Provider -> operators of the nodes that it runs."""
    short = {full: name for name, full in PROVIDERS.items()}
    placed: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(short[part.ep_name], []).extend(node.op_type for node in part.get_nodes())
    return placed


def check_placement(placed: Mapping[str, Sequence[str]], provider: str) -> tuple[str, str, bool]:
    """Judge where the nodes of a model run, given provider -> their operators.

    Returns:
        the provider that runs the model, a complaint (empty when all is as it should be), and whether it is grave:
        nothing on the provider asked for, or on the CPU something else than the arithmetic of sizes.
    """
    elsewhere = {name: operators for name, operators in placed.items() if name != provider and operators}
    if not elsewhere:
        return provider, "", False
    if not placed.get(provider):
        actual = next(name for name in reversed(PROVIDERS) if name in elsewhere)
        return actual, f"no node runs on {provider}, all run on {' and '.join(elsewhere)}", True
    grave = not SHAPE_ARITHMETIC.issuperset(elsewhere.get("cpu", ()))
    count, total = sum(map(len, elsewhere.values())), sum(map(len, placed.values()))
    places = "; ".join(f"{_counted(operators)} on {name}" for name, operators in elsewhere.items())
    return provider, f"{count} of {total} nodes do not run on {provider} ({places})", grave


def _counted(operators: Sequence[str]) -> str:
    return ", ".join(f"{count} {operator}" for operator, count in Counter(operators).most_common())
