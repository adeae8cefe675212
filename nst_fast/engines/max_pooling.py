"""Max pooling of 2x2 that keeps no indices: the backward pass searches the maxima again.

PyTorch's indices take 8 bytes per cell, a sixth of what VGG-19 keeps in fp32 altogether; the search costs one more
pooling. On NVIDIA GPUs two Triton kernels do both passes, on a CPU that convolves with Numba's help one of Numba's.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, ceil_mode


class MaxPooling:
    """Of channels-last features [B, C, H, W] that are not negative.

    ``kernels``: Triton's, Numba's, or None for PyTorch's.
    """

    def __init__(self, kernels: ModuleType | None) -> None:
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """The largest of each window [B, C, H // 2, W // 2]."""
        return self.kernels.max_pool(x) if self.kernels else F.max_pool2d(x, 2)

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient [B, C, H, W] with respect to ``x``: all of a window's goes to its first maximum.

        With kernels it has passed the ReLU before the pooling too: it is 0 where ``x`` is 0.
        """
        if self.kernels:
            # Operators of torch.ops and kernels have no types.
            return self.kernels.max_pool_and_relu_backward(gradient, x)  # type: ignore[no-any-return]
        indices = F.max_pool2d_with_indices(x, [2, 2])[1]
        # Operators of torch.ops and kernels have no types.
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices)  # type: ignore[no-any-return]


def pooling_kernels(device: torch.device, *, kernels: bool, numba: bool) -> ModuleType | None:
    """Triton's on a GPU, if ``kernels``; Numba's on a CPU, where ``numba`` is in use anyway; None for PyTorch's own."""
    if numba:
        from nst_fast.engines import pooling_kernels

        return pooling_kernels
    return triton_kernels(device)[0] if kernels else None


def triton_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """The Triton kernels for a GPU; or None, and on a GPU the reason."""
    return working_kernels(device) if device.type == "cuda" else (None, "")


@functools.cache
def working_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """The Triton kernels if they give PyTorch's results on this device; or None, and the reason.

    Triton needs a C compiler, which not every machine has.
    """
    try:
        from nst_fast.engines import kernels

        x = torch.randn((1, 64, 7, 10), generator=torch.Generator().manual_seed(0)).relu()
        for dtype in (torch.float32, torch.bfloat16):
            compare(kernels, x.to(device, dtype))
    except Exception as error:  # any: a compiler that a library calls can fail in any way, and PyTorch works without
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"max pooling by PyTorch, which is slower: Triton does not work here ({said})"
    return kernels, ""


def compare(kernels: ModuleType, x: Tensor) -> None:
    """Raise RuntimeError when the kernels and PyTorch pool features [B, C, H, W] differently."""
    x = x.to(memory_format=torch.channels_last)
    pooled, indices = F.max_pool2d_with_indices(x, [2, 2])
    gradient = pooled.flip(1) - 1  # no random numbers: those of the GPU are the caller's
    expected = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices) * (x > 0)
    found = kernels.max_pool(x), kernels.max_pool_and_relu_backward(gradient, x)
    if not (torch.equal(found[0], pooled) and torch.equal(found[1], expected)):
        raise RuntimeError("its results differ from PyTorch's")
