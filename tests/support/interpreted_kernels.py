"""Our Triton kernels against PyTorch, on the CPU: run with TRITON_INTERPRET=1. Prints a line at its end.

Products are compared in fp16: Triton's interpreter multiplies the bits of bf16 as if they were whole numbers (3.8).
"""

from __future__ import annotations

import itertools
import sys

import torch

from nst_fast.engines import kernels
from nst_fast.engines.checked_kernels import compare_pooling, compare_seed, some_features


def features(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """After a ReLU, many of them equal: which of two equal maxima has the gradient is part of the answer."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2
    return values.round().relu().to(dtype).to(memory_format=torch.channels_last)


def main() -> None:
    for dtype, batch, (height, width) in itertools.product(
        (torch.float32, torch.bfloat16), (1, 2), ((2, 2), (6, 8), (7, 5), (2, 41), (3, 3))
    ):
        compare_pooling(kernels, features((batch, 64, height, width), dtype))
    compare_pooling(kernels, features((1, 512, 5, 4), torch.float32))  # a row in several pieces
    for shape in ((1, 64, 3, 5), (2, 128, 9, 17), (2, 512, 4, 3)):
        compare_seed(kernels, some_features(shape, torch.float16))
    one = torch.ones(1, 64, 4, 4).to(memory_format=torch.channels_last)
    one[0, 3, 1, 1] = float("nan")
    assert kernels.max_pool(one)[0, 3, 0, 0].isnan()
    sys.stdout.write("compared all\n")


if __name__ == "__main__":
    main()
