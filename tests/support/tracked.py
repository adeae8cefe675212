"""A run of six steps that trackers and films follow: its options, and the same as flags."""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu1_2",
    "style_taps": "relu1_1",
    "image_size": 24,
    "steps": 6,
    "monitor_every": 0,
    "engine": "eager",
    "precision": "fp32",
    "device": "cpu",
    "log_every": 2,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
