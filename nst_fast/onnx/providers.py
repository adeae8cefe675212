"""ONNX Runtime's execution providers: their names, their options, and the key of the TensorRT engine cache.

Pure: nothing here imports ONNX Runtime, so every option can be tested where no GPU is.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nst_fast.errors import ModelError, UsageError, nearest

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Who serves, best first, when a provider does not work and the user allowed a fallback.
FALLBACKS = {"cpu": (), "cuda": ("cpu",), "tensorrt": ("cuda", "cpu")}
PRECISIONS = ("fp32", "fp16", "bf16")

Shape = tuple[int, ...]


def check_provider_name(name: str) -> str:
    """The name, unchanged; an unknown one raises :class:`UsageError` with the nearest."""
    if name not in PROVIDERS:
        raise UsageError(f"unknown provider {name!r}", nearest(name, PROVIDERS) or f"Known are {', '.join(PROVIDERS)}")
    return name


@dataclass(frozen=True, kw_only=True)
class CudaOptions:
    """Options of the CUDA provider.

    Attributes:
        device_id: the GPU's number.
        prefer_nhwc: lay activations out as tensor cores like them; worth it with TF32 or fp16.
        max_workspace: let cuDNN choose algorithms that need much memory.
        cuda_graph: capture the graph and replay it; needs fixed shapes and addresses. Capture runs the model more
            than once (onnxruntime#32243): never bind an input and an output to one buffer.
        compute_stream: address of the CUDA stream to run on, so that work queued there by PyTorch is waited for.
    """

    device_id: int = 0
    prefer_nhwc: bool = False
    max_workspace: bool = True
    cuda_graph: bool = False
    compute_stream: int | None = None

    def as_ort(self, *, allow_tf32: bool) -> dict[str, str]:
        """The options as ONNX Runtime spells them."""
        options = {
            "device_id": str(self.device_id),
            "use_tf32": _flag(allow_tf32),
            "prefer_nhwc": _flag(self.prefer_nhwc),
            "cudnn_conv_use_max_workspace": _flag(self.max_workspace),
            "enable_cuda_graph": _flag(self.cuda_graph),
        }
        return options | _stream(self.compute_stream)


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that a TensorRT engine depends on. ONNX Runtime's own cache key leaves out the weights (onnxruntime#6455)
    and can mistake one static shape for another (#32254), so an engine of another model could be served."""

    model_sha256: str
    onnxruntime: str
    tensorrt: str
    gpu: str
    sm: int
    precision: str
    shapes: str

    def digest(self) -> str:
        """SHA-256 of the key, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """What the names of its engines begin with in the cache folder."""
        return f"nst_{self.digest()[:32]}"

    def kept_in(self, folder: Path) -> bool:
        """Whether an engine of this key is in the cache folder."""
        return next(folder.glob(f"{self.prefix}*.engine"), None) is not None


@dataclass(frozen=True, kw_only=True)
class TensorrtOptions:
    """Options of the TensorRT provider.

    Attributes:
        device_id: the GPU's number.
        precision: ``fp32``, or ``fp16`` or ``bf16`` where TensorRT finds it faster. TensorRT rounds even ``fp32`` to
            TF32 where that is faster; only the environment can forbid it, with NVIDIA_TF32_OVERRIDE=0.
        cache: folder of built engines and of the timing cache; None builds anew for every session.
        builder_level: 0 to 5; below 3 engines build faster and run slower.
        profile: input -> smallest, best and largest shape. TensorRT chooses its kernels for the best one.
        cuda_graph: capture the engine's launches and replay them; needs fixed shapes and addresses.
        compute_stream: address of the CUDA stream to run on.
    """

    device_id: int = 0
    precision: str = "fp32"
    cache: Path | None = None
    builder_level: int = 3
    profile: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)
    cuda_graph: bool = False
    compute_stream: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}", f"TensorRT builds {', '.join(PRECISIONS)}")
        if not 0 <= self.builder_level <= 5:
            raise UsageError(f"builder level {self.builder_level}: must be from 0 to 5")

    def shapes(self) -> str:
        """The profile as text, empty without one: what the engine key holds of it."""
        return "; ".join(f"{end}: {_shapes(self.profile, index)}" for index, end in enumerate(_ENDS) if self.profile)

    def as_ort(self, key: EngineKey | None) -> dict[str, str]:
        """The options as ONNX Runtime spells them; the key is needed when there is a cache folder."""
        options = {
            "device_id": str(self.device_id),
            "trt_fp16_enable": _flag(self.precision == "fp16"),
            "trt_bf16_enable": _flag(self.precision == "bf16"),
            "trt_builder_optimization_level": str(self.builder_level),
            "trt_cuda_graph_enable": _flag(self.cuda_graph),
        }
        if self.profile:
            options |= {f"trt_profile_{end}_shapes": _shapes(self.profile, index) for index, end in enumerate(_ENDS)}
        if self.cache is not None and key is not None:
            folder = str(engine_cache_dir(self.cache))
            options |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": folder,
                "trt_engine_cache_prefix": key.prefix,
                "trt_timing_cache_enable": "1",  # shared by all engines: it spares most of the next build
                "trt_timing_cache_path": folder,
            }
        return options | _stream(self.compute_stream)


_ENDS = ("min", "opt", "max")


def _flag(value: bool) -> str:
    return str(int(value))


def _stream(address: int | None) -> dict[str, str]:
    return {} if address is None else {"has_user_compute_stream": "1", "user_compute_stream": str(address)}


def _shapes(profile: Mapping[str, tuple[Shape, Shape, Shape]], end: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shapes[end]))}" for name, shapes in sorted(profile.items()))


def engine_cache_dir(folder: Path) -> Path:
    """The folder, made for its owner alone (0700). An engine is a program: who can write here can run code as us.

    Raises:
        ModelError: the folder belongs to somebody else, or others could write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix":
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ModelError(
                f"engine cache {folder} can be written by others", "Delete it, or choose another cache folder"
            )
        folder.chmod(0o700)
    return folder
