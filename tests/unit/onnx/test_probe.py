"""A provider works when it has run a convolution; if it does not, the reason and the remedy are named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from processes import python

from nst_fast.errors import DeviceError, UsageError
from nst_fast.onnx import libraries
from nst_fast.onnx import session as session_module
from nst_fast.onnx.libraries import Library
from nst_fast.onnx.session import check_provider, make_session, probe_provider
from nst_fast.options.providers import PROVIDERS
from nst_fast.system.machine import CudaDriver, Gpu

HOPPER = CudaDriver((13, 2), (Gpu("NVIDIA H200", 90, 143_000),))
OLD = CudaDriver((12, 4), HOPPER.gpus)
PRESENT = Library("libcudart.so.13", Path("x"), "nvidia-cuda-runtime", bundled=True)
CURAND = Library("libcurand.so.10", None, "nvidia-curand")
NVINFER = Library("libnvinfer.so.10", None, "tensorrt-cu13<11")


class Machine:
    """Replaces what the probe finds on this machine: what ONNX Runtime lists, libraries, driver, platform."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def lists(self, *names: str) -> None:
        self.patch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDERS[name].ep for name in names])

    def fails(self, driver: CudaDriver | None, *cuda: Library, tensorrt: tuple[Library, ...] = ()) -> None:
        """No session opens on a GPU; these libraries are needed, and this driver is there."""

        def refuse(*arguments: Any, **options: Any) -> Any:
            raise RuntimeError("the provider's own words")

        self.lists(*PROVIDERS)
        needed = {"cuda": cuda, "tensorrt": tensorrt}
        self.patch.setattr(libraries, "preload", lambda name: None)
        self.patch.setattr(libraries, "provider_libraries", needed.__getitem__)
        self.patch.setattr(libraries, "load_error", lambda name: "")
        self.patch.setattr(libraries, "cuda_driver", lambda: driver)
        self.patch.setattr(session_module, "open_session", refuse)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    probe_provider.cache_clear()
    yield Machine(monkeypatch)
    probe_provider.cache_clear()


def test_the_cpu_works_by_running_a_convolution() -> None:
    assert probe_provider("cpu").works
    check_provider("cpu")


def test_a_provider_that_counts_wrong_does_not_work(machine: Machine) -> None:
    class Wrong:
        def run(self, outputs: None, feeds: dict[str, Any]) -> list[Any]:
            return [np.full((1, 8, 6, 6), 26.0, np.float32)]

    machine.patch.setattr(session_module, "open_session", lambda *arguments, **options: Wrong())
    assert not probe_provider("cpu").works
    with pytest.raises(DeviceError, match="wrong numbers"):
        check_provider("cpu")


def test_a_cpu_only_package_is_told_with_its_replacement(machine: Machine) -> None:
    machine.lists("cpu")
    machine.patch.setattr(libraries, "runtime_packages", lambda: ("onnxruntime",))
    machine.patch.setattr(sys, "platform", "linux")
    status = probe_provider("cuda")
    assert status.state == "absent"
    assert status.detail == "the installed package (onnxruntime) has no CUDAExecutionProvider"
    assert status.remedy == "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"


@pytest.mark.parametrize(
    ("system", "name", "detail"),
    [
        ("darwin", "cuda", "there is none for macOS, only for Linux and Windows"),
        ("linux", "mlx", "there is none for Linux, only for macOS"),
        ("win32", "migraphx", "there is none for Windows, only for Linux"),
    ],
)
def test_a_provider_of_another_system_is_absent(system: str, name: str, detail: str, machine: Machine) -> None:
    machine.lists("cpu")
    machine.patch.setattr(sys, "platform", system)
    status = probe_provider(name)
    assert (status.state, status.detail, status.remedy) == ("absent", detail, "Use the provider cpu")


def test_of_two_builds_the_doctor_says_which_to_remove(machine: Machine) -> None:
    machine.patch.setattr(libraries, "runtime_packages", lambda: ("onnxruntime", "onnxruntime-gpu"))
    for driver, wanted in ((None, "onnxruntime"), (HOPPER, "'onnxruntime-gpu[cuda,cudnn]'")):
        machine.patch.setattr(libraries, "cuda_driver", lambda driver=driver: driver)
        assert libraries.two_runtimes() == (
            "onnxruntime and onnxruntime-gpu are installed and overwrite each other",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {wanted}",
        )
    machine.patch.setattr(libraries, "runtime_packages", lambda: ("onnxruntime",))
    assert libraries.two_runtimes() == ("", "")


@pytest.mark.parametrize(
    ("driver", "library", "loader", "detail", "remedy"),
    [
        (None, CURAND, "wrong version", "libcurand.so.10 not found", "pip install nvidia-curand"),
        (OLD, PRESENT, "wrong version", "the NVIDIA driver serves CUDA 12.4, CUDA 13 is needed", "580 or newer"),
        (HOPPER, PRESENT, "version `GLIBCXX_3.4.32' not found", "GLIBCXX_3.4.32", ""),
        (HOPPER, PRESENT, "", "the provider's own words", ""),
    ],
    ids=["libraries", "driver", "loader", "ONNX Runtime"],
)
def test_of_several_reasons_the_first_is_given(
    driver: CudaDriver | None, library: Library, loader: str, detail: str, remedy: str, machine: Machine
) -> None:
    machine.fails(driver, library)
    machine.patch.setattr(libraries, "load_error", lambda name: loader)
    status = probe_provider("cuda")
    assert detail in status.detail
    assert remedy in status.remedy


def test_tensorrt_needs_what_cuda_needs(machine: Machine) -> None:
    machine.fails(HOPPER, CURAND, tensorrt=(NVINFER,))
    assert probe_provider("tensorrt").remedy == "pip install 'tensorrt-cu13<11' nvidia-curand"


def test_a_library_that_is_no_library_is_an_answer_and_no_crash(machine: Machine) -> None:
    def damaged(name: str) -> None:
        raise DeviceError("libcurand.so.10 cannot be read", "Reinstall it")

    machine.lists("cpu", "cuda")
    machine.patch.setattr(libraries, "preload", damaged)
    assert probe_provider("cuda").remedy == "Reinstall it"


def test_an_unknown_provider_is_a_usage_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"unknown provider 'tensor_rt'\. Did you mean tensorrt"):
        probe_provider("tensor_rt")
    with pytest.raises(UsageError, match="unknown provider"):
        make_session(b"", "tensor_rt", allow_fallback=True)


@pytest.mark.parametrize(("mode", "flushes"), [("flush", True), ("keep", False)])
def test_opening_a_session_leaves_the_callers_arithmetic_alone(mode: str, flushes: bool) -> None:
    """ONNX Runtime's first session would make its thread flush denormals, or stop it: here, in both directions."""
    done = python(
        "-c",
        "import sys\nimport numpy as np\nimport torch\n"
        "from nst_fast.onnx.session import convolution, make_session\n"
        "def flushes():\n"
        "    return bool((np.full(9, 1e-40, np.float32) * np.ones(9, np.float32) == 0).all())\n"
        "torch.set_flush_denormal(sys.argv[1] == 'flush')\n"
        "before = flushes()\n"
        "make_session(convolution()).run(np.ones((1, 3, 8, 8), np.float32))\n"
        "print(before, flushes())\n",
        mode,
    )
    assert done.stdout == f"{flushes} {flushes}\n", done.stderr


def test_without_onnx_runtime_the_error_is_ours_and_says_what_to_install() -> None:
    done = python(
        "-c",
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from nst_fast.errors import DeviceError\n"
        "try:\n    import nst_fast.onnx.session\n"
        "except DeviceError as error:\n    sys.exit(0 if 'pip install' in error.remedy else 3)\n",
    )
    assert done.returncode == 0, done.stderr


def test_onnx_runtimes_log_never_reaches_the_terminal_and_torch_is_not_imported() -> None:
    """A request for a GPU that is not there makes ONNX Runtime log errors in colour; the one line is ours to write."""
    done = python(
        "-c",
        "import sys\n"
        "from nst_fast.onnx.session import convolution, make_session\n"
        "from nst_fast.options.providers import PROVIDERS\n"
        "for name in PROVIDERS:\n"
        "    make_session(convolution(), name, allow_fallback=True)\n"
        "for garbage in (b'', b'garbage'):\n"
        "    try:\n        make_session(garbage)\n"
        "    except Exception:\n        pass\n"
        "sys.exit('torch' in sys.modules)\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
