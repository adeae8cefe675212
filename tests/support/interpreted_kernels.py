"""Our Triton kernels against PyTorch, on the CPU: run with TRITON_INTERPRET=1. Prints a line at its end.

Products are compared in fp16: Triton's interpreter multiplies the bits of bf16 as if they were whole numbers (3.8).
"""

from __future__ import annotations

import itertools
import sys

import torch

from nst_fast.engines import checked_kernels, fast_network, kernels
from nst_fast.engines.checked_kernels import compare_pooling, compare_seed, compare_total_variation, some_features
from nst_fast.engines.fast import FastEvaluator
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import ObjectiveOptions


def features(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """After a ReLU, many of them equal: which of two equal maxima has the gradient is part of the answer."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2
    return values.round().relu().to(dtype).to(memory_format=torch.channels_last)


def compare_whole_gradients() -> None:
    """The fast engine with the kernels and without, in fp32: style, content, both, and the deepest tap."""
    taps = {"content_taps": "relu1_2,relu2_1", "style_taps": "conv1_2,relu1_1,relu2_1,relu2_2"}
    options = ObjectiveOptions(**taps, tv_weight=1.0, chroma_tv_weight=2.0, edge_weight=1.0)
    encoder, _ = make_encoder("random:3", "vgg19", options.taps)
    content, style, image = torch.rand((3, 2, 3, 21, 18), generator=torch.Generator().manual_seed(1))
    objective = Objective(options, build_targets(encoder, options, content, [style]))
    plain = FastEvaluator(encoder, objective)(image)
    fast_network.on_tensor_cores = lambda device, dtype: True
    checked_kernels.triton_kernels = lambda device: (kernels, "")
    found = FastEvaluator(encoder, objective)(image)
    torch.testing.assert_close(found.gradient, plain.gradient, rtol=1e-4, atol=1e-5 * float(plain.gradient.abs().max()))
    torch.testing.assert_close(found.terms, plain.terms, rtol=1e-5, atol=0)


def main() -> None:
    for dtype, batch, (height, width) in itertools.product(
        (torch.float32, torch.bfloat16), (1, 2), ((2, 2), (6, 8), (7, 5), (2, 41), (3, 3))
    ):
        compare_pooling(kernels, features((batch, 64, height, width), dtype))
    compare_pooling(kernels, features((1, 512, 5, 4), torch.float32))  # a row in several pieces
    for shape in ((1, 64, 3, 5), (2, 128, 9, 17), (2, 512, 4, 3)):
        compare_seed(kernels, some_features(shape, torch.float16))
    compare_total_variation(kernels, torch.device("cpu"))
    one = torch.ones(1, 64, 4, 4).to(memory_format=torch.channels_last)
    one[0, 3, 1, 1] = float("nan")
    assert kernels.max_pool(one)[0, 3, 0, 0].isnan()
    compare_whole_gradients()
    sys.stdout.write("compared all\n")


if __name__ == "__main__":
    main()
