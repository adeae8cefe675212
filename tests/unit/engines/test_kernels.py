"""The Triton kernels: interpreted on the CPU here, compiled in test_cuda.py; and runs without Triton."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
import torch
from places import ROOT, SUPPORT
from tiny import DEEPER
from torch import Tensor

from nst_fast.api import Listeners, stylize
from nst_fast.engines import checked_kernels, fast_network
from nst_fast.engines.checked_kernels import begin_kernels, triton_kernels, working_kernels
from nst_fast.engines.fast import FastEvaluator, total_variation
from nst_fast.network.taps import NO_WRAP
from nst_fast.network.weights import make_encoder
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.options.config import ObjectiveOptions
from nst_fast.run import problem, scales


def test_the_kernels_compute_what_pytorch_does() -> None:
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
    """Joined calls, sixteen channels, pooling and ReLU in one, seed and ReLU in one, by stand-ins in float64."""
    options = ObjectiveOptions(content_taps="relu2_1", style_taps=style_taps, pooling=pooling, padding=padding)
    encoder, _ = make_encoder("random:3", "vgg19", options.taps, pooling=pooling, padding=padding, normalize_input=True)
    content, style, image = torch.rand((3, 1, 3, 21, 18), generator=torch.Generator().manual_seed(1)).double()
    objective = Objective(options, build_targets(encoder.double(), options, content, [style]))
    plain = FastEvaluator(encoder, objective, torch.float64)(image)
    monkeypatch.setattr(fast_network, "on_tensor_cores", lambda device, dtype: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", cudnn_convolution_relu)
    monkeypatch.setattr(fast_network.Convolution, "_fuses", lambda convolution, x: True)
    kernels = Fake("kernels")
    monkeypatch.setattr(checked_kernels, "triton_kernels", lambda device: (kernels, ""))
    evaluate = FastEvaluator(encoder, objective, torch.float64)
    assert evaluate.network.channels == 16
    assert evaluate.network.masked == ({"relu1_2"} if pooling == "max" and "relu1_2" not in style_taps else set())
    found = evaluate(image)
    torch.testing.assert_close(found.gradient, plain.gradient, rtol=1e-10, atol=1e-16)
    torch.testing.assert_close(found.terms, plain.terms, rtol=1e-10, atol=0)
    assert kernels.seeds == sum(tap.startswith("relu") for tap in options.taps)


class Fake(ModuleType):
    """Kernels that go back wrong through pooling by ``factor``, in seeds, and in total variation."""

    factor = seed_factor = variation_factor = 1.0

    def max_pool(self, x: Tensor) -> Tensor:
        return torch.nn.functional.max_pool2d(x, 2)

    def max_pool_and_relu_backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        indices = torch.nn.functional.max_pool2d_with_indices(x, [2, 2])[1]
        flat = torch.zeros_like(x).flatten(2)
        return self.factor * flat.scatter_(2, indices.flatten(2), gradient.flatten(2)).view_as(x) * (x > 0)

    def seed_and_relu(
        self, gradient: Tensor | None, x: Tensor, slope: Tensor | None, content: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        self.seeds = getattr(self, "seeds", 0) + 1
        wide = torch.promote_types(x.dtype, torch.float32)
        found = torch.zeros_like(x, dtype=wide) if gradient is None else gradient.to(wide)
        term = None
        if slope is not None:
            found = found + torch.einsum("bchw,bcd->bdhw", x.to(wide), slope.to(wide))
        if content is not None:
            difference = x.to(wide) - content[0]
            found = found + 2 * content[1].view(-1, 1, 1, 1) * difference
            term = content[1] * difference.square().sum((1, 2, 3))
        return (self.seed_factor * found * (x > 0)).to(x.dtype), term

    def add_total_variation(self, gradient: Tensor, image: Tensor, colors: Tensor) -> Tensor:
        term, slope = total_variation(image, colors, NO_WRAP)
        gradient += self.variation_factor * slope
        return term


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", ""),
        ("factor", "max pooling differs"),
        ("seed_factor", "seeds differ"),
        ("variation_factor", "total variation differs"),
    ],
)
def test_kernels_that_compute_something_else_are_not_used(
    wrong: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake("kernels")
    setattr(fake, wrong, 1.02)
    monkeypatch.setattr(checked_kernels, "usable_precisions", lambda device: ["fp32", "bf16"])
    monkeypatch.setitem(sys.modules, "nst_fast.engines.kernels", fake)
    monkeypatch.setattr("nst_fast.engines.kernels", fake, raising=False)
    working_kernels.cache_clear()
    kernels, problem = working_kernels(torch.device("cpu"))
    working_kernels.cache_clear()
    assert kernels is (None if wrong else fake)
    assert said in problem


def test_who_asks_for_the_kernels_waits_for_the_thread_that_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    entered, go_on = threading.Event(), threading.Event()

    @functools.cache
    def slow(device: torch.device) -> tuple[None, str]:
        calls.append(threading.get_ident())
        entered.set()
        assert go_on.wait(30)
        return None, "found out"

    monkeypatch.setattr(checked_kernels, "working_kernels", slow)
    device = torch.device("cuda")
    begin_kernels(device)
    assert entered.wait(30)
    threading.Timer(0.05, go_on.set).start()
    assert triton_kernels(device) == (None, "found out")
    assert len(calls) == 1
    assert calls[0] != threading.get_ident()


@pytest.mark.parametrize(("pays_after", "engine", "begun"), [(0, "fast", 1), (0, "eager", 0), (10**9, "fast", 0)])
def test_a_run_that_is_long_enough_begins_them_before_the_network_is_loaded(
    pays_after: int, engine: str, begun: int, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(problem, "begin_kernels", lambda device: order.append("kernels"))
    load = problem.load_weights
    monkeypatch.setattr(problem, "load_weights", lambda *given: order.append("weights") or load(*given))
    monkeypatch.setitem(scales.LONG, "cpu", pays_after)
    stylize(*pair, **{**TINY, "engine": engine})
    assert order == ["kernels"] * begun + ["weights"]


TINY = {name: value for name, value in DEEPER.items() if name != "device"} | {"engine": "fast"}


def test_without_a_compiler_pytorch_computes_and_the_run_says_so(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without CUDA no Triton kernel can be compiled: as on a GPU without a C compiler."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(checked_kernels, "triton_kernels", working_kernels)
    monkeypatch.setattr("nst_fast.run.reporting.triton_kernels", working_kernels)
    assert stylize(*pair, **TINY).record.warnings == []  # so short a run does without them
    monkeypatch.setitem(scales.LONG, "cpu", 0)
    notes: list[str] = []
    record = stylize(*pair, listeners=Listeners(note=notes.append, detail=notes.append), **TINY).record
    working_kernels.cache_clear()
    said = [note for note in notes if note.startswith("no kernels of our own, which are faster: Triton does not work")]
    assert said == record.warnings
    assert len(said) == 1


@pytest.mark.parametrize(("capability", "product"), [(80, "mma.sync"), (89, "mma.sync"), (90, "wgmma")])
@pytest.mark.parametrize(("columns", "variant"), [(64, "style"), (128, "style"), (128, "content")])
def test_seeds_compile_for_real_gpus_and_fit_into_their_registers(
    capability: int, product: str, columns: int, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton brings NVIDIA's assembler, which needs no GPU: the products run on tensor cores, nothing is spilled."""
    triton = pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds for Linux")
    from nst_fast.engines import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(("g", "f", "s", "out"), "*bf16") | dict.fromkeys(("t", "factor", "sums"), "*fp32")
    types = pointers | dict.fromkeys(("M", "C", "T_ROW", "T_COLUMN"), "i32")
    constants = {"ABOVE": True, "STYLE": variant == "style", "CONTENT": variant == "content"}
    constants |= {"ROWS": kernels.ROWS, "COLUMNS": columns, "INNER": kernels.INNER}
    names = kernels._seed_and_relu.arg_names
    source = triton.compiler.ASTSource(
        kernels._seed_and_relu,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, "C")},  # as PyTorch's addresses are
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": kernels.WARPS}).asm["ptx"]
    assert (product in made) == (variant == "style")
    (tmp_path / "kernel.ptx").write_text(made)
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    architecture = f"-arch=sm_{capability}{'a' if capability == 90 else ''}"
    done = subprocess.run([assembler, "-v", architecture, "kernel.ptx"], cwd=tmp_path, capture_output=True, text=True)
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
