"""The shared libraries of ONNX Runtime's GPU providers: where each resolves, what is missing and how to get it.

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
from nst_fast.options.providers import PROVIDERS, Provider
from nst_fast.system.machine import cuda_driver, driver_problem

TENSORRT = "tensorrt-cu13<11"  # as the extra tensorrt in pyproject.toml
# Library -> the package on PyPI that brings it, for CUDA 13; for CUDA 12 the names end in -cu12.
PACKAGES = {
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcudnn": "nvidia-cudnn-cu13",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvinfer": TENSORRT,
    "libnvinfer_plugin": TENSORRT,
    "libnvonnxparser": TENSORRT,
}
DRIVER = ("libcuda", "libnvidia-ml")  # come with the NVIDIA driver and from nowhere else
OLDEST_DRIVER = {12: 525, 13: 580}  # NVIDIA's CUDA compatibility guide
DEFAULT_CUDA = 13
SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
CANNOT_OPEN = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")


@dataclass(frozen=True)
class Library:
    """A shared library that a provider needs.

    Attributes:
        name: as the loader asks for it, ``libcurand.so.10``.
        path: where it resolves; None when it does not.
        package: the requirement that brings it; empty for the driver's libraries and the system's.
        bundled: it resolves inside an installed Python package.
    """

    name: str
    path: Path | None
    package: str = ""
    bundled: bool = False

    @property
    def of_driver(self) -> bool:
        return _stem(self.name) in DRIVER


@dataclass(frozen=True)
class SearchPaths:
    """Folders that are searched: those of installed Python packages, then those of the system."""

    packages: tuple[Path, ...]
    system: tuple[Path, ...]

    def find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.packages + self.system if (folder / name).is_file()), None)


@functools.cache
def search_paths() -> SearchPaths:
    """Where libraries are looked for on this machine."""
    packages = [
        folder for root in _package_roots("nvidia") for folder in sorted([*root.glob("*/lib"), *root.glob("lib")])
    ]
    return SearchPaths((*packages, *_package_roots("tensorrt_libs")), _system_folders())


def _package_roots(package: str) -> list[Path]:
    """The folders of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    return [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []


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


def provider_libraries(provider: str, search: SearchPaths | None = None) -> tuple[Library, ...]:
    """Every library that a GPU provider needs, each once: what it links, what those link, what it opens on first use.

    Empty where there is nothing to read: off Linux, and with a CPU-only ONNX Runtime.
    """
    file = provider_file(provider)
    if file is None:
        return ()
    search = search or search_paths()
    linked = needed(file)
    cuda = cuda_major(linked)
    # TensorRT leaves nodes to CUDA, so that it needs what CUDA opens, too.
    waiting = [*linked, "libcudnn.so.9", f"libcufft.so.{12 if cuda >= 13 else 11}", f"libnvrtc.so.{cuda}"]
    found: dict[str, Library] = {}
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            library = found[name] = resolve(name, search, cuda)
            if library.path and library.bundled:
                waiting += needed(library.path)
    return tuple(found.values())


def cuda_major(names: Iterable[str]) -> int:
    """The major version of CUDA that a provider is built for: that of the runtime library it links."""
    versions = (re.fullmatch(r"libcudart\.so\.(\d+)", name) for name in names)
    return next((int(match[1]) for match in versions if match), DEFAULT_CUDA)


def resolve(name: str, search: SearchPaths, cuda: int) -> Library:
    """Look for one library, for a provider built for this major version of CUDA."""
    package = PACKAGES.get(_stem(name), "")
    if cuda < 13 and package.startswith("nvidia-"):
        package = f"{package.removesuffix('-cu13')}-cu{cuda}"
    path = search.find(name)
    library = Library(name, path, package, bool(package) and path is not None and path.parent in search.packages)
    if path is None and not package and not library.of_driver:
        with contextlib.suppress(OSError):  # the folders of the C library differ from the usual ones (NixOS)
            ctypes.CDLL(name)
            return Library(name, Path(name))
    return library


def _stem(name: str) -> str:
    return name.partition(".so")[0]


def why_absent(row: Provider, built_in: Sequence[str]) -> tuple[str, str] | None:
    """That a provider is not installed and the remedy; None when it is.

    Args:
        built_in: ONNX Runtime's names of the providers in the installed build.
    """
    if sys.platform not in row.systems:
        exists = " and ".join(SYSTEMS[system] for system in row.systems)
        return f"there is none for {SYSTEMS.get(sys.platform, sys.platform)}, only for {exists}", "Use the provider cpu"
    if row.module and importlib.util.find_spec(row.module) is None:
        if not row.package:
            return f"there is no module {row.module}", "Install the package that has it"
        return f"{row.package} is not installed", f"pip install --no-deps {row.package}"  # no second ONNX Runtime
    if row.ep and row.ep not in built_in:
        packages = " ".join(runtime_packages())
        return f"the installed package ({packages}) has no {row.ep}", _replacement(packages, row.package)
    return None


def diagnosis(row: Provider, said: str) -> tuple[str, str]:
    """What keeps an installed provider from working, and the remedy.

    Args:
        said: ONNX Runtime's own words.
    """
    if row.memory != "cuda":
        lost = CANNOT_OPEN.search(said)
        detail, remedy = missing([resolve(lost[1], search_paths(), DEFAULT_CUDA)]) if lost else ("", "")
        return detail or said, remedy or f"It computes on {row.hardware}; use the provider cpu"
    needed_by = [library for name in dict.fromkeys((row.name, "cuda")) for library in provider_libraries(name)]
    libraries = list({library.name: library for library in needed_by}.values())
    detail, remedy = missing(libraries)
    if detail:
        return detail, remedy
    cuda = cuda_major(library.name for library in libraries)
    if problem := driver_problem(cuda_driver(), cuda):
        return problem, _driver_remedy(cuda)
    if problem := load_error(row.name):
        return problem, _reinstallation()
    return said, "`nst-fast doctor` shows more"


def runtime_remedy() -> str:
    """What to do when ONNX Runtime is not there or is broken: install it, again, or one of two that are installed."""
    installed = runtime_packages()
    wanted = PROVIDERS["cuda" if cuda_driver() else "cpu"].package
    if len(installed) == 1:
        return _reinstallation()
    return _replacement(" ".join(installed), wanted)


def two_runtimes() -> tuple[str, str]:
    """That two builds of ONNX Runtime are installed, and the remedy; both empty when there are not."""
    packages = runtime_packages()
    if len(packages) < 2:
        return "", ""
    return f"{' and '.join(packages)} are installed and overwrite each other", runtime_remedy()


def _replacement(packages: str, wanted: str) -> str:
    quoted = f"'{wanted}'" if "[" in wanted else wanted
    return f"pip uninstall -y {packages} && pip install {quoted}" if packages else f"pip install {quoted}"


def _reinstallation() -> str:
    return f"pip install --force-reinstall --no-deps {' '.join(runtime_packages())}"


def missing(libraries: Sequence[Library]) -> tuple[str, str]:
    """What does not resolve and how to get it, both in words; both empty when all is there."""
    lost = [library for library in libraries if library.path is None]
    names = [f"{library.name} (the NVIDIA driver)" if library.of_driver else library.name for library in lost]
    packages = dict.fromkeys(library.package for library in lost if library.package)
    quoted = [f"'{package}'" if set(package) & set("[<") else package for package in packages]
    remedies = [f"pip install {' '.join(quoted)}"] if quoted else []
    if any(library.of_driver for library in lost):
        remedies.append(_driver_remedy(cuda_major(library.name for library in libraries)))
    if any(not library.package and not library.of_driver for library in lost):
        remedies.append("Install the system's libraries with its package manager")
    listed = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return (f"{listed} not found" if names else "", ". ".join(remedies))


def _driver_remedy(cuda: int) -> str:
    oldest = OLDEST_DRIVER.get(cuda, max(OLDEST_DRIVER.values()))
    return f"Install the NVIDIA driver, {oldest} or newer, on a machine with an NVIDIA GPU, or use the provider cpu"


def preload(provider: str) -> None:
    """Load what a GPU provider needs from the installed packages, which the system's loader does not search.

    What fails to load is passed over: the provider fails for the same reason, and that failure is explained.
    """
    for library in reversed(provider_libraries(provider)):  # what is linked comes after what links it
        if library.bundled:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library.path))
    if provider == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt_libs")  # loads the builder's kernels too, which TensorRT opens by name


def load_error(provider: str) -> str:
    """The loader's message about a provider that does not load; empty when it does, or there is nothing to load."""
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
