"""Max pooling of 2x2, which keeps nothing for its way back: the maxima are looked for again.

PyTorch keeps 8 bytes per cell to remember where a maximum was, a sixth of what VGG-19 keeps in fp32 altogether. To
look again costs one more pooling. On NVIDIA GPUs two kernels of our own do both without an index.
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

    Attributes:
        kernels: ours, or None where PyTorch's own work.
    """

    def __init__(self, device: torch.device, *, own: bool = True) -> None:
        self.kernels = own_kernels(device)[0] if own else None

    def forward(self, x: Tensor) -> Tensor:
        """The largest of each window [B, C, H // 2, W // 2]."""
        return self.kernels.max_pool(x) if self.kernels else F.max_pool2d(x, 2)

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient [B, C, H, W] of what was pooled: the first maximum of a window has it all.

        Where ``kernels`` is set, no part of it goes to where ``x`` is 0, as if it had gone through the ReLU as well.
        """
        if self.kernels:
            return self.kernels.max_pool_and_relu_backward(gradient, x)  # type: ignore[no-any-return]
        indices = F.max_pool2d_with_indices(x, [2, 2])[1]
        return torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices)  # type: ignore[no-any-return]


def own_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """Our kernels; or None, and on a GPU why not."""
    return tried_kernels(device) if device.type == "cuda" else (None, "")


@functools.cache
def tried_kernels(device: torch.device) -> tuple[ModuleType | None, str]:
    """Our kernels, once they have done on this device what PyTorch's do; or None, and what went wrong.

    Triton compiles them there and needs a C compiler, which not every machine has.
    """
    try:
        from nst_fast.engines import kernels

        x = torch.randn((1, 64, 7, 10), generator=torch.Generator().manual_seed(0)).relu()
        for dtype in (torch.float32, torch.bfloat16):
            _compare(kernels, x.to(device, dtype))
    # Broad: a compiler that is called by a library can fail in any way, and PyTorch can do without.
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"max pooling by PyTorch, which is slower: Triton does not work here ({said})"
    return kernels, ""


def _compare(kernels: ModuleType, x: Tensor) -> None:
    """Raises RuntimeError when our kernels and PyTorch's pool features [B, C, H, W] differently."""
    x = x.to(memory_format=torch.channels_last)
    pooled, indices = F.max_pool2d_with_indices(x, [2, 2])
    gradient = torch.randn_like(pooled)
    expected = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices) * (x > 0)
    found = kernels.max_pool(x), kernels.max_pool_and_relu_backward(gradient, x)
    if not (torch.equal(found[0], pooled) and torch.equal(found[1], expected)):
        raise RuntimeError("its results differ from PyTorch's")
