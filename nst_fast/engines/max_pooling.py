"""Max pooling of 2x2 that keeps no indices: the backward pass searches the maxima again.

PyTorch's indices take 8 bytes per cell, a sixth of what VGG-19 keeps in fp32 altogether; the search costs one more
pooling. On NVIDIA GPUs two Triton kernels do both passes, on a CPU that convolves with Numba's help one of Numba's.
"""

from __future__ import annotations

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
        found: Tensor  # operators of torch.ops and kernels have no types
        if self.kernels:
            found = self.kernels.max_pool_and_relu_backward(gradient, x)
        else:
            indices = F.max_pool2d_with_indices(x, [2, 2])[1]
            found = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *WINDOW, indices)
        return found
