from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT

from nst_fast.errors import DeviceError
from nst_fast.onnx import libraries
from nst_fast.onnx.libraries import (
    Library,
    SearchPaths,
    cuda_major,
    load_error,
    missing,
    needed,
    provider_file,
    provider_libraries,
    runtime_packages,
    search_paths,
    tensorrt_version,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="libraries are read from ELF files: Linux only")


@pytest.fixture
def cuda_file() -> Path:
    file = provider_file("cuda")
    if file is None:
        pytest.skip(f"the installed ONNX Runtime ({', '.join(runtime_packages())}) has no CUDA provider")
    return file


def hide(name: str, folder: Path) -> SearchPaths:
    """The search paths of this machine, where one library is not installed and the system has none of CUDA's."""
    for source in (file for root in search_paths().packages for file in root.iterdir()):
        if source.name != name and not (folder / source.name).exists():
            (folder / source.name).symlink_to(source)
    system = tuple(root for root in search_paths().system if not (root / name).exists())
    return SearchPaths((folder,), system)


@linux
def test_every_library_of_the_cuda_provider_is_installed_but_the_drivers_own(cuda_file: Path) -> None:
    """The promise of the base install: on Linux, an NVIDIA driver and `pip install nst-fast` are enough for CUDA."""
    found = provider_libraries("cuda")
    assert {library.name for library in found if library.owner == "driver"} == {"libcuda.so.1"}
    unresolved = [library.name for library in found if library.owner == "package" and not library.bundled]
    assert unresolved == []
    assert [library.name for library in found if library.owner == "system" and library.path is None] == []


@linux
def test_what_the_cuda_provider_opens_lazily_is_installed_too(cuda_file: Path) -> None:
    lazy = {library.name.partition(".")[0]: library for library in provider_libraries("cuda") if library.lazy}
    assert {"libcudnn", "libcufft", "libnvrtc"} <= lazy.keys()
    assert all(library.bundled for library in lazy.values())


@linux
@pytest.mark.parametrize(("stem", "package"), [("libcurand", "nvidia-curand"), ("libcudnn", "nvidia-cudnn")])
def test_a_hidden_library_is_missed_and_its_package_named(
    stem: str, package: str, cuda_file: Path, tmp_path: Path
) -> None:
    name = next(library.name for library in provider_libraries("cuda") if library.name.startswith(f"{stem}."))
    found = provider_libraries("cuda", search=hide(name, tmp_path))
    assert [library.name for library in found if library.owner == "package" and library.path is None] == [name]
    detail, remedy = missing(found)
    assert name in detail
    assert remedy.startswith(f"pip install {package}")
    assert "\n" not in detail + remedy


@linux
def test_a_library_of_the_system_serves_but_is_not_bundled(cuda_file: Path) -> None:
    here = search_paths()
    found = provider_libraries("cuda", search=SearchPaths((), here.packages + here.system))
    curand = next(library for library in found if library.name.startswith("libcurand"))
    assert curand.path is not None
    assert not curand.bundled


@linux
def test_the_provider_and_what_it_links_are_read_from_the_files(cuda_file: Path) -> None:
    names = needed(cuda_file)
    assert "libcuda.so.1" in names
    assert any(name.startswith("libcudart.so.") for name in names)


@linux
def test_each_library_is_listed_once(cuda_file: Path) -> None:
    names = [library.name for library in provider_libraries("tensorrt")]
    assert len(names) == len(set(names)) > 0


@linux
def test_what_a_library_links_in_its_turn_is_needed_too(cuda_file: Path) -> None:
    """The TensorRT provider links cuBLAS, and only cuBLAS links its light twin."""
    file = cuda_file.with_name("libonnxruntime_providers_tensorrt.so")
    assert not any(name.startswith("libcublasLt") for name in needed(file))
    assert any(library.name.startswith("libcublasLt") for library in provider_libraries("tensorrt"))


@linux
def test_after_preloading_only_the_driver_can_be_missing(cuda_file: Path) -> None:
    code = "from nst_fast.onnx.libraries import *\npreload('cuda')\nprint(load_error('cuda'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n" or done.stdout.startswith("libcuda.so.1:")


def test_the_cpu_provider_needs_no_library_of_its_own() -> None:
    assert provider_libraries("cpu") == ()
    assert load_error("cpu") == ""


def test_off_linux_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert provider_file("cuda") is None
    assert provider_libraries("cuda") == ()


def test_a_file_that_is_no_library_is_told(tmp_path: Path) -> None:
    (tmp_path / "libfake.so.1").write_bytes(b"not a library")
    with pytest.raises(DeviceError, match=r"libfake\.so\.1 cannot be read"):
        needed(tmp_path / "libfake.so.1")


def library(name: str, *, package: str = "", owner: str = "package", path: Path | None = None) -> Library:
    return Library(name, path, owner, bundled=False, lazy=False, package=package)


def test_all_that_is_missing_is_told_in_one_line() -> None:
    curand = library("libcurand.so.10", package="nvidia-curand")
    nvinfer = library("libnvinfer.so.10", package="nst-fast[tensorrt]")
    parser = replace(nvinfer, name="libnvonnxparser.so.10")
    driver = library("libcuda.so.1", owner="driver")
    detail, remedy = missing([curand, nvinfer, parser, driver])
    assert detail == (
        "libcurand.so.10, libnvinfer.so.10, libnvonnxparser.so.10 and libcuda.so.1 (the NVIDIA driver) not found"
    )
    assert remedy.startswith("pip install nvidia-curand 'nst-fast[tensorrt]'. Install the NVIDIA driver, 580 or newer")


def test_nothing_is_said_when_nothing_is_missing() -> None:
    assert missing([library("libcurand.so.10", package="nvidia-curand", path=Path("x"))]) == ("", "")


def test_a_missing_system_library_has_a_remedy_of_its_own() -> None:
    assert "package manager" in missing([library("libstdc++.so.6", owner="system")])[1]


def test_the_driver_asked_for_is_that_of_the_cuda_version() -> None:
    runtime = library("libcudart.so.12", package="nvidia-cuda-runtime-cu12", path=Path("x"))
    assert "525 or newer" in missing([runtime, library("libcuda.so.1", owner="driver")])[1]


@pytest.mark.parametrize(
    ("name", "cuda", "package"),
    [
        ("libcublasLt.so.13", 13, "nvidia-cublas"),
        ("libcublasLt.so.12", 12, "nvidia-cublas-cu12"),
        ("libcudart.so.13", 13, "nvidia-cuda-runtime"),
        ("libcudnn.so.9", 13, "nvidia-cudnn-cu13"),
        ("libcudnn.so.9", 12, "nvidia-cudnn-cu12"),
        ("libcurand.so.10", 13, "nvidia-curand"),
        ("libnvinfer.so.10", 13, "nst-fast[tensorrt]"),
    ],
)
def test_packages_are_named_as_they_are_on_pypi(name: str, cuda: int, package: str) -> None:
    assert libraries._resolve(name, SearchPaths((), ()), cuda, lazy=False).package == package


def test_the_cuda_version_is_that_of_the_linked_runtime() -> None:
    assert cuda_major(["libc.so.6", "libcudart.so.12"]) == 12
    assert cuda_major([]) == libraries.DEFAULT_CUDA


def test_the_remedies_are_extras_or_dependencies_of_this_project() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'tensorrt = ["tensorrt-cu13' in pyproject
    assert "onnxruntime-gpu[cuda,cudnn]" in pyproject


@linux
def test_tensorrt_has_a_version_exactly_when_it_is_there(cuda_file: Path) -> None:
    found = {item.name.partition(".")[0]: item for item in provider_libraries("tensorrt")}
    assert bool(tensorrt_version()) == (found["libnvinfer"].path is not None)


@linux
def test_a_systems_tensorrt_is_versioned_by_its_file(
    cuda_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(name for name in needed(cuda_file.with_name("libonnxruntime_providers_tensorrt.so")) if "infer" in name)
    (tmp_path / f"{name}.16.1").touch()
    (tmp_path / name).symlink_to(f"{name}.16.1")
    monkeypatch.setattr(libraries, "search_paths", lambda: SearchPaths((), (tmp_path,)))
    assert tensorrt_version() == f"{name}.16.1"


def test_exactly_one_onnx_runtime_is_installed() -> None:
    assert len(runtime_packages()) == 1
