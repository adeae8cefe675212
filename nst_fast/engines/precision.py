"""Precisions of convolutions and features: their names, their types in PyTorch, and the devices that compute them.

There is no float16: squared features overflow it (jcjohnson/neural-style#425); bfloat16 has float32's range at the
same speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def usable_precisions(device: torch.device) -> list[str]:
    """The precisions with hardware support, the widest first. On a CPU, bf16 needs AVX512-BF16, AMX or the like."""
    if device.type == "cuda":
        modern = torch.cuda.get_device_capability(device) >= (8, 0)
        return ["fp32", "tf32", "bf16"] if modern else ["fp32"]
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ["fp32", "bf16"]
    return ["fp32"]


def set_float32_arithmetic(precision: str) -> None:
    """Let NVIDIA GPUs multiply float32 in TF32 for the precision ``tf32``, and exactly for every other.

    PyTorch's convolutions default to TF32. The newer ``fp32_precision`` is no alternative: once it is set to "ieee",
    torch.export fails on reading the older flag (2.15).
    """
    cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


@contextmanager
def float32_arithmetic(precision: str) -> Iterator[None]:
    """:func:`set_float32_arithmetic` for as long as the block lasts."""
    before = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        set_float32_arithmetic(precision)
        yield
    finally:
        cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
