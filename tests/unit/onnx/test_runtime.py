from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nst_fast.errors import DeviceError, OnnxModelError, OutOfMemoryError, UsageError
from nst_fast.onnx import libraries, runtime
from nst_fast.onnx.libraries import Library
from nst_fast.onnx.providers import PROVIDERS, TensorrtOptions
from nst_fast.onnx.runtime import (
    SessionConfig,
    check_provider,
    engine_key,
    failure,
    one_line,
    open_session,
    probe_provider,
    working_providers,
)
from nst_fast.system.machine import CudaDriver, Gpu

HOPPER = CudaDriver((13, 2), (Gpu("NVIDIA H200", 90, 143_000),))
PRESENT = Library("libcudart.so.13", Path("x"), "package", bundled=True, lazy=False, package="nvidia-cuda-runtime")


@pytest.fixture
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Probes of a machine that the test describes, forgotten before and after."""
    probe_provider.cache_clear()
    yield monkeypatch
    probe_provider.cache_clear()


def lists(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS[name] for name in names])


def fails(*arguments: Any, **options: Any) -> Any:
    raise RuntimeError("the provider's own words")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_the_cpu_works_by_running_a_convolution() -> None:
    assert probe_provider("cpu").works
    assert "cpu" in working_providers()
    check_provider("cpu")


def test_a_provider_that_counts_wrong_does_not_work(fresh_probe: pytest.MonkeyPatch) -> None:
    class Wrong:
        def run(self, outputs: None, feeds: dict[str, Any]) -> list[Any]:
            return [np.full((1, 8, 6, 6), 26.0, np.float32)]

    fresh_probe.setattr(runtime, "open_session", lambda *arguments, **options: Wrong())
    assert not probe_provider("cpu").works
    with pytest.raises(DeviceError, match="wrong numbers"):
        check_provider("cpu")


def test_a_cpu_only_package_is_told_with_its_replacement(fresh_probe: pytest.MonkeyPatch) -> None:
    lists(fresh_probe, "cpu")
    fresh_probe.setattr(libraries, "runtime_packages", lambda: ("onnxruntime",))
    fresh_probe.setattr(sys, "platform", "linux")
    status = probe_provider("cuda")
    assert not status.works
    assert status.detail == "the installed package (onnxruntime) has no CUDAExecutionProvider"
    assert status.remedy == "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"


def test_macos_is_told_that_there_is_no_cuda(fresh_probe: pytest.MonkeyPatch) -> None:
    lists(fresh_probe, "cpu")
    fresh_probe.setattr(sys, "platform", "darwin")
    assert "macOS" in probe_provider("cuda").remedy


def describe_cuda(monkeypatch: pytest.MonkeyPatch, needed: list[Library], driver: CudaDriver | None) -> None:
    """A machine whose ONNX Runtime lists CUDA, cannot open a session on it, and has these libraries and this driver."""
    lists(monkeypatch, "cpu", "cuda")
    monkeypatch.setattr(libraries, "preload", lambda name: None)
    monkeypatch.setattr(libraries, "provider_libraries", lambda name: tuple(needed))
    monkeypatch.setattr(libraries, "load_error", lambda name: "")
    monkeypatch.setattr(runtime, "cuda_driver", lambda: driver)
    monkeypatch.setattr(runtime, "open_session", fails)


def test_missing_libraries_are_the_first_reason(fresh_probe: pytest.MonkeyPatch) -> None:
    curand = Library("libcurand.so.10", None, "package", bundled=False, lazy=False, package="nvidia-curand")
    describe_cuda(fresh_probe, [PRESENT, curand], None)
    status = probe_provider("cuda")
    assert (status.detail, status.remedy) == ("libcurand.so.10 not found", "pip install nvidia-curand")


def test_the_driver_is_the_next_reason(fresh_probe: pytest.MonkeyPatch) -> None:
    describe_cuda(fresh_probe, [PRESENT], CudaDriver((12, 4), HOPPER.gpus))
    status = probe_provider("cuda")
    assert status.detail == "the NVIDIA driver serves CUDA 12.4, CUDA 13 is needed"
    assert "580 or newer" in status.remedy


def test_the_loaders_words_come_after_the_driver(fresh_probe: pytest.MonkeyPatch) -> None:
    describe_cuda(fresh_probe, [PRESENT], HOPPER)
    fresh_probe.setattr(libraries, "load_error", lambda name: "version `GLIBCXX_3.4.32' not found")
    assert "GLIBCXX" in probe_provider("cuda").detail


def test_onnx_runtimes_own_words_are_the_last_resort(fresh_probe: pytest.MonkeyPatch) -> None:
    describe_cuda(fresh_probe, [PRESENT], HOPPER)
    assert probe_provider("cuda").detail == "the provider's own words"


def test_a_library_that_is_no_library_is_an_answer_and_no_crash(fresh_probe: pytest.MonkeyPatch) -> None:
    def damaged(name: str) -> None:
        raise DeviceError("libcurand.so.10 cannot be read", "Reinstall it")

    lists(fresh_probe, "cpu", "cuda")
    fresh_probe.setattr(libraries, "preload", damaged)
    assert probe_provider("cuda").remedy == "Reinstall it"


def test_tensorrt_needs_what_cuda_needs(fresh_probe: pytest.MonkeyPatch) -> None:
    def needed(name: str) -> tuple[Library, ...]:
        wanted = {"tensorrt": ("libnvinfer.so.10", "nst-fast[tensorrt]"), "cuda": ("libcurand.so.10", "nvidia-curand")}
        return (Library(wanted[name][0], None, "package", bundled=False, lazy=False, package=wanted[name][1]),)

    describe_cuda(fresh_probe, [], HOPPER)
    lists(fresh_probe, "cpu", "cuda", "tensorrt")
    fresh_probe.setattr(libraries, "provider_libraries", needed)
    assert probe_provider("tensorrt").remedy == "pip install 'nst-fast[tensorrt]' nvidia-curand"


def test_an_unknown_provider_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown provider 'gpu'"):
        probe_provider("gpu")


def test_a_session_on_another_provider_than_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime drops a provider that cannot load and goes on without it."""

    class Silent:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert options["enable_fallback"] == 0

        def get_providers(self) -> list[str]:
            return [PROVIDERS["cpu"]]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider was asked for"):
        open_session(b"", "cuda", SessionConfig(), strict=False)


def test_only_a_strict_gpu_session_forbids_the_cpu() -> None:
    entry = "session.disable_cpu_ep_fallback"
    assert SessionConfig().session_options(strict=True).get_session_config_entry(entry) == "1"
    assert SessionConfig().session_options(strict=False).get_session_config_entry(entry) == "0"


def test_threads_are_set_and_do_not_spin() -> None:
    options = SessionConfig(threads=3, deterministic=True).session_options(strict=False)
    assert options.intra_op_num_threads == 3
    assert options.use_deterministic_compute
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert SessionConfig().session_options(strict=False).intra_op_num_threads >= 1


def test_a_session_is_silent_even_if_the_default_log_is_turned_up_again() -> None:
    assert SessionConfig().session_options(strict=False).log_severity_level == runtime.FATAL


def test_denormals_are_zero_unless_every_bit_must_be_the_same() -> None:
    entry = "session.set_denormal_as_zero"
    assert SessionConfig().session_options(strict=False).get_session_config_entry(entry) == "1"
    assert SessionConfig(deterministic=True).session_options(strict=False).get_session_config_entry(entry) == "0"


def test_no_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="threads 0"):
        SessionConfig(threads=0)


def test_a_gpu_session_never_lists_the_cpu_and_tensorrt_stands_before_cuda() -> None:
    lists_of = {name: [full for full, _ in SessionConfig().provider_list(name, b"")] for name in PROVIDERS}
    assert lists_of["cuda"] == [PROVIDERS["cuda"]]
    assert lists_of["tensorrt"] == [PROVIDERS["tensorrt"], PROVIDERS["cuda"]]
    assert lists_of["cpu"] == [PROVIDERS["cpu"]]


@pytest.mark.parametrize(("mode", "flushes"), [("flush", True), ("keep", False)])
def test_opening_a_session_leaves_the_callers_arithmetic_alone(mode: str, flushes: bool) -> None:
    """ONNX Runtime's first session would make its thread flush denormals, or stop it: here, in both directions."""
    done = run_python(
        "import sys\nimport numpy as np\nimport torch\n"
        "from nst_fast.onnx import runtime\n"
        "def flushes():\n"
        "    return bool((np.full(9, 1e-40, np.float32) * np.ones(9, np.float32) == 0).all())\n"
        "torch.set_flush_denormal(sys.argv[1] == 'flush')\n"
        "before = flushes()\n"
        "session = runtime.open_session(runtime._convolution(), 'cpu', runtime.SessionConfig(threads=2), strict=True)\n"
        "session.run(None, {'image': np.ones((1, 3, 8, 8), np.float32)})\n"
        "print(before, flushes())\n",
        mode,
    )
    assert done.stdout == f"{flushes} {flushes}\n", done.stderr


def test_an_engine_key_holds_the_facts_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cuda_driver", lambda: HOPPER)
    monkeypatch.setattr(libraries, "tensorrt_version", lambda: "10.16.1.11")
    (tmp_path / "m.onnx").write_bytes(b"model")
    key = engine_key(str(tmp_path / "m.onnx"), TensorrtOptions(precision="fp16"))
    assert (key.gpu, key.sm, key.tensorrt, key.precision) == ("NVIDIA H200", 90, "10.16.1.11", "fp16")
    assert key.onnxruntime == onnxruntime.__version__
    assert key == engine_key(b"model", TensorrtOptions(precision="fp16"))
    assert key != engine_key(b"modem", TensorrtOptions(precision="fp16"))


@pytest.mark.parametrize(
    "text",
    ["Failed to allocate memory for requested buffer of size 99", "CUDA failure 2: out of memory", "std::bad_alloc"],
)
def test_a_full_memory_is_told_as_such(text: str) -> None:
    error = failure(RuntimeError(text), "the model cannot be run", "cuda")
    assert isinstance(error, OutOfMemoryError)
    assert error.exit_code == 7


def test_a_failure_of_the_gpu_is_the_devices_and_one_of_the_cpu_the_models() -> None:
    broken = RuntimeError("CUDA failure 719: unspecified launch failure")
    assert isinstance(failure(broken, "the model cannot be run", "cuda"), DeviceError)
    assert isinstance(failure(broken, "the model cannot be run", "cpu"), OnnxModelError)


def test_messages_lose_code_source_file_and_line_breaks() -> None:
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from a b.onnx failed:/onnxruntime_src/onnxruntime/core/graph/"
        "model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::ModelOptions&) "
        "Unsupported\n thing.\n"
    )
    assert one_line(RuntimeError(text)) == "Unsupported thing"


def test_without_onnx_runtime_the_error_is_ours_and_says_what_to_install() -> None:
    done = run_python(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from nst_fast.errors import DeviceError\n"
        "try:\n    import nst_fast.onnx.session\n"
        "except DeviceError as error:\n    sys.exit(0 if 'pip install' in error.remedy else 3)\n"
    )
    assert done.returncode == 0, done.stderr


def test_onnx_runtimes_log_never_reaches_the_terminal() -> None:
    """A request for a GPU that is not there makes ONNX Runtime log errors in colour; the one line is ours to write."""
    done = run_python(
        "from nst_fast.errors import DeviceError\n"
        "from nst_fast.onnx.session import PROVIDERS, make_session, probe_provider\n"
        "from nst_fast.onnx.runtime import _convolution\n"
        "for name in PROVIDERS:\n"
        "    probe_provider(name)\n"
        "    make_session(_convolution(), name, allow_fallback=True)\n"
        "for garbage in (b'', b'garbage'):\n"
        "    try:\n        make_session(garbage)\n"
        "    except Exception:\n        pass\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_probing_does_not_import_torch() -> None:
    done = run_python(
        "import sys\nfrom nst_fast.onnx.session import working_providers\nworking_providers()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr
