"""Which shared libraries ONNX Runtime's GPU providers need, where each resolves, and what to install if one does not.

Read from the files themselves (ELF, Linux only): ONNX Runtime lists a provider as available even when its libraries
cannot load, and then runs on the CPU with no more than a line in a log.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.errors import DeviceError

# Library -> the package on PyPI that brings it, for CUDA 13; for CUDA 12 the names end in -cu12.
PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcudnn": "nvidia-cudnn-cu13",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvinfer": "nst-fast[tensorrt]",
    "libnvinfer_plugin": "nst-fast[tensorrt]",
    "libnvonnxparser": "nst-fast[tensorrt]",
}
DRIVER = ("libcuda", "libnvidia-ml")  # come with the NVIDIA driver and from nowhere else
OLDEST_DRIVER = {12: 525, 13: 580}  # NVIDIA's CUDA compatibility guide
DEFAULT_CUDA = 13


@dataclass(frozen=True)
class Library:
    """A shared library that a provider needs.

    Attributes:
        name: as the loader asks for it, ``libcurand.so.10``.
        path: where it resolves; None when it does not.
        owner: who should supply it: a ``package``, the ``driver`` or the ``system``.
        bundled: it resolves inside an installed Python package.
        lazy: not linked, but opened by the provider when it is first needed.
        package: the requirement to install when it is missing; empty for the driver's and the system's.
    """

    name: str
    path: Path | None
    owner: str
    bundled: bool
    lazy: bool
    package: str


@dataclass(frozen=True)
class SearchPaths:
    """Folders that are searched: those of installed Python packages, then those of the system."""

    packages: tuple[Path, ...]
    system: tuple[Path, ...]

    def find(self, name: str, *, packages: bool = True) -> Path | None:
        folders = self.packages + self.system if packages else self.system
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


@functools.cache
def search_paths() -> SearchPaths:
    """Where libraries are looked for on this machine."""
    return SearchPaths(_package_folders(), _system_folders())


def _package_folders() -> tuple[Path, ...]:
    """``nvidia/**/lib`` and ``tensorrt_libs`` of every installed package, without importing any."""
    found: list[Path] = []
    nvidia = importlib.util.find_spec("nvidia")
    for root in (nvidia.submodule_search_locations or []) if nvidia else []:
        found += sorted({*Path(root).glob("*/lib"), *Path(root).glob("lib")})
    tensorrt = importlib.util.find_spec("tensorrt_libs")
    found += [Path(root) for root in (tensorrt.submodule_search_locations or [])] if tensorrt else []
    return tuple(found)


def _system_folders() -> tuple[Path, ...]:
    """The loader's own folders: LD_LIBRARY_PATH, its cache, and its defaults."""
    folders = [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    ldconfig = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if ldconfig:
        cache = subprocess.run([ldconfig, "-p"], check=False, capture_output=True, text=True).stdout
        folders += [Path(path).parent for path in re.findall(r"=> (/.+)$", cache, re.MULTILINE)]
    folders += [Path(folder) for folder in ("/lib64", "/usr/lib64", "/lib", "/usr/lib")]
    return tuple(dict.fromkeys(folders))


def needed(path: Path) -> tuple[str, ...]:
    """The libraries that a shared library is linked against (its ELF NEEDED entries), in order."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            segments = ELFFile(file).iter_segments("PT_DYNAMIC")
            return tuple(tag.needed for segment in segments for tag in segment.iter_tags("DT_NEEDED"))
    except (ELFError, OSError) as error:
        raise DeviceError(f"{path.name} cannot be read: {error}", "Reinstall the package it came with") from error


def provider_file(provider: str) -> Path | None:
    """The library of a GPU provider (``cuda``, ``tensorrt``) in the installed ONNX Runtime, which is not imported."""
    spec = importlib.util.find_spec("onnxruntime")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    return path if path.is_file() else None


def provider_libraries(
    provider: str, *, search: SearchPaths | None = None, file: Path | None = None
) -> tuple[Library, ...]:
    """Every library that a provider needs, each once: what it links, what those link, and what it opens lazily.

    Empty where there is nothing to read: off Linux, and with a CPU-only ONNX Runtime. The arguments are for tests.
    """
    file = file or provider_file(provider)
    if file is None:
        return ()
    search = search or search_paths()
    linked = needed(file)
    cuda = cuda_major(linked)
    found: dict[str, Library] = {}
    waiting = [(name, False) for name in linked] + [(name, True) for name in _lazy(provider, cuda)]
    while waiting:
        name, lazy = waiting.pop(0)
        if name not in found:
            library = _resolve(name, search, cuda, lazy)
            found[name] = library
            if library.path and library.bundled:
                waiting += [(name, lazy) for name in needed(library.path)]
    return tuple(found.values())


def cuda_major(names: Iterable[str]) -> int:
    """The major version of CUDA that a provider was built for, told by the runtime library it links."""
    versions = (re.fullmatch(r"libcudart\.so\.(\d+)", name) for name in names)
    return next((int(match[1]) for match in versions if match), DEFAULT_CUDA)


def _lazy(provider: str, cuda: int) -> tuple[str, ...]:
    """What the CUDA provider opens on first use; TensorRT falls back to CUDA, so it needs the same."""
    if provider not in ("cuda", "tensorrt"):
        return ()
    return ("libcudnn.so.9", f"libcufft.so.{12 if cuda >= 13 else 11}", f"libnvrtc.so.{cuda}")


def _resolve(name: str, search: SearchPaths, cuda: int, lazy: bool) -> Library:
    stem = name.partition(".so")[0]
    if stem in PACKAGES:
        path = search.find(name)
        bundled = path is not None and path.parent in search.packages
        return Library(name, path, "package", bundled, lazy, _package(stem, cuda))
    if stem in DRIVER:
        return Library(name, search.find(name, packages=False), "driver", False, lazy, "")
    return Library(name, search.find(name) or _loadable(name), "system", False, lazy, "")


def _package(stem: str, cuda: int) -> str:
    package = PACKAGES[stem]
    if cuda >= 13 or not package.startswith("nvidia-"):
        return package
    return f"{package.removesuffix('-cu13')}-cu{cuda}"


def _loadable(name: str) -> Path | None:
    """The C library and its kin, where the folders differ from the usual (NixOS): the loader itself is asked."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    return Path(name)


def missing(libraries: Sequence[Library]) -> tuple[str, str]:
    """What does not resolve and how to get it, both in words; both empty when all is there."""
    lost = [library for library in libraries if library.path is None]
    names = [f"{library.name} (the NVIDIA driver)" if library.owner == "driver" else library.name for library in lost]
    packages = dict.fromkeys(library.package for library in lost if library.package)
    remedies = [f"pip install {' '.join(map(_quoted, packages))}"] if packages else []
    if any(library.owner == "driver" for library in lost):
        remedies.append(driver_remedy(cuda_major(library.name for library in libraries)))
    if any(library.owner == "system" for library in lost):
        remedies.append("Install the system's libraries with its package manager")
    return (f"{_listed(names)} not found" if names else "", ". ".join(remedies))


def driver_remedy(cuda: int) -> str:
    oldest = OLDEST_DRIVER.get(cuda, max(OLDEST_DRIVER.values()))
    return f"Install the NVIDIA driver, {oldest} or newer, on a machine with an NVIDIA GPU, or use the provider cpu"


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if "[" in requirement else requirement


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def preload(provider: str) -> None:
    """Load what a provider needs out of the installed packages, which the loader would not search by itself.

    What fails to load is passed over: the provider will fail for the same reason, and that failure is explained.
    """
    for library in reversed(provider_libraries(provider)):  # what is linked comes after what links it
        if library.bundled:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library.path))
    if provider == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt_libs")  # loads the builder's kernels too, which TensorRT opens by name


def load_error(provider: str) -> str:
    """The loader's own words about a provider that does not load; empty when it does, or there is nothing to load."""
    file = provider_file(provider)
    if file is None:
        return ""
    try:
        ctypes.CDLL(str(file.with_name("libonnxruntime_providers_shared.so")), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(file))
    except OSError as error:
        return str(error)
    return ""


@functools.cache
def runtime_packages() -> tuple[str, ...]:
    """The installed packages that write the module ``onnxruntime``; when there are two, one overwrote the other."""
    return tuple(sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", []))))


def tensorrt_version() -> str:
    """The version of the TensorRT that the provider loads; empty when there is none."""
    library = next((item for item in provider_libraries("tensorrt") if item.name.startswith("libnvinfer.so")), None)
    if library is None or library.path is None:
        return ""
    if not library.bundled:
        return library.path.resolve().name  # the system's file carries it: libnvinfer.so.10.16.1
    packages = importlib.metadata.packages_distributions().get("tensorrt_libs", [])
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(packages))
