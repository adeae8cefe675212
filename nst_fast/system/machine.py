"""What ran this: processor, memory, GPU and driver, versions, threads; and which PyTorch device a name stands for."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from nst_fast import __version__
from nst_fast.errors import DeviceError

if TYPE_CHECKING:
    import torch

MIB = 2**20
# What decides how fast convolutions run on a processor, as /proc/cpuinfo spells it (x86, then Arm).
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "bf16", "i8mm", "sve")
RECORDED_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow")
DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# CUdevice_attribute in NVIDIA's cuda.h.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
CUDA_ERROR_NO_DEVICE = 100
ACCELERATORS = ("cuda", "rocm", "mps", "xpu")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU; ``sm`` is its compute capability without the dot: 90 for a Hopper."""

    name: str
    sm: int
    memory_mib: int


@dataclass(frozen=True)
class CudaDriver:
    """The NVIDIA driver: the newest CUDA it serves, its GPUs, and cuInit's error code (0: none)."""

    cuda_version: tuple[int, int]
    gpus: tuple[Gpu, ...]
    error: int = 0


def cuda_driver(load: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver | None:
    """What the NVIDIA driver's library reports, without PyTorch and nvidia-smi; None where there is no driver."""
    try:
        library = load(DRIVER_LIBRARY)
    except OSError:
        return None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    version = (number.value // 1000, number.value % 1000 // 10)
    error = library.cuInit(0)
    if error:
        return CudaDriver(version, (), error)
    library.cuDeviceGetCount(ctypes.byref(number))
    return CudaDriver(version, tuple(_gpu(library, index) for index in range(number.value)))


def _gpu(library: Any, index: int) -> Gpu:
    device, value, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    library.cuDeviceGetAttribute(ctypes.byref(value), COMPUTE_CAPABILITY_MAJOR, device)
    major = value.value
    library.cuDeviceGetAttribute(ctypes.byref(value), COMPUTE_CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), 10 * major + value.value, memory.value // MIB)


def driver_problem(driver: CudaDriver | None, needed_cuda: int) -> str:
    """Why the driver cannot serve a library built for a major version of CUDA; empty when it can."""
    if driver is None:
        return f"{DRIVER_LIBRARY} (the NVIDIA driver) not found"
    if driver.cuda_version[0] < needed_cuda:
        return "the NVIDIA driver serves CUDA {}.{}, CUDA {} is needed".format(*driver.cuda_version, needed_cuda)
    if driver.error not in (0, CUDA_ERROR_NO_DEVICE):
        return f"the NVIDIA driver does not start (CUDA error {driver.error})"
    if not driver.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
        return f"the NVIDIA driver finds no GPU{hidden}"
    return ""


def version_of(package: str) -> str | None:
    """The installed version of a package, from its metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def physical_cores() -> int:
    """Cores that this process may use, without hyper-threads, which do not speed up convolutions."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return min(physical, len(os.sched_getaffinity(0))) if sys.platform == "linux" else physical


def describe_machine() -> dict[str, Any]:
    """Plain data for run records and benchmark rows; no user, host or path, because pictures carry their records."""
    import torch

    driver = cuda_driver()
    return {
        "os": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "cpu_flags": _cpu_flags(),
        "cores_physical": physical_cores(),
        "cores_logical": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // MIB,
        "python": platform.python_version(),
        "packages": {name: found for name in RECORDED_PACKAGES if (found := version_of(name))},
        "torch_cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
        "gpus": [asdict(gpu) for gpu in driver.gpus] if driver else [],
        # The NVIDIA driver's own number (580.65.06), which only its kernel module reports.
        "driver": _found(r"(\d{3}\.\d+(?:\.\d+)?)", "/proc/driver/nvidia/version"),
        "driver_cuda": "{}.{}".format(*driver.cuda_version) if driver else None,
        "nst_fast": __version__,
        "commit": git_commit(Path(__file__).parents[2]),
    }


def _found(pattern: str, path: str) -> str | None:
    """The first group of a pattern in a file of the kernel's."""
    try:
        match = re.search(pattern, Path(path).read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def _cpuinfo(key: str) -> str | None:
    return _found(rf"^{key}\s*:\s*(.+)$", "/proc/cpuinfo")


def cpu_model() -> str:
    if sys.platform == "darwin":
        return _output_of(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> list[str]:
    known = (_cpuinfo("flags") or _cpuinfo("Features") or "").split()
    return [flag for flag in CPU_FLAGS if flag in known]


def git_commit(checkout: Path) -> str | None:
    """The commit of a checkout, ending in ``-dirty`` when files differ from it; None without a ``.git`` right there,
    as for a package that is installed inside another repository.
    """
    if not (checkout / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(checkout)]
    return _output_of([*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])


def _output_of(command: list[str]) -> str | None:
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run([program, *command[1:]], check=True, capture_output=True, text=True, timeout=10)
    except subprocess.SubprocessError:
        return None
    return done.stdout.strip() or None


def has_own_memory(device: torch.device | str) -> bool:
    """Whether PyTorch's tensors on a device take memory that is not the host's."""
    return str(device).startswith(("cuda", "xpu"))


def device_name(device: torch.device) -> str:
    """What hardware a PyTorch device is."""
    import torch

    return torch.get_device_module(device).get_device_name(device) if has_own_memory(device) else cpu_model()


def peak_memory_mib(device: torch.device | str = "cpu") -> float:
    """The highest memory since the last reset, in MiB: of tensors on a GPU with its own, else of the process."""
    if has_own_memory(device):
        import torch

        return torch.accelerator.max_memory_allocated(device) / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    if sys.platform == "linux":
        # The kernel's VmHWM and not getrusage's maximum, because only VmHWM can be reset.
        if high := _found(r"VmHWM:\s*(\d+) kB", "/proc/self/status"):
            return int(high) / 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def reset_peak_memory(device: torch.device | str = "cpu") -> bool:
    """Start a new peak for :func:`peak_memory_mib`; False where the system has no way to do so."""
    if has_own_memory(device):
        import torch

        torch.accelerator.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def resolve_device(name: str) -> torch.device:
    """The PyTorch device of a name: auto (the best that exists), cpu, cuda, cuda:1, mps, xpu, or rocm for cuda on AMD.

    Raises:
        DeviceError: the name is unknown or this machine has no such device; the devices that exist are listed.
    """
    import torch

    present, reason = present_devices()
    if name == "auto":
        return torch.device(present[0])
    wanted = name.replace("rocm", "cuda", 1) if torch.version.hip else name
    wanted = f"{wanted}:0" if wanted in ("cuda", "xpu") else wanted
    if wanted in present:
        return torch.device(wanted)
    because = f": {reason}" if reason and name.startswith(ACCELERATORS) else ""
    raise DeviceError(f"device {name!r} is not available{because}", f"This machine has: {', '.join(present)}")


def present_devices() -> tuple[list[str], str]:
    """Device names, best first, and the reason if there is no GPU among them. PyTorch is built for one kind of GPU."""
    import torch

    accelerator = torch.accelerator.current_accelerator()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    kind = accelerator.type if accelerator else "cpu"
    if count:
        return ["mps", "cpu"] if kind == "mps" else [*(f"{kind}:{index}" for index in range(count)), "cpu"], ""
    warning = str(caught[0].message).partition("(Triggered")[0].strip() if caught else ""
    if not warning and not torch.version.cuda:
        warning = f"the installed PyTorch is built for {'rocm' if torch.version.hip else kind}"
    driver = driver_problem(cuda_driver(), int(torch.version.cuda.partition(".")[0])) if torch.version.cuda else ""
    return ["cpu"], driver or warning or "PyTorch finds no GPU"
