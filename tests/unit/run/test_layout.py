"""Whole runs under a plan: in tiles, and after memory ran out (a stand-in, for a CPU does not run out on demand)."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from loops import bowl
from thread_ranks import ThreadRanks, run_ranks
from tiny import DEEPER

from nst_fast import api
from nst_fast.engines import Choice, Evaluation, Evaluator
from nst_fast.engines.tiled import TiledEvaluator
from nst_fast.errors import DeviceError, OutOfMemoryError
from nst_fast.images import save_image
from nst_fast.memory.allocator import keep_freed_memory, return_freed_memory
from nst_fast.options.config import StylizeConfig
from nst_fast.run import layout
from nst_fast.run.out_of_memory import RetryInTiles, is_out_of_memory, memory_errors
from nst_fast.run.problem import Batch, Networks, load_problem

CONFIG = StylizeConfig(**{name: value for name, value in DEEPER.items() if name != "device"}).replace(
    engine="fast", image_size=80, steps=3
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    generator = torch.Generator().manual_seed(5)
    for name in ("content.png", "style.png"):
        save_image(torch.rand(1, 3, 60, 80, generator=generator), folder / name)
    return folder / "content.png", folder / "style.png"


def run(pair: tuple[Path, Path], **options: object) -> tuple[api.Pastiche, list[str]]:
    notes: list[str] = []
    listeners = api.Listeners(note=notes.append, detail=notes.append)
    return api.stylize(*pair, CONFIG, listeners=listeners, **options), notes


@pytest.mark.parametrize("engine", ["fast", "eager"])
def test_a_run_in_tiles_has_the_losses_of_the_whole_run(pair: tuple[Path, Path], engine: str) -> None:
    whole, _ = run(pair, engine=engine)
    tiled, notes = run(pair, engine=engine, tile_size=32)
    assert whole.record.plan["grid"] == [1, 1]
    assert tiled.record.plan["grid"] == [2, 3]
    assert any("2x3 tiles" in note for note in notes)
    for name, column in whole.record.history.items():
        assert tiled.record.history[name] == pytest.approx(column, rel=1e-3, abs=1e-6)
    torch.testing.assert_close(tiled.image, whole.image, rtol=0, atol=2e-2)


def test_every_scale_has_its_own_plan_and_the_last_is_reported(pair: tuple[Path, Path]) -> None:
    pastiche, notes = run(pair, scales=2, min_size=16, steps=4, tile_size=48)
    assert [note.split()[1] for note in notes if note.startswith("plan:")] == ["80x60"]
    problem = load_problem(StylizeConfig(**pastiche.record.options), pair[0], [pair[1]], Networks())
    choice = Choice("fast", "fp32", "", {})
    plans = [layout.Layout().plan(Batch([problem]), choice, scale) for scale in problem.scales]
    assert [plan.tiled for plan in plans] == [False, True]
    assert pastiche.record.plan["grid"] == plans[-1].as_dict()["grid"]


def test_nothing_is_started_that_does_not_fit(pair: tuple[Path, Path]) -> None:
    with pytest.raises(OutOfMemoryError, match="80x60 needs at least"):
        run(pair, max_memory="50MiB")


def exhausted_after(calls: int) -> Any:
    """A stand-in for ``make_evaluator`` whose evaluator runs out of memory after so many calls."""
    original = layout.make_evaluator

    def make(*arguments: Any) -> Evaluator:
        evaluate, left = original(*arguments), [calls]

        def run_out(pastiche: torch.Tensor) -> Evaluation:
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")
            return evaluate(pastiche)

        return run_out

    return make


def test_a_run_whose_memory_runs_out_goes_on_in_tiles_from_the_last_picture(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = run(pair)
    monkeypatch.setattr(layout, "make_evaluator", exhausted_after(2))
    monkeypatch.setattr("nst_fast.memory.grids.SMALLEST_TILE", 16)
    tiled: list[object] = []
    original = TiledEvaluator.__init__

    def counted(self: TiledEvaluator, *arguments: Any) -> None:
        tiled.append(self)
        original(self, *arguments)

    monkeypatch.setattr(TiledEvaluator, "__init__", counted)
    recovered, notes = run(pair, on_oom="tile")
    assert len(tiled) == 1
    assert any(note.startswith("memory ran out; continuing from the last picture") for note in notes)
    assert recovered.record.status == "complete"
    assert recovered.record.history["total"] == pytest.approx(undisturbed.record.history["total"], rel=1e-3)


def test_without_on_oom_it_ends_with_exit_code_7(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "make_evaluator", exhausted_after(1))
    with pytest.raises(OutOfMemoryError, match="Tried to allocate 7 GiB") as caught:
        run(pair)
    assert caught.value.exit_code == 7


def test_a_gpu_that_is_lost_ends_the_run_with_exit_code_6(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: Any) -> Evaluator:
        def evaluate(pastiche: torch.Tensor) -> Evaluation:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore lines")

        return evaluate

    monkeypatch.setattr(layout, "make_evaluator", lost)
    with pytest.raises(DeviceError, match=r"CUDA error: unspecified launch failure\).*nst-fast resume") as caught:
        run(pair, on_oom="tile")
    assert caught.value.exit_code == 6


def test_memory_is_returned_only_by_the_allocator_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not return_freed_memory()
    assert not keep_freed_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator")
@pytest.mark.parametrize(
    ("how", "side", "given", "able", "kept"),
    [
        ("keep_freed_memory", 512, None, True, True),
        ("return_freed_memory", 512, None, True, False),
        ("keep_freed_memory", 512, "0", False, False),
        ("keep_freed_memory", 256, None, False, False),
    ],
)
def test_freed_memory_is_kept_or_returned(how: str, side: int, given: str | None, able: bool, kept: bool) -> None:
    """Pages that a process has not, or no longer, are counted when it touches them: 16384, or 32 huge ones.

    Of several rounds most count: a small block may take the edge of a hole.
    """
    lines = (
        "import resource, torch, nst_fast.api",
        f"from nst_fast.memory.allocator import {how}, use_huge_pages",
        f"use_huge_pages({side})",
        f"print(int({how}()))",
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "for _ in range(9):",
        "    before = faults()",
        "    torch.ones(2**24)",
        "    print(faults() - before)",
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"THP_MEM_ALLOC_ENABLE": given} if given is not None else {}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said, *new = map(int, done.stdout.split())
    assert (bool(said), statistics.median(new) < 16) == (able, kept)


def bf16(*arguments: object, **options: object) -> Choice:
    return Choice("fast", "bf16", "fastest", {})


def test_a_wider_precision_is_planned_anew(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan was made for bf16; what runs in the end takes more."""
    monkeypatch.setattr(layout, "choose", bf16)
    kept, _ = run(pair, precision="auto")
    monkeypatch.setattr(
        "nst_fast.run.layout.confirm_precision", lambda choice, *rest: replace(choice, precision="fp32")
    )
    changed, notes = run(pair, precision="auto")
    assert (kept.record.precision, changed.record.precision) == ("bf16", "fp32")
    assert changed.record.plan["peak_mib"] > kept.record.plan["peak_mib"]
    assert len([note for note in notes if note.startswith("plan: ")]) == 2


def test_where_fp32_does_not_fit_nothing_is_compared_with_it(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*arguments: object) -> Choice:
        raise AssertionError("this is what would run out of memory")

    monkeypatch.setattr(layout, "choose", bf16)
    monkeypatch.setattr(layout, "confirm_precision", evaluate)
    monkeypatch.setattr(layout.Layout, "_fits_in_fp32", lambda *given: False)
    assert run(pair, precision="auto")[0].record.precision == "bf16"


def test_one_rank_asked_to_stop_stops_all_and_the_clock_is_that_of_the_slowest() -> None:
    def work(me: ThreadRanks) -> tuple[bool, bool, float, float]:
        shared = layout.SharedPicture(me)
        assert shared.clock() == 0
        return shared.stop(False), shared.stop(me.rank == 1), shared.clock(), shared.clock()

    found = run_ranks(3, work)
    assert len(set(found)) == 1
    before, after, now, later = found[0]
    assert (before, after) == (False, True)
    assert now == later > 0


def test_ranks_of_which_one_needs_tiles_compare_no_precisions() -> None:
    """The comparison would wait for the rank that takes no part."""
    problem = SimpleNamespace(config=CONFIG.replace(precision="auto"))

    def work(me: ThreadRanks) -> Choice:
        plan = SimpleNamespace(tiled=me.rank == 1)
        return layout.SharedPicture(me).confirm_precision(problem, bf16(), plan, torch.zeros(1))  # type: ignore[arg-type]

    assert [choice.precision for choice in run_ranks(2, work)] == ["bf16", "bf16"]


def exhausted(pastiche: torch.Tensor) -> Evaluation:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")


def test_memory_that_runs_out_is_an_error_of_ours() -> None:
    with pytest.raises(OutOfMemoryError, match="Tried to allocate 20 GiB") as caught, memory_errors():
        exhausted(torch.ones(1, 3, 4, 4))
    assert "`on_oom` tile" in caught.value.remedy


def test_memory_that_runs_out_is_retried_once_from_the_picture_as_it_is() -> None:
    seen: list[float] = []

    def smaller(pastiche: torch.Tensor) -> Evaluation:
        seen.append(pastiche.mean().item())
        if len(seen) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return bowl(pastiche)

    evaluate = RetryInTiles(exhausted, lambda: smaller)
    pastiche = torch.full((1, 3, 4, 4), 0.25)
    torch.testing.assert_close(evaluate(pastiche).gradient, torch.full((1, 3, 4, 4), -0.5))
    evaluate(pastiche)
    with pytest.raises(OutOfMemoryError, match="can't allocate"), memory_errors():
        evaluate(pastiche)
    assert seen[:2] == [0.25, 0.25]


def test_other_faults_pass_through() -> None:
    def faulty(pastiche: torch.Tensor) -> Evaluation:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"), memory_errors():
        RetryInTiles(faulty, lambda: bowl)(torch.ones(1, 3, 4, 4))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.gpu
def test_a_gpu_does_not_wait_for_an_export(cuda: torch.device, pair: tuple[Path, Path]) -> None:
    pastiche, notes = run(pair, monitor_every=1, device="cuda")
    assert pastiche.record.monitor == {}
    assert "no monitor: the network is not exported yet; `nst-fast export` does it, once" in notes


def test_without_onnx_runtime_a_run_goes_on_unmonitored_and_says_so(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else found(name))
    pastiche, notes = run(pair, monitor_every=1)
    assert pastiche.record.monitor == {}
    assert [note for note in notes if note.startswith("no monitor: ONNX Runtime is not installed. pip ")]
