"""The options of a run as small as it gets, and options as flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TINY: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu1_2",
    "style_taps": "relu1_1",
    "image_size": 24,
    "steps": 2,
    "engine": "eager",
    "precision": "fp32",
    "monitor_every": 0,
    "device": "cpu",
}
# Through a pool, and with two style layers.
DEEPER = TINY | {"content_taps": "relu2_1", "style_taps": "relu1_1,relu2_1", "image_size": 32}


def flags(options: Mapping[str, Any] = TINY, **changes: Any) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in {**options, **changes}.items())
