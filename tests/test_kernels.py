"""Our own kernels: interpreted on the CPU here, compiled in tests/test_cuda.py; and what happens without Triton."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nst_fast.evaluators import max_pooling
from nst_fast.evaluators.max_pooling import MaxPooling, own_kernels


def test_the_kernels_pool_as_pytorch_does() -> None:
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds for Linux")
    script = Path(__file__).with_name("interpreted_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.stdout == "compared all\n", done.stderr


class Fake(ModuleType):
    """Kernels that pool well but go back wrong, by ``factor``."""

    factor = 1.0

    def max_pool(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool2d(x, 2)

    def max_pool_and_relu_backward(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.factor * MaxPooling(torch.device("cpu")).backward(gradient, x) * (x > 0)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_kernels_that_compute_something_else_are_not_used(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake("kernels")
    fake.factor = factor
    monkeypatch.setitem(sys.modules, "nst_fast.evaluators.kernels", fake)
    monkeypatch.setattr("nst_fast.evaluators.kernels", fake, raising=False)
    own_kernels.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert own_kernels(torch.device("cpu")) is (fake if factor == 1 else None)
    assert ["differ from PyTorch's" in str(each.message) for each in caught] == [True] * (factor != 1)
    own_kernels.cache_clear()


def test_without_a_compiler_pytorch_pools_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without CUDA no kernel of ours runs: the same as on a GPU without a C compiler."""
    own_kernels.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.warns(UserWarning, match="max pooling by PyTorch, which is slower: Triton does not work here"):
        assert own_kernels(torch.device("cpu")) is None
    monkeypatch.setattr(max_pooling, "own_kernels", lambda device: None)
    x = torch.tensor([[[[0.0, 2.0], [2.0, 1.0]]]])
    pooling = MaxPooling(torch.device("cuda"))
    assert torch.equal(pooling.forward(x), torch.tensor([[[[2.0]]]]))
    assert torch.equal(pooling.backward(torch.ones(1, 1, 1, 1), x), torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]]))
    own_kernels.cache_clear()
