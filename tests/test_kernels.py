"""Our own kernels: interpreted on the CPU here, compiled in tests/test_cuda.py; and what happens without Triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_without_a_compiler_pytorch_pools_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without CUDA no kernel of ours runs: the same as on a GPU without a C compiler."""
    own_kernels.cache_clear()
    with pytest.warns(UserWarning, match="max pooling by PyTorch, which is slower: Triton does not work here"):
        assert own_kernels(torch.device("cpu")) is None
    monkeypatch.setattr(max_pooling, "own_kernels", lambda device: None)
    x = torch.tensor([[[[0.0, 2.0], [2.0, 1.0]]]])
    pooling = MaxPooling(torch.device("cuda"))
    assert torch.equal(pooling.forward(x), torch.tensor([[[[2.0]]]]))
    assert torch.equal(pooling.backward(torch.ones(1, 1, 1, 1), x), torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]]))
