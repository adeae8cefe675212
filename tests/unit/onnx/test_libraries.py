"""What the GPU providers need, where it resolves on this machine, and how what is missing is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    resolve,
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
    assert {library.name for library in found if library.of_driver} == {"libcuda.so.1"}
    assert [library.name for library in found if library.package and not library.bundled] == []
    others = [library for library in found if not library.package and not library.of_driver]
    assert [library.name for library in others if library.path is None] == []
    # Opened on first use, not linked:
    assert {"libcudnn", "libcufft", "libnvrtc"} <= {library.name.partition(".")[0] for library in found}


@linux
@pytest.mark.parametrize(("stem", "package"), [("libcurand", "nvidia-curand"), ("libcudnn", "nvidia-cudnn")])
def test_a_hidden_library_is_missed_and_its_package_named(
    stem: str, package: str, cuda_file: Path, tmp_path: Path
) -> None:
    name = next(library.name for library in provider_libraries("cuda") if library.name.startswith(f"{stem}."))
    found = provider_libraries("cuda", hide(name, tmp_path))
    assert [library.name for library in found if library.package and library.path is None] == [name]
    detail, remedy = missing(found)
    assert name in detail
    assert remedy.startswith(f"pip install {package}")
    assert "\n" not in detail + remedy


@linux
def test_a_library_of_the_system_serves_but_is_not_bundled(cuda_file: Path) -> None:
    here = search_paths()
    found = provider_libraries("cuda", SearchPaths((), here.packages + here.system))
    curand = next(library for library in found if library.name.startswith("libcurand"))
    assert curand.path is not None
    assert not curand.bundled


@linux
def test_what_is_linked_is_read_from_the_files_in_turn_and_each_library_listed_once(cuda_file: Path) -> None:
    """The TensorRT provider links cuBLAS, and only cuBLAS links its light twin."""
    linked = needed(cuda_file.with_name("libonnxruntime_providers_tensorrt.so"))
    assert any(name.startswith("libcudart.so.") for name in linked)
    names = [library.name for library in provider_libraries("tensorrt")]
    assert len(names) == len(set(names))
    light = [name for name in names if name.startswith("libcublasLt")]
    assert light and not set(light) & set(linked)


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


CURAND = Library("libcurand.so.10", None, "nvidia-curand")


def test_all_that_is_missing_is_told_in_one_line() -> None:
    tensorrt = [Library(f"{name}.so.10", None, "tensorrt-cu13<11") for name in ("libnvinfer", "libnvonnxparser")]
    detail, remedy = missing([CURAND, *tensorrt, Library("libcuda.so.1", None)])
    assert detail == (
        "libcurand.so.10, libnvinfer.so.10, libnvonnxparser.so.10 and libcuda.so.1 (the NVIDIA driver) not found"
    )
    assert remedy.startswith("pip install nvidia-curand 'tensorrt-cu13<11'. Install the NVIDIA driver, 580 or newer")


def test_the_remedy_fits_what_is_missing() -> None:
    assert missing([Library("libcurand.so.10", Path("x"), "nvidia-curand")]) == ("", "")
    assert missing([CURAND]) == ("libcurand.so.10 not found", "pip install nvidia-curand")
    assert "package manager" in missing([Library("libstdc++.so.6", None)])[1]
    cuda12 = Library("libcudart.so.12", Path("x"), "nvidia-cuda-runtime-cu12")
    assert "525 or newer" in missing([cuda12, Library("libcuda.so.1", None)])[1]


@pytest.mark.parametrize(
    ("name", "cuda", "package"),
    [
        ("libcublasLt.so.13", 13, "nvidia-cublas"),
        ("libcublasLt.so.12", 12, "nvidia-cublas-cu12"),
        ("libcudart.so.13", 13, "nvidia-cuda-runtime"),
        ("libcudnn.so.9", 13, "nvidia-cudnn-cu13"),
        ("libcudnn.so.9", 12, "nvidia-cudnn-cu12"),
        ("libcurand.so.10", 13, "nvidia-curand"),
        ("libnvinfer.so.10", 13, "tensorrt-cu13<11"),
    ],
)
def test_packages_are_named_as_they_are_on_pypi(name: str, cuda: int, package: str) -> None:
    assert resolve(name, SearchPaths((), ()), cuda).package == package


@linux
def test_a_system_library_is_looked_for_by_the_loader_itself_too() -> None:
    nowhere = SearchPaths((), ())
    assert resolve("libc.so.6", nowhere, 13).path == Path("libc.so.6")
    for name in ("libno-such.so.1", "libcurand.so.10", "libcuda.so.1"):
        assert resolve(name, nowhere, 13).path is None


def test_the_cuda_version_is_that_of_the_linked_runtime() -> None:
    assert cuda_major(["libc.so.6", "libcudart.so.12"]) == 12
    assert cuda_major([]) == libraries.DEFAULT_CUDA


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
