"""``nst-fast doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from typing import Any

from nst_fast.cli.console import emit, emit_json
from nst_fast.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Show versions, devices, and which ONNX Runtime providers really work; say how to get those that do not.

    Every provider is tried with a real convolution. Nothing is downloaded.
    """
    report = examine()
    if as_json:
        emit_json({"schema": "nst-fast/doctor/1", **report})
        return
    for line in describe(report):
        emit(line)


def examine() -> dict[str, Any]:
    """Everything the doctor looks at, as plain data."""
    from nst_fast.engines.checked_kernels import triton_kernels
    from nst_fast.onnx.libraries import provider_libraries, runtime_packages
    from nst_fast.onnx.session import probe_provider
    from nst_fast.options.config import PROVIDERS
    from nst_fast.system.files import cache_dir
    from nst_fast.system.machine import describe_machine, resolve_device

    providers = [probe_provider(name) for name in PROVIDERS]
    libraries = {
        name: [
            {"library": item.name, "found": str(item.path) if item.path else ""} for item in provider_libraries(name)
        ]
        for name in ("cuda", "tensorrt")
    }
    device = resolve_device("auto")
    return {
        "machine": describe_machine(),
        "device": str(device),
        "kernels": triton_kernels(device)[1] or ("work" if device.type == "cuda" else "none on this device"),
        "runtime_packages": list(runtime_packages()),
        "providers": [vars(status) for status in providers],
        "libraries": libraries,
        "cache": str(cache_dir()),
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The report for people, one fact a line."""
    lines = [f"{key:<18} {value}" for key, value in report["machine"].items()]
    lines += [f"{key:<18} {report[key]}" for key in ("device", "kernels", "cache")] + [""]
    for status in report["providers"]:
        verdict = "works" if status["works"] else "does not work"
        lines.append(f"provider {status['name']:<9} {verdict}: {status['detail']}")
        if status["remedy"]:
            lines.append(f"{'':<18} fix: {status['remedy']}")
    return lines
