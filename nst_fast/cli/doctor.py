"""``nst-fast doctor``: what works on this machine, and what to install for the rest."""

from __future__ import annotations

from typing import Any

from nst_fast.cli.console import emit_result
from nst_fast.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Show versions, devices, and which ONNX Runtime providers really work; say how to get those that do not.

    Every provider that is installed is tried with a real convolution. Nothing is downloaded.
    """
    report = examine()
    emit_result({"schema": "nst-fast/doctor/1", **report}, *describe(report), as_json=as_json)


def examine() -> dict[str, Any]:
    """Everything the doctor looks at, as plain data."""
    from nst_fast.engines.checked_kernels import triton_kernels
    from nst_fast.onnx.libraries import provider_libraries, runtime_packages, two_runtimes
    from nst_fast.onnx.plugins import unlisted
    from nst_fast.onnx.session import probe_provider
    from nst_fast.options.providers import PROVIDERS
    from nst_fast.system.files import cache_dir
    from nst_fast.system.machine import describe_machine, resolve_device

    libraries = {
        name: [
            {"library": item.name, "found": str(item.path) if item.path else ""} for item in provider_libraries(name)
        ]
        for name in ("cuda", "tensorrt")
    }
    providers = [probe_provider(name) for name in (*PROVIDERS, *unlisted())]
    device = resolve_device("auto")
    return {
        "machine": describe_machine(),
        "device": str(device),
        "kernels": triton_kernels(device)[1] or ("work" if device.type == "cuda" else "none on this device"),
        "runtime_packages": list(runtime_packages()),
        "runtime_conflict": dict(zip(("detail", "remedy"), two_runtimes(), strict=True)),
        "providers": [{**vars(status), "works": status.works} for status in providers],
        "libraries": libraries,
        "cache": str(cache_dir()),
    }


def describe(report: dict[str, Any]) -> list[str]:
    """The report for people, one fact a line."""
    lines = [f"{key:<18} {value}" for key, value in report["machine"].items()]
    lines += [f"{key:<18} {report[key]}" for key in ("device", "kernels", "cache")] + [""]
    if conflict := report["runtime_conflict"]["detail"]:
        lines += [conflict, f"{'':<18} fix: {report['runtime_conflict']['remedy']}"]
    for status in report["providers"]:
        lines.append(f"provider {status['name']:<12} {status['state']}: {status['detail']}")
        if status["remedy"]:
            lines.append(f"{'':<18} fix: {status['remedy']}")
    return lines
