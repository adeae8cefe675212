"""The Triton kernels: interpreted on the CPU here, compiled in test_cuda.py; and runs without Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from places import ROOT, SUPPORT

from nst_fast.api import Listeners, stylize
from nst_fast.engines import fast_network, max_pooling
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.max_pooling import working_kernels
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import ObjectiveOptions
from nst_fast.run import scales


def test_the_kernels_pool_as_pytorch_does() -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds for Linux")
    script = SUPPORT / "interpreted_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.stdout == "compared all\n", done.stderr


def cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
    """What cuDNN's joined call computes."""
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups).relu_()


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("style_taps", ["relu1_1,relu2_1", "conv1_2,relu1_2,pool1,relu2_2"])
def test_the_way_that_is_taken_on_tensor_cores_gives_the_same(
    pooling: str, padding: str, style_taps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined calls, sixteen channels, pooling and ReLU in one, by stand-ins in float64."""
    options = ObjectiveOptions(content_taps="relu2_1", style_taps=style_taps, pooling=pooling, padding=padding)
    encoder, _ = make_encoder("random:3", "vgg19", options.taps, pooling=pooling, padding=padding, normalize_input=True)
    content, style, image = torch.rand((3, 1, 3, 21, 18), generator=torch.Generator().manual_seed(1)).double()
    objective = Objective(options, build_targets(encoder.double(), options, content, [style]))
    plain = FastEvaluator(encoder, objective, torch.float64)(image)
    monkeypatch.setattr(fast_network, "on_tensor_cores", lambda device, dtype: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", cudnn_convolution_relu)
    monkeypatch.setattr(fast_network.Convolution, "_fuses", lambda convolution, x: True)
    monkeypatch.setattr(max_pooling, "triton_kernels", lambda device: (Fake("kernels"), ""))
    evaluate = FastEvaluator(encoder, objective, torch.float64)
    assert evaluate.network.channels == 16
    assert evaluate.network.masked == ({"relu1_2"} if pooling == "max" and "relu1_2" not in style_taps else set())
    torch.testing.assert_close(evaluate(image).gradient, plain.gradient, rtol=1e-10, atol=1e-16)


class Fake(ModuleType):
    """Kernels that pool well but go back wrong, by ``factor``."""

    factor = 1.0

    def max_pool(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(x, 2)

    def max_pool_and_relu_backward(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        indices = torch.nn.functional.max_pool2d_with_indices(x, [2, 2])[1]
        flat = torch.zeros_like(x).flatten(2)
        return self.factor * flat.scatter_(2, indices.flatten(2), gradient.flatten(2)).view_as(x) * (x > 0)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_kernels_that_compute_something_else_are_not_used(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("kernels")
    fake.factor = factor
    monkeypatch.setitem(sys.modules, "nst_fast.engines.kernels", fake)
    monkeypatch.setattr("nst_fast.engines.kernels", fake, raising=False)
    working_kernels.cache_clear()
    kernels, problem = working_kernels(torch.device("cpu"))
    working_kernels.cache_clear()
    assert kernels is (fake if factor == 1 else None)
    assert ("differ from PyTorch's" in problem) == (factor != 1)


TINY: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu2_1",
    "style_taps": "relu1_1,relu2_1",
    "image_size": 32,
    "engine": "fast",
    "precision": "fp32",
    "steps": 2,
    "monitor_every": 0,
}


def test_without_a_compiler_pytorch_pools_and_the_run_says_so(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without CUDA no Triton kernel can be compiled: as on a GPU without a C compiler."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(max_pooling, "triton_kernels", working_kernels)
    monkeypatch.setattr("nst_fast.run.reporting.triton_kernels", working_kernels)
    assert stylize(*pair, **TINY).record.warnings == []  # so short a run does without them
    monkeypatch.setitem(scales.LONG, "cpu", 0)
    notes: list[str] = []
    record = stylize(*pair, listeners=Listeners(note=notes.append, detail=notes.append), **TINY).record
    working_kernels.cache_clear()
    said = [note for note in notes if note.startswith("max pooling by PyTorch, which is slower: Triton does not work")]
    assert said == record.warnings
    assert len(said) == 1
