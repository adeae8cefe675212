"""Precisions of convolutions and features: what they are called, what they are in PyTorch, what a device can do.

float16 is left out on purpose: squared features overflow it, and NaN in every layer is what users of other programs
report (jcjohnson/neural-style#425); bfloat16 has float32's range at the same speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def usable_precisions(device: torch.device) -> list[str]:
    """What the device computes natively, the widest first. ``bf16`` on a CPU needs AVX512-BF16, AMX or their like."""
    if device.type == "cuda":
        modern = torch.cuda.get_device_capability(device) >= (8, 0)
        return ["fp32", "tf32", "bf16"] if modern else ["fp32"]
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ["fp32", "bf16"]
    return ["fp32"]


def set_float32_arithmetic(kind: str) -> None:
    """Let NVIDIA GPUs multiply float32 as ``ieee`` or as ``tf32`` says, until told otherwise.

    PyTorch's convolutions default to tf32, so that "fp32" is not what it says unless this is called. The newer
    ``fp32_precision`` would be finer, but once it says "ieee" torch.export fails on reading the older flag (2.15).
    """
    cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"


@contextmanager
def float32_arithmetic(kind: str) -> Iterator[None]:
    """:func:`set_float32_arithmetic` for as long as the block lasts."""
    before = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        set_float32_arithmetic(kind)
        yield
    finally:
        cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
