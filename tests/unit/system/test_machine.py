from __future__ import annotations

import ctypes
import json
import mmap
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_accelerator import FakeAccelerator
from places import ROOT

from nst_fast.errors import DeviceError
from nst_fast.memory.planner import free_memory
from nst_fast.system import machine
from nst_fast.system.machine import (
    CudaDriver,
    Gpu,
    cuda_driver,
    describe_machine,
    device_name,
    driver_problem,
    git_commit,
    peak_memory_mib,
    reset_peak_memory,
    resolve_device,
)

HOPPER = Gpu("NVIDIA H200", 90, 143_000)


def fake_driver(error: int = 0) -> Any:
    """The functions of libcuda that are asked, answering for one Hopper."""

    def answer(pointer: Any, value: int) -> int:
        pointer._obj.value = value
        return 0

    def answer_name(name: Any, length: int, device: ctypes.c_int) -> int:
        name.value = HOPPER.name.encode()[:length]
        return 0

    return SimpleNamespace(
        cuDriverGetVersion=lambda version: answer(version, 13020),
        cuInit=lambda flags: error,
        cuDeviceGetCount=lambda count: answer(count, 1),
        cuDeviceGet=answer,
        cuDeviceGetName=answer_name,
        cuDeviceTotalMem_v2=lambda memory, device: answer(memory, HOPPER.memory_mib * 2**20),
        cuDeviceGetAttribute=lambda value, attribute, device: answer(value, {75: 9, 76: 0}[attribute]),
    )


def absent(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_driver_reports_its_cuda_version_and_its_gpus_or_its_fault() -> None:
    assert cuda_driver(lambda name: fake_driver()) == CudaDriver((13, 2), (HOPPER,))
    assert cuda_driver(lambda name: fake_driver(error=803)) == CudaDriver((13, 2), (), 803)
    assert cuda_driver(absent) is None


@pytest.mark.parametrize(
    ("driver", "problem"),
    [
        (None, "(the NVIDIA driver) not found"),
        (CudaDriver((12, 4), (HOPPER,)), "the NVIDIA driver serves CUDA 12.4, CUDA 13 is needed"),
        (CudaDriver((13, 0), (), 803), "the NVIDIA driver does not start (CUDA error 803)"),
        (CudaDriver((13, 0), (), 100), "the NVIDIA driver finds no GPU"),
        (CudaDriver((13, 0), ()), "the NVIDIA driver finds no GPU"),
        (CudaDriver((14, 0), (HOPPER,)), ""),
    ],
)
def test_each_fault_of_the_driver_is_named(driver: CudaDriver | None, problem: str) -> None:
    found = driver_problem(driver, 13)
    assert found.endswith(problem) and bool(found) == bool(problem)


def test_hidden_gpus_are_named_as_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in driver_problem(CudaDriver((13, 0), (), 100), 13)


def test_the_description_is_json_with_hardware_and_versions_and_without_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    description = describe_machine()
    assert json.loads(json.dumps(description)) == description
    assert torch.__version__.startswith(description["packages"]["torch"].partition("+")[0])
    assert description["cores_physical"] >= 1
    assert description["memory_mib"] > 256
    assert description["cpu"]
    text = json.dumps(description)
    assert str(Path.home()) not in text
    assert str(Path(machine.__file__).parents[2]) not in text
    monkeypatch.setattr(machine, "cuda_driver", lambda: CudaDriver((13, 2), (HOPPER,)))
    description = describe_machine()
    assert description["gpus"] == [{"name": "NVIDIA H200", "sm": 90, "memory_mib": 143_000}]
    assert description["driver_cuda"] == "13.2"


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_physical_cores_obey_the_affinity_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from nst_fast.system.machine import *"
    code += "; raise SystemExit(physical_cores())"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository of one commit, with a folder inside."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "file").write_text("one")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    return tmp_path


def test_only_a_sound_checkout_itself_has_a_commit_and_a_changed_one_is_dirty(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert len(str(git_commit(checkout))) == 40
    assert git_commit(checkout / "site-packages") is None
    assert machine.describe_machine()["commit"] == git_commit(ROOT)
    (checkout / "file").write_text("another")
    assert str(git_commit(checkout)).endswith("-dirty")
    broken = tmp_path_factory.mktemp("broken")
    (broken / ".git").mkdir()
    assert git_commit(broken) is None


def test_a_peak_can_be_reset_on_linux() -> None:
    with mmap.mmap(-1, 64 * machine.MIB) as block:  # what malloc is given back may stay in the process
        block.write(b"x" * len(block))
        high = peak_memory_mib()
    if not reset_peak_memory():
        pytest.skip("this system cannot reset the peak")
    assert peak_memory_mib() < high - 32


@pytest.mark.parametrize(
    ("build", "own"), [("cuda", True), ("rocm", True), ("xpu", True), ("mps", False), ("cpu", False)]
)
def test_memory_and_name_are_the_gpus_where_it_has_memory_of_its_own(
    build: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeAccelerator(build).install(monkeypatch)
    device = resolve_device("auto")
    assert (peak_memory_mib(device) == 3.0) == own
    assert (free_memory(str(device)) == 5 * machine.MIB) == own
    assert (device_name(device) == f"a fake {build}") == own
    reset_peak_memory(device)
    assert fake.calls == ([f"reset {device}"] if own else [])


@pytest.mark.parametrize(
    ("build", "names", "expected"),
    [
        ("cuda", ["auto", "cuda", "cuda:0"], "cuda:0"),
        ("rocm", ["auto", "rocm", "rocm:0", "cuda"], "cuda:0"),
        ("xpu", ["auto", "xpu", "xpu:0"], "xpu:0"),
        ("mps", ["auto", "mps"], "mps"),
        ("cpu", ["auto", "cpu"], "cpu"),
    ],
)
def test_a_name_is_the_device_that_pytorch_is_built_for(
    build: str, names: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeAccelerator(build).install(monkeypatch)
    assert {resolve_device(name) for name in names} == {torch.device(expected)}
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("kind", ["cuda", "rocm", "xpu"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_gpu_has_a_number(kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeAccelerator(kind, count).install(monkeypatch)
    assert resolve_device(f"{kind}:{count - 1}").index == count - 1
    with pytest.raises(DeviceError, match=rf"device '{kind}:{count}' is not available\. This machine has: \w+:0,"):
        resolve_device(f"{kind}:{count}")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "rocm", "mps", "xpu", "gpu", ""])
@pytest.mark.parametrize("build", ["cuda", "rocm", "xpu", "mps", "cpu"])
def test_a_device_that_is_not_there_lists_those_that_are(
    build: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeAccelerator(build, 0).install(monkeypatch)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="This machine has: cpu") as caught:
        resolve_device(name)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    if build != "cuda" and name not in ("gpu", ""):
        assert f"the installed PyTorch is built for {build}" in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "reason"),
    [(None, "the NVIDIA driver"), (CudaDriver((13, 2), (HOPPER,)), r"CUDA initialization: broken\. This machine has")],
)
def test_a_missing_driver_or_what_pytorch_warns_about_is_the_reason_given(
    driver: CudaDriver | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: broken (Triggered internally at x.cpp:1)", stacklevel=1)
        return False

    FakeAccelerator("cuda").install(monkeypatch)
    monkeypatch.setattr(torch.accelerator, "is_available", unavailable)
    monkeypatch.setattr(machine, "cuda_driver", lambda: driver)
    with pytest.raises(DeviceError, match=reason):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_driver_and_pytorch_see_the_same_gpu() -> None:
    driver = cuda_driver()
    properties = torch.cuda.get_device_properties(0)
    assert driver is not None
    assert driver.gpus[0].name == properties.name
    assert driver.gpus[0].sm == 10 * properties.major + properties.minor
    assert driver.gpus[0].memory_mib == pytest.approx(properties.total_memory / machine.MIB, rel=0.05)
