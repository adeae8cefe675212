"""A GPU of any kind as PyTorch would report it, on a machine that has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

MIB = 2**20


@dataclass
class FakeAccelerator:
    """What ``torch.accelerator`` reports.

    Attributes:
        build: what PyTorch is built for: ``cuda``, ``rocm``, ``mps``, ``xpu`` or ``cpu``.
        count: how many there are.
        calls: what was asked of them.
    """

    build: str
    count: int = 1
    calls: list[str] = field(default_factory=list)

    def install(self, patch: pytest.MonkeyPatch) -> FakeAccelerator:
        kind = "cuda" if self.build == "rocm" else self.build
        device = None if kind == "cpu" else torch.device(kind)
        answers = {
            "current_accelerator": lambda: device,
            "is_available": lambda: device is not None and self.count > 0,
            "device_count": lambda: self.count if device is not None else 0,
            "synchronize": lambda which: self.calls.append(f"synchronize {which}"),
            "reset_peak_memory_stats": lambda which: self.calls.append(f"reset {which}"),
            "max_memory_allocated": lambda which: 3 * MIB,
            "memory_allocated": lambda which: 2 * MIB,
            "get_memory_info": lambda which: (5 * MIB, 8 * MIB),
        }
        for name, answer in answers.items():
            patch.setattr(torch.accelerator, name, answer)
        named = SimpleNamespace(get_device_name=lambda which: f"a fake {self.build}")
        patch.setattr(torch, "get_device_module", lambda which: named)
        versions: dict[str, Any] = dict.fromkeys(("cuda", "hip", "xpu"))
        key = {"rocm": "hip"}.get(self.build, self.build)
        patch.setattr(torch, "version", SimpleNamespace(**{**versions, key: "13.2"}))
        return self
