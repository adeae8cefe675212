"""ONNX Runtime's execution providers, a row each. Standard library only.

Built-in providers are part of a build of ONNX Runtime, of which one can be installed; plugins are packages of their
own, and any build takes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nst_fast.errors import UsageError, nearest

PLUGIN = "plugin"
PLUGIN_NAME = re.compile(rf"{PLUGIN}:([\w.-]+)(?::([^=,:]+=[^,]*(?:,[^=,:]+=[^,]*)*))?")
MODULE = "onnxruntime_ep_"  # how the modules of plugins begin
KIND = "device"  # the key of a plugin that is ours: the kind of device to use


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider.

    Attributes:
        name: ours; of a plugin without a row, what was asked for.
        package: the requirement that brings it; empty where it is not known.
        hardware: what it computes on.
        ep: ONNX Runtime's name of a built-in provider; a plugin tells its own.
        module: of a plugin; empty for a built-in provider.
        systems: values of ``sys.platform`` that the package exists for.
        kinds: of devices that a plugin may use, the best first.
        memory: ``cuda`` where sessions share PyTorch's tensors on a GPU; ``cpu`` where they take and give what is in
            the host's memory, and ONNX Runtime copies.
        fallbacks: what computes, best first, when it does not work and the user allowed a fallback.
        options: that are always set.
    """

    name: str
    package: str
    hardware: str
    ep: str = ""
    module: str = ""
    systems: tuple[str, ...] = ("linux", "win32", "darwin")
    kinds: tuple[str, ...] = ("GPU",)
    memory: str = "cpu"
    fallbacks: tuple[str, ...] = ("cpu",)
    options: Mapping[str, str] = field(default_factory=dict)


_PC = ("linux", "win32")
_CUDA = Provider(
    name="cuda",
    ep="CUDAExecutionProvider",
    package="onnxruntime-gpu[cuda,cudnn]",
    hardware="an NVIDIA GPU",
    systems=_PC,
    memory="cuda",
)

PROVIDERS = {
    row.name: row
    for row in (
        Provider(name="cpu", ep="CPUExecutionProvider", package="onnxruntime", hardware="any processor", fallbacks=()),
        _CUDA,
        replace(_CUDA, name="tensorrt", ep="TensorrtExecutionProvider", fallbacks=("cuda", "cpu")),
        Provider(
            name="tensorrt-rtx",
            package="onnxruntime-ep-nv-tensorrt-rtx-cu13",
            hardware="an NVIDIA RTX GPU",
            module="onnxruntime_ep_nv_tensorrt_rtx",
            systems=_PC,
            fallbacks=("cuda", "cpu"),
        ),
        Provider(
            name="openvino",
            package="onnxruntime-ep-openvino",
            hardware="an Intel GPU or processor",
            module="onnxruntime_ep_openvino",
            systems=_PC,
            kinds=("GPU", "CPU"),
        ),
        Provider(
            name="webgpu",
            package="onnxruntime-ep-webgpu",
            hardware="a GPU with a driver for Vulkan, Direct3D 12 or Metal",
            module="onnxruntime_ep_webgpu",
        ),
        Provider(
            name="qnn",
            package="onnxruntime-qnn",
            hardware="a Qualcomm processor",
            module="onnxruntime_qnn",
            systems=_PC,
            kinds=("NPU", "GPU", "CPU"),
        ),
        Provider(
            name="mlx",
            package="onnxruntime-ep-mlx",
            hardware="Apple silicon",
            module="onnxruntime_ep_mlx",
            systems=("darwin",),
        ),
        Provider(
            name="coreml",
            ep="CoreMLExecutionProvider",
            package="onnxruntime",
            hardware="Apple silicon",
            systems=("darwin",),
            options={"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},  # the rest computes in fp16
        ),
        Provider(
            name="dml",
            ep="DmlExecutionProvider",
            package="onnxruntime-directml",
            hardware="a GPU with Direct3D 12",
            systems=("win32",),
        ),
        Provider(
            name="migraphx",
            ep="MIGraphXExecutionProvider",
            package="onnxruntime-migraphx",
            hardware="an AMD GPU with ROCm",
            systems=("linux",),
        ),
    )
}


def find_provider(name: str) -> Provider:
    """The row of a provider; one is made for ``plugin:NAME[:KEY=VALUE,...]``.

    NAME is that of a plugin's module, which may lack ``onnxruntime_ep_``. KEY ``device`` is the kind of device, all
    others are the plugin's own. Raises :class:`UsageError` where there is none of the name.
    """
    if name in PROVIDERS:
        return PROVIDERS[name]
    match = PLUGIN_NAME.fullmatch(name)
    if match is None:
        known = (*PROVIDERS, f"{PLUGIN}:NAME[:KEY=VALUE,...]")
        raise UsageError(f"unknown provider {name!r}", nearest(name, PROVIDERS) or f"Known are {', '.join(known)}")
    module = match[1].replace("-", "_")
    module = module if module.startswith("onnxruntime_") else MODULE + module
    plugin = Provider(
        name=name,
        package="",
        hardware="a device of its own",
        module=module,
        kinds=("GPU", "NPU", "CPU"),
    )
    row = next((row for row in PROVIDERS.values() if row.module == module), plugin)
    given = dict(pair.split("=", 1) for pair in match[2].split(",")) if match[2] else {}
    kinds = (given.pop(KIND).upper(),) if KIND in given else row.kinds
    return replace(row, name=name, kinds=kinds, options={**row.options, **given})
