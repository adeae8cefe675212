"""Plugins: execution providers in packages of their own, which any ONNX Runtime since 1.24 takes.

ONNX Runtime ignores a plugin that is named in ``providers=[...]`` and computes on the CPU: a session must be given its
devices. Nothing is imported or registered before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from nst_fast.errors import DeviceError
from nst_fast.options.providers import MODULE, PLUGIN, PROVIDERS, Provider


def unlisted() -> list[str]:
    """The names ``plugin:NAME`` of installed plugins that have no row."""
    rows = {row.module for row in PROVIDERS.values()}
    found = {module.name for module in pkgutil.iter_modules() if module.name.startswith(MODULE)}
    return [f"{PLUGIN}:{name.removeprefix(MODULE)}" for name in sorted(found - rows)]


@functools.cache
def register(module_name: str) -> str:
    """Register a plugin for the life of the process.

    Returns:
        ONNX Runtime's name of its execution provider.

    Raises:
        DeviceError: its module is none of a plugin, or cannot be imported.
    """
    import onnxruntime

    try:
        module = importlib.import_module(module_name)
        name, path = (str(_function(module, what)()) for what in ("ep_name", "library_path"))
    # Broad, because the module is anybody's.
    except Exception as error:
        raise DeviceError(f"module {module_name} is no plugin that works: {error}", "Install it again") from error
    onnxruntime.register_execution_provider_library(name, path)  # by this name: some plugins take it as their own
    return name


def _function(module: Any, what: str) -> Any:
    return getattr(module, f"get_{what}", None) or getattr(module, what)


def find_device(row: Provider, number: int = 0) -> Any:
    """ONNX Runtime's ``OrtEpDevice`` to compute on: of the plugin's best kind, the one of this number.

    Raises:
        DeviceError: the plugin finds none.
    """
    import onnxruntime

    name = register(row.module)
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    for kind in row.kinds:
        suitable = [device for device in found if device.device.type.name == kind]
        if number < len(suitable):
            return suitable[number]
    others = ", ".join(dict.fromkeys(device.device.type.name for device in found))
    wanted = " or ".join(row.kinds) + (f" of number {number}" if number else "")
    detail = f"it finds no {wanted} here" + (f" (only {others})" if others else "")
    raise DeviceError(detail, f"It computes on {row.hardware}; use the provider cpu")
