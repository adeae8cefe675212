"""ONNX Runtime itself: how its sessions are opened, what its failures mean, and which providers really work here.

It lists CUDA and TensorRT as available even when their libraries cannot load, turns a request for them into a CPU
session, and says so only in its log. So nothing it lists is believed: a provider works when it has run a convolution.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nst_fast.errors import DeviceError, NstFastError, OnnxModelError, OutOfMemoryError, UsageError
from nst_fast.onnx import libraries
from nst_fast.onnx.providers import PROVIDERS, CudaOptions, EngineKey, TensorrtOptions, check_provider_name
from nst_fast.system.files import sha256_bytes, sha256_of
from nst_fast.system.machine import cuda_driver, driver_problem, physical_cores

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
except ImportError as error:
    raise DeviceError(f"ONNX Runtime cannot be imported: {error}", "pip install --force-reinstall nst-fast") from error

# What is wrong with the model itself, wherever it runs.
MODEL_ERRORS = (
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
)
# ONNX Runtime's exceptions have no base of their own; its Python layer raises plain ones.
ORT_ERRORS = (
    *MODEL_ERRORS,
    ort_state.EPFail,
    ort_state.EngineError,
    ort_state.Fail,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    MemoryError,
    RuntimeError,
    ValueError,
)
OUT_OF_MEMORY = re.compile(r"allocate memory|out of memory|bad_alloc|bad allocation", re.IGNORECASE)
NEWER = re.compile(
    r"(Opset) (\d+) is under development.* till opset (\d+)|model (IR) version: (\d+), max.*: (\d+)", re.S
)
FATAL = 4  # the log level: what fails is raised, and the log would say it a second time, on stderr


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """What decides how a session computes, whatever its model.

    Attributes:
        threads: threads within an operator, on the CPU; by default one for each physical core.
        deterministic: choose only operators that give the same bits every time.
        allow_tf32: let CUDA round what it multiplies to 10 bits. Off, so that fp32 means fp32.
        cuda, tensorrt: options of these providers.
    """

    threads: int | None = None
    deterministic: bool = False
    allow_tf32: bool = False
    cuda: CudaOptions = field(default_factory=CudaOptions)
    tensorrt: TensorrtOptions = field(default_factory=TensorrtOptions)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads {self.threads}: must be at least 1")

    def session_options(self, strict: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = self.threads or physical_cores()
        options.use_deterministic_compute = self.deterministic
        # Threads that spin while they wait would take the cores from PyTorch's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Faster near zero, but only the pool's threads do it, and which of them computes what is chance.
        options.add_session_config_entry("session.set_denormal_as_zero", str(int(not self.deterministic)))
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(strict)))
        return options

    def provider_list(self, provider: str, model: str | bytes) -> list[tuple[str, dict[str, str]]]:
        """The provider and who stands behind it. Not the CPU: listing it conflicts with forbidding it."""
        if provider == "cpu":
            return [(PROVIDERS["cpu"], {})]
        cuda = (PROVIDERS["cuda"], self.cuda.as_ort(allow_tf32=self.allow_tf32))
        if provider == "cuda":
            return [cuda]
        key = engine_key(model, self.tensorrt) if self.tensorrt.cache else None
        return [(PROVIDERS["tensorrt"], self.tensorrt.as_ort(key)), cuda]


def engine_key(model: str | bytes, options: TensorrtOptions) -> EngineKey:
    """All that an engine built here and now for this model would depend on."""
    driver = cuda_driver()
    gpu = driver.gpus[options.device_id] if driver and options.device_id < len(driver.gpus) else None
    return EngineKey(
        model_sha256=sha256_bytes(model) if isinstance(model, bytes) else sha256_of(model),
        onnxruntime=onnxruntime.__version__,
        tensorrt=libraries.tensorrt_version(),
        gpu=gpu.name if gpu else "",
        sm=gpu.sm if gpu else 0,
        precision=options.precision,
        shapes=options.shapes(),
    )


def open_session(model: str | bytes, provider: str, config: SessionConfig, *, strict: bool) -> Any:
    """An ``InferenceSession`` whose first provider is the one asked for; one of :data:`ORT_ERRORS` otherwise.

    Strict: a node that would run on the CPU is an error too.
    """
    _spend_first_session()
    session = onnxruntime.InferenceSession(
        model,
        config.session_options(strict and provider != "cpu"),
        providers=config.provider_list(provider, model),
        enable_fallback=0,
    )
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise RuntimeError(f"the session runs on {session.get_providers()[0]}, {PROVIDERS[provider]} was asked for")
    return session


@functools.cache
def _spend_first_session() -> None:
    """Open the first session of the process in a thread of its own, and silence the log.

    The first session sets, once for all, how the thread that opens it treats denormals: also in PyTorch's sums.
    """
    onnxruntime.set_default_logger_severity(FATAL)
    options = SessionConfig(threads=1).session_options(strict=False)
    thread = threading.Thread(
        target=onnxruntime.InferenceSession, args=(_convolution(), options), kwargs={"providers": [PROVIDERS["cpu"]]}
    )
    thread.start()
    thread.join()


def on_device(array: np.ndarray[Any, Any], provider: str, device_id: int) -> Any:
    """An ``OrtValue`` on the provider's device: a copy on a GPU, on the CPU a view that needs the array kept alive."""
    device = "cpu" if provider == "cpu" else "cuda"
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, device_id)


def failure(error: BaseException, what: str, provider: str) -> NstFastError:
    """One of our errors for one of ONNX Runtime's; ``what`` begins the message: "model m.onnx cannot be loaded"."""
    text = one_line(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(f"{what}: not enough memory for it on {provider}", "Choose a smaller image size")
    if newer := NEWER.search(str(error)):
        kind, has, knows = filter(None, newer.groups())
        kind = "opset" if kind == "Opset" else "IR version"
        return OnnxModelError(
            f"{what}: it has {kind} {has}, ONNX Runtime {onnxruntime.__version__} knows {kind} {knows} at most",
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
    """Whether a provider really works here; if not, what is wrong and what to do about it, one sentence each."""

    name: str
    works: bool
    detail: str = ""
    remedy: str = ""


@functools.cache
def probe_provider(name: str) -> ProviderStatus:
    """Run one convolution on a provider. The answer is kept for the life of the process."""
    check_provider_name(name)
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        return ProviderStatus(name, False, *_wrong_package(name))
    try:
        if name != "cpu":
            libraries.preload(name)
        session = open_session(_convolution(), name, SessionConfig(threads=1), strict=True)
        (result,) = session.run(None, {"image": np.ones((1, 3, 8, 8), np.float32)})
    except DeviceError as error:  # a library that is no library
        return ProviderStatus(name, False, error.message, error.remedy)
    except ORT_ERRORS as error:
        return ProviderStatus(name, False, *(_why_not(name) or (one_line(error), "`nst-fast doctor` shows more")))
    if not np.all(result == 27):  # 3 channels x 3 x 3 ones: exact in every precision
        return ProviderStatus(name, False, "a convolution gives wrong numbers", "Update the driver and ONNX Runtime")
    return ProviderStatus(name, True, "ran a convolution")


def check_provider(name: str) -> None:
    """Raise :class:`DeviceError` if a provider does not work here, :class:`UsageError` if there is none of the name."""
    status = probe_provider(name)
    if not status.works:
        raise DeviceError(f"provider {name} does not work: {status.detail}", status.remedy)


def working_providers() -> tuple[str, ...]:
    """The providers that work here, in the order of :data:`PROVIDERS`."""
    return tuple(name for name in PROVIDERS if probe_provider(name).works)


def _convolution() -> bytes:
    """A model of one 3x3 convolution of ones: cuDNN is opened by the first convolution, not before."""
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 8, 6, 6])
    weight = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "weight")
    node = helper.make_node("Conv", ["image", "weight"], ["features"])
    graph = helper.make_graph([node], "probe", [image], [features], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _wrong_package(provider: str) -> tuple[str, str]:
    packages = " ".join(libraries.runtime_packages()) or "onnxruntime"
    detail = f"the installed package ({packages}) has no {PROVIDERS[provider]}"
    if sys.platform == "darwin":
        return detail, "There is none for macOS: use the provider cpu"
    return detail, f"pip uninstall -y {packages} && pip install 'onnxruntime-gpu[cuda,cudnn]'"


def _why_not(provider: str) -> tuple[str, str] | None:
    """What keeps a GPU provider from working, and the remedy; None when all that it needs seems to be there."""
    needed = {
        library.name: library
        for name in dict.fromkeys((provider, "cuda"))  # CUDA stands behind TensorRT
        for library in libraries.provider_libraries(name)
    }
    detail, remedy = libraries.missing(list(needed.values()))
    if detail:
        return detail, remedy
    cuda = libraries.cuda_major(needed)
    if problem := driver_problem(cuda_driver(), cuda):
        return problem, libraries.driver_remedy(cuda)
    if problem := libraries.load_error(provider):
        return problem, "pip install --force-reinstall nst-fast"
    return None
