"""ONNX Runtime: sessions that run where they were asked to or say why not, and which providers really work here.

ONNX Runtime lists CUDA and TensorRT as available even when their libraries cannot load, turns a request for them into
a CPU session, and says so only in its log. So a provider works when it has run a convolution. Never imports torch.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nst_fast.errors import DeviceError, NstFastError, OnnxModelError, OutOfMemoryError
from nst_fast.onnx import TELEMETRY_VARIABLE, libraries, plugins
from nst_fast.onnx.providers import SessionConfig
from nst_fast.options.providers import PROVIDERS, Provider, find_provider
from nst_fast.system.files import sha256_bytes, sha256_of, shown
from nst_fast.system.machine import cuda_driver, physical_cores

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort
except ImportError as error:
    raise DeviceError(f"ONNX Runtime cannot be imported: {error}", libraries.runtime_remedy()) from error

if os.environ[TELEMETRY_VARIABLE] != "0":  # what is left to do where a program imported it before
    onnxruntime.disable_telemetry_events()

Array = npt.NDArray[Any]

# What is wrong with the model itself, wherever it runs.
MODEL_ERRORS = (ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf, ort.NoModel, ort.NoSuchFile)
# ONNX Runtime's exceptions have no base of their own; its Python layer raises plain ones.
RUN_ERRORS = (ort.EPFail, ort.EngineError, ort.Fail, ort.NotImplemented, ort.RuntimeException)
ORT_ERRORS = (*MODEL_ERRORS, *RUN_ERRORS, MemoryError, RuntimeError, ValueError)
OUT_OF_MEMORY = re.compile(r"allocate memory|out of memory|bad_alloc|bad allocation", re.IGNORECASE)
NEWER = re.compile(
    r"(Opset) (\d+) is under development.* till opset (\d+)|model (IR) version: (\d+), max.*: (\d+)", re.S
)
CPU_NODES = "fallback to CPU EP has been explicitly disabled"  # in ONNX Runtime's refusal of a strict session
FATAL = 4  # the log level: what fails is raised, and the log would repeat it on stderr
# Sizes are computed on the CPU whatever the provider, because it is the CPU that needs them (onnxruntime#4940).
SHAPE_ARITHMETIC = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Range", "ConstantOfShape"}
    | {"Add", "Sub", "Mul", "Div", "ReduceProd"}
)


class Binding:
    """Inputs and outputs of a session that stay where they are, so that :meth:`run` copies nothing it need not.

    Tensors are bound by DLPack: they must be contiguous, and outside any autograd graph. What a provider with memory of
    its own reads, ONNX Runtime copies when it is bound and not when it runs: there :meth:`run` binds again.

    Args:
        session: whose inputs and outputs they are.
        shared: they are written and read on the session's own stream, so that a run need not wait for the GPU.
        graph: number of the CUDA graph that is captured for this binding. Addresses are part of a graph, so that
            bindings which share a number would replay each other's (onnxruntime-genai#2446).
    """

    def __init__(self, session: Session, *, shared: bool = False, graph: int = 1) -> None:
        self._owner = session
        self._options = onnxruntime.RunOptions()
        if shared and session.device != "cpu":
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if shared and session.cuda_graph:
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
        self._binding = session.session.io_binding()
        self._kept: dict[str, Any] = {}  # ONNX Runtime keeps the address, not the tensor
        self._inputs: dict[str, Any] = {}  # to be bound again

    def copy_input(self, name: str, array: Array) -> None:
        """Copy the array to a GPU; on the CPU bind the array's own memory."""
        self._kept[name] = array
        value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._owner.device, self._owner.device_id)
        self._binding.bind_ortvalue_input(name, value)

    def bind_input(self, name: str, tensor: Any) -> None:
        """Read this input from the tensor's memory, as it is when :meth:`run` is called."""
        value = self._shared(name, tensor)
        self._binding.bind_ortvalue_input(name, value)
        if self._owner.copies:
            self._inputs[name] = value

    def bind_output(self, name: str, tensor: Any = None) -> None:
        """Write this output into the tensor's memory, by default into memory of the session's own on its device.

        Never an input's memory: what reads it might come later.
        """
        if tensor is None:
            self._binding.bind_output(name, self._owner.device, self._owner.device_id)
        else:
            self._binding.bind_ortvalue_output(name, self._shared(name, tensor))

    def run(self) -> None:
        """Compute the outputs. The device has finished when this returns, unless the binding is ``shared``.

        Raises:
            OutOfMemoryError, DeviceError, OnnxModelError: as :func:`make_session`.
        """
        try:
            for name, value in self._inputs.items():
                self._binding.bind_ortvalue_input(name, value)
            self._owner.session.run_with_iobinding(self._binding, self._options)
        except ORT_ERRORS as error:
            raise failure(error, "the model cannot be run", self._owner.actual) from error

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run, copied to the host."""
        return dict(zip(self._owner.outputs, self._binding.copy_outputs_to_cpu(), strict=True))

    def _shared(self, name: str, tensor: Any) -> Any:
        self._kept[name] = tensor
        return onnxruntime.OrtValue.from_dlpack(tensor)


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
    def device(self) -> str:
        """``cpu`` or ``cuda``, where inputs and outputs are."""
        return find_provider(self.actual).memory

    @property
    def copies(self) -> bool:
        """Whether ONNX Runtime copies inputs and outputs between the host and the provider."""
        return self.device == "cpu" and self.actual != "cpu"

    @property
    def inputs(self) -> list[str]:
        return [item.name for item in self.session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        return [item.name for item in self.session.get_outputs()]

    def run(self, image: Array) -> dict[str, Array]:
        """Evaluate a model of one input: image [1, 3, H, W] of float32 to output name -> array."""
        return self.evaluate({self.inputs[0]: image})

    def evaluate(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate a model of any inputs: input name -> array to output name -> array."""
        binding = self.bind(feeds)
        binding.run()
        return binding.outputs()

    def bind(self, feeds: Mapping[str, Array]) -> Binding:
        """Copy the inputs to the device once, to run on them many times.

        Raises:
            OnnxModelError: the names are not those that the model takes. Types and shapes are checked by the run.
        """
        if feeds.keys() != set(self.inputs):
            raise OnnxModelError(f"the model takes {', '.join(self.inputs)}; it was given {', '.join(feeds)}")
        binding = Binding(self)
        for name, array in feeds.items():
            binding.copy_input(name, np.ascontiguousarray(array))
        for name in self.outputs:
            binding.bind_output(name)
        return binding


def make_session(
    model: Path | bytes, provider: str = "cpu", config: SessionConfig | None = None, *, allow_fallback: bool = False
) -> Session:
    """Load a model on a provider, and make sure that it is that provider which runs it.

    Args:
        model: an ONNX file, or its content.
        provider: a name of :data:`nst_fast.options.providers.PROVIDERS` or ``plugin:NAME[:KEY=VALUE,...]``. Nodes that
            TensorRT leaves to CUDA are a warning, as are sizes computed on the CPU.
        config: how it computes.
        allow_fallback: when the provider does not work, or not for all of the model, take the next best and warn.

    Raises:
        UsageError: there is no provider of this name.
        DeviceError: the provider does not work here, or leaves part of the model to the CPU.
        OnnxModelError: the model is missing, damaged, or newer than ONNX Runtime.
        OutOfMemoryError: the device's memory does not hold the model.
    """
    config = config or SessionConfig()
    chosen, warnings = _choose(provider, allow_fallback)
    what = f"model {shown(model)} cannot be loaded" if isinstance(model, Path) else "the model cannot be loaded"
    if isinstance(model, Path) and not model.is_file():
        raise OnnxModelError(f"{what}: there is no such file", "`nst-fast export` makes one")
    engine = _engine(model, config) if chosen == "tensorrt" else ""
    started = time.perf_counter()
    try:
        session = _load(model, chosen, config)
    except ORT_ERRORS as error:
        raise failure(error, what, chosen) from error
    seconds = time.perf_counter() - started
    actual, complaint, grave = check_placement(_placement(session, find_provider(chosen)), chosen)
    on_gpu = find_provider(actual).memory != "cpu"
    if grave and not allow_fallback:
        raise DeviceError(f"provider {provider} does not run the whole model: {complaint}", "Use the provider cpu")
    return Session(
        provider,
        actual,
        session,
        (*warnings, *([complaint] if complaint else [])),
        config.device_id if on_gpu else 0,
        seconds,
        engine if actual == "tensorrt" else "",
        config.cuda_graph and on_gpu,
    )


def _choose(provider: str, allow_fallback: bool) -> tuple[str, list[str]]:
    """The provider to use, and a warning when it is not the one asked for."""
    status = probe_provider(provider)
    if allow_fallback and not status.works:
        for name in find_provider(provider).fallbacks:
            if probe_provider(name).works:
                return name, [f"provider {provider} does not work, {name} is used instead: {status.detail}"]
    check_provider(provider)
    return provider, []


def _load(model: Path | bytes, provider: str, config: SessionConfig) -> Any:
    try:
        return open_session(model, provider, config, strict=True)
    except ORT_ERRORS as error:
        if CPU_NODES not in str(error):
            raise
        return open_session(model, provider, config, strict=False)  # to see which nodes, and judge them


def open_session(model: Path | bytes, provider: str, config: SessionConfig, *, strict: bool) -> Any:
    """An ``InferenceSession`` whose first provider is the one asked for; one of :data:`ORT_ERRORS` otherwise.

    Strict: a node that would run on the CPU is an error too.
    """
    row = find_provider(provider)
    _spend_first_session()
    options = session_options(config, strict=strict and provider != "cpu")
    # On the CPU a plan of the second run's memory is no faster, and the first run's stays allocated beside it
    # (bench/results/ort-cpu-*).
    options.enable_mem_pattern = row.memory != "cpu"
    if row.module:
        options.add_provider_for_devices([plugins.find_device(row, config.device_id)], config.options(row))
    session = onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        options,
        providers=None if row.module else provider_list(row, model, config),
        enable_fallback=0,
    )
    if session.get_providers()[0] != _ep(row):
        raise RuntimeError(f"the session runs on {session.get_providers()[0]}, {_ep(row)} was asked for")
    return session


def _ep(row: Provider) -> str:
    """ONNX Runtime's name of a provider; of a plugin, after its registration."""
    return row.ep or plugins.register(row.module)


def session_options(config: SessionConfig, *, strict: bool) -> Any:
    """ONNX Runtime's ``SessionOptions``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = config.threads or physical_cores()
    options.use_deterministic_compute = config.deterministic
    # Threads that spin while they wait would take the cores from PyTorch's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Faster near zero, but only the pool's threads do it, and which of them computes what is chance.
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(not config.deterministic)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(strict)))
    return options


def provider_list(row: Provider, model: Path | bytes, config: SessionConfig) -> list[tuple[str, dict[str, str]]]:
    """A built-in provider and its fallbacks. Not the CPU: listing it conflicts with forbidding it."""
    engine = engine_prefix(model, config) if row.name == "tensorrt" and config.engine_cache else ""
    others = (PROVIDERS[name] for name in row.fallbacks if name != "cpu")
    return [(each.ep, config.options(each, engine)) for each in (row, *others)]


@functools.cache
def _spend_first_session() -> None:
    """Open the first session of the process in a thread of its own, and silence the log.

    The first session sets, once for all, how the thread that opens it treats denormals: also in PyTorch's sums.
    """
    onnxruntime.set_default_logger_severity(FATAL)
    options = session_options(SessionConfig(threads=1), strict=False)
    thread = threading.Thread(
        target=onnxruntime.InferenceSession, args=(convolution(), options), kwargs={"providers": [PROVIDERS["cpu"].ep]}
    )
    thread.start()
    thread.join()


def _engine(model: Path | bytes, config: SessionConfig) -> str:
    """Whether TensorRT will find its engine for this model in the cache."""
    if config.engine_cache is None:
        return "built"
    kept = config.engine_cache.glob(f"{engine_prefix(model, config)}*.engine")
    return "kept" if any(kept) else "built"


def engine_prefix(model: Path | bytes, config: SessionConfig) -> str:
    """How the file of an engine begins that TensorRT builds here and now: a hash of all that it depends on.

    ONNX Runtime's own cache key leaves out the weights (onnxruntime#6455) and can mistake one static shape for another
    (#32254), so an engine of another model could be served.
    """
    driver = cuda_driver()
    gpu = driver.gpus[config.device_id] if driver and config.device_id < len(driver.gpus) else None
    facts = {
        "model_sha256": sha256_bytes(model) if isinstance(model, bytes) else sha256_of(model),
        "onnxruntime": onnxruntime.__version__,
        "tensorrt": libraries.tensorrt_version(),
        "gpu": gpu.name if gpu else "",
        "sm": gpu.sm if gpu else 0,
        "precision": config.precision,
        "shapes": config.shapes(),
    }
    return f"nst_{sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:32]}"


def _placement(session: Any, asked: Provider) -> dict[str, list[str]]:
    """Provider -> operators of the nodes that it runs."""
    short = {row.ep: row.name for row in PROVIDERS.values() if row.ep} | {_ep(asked): asked.name}
    placed: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(short.get(part.ep_name, part.ep_name), []).extend(node.op_type for node in part.get_nodes())
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
        actual = next((name for name in find_provider(provider).fallbacks if name in elsewhere), "cpu")
        return actual, f"no node runs on {provider}, all run on {' and '.join(elsewhere)}", True
    grave = not SHAPE_ARITHMETIC.issuperset(elsewhere.get("cpu", ()))
    count, total = sum(map(len, elsewhere.values())), sum(map(len, placed.values()))
    places = "; ".join(f"{_counted(operators)} on {name}" for name, operators in elsewhere.items())
    return provider, f"{count} of {total} nodes do not run on {provider} ({places})", grave


def _counted(operators: Sequence[str]) -> str:
    return ", ".join(f"{count} {operator}" for operator, count in Counter(operators).most_common())


def failure(error: BaseException, what: str, provider: str) -> NstFastError:
    """One of our errors for one of ONNX Runtime's; ``what`` begins the message: "model m.onnx cannot be loaded"."""
    text = one_line(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(f"{what}: not enough memory for it on {provider}", "Choose a smaller image size")
    if newer := NEWER.search(str(error)):
        kind, found, known = filter(None, newer.groups())
        kind = "opset" if kind == "Opset" else "IR version"
        return OnnxModelError(
            f"{what}: it has {kind} {found}, ONNX Runtime {onnxruntime.__version__} knows {kind} {known} at most",
            f"pip install --upgrade {' '.join(libraries.runtime_packages()) or 'onnxruntime'}",
        )
    if provider == "cpu" or isinstance(error, MODEL_ERRORS):
        return OnnxModelError(f"{what}: {text}", "Export it again")
    return DeviceError(f"{what} on {provider}: {text}", "`nst-fast doctor` shows what works here")


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message without its code, its source file and its line breaks."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"/onnxruntime_src/\S+:\d+ (?:.*?\) (?=[A-Z]))?|Load model from .+? failed:", "", text)
    return " ".join(text.split()).rstrip(".")


@dataclass(frozen=True)
class ProviderStatus:
    """Whether a provider really works here; if not, what is wrong and what to do about it, one sentence each.

    Attributes:
        state: ``works``; ``refused``, which is installed and does not work; or ``absent``.
    """

    name: str
    state: str
    detail: str = ""
    remedy: str = ""

    @property
    def works(self) -> bool:
        return self.state == "works"


@functools.cache
def probe_provider(name: str) -> ProviderStatus:
    """Run one convolution on a provider. The answer is kept for the life of the process."""
    row = find_provider(name)
    if missing := libraries.why_absent(row, onnxruntime.get_available_providers()):
        return ProviderStatus(name, "absent", *missing)
    try:
        libraries.preload(name)
        session = open_session(convolution(), name, SessionConfig(threads=1), strict=True)
        (result,) = session.run(None, {"image": np.ones((1, 3, 8, 8), np.float32)})
        device = plugins.find_device(row).device if row.module else None
    except DeviceError as error:  # a library that is no library, a plugin without a device
        return ProviderStatus(name, "refused", error.message, error.remedy)
    except ORT_ERRORS as error:
        detail, remedy = libraries.diagnosis(row, one_line(error))
        return ProviderStatus(name, "refused", detail, remedy)
    if not np.all(result == 27):  # 3 channels x 3 x 3 ones: exact in every precision
        return ProviderStatus(
            name, "refused", "a convolution gives wrong numbers", "Update the driver and ONNX Runtime"
        )
    where = f" on {device.type.name}, {device.vendor}" if device else ""
    return ProviderStatus(name, "works", f"ran a convolution{where}")


def check_provider(name: str) -> None:
    """Raise :class:`DeviceError` if a provider does not work here, :class:`UsageError` if there is none of the name."""
    status = probe_provider(name)
    if not status.works:
        raise DeviceError(f"provider {name} does not work: {status.detail}", status.remedy)


def convolution() -> bytes:
    """A model of one 3x3 convolution of ones: cuDNN is opened by the first convolution, not before."""
    from nst_fast.onnx.graph.writer import GraphWriter

    writer = GraphWriter("fp32")
    weight = writer.constant(np.ones((8, 3, 3, 3), np.float32))
    features = writer.op("Conv", writer.input("image", [1, 3, 8, 8]), weight)
    writer.output("features", features, [1, 8, 6, 6])
    return bytes(writer.model("probe", opset=18).SerializeToString())
