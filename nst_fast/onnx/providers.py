"""The options of ONNX Runtime's execution providers, and the folder of the TensorRT engine cache.

Pure: nothing here imports ONNX Runtime, so every option can be tested where no GPU is.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nst_fast.errors import ModelError
from nst_fast.options.providers import PROVIDERS, Provider

# Options of the CUDA provider that go together. TF32's convolutions are fast in NHWC alone (onnxruntime#17200), and
# bias is added within a convolution by cuDNN's frontend, which writes memory more often in NCHW (onnxruntime#19470).
TENSOR_CORES = ("use_tf32", "prefer_nhwc", "fuse_conv_bias")

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """What decides how a session computes, whatever its model.

    Attributes:
        threads: threads within an operator, on the CPU; by default one for each physical core.
        deterministic: choose only operators that give the same bits every time.
        device_id: the GPU's number.
        cuda_graph: capture the launches and replay them; needs fixed shapes and addresses. Capture runs the model more
            than once (onnxruntime#32243): never bind an input and an output to one buffer.
        compute_stream: address of the CUDA stream to run on, so that work queued there by PyTorch is waited for.
        precision: ``tf32`` lets the CUDA provider multiply in TF32, with all of :data:`TENSOR_CORES`. Of TensorRT's
            engine: ``fp32``, or ``fp16`` where TensorRT finds it faster. TensorRT rounds even ``fp32`` to TF32 where
            that is faster; only the environment can forbid it, with NVIDIA_TF32_OVERRIDE=0.
        engine_cache: folder of TensorRT's engines and timings; None builds an engine for every session.
        profile: input -> smallest, best and largest shape. TensorRT chooses its kernels for the best one.
    """

    threads: int | None = None
    deterministic: bool = False
    device_id: int = 0
    cuda_graph: bool = False
    compute_stream: int | None = None
    precision: str = "fp32"
    engine_cache: Path | None = None
    profile: Mapping[str, tuple[Shape, Shape, Shape]] = field(default_factory=dict)

    def options(self, row: Provider, engine: str = "") -> dict[str, str]:
        """The options of a provider; ``engine``: how TensorRT's is called in the cache, if there is a cache."""
        own: dict[str, Callable[[], dict[str, str]]] = {
            "cuda": self.cuda,
            "tensorrt": lambda: self.tensorrt(engine),
            "dml": lambda: {"device_id": str(self.device_id)},
            PROVIDERS["tensorrt-rtx"].module: self.tensorrt_rtx,
            PROVIDERS["openvino"].module: self.openvino,
        }
        return {**own.get(row.module or row.name, dict)(), **row.options}

    def cuda(self) -> dict[str, str]:
        """The options of the CUDA provider. TF32 is off unless asked for, so that fp32 means fp32."""
        return {
            **self._device(),
            **dict.fromkeys(TENSOR_CORES, _flag(self.precision == "tf32")),
            "cudnn_conv_use_max_workspace": "1",
            "enable_cuda_graph": _flag(self.cuda_graph),
        }

    def tensorrt(self, engine: str) -> dict[str, str]:
        """The options of the TensorRT provider."""
        options = {
            **self._device(),
            "trt_fp16_enable": _flag(self.precision == "fp16"),
            "trt_builder_optimization_level": "3",  # below 3 engines build faster and run slower
            "trt_cuda_graph_enable": _flag(self.cuda_graph),
        }
        options |= {f"trt_profile_{end}_shapes": shapes for end, shapes in self._profile().items()}
        if self.engine_cache is not None and engine:
            folder = str(engine_cache_dir(self.engine_cache))
            options |= {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": folder,
                "trt_engine_cache_prefix": engine,
                "trt_timing_cache_enable": "1",  # shared by all engines: it saves most of the next build
                "trt_timing_cache_path": folder,
            }
        return options

    def tensorrt_rtx(self) -> dict[str, str]:
        """The options of TensorRT for RTX, which takes its precision from the graph and keeps what it has compiled."""
        options = {f"nv_profile_{end}_shapes": shapes for end, shapes in self._profile().items()}
        if self.engine_cache is not None:
            options["nv_runtime_cache_path"] = str(engine_cache_dir(self.engine_cache))
        return options

    def openvino(self) -> dict[str, str]:
        """The options of OpenVINO. fp32 means fp32: left alone it computes in bf16 where a processor has that, whatever
        its option ``precision`` says.
        """
        hints: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}
        threads = {"INFERENCE_NUM_THREADS": self.threads} if self.threads else {}
        return {"load_config": json.dumps({"CPU": hints | threads, "GPU": hints})}

    def shapes(self) -> str:
        """The profile as text, empty without one: its part of an engine's name."""
        return "; ".join(f"{end}: {shapes}" for end, shapes in self._profile().items())

    def _device(self) -> dict[str, str]:
        options = {"device_id": str(self.device_id)}
        if self.compute_stream is not None:
            options |= {"has_user_compute_stream": "1", "user_compute_stream": str(self.compute_stream)}
        return options

    def _profile(self) -> dict[str, str]:
        """``min``, ``opt`` and ``max`` -> the shapes of all inputs as TensorRT reads them."""
        inputs = sorted(self.profile.items())
        return {
            end: ",".join(f"{name}:{'x'.join(map(str, shapes[index]))}" for name, shapes in inputs)
            for index, end in enumerate(("min", "opt", "max") if inputs else ())
        }


def _flag(value: bool) -> str:
    return str(int(value))


def engine_cache_dir(folder: Path) -> Path:
    """The folder, made for its owner alone (0700): an engine is a program, so whoever writes here can run code.

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
