"""Our Triton kernels against PyTorch's pooling, on the CPU: run with TRITON_INTERPRET=1. Prints a line at its end."""

from __future__ import annotations

import itertools
import sys

import torch

from nst_fast.engines import kernels
from nst_fast.engines.max_pooling import compare


def features(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """After a ReLU, many of them equal: which of two equal maxima has the gradient is part of the answer."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2
    return values.round().relu().to(dtype).to(memory_format=torch.channels_last)


def main() -> None:
    for dtype, batch, (height, width) in itertools.product(
        (torch.float32, torch.bfloat16), (1, 2), ((2, 2), (6, 8), (7, 5), (2, 41), (3, 3))
    ):
        compare(kernels, features((batch, 64, height, width), dtype))
    compare(kernels, features((1, 512, 5, 4), torch.float32))  # a row in several pieces
    one = torch.ones(1, 64, 4, 4).to(memory_format=torch.channels_last)
    one[0, 3, 1, 1] = float("nan")
    assert kernels.max_pool(one)[0, 3, 0, 0].isnan()
    sys.stdout.write("compared all\n")


if __name__ == "__main__":
    main()
