"""The benchmark: arithmetic, fair turns, rows that state what was measured, and errors that become rows."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Run
from places import ROOT

from nst_fast.benchmark import evaluations, loops, memory, suite
from nst_fast.benchmark.ceilings import Ceiling, find_ceiling, layer_flops
from nst_fast.benchmark.charts import save_plot
from nst_fast.benchmark.evaluations import evaluation_rows
from nst_fast.benchmark.loops import cosine, loop_rows, monitor_rows
from nst_fast.benchmark.report import file_stem, remarks, size_of, tables, to_csv, to_json
from nst_fast.benchmark.rows import (
    FAILED,
    NOT_AVAILABLE,
    OK,
    BenchReport,
    EvaluationRow,
    LoopRow,
    MonitorRow,
    QualityRow,
    Row,
)
from nst_fast.benchmark.scenarios import BenchConfig, load_scenario
from nst_fast.benchmark.turns import Contender, compete, median_ratio, spread
from nst_fast.benchmark.workbench import (
    Scene,
    Workbench,
    seeded_picture,
)
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.engines import ort as engine_module
from nst_fast.engines.ort_step import WholeStep
from nst_fast.engines.precision import float32_arithmetic
from nst_fast.errors import DeviceError, InputError, NstFastError, UsageError
from nst_fast.options.config import ObjectiveOptions, StylizeConfig
from nst_fast.run.observer import Listeners

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = BenchConfig(
    weights="random:0",
    sizes="32x24",
    engines="eager",
    content_taps="relu2_1",
    style_taps="relu1_1,relu2_1",
    providers="cpu",
    repeats=3,
    warmup=1,
    turn_seconds=0.001,
    steps=3,
    monitor_every=2,
    device="cpu",
    memory=False,
)


@pytest.fixture(autouse=True)
def small_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nst_fast.benchmark.ceilings.MATMUL_SIDE", {"cpu": 128})
    monkeypatch.setattr("nst_fast.benchmark.ceilings.CONV_SIDE", {"cpu": 8})
    monkeypatch.setattr("nst_fast.benchmark.ceilings.WINOGRAD_CELLS", 256)


@pytest.fixture(scope="module")
def workbench() -> Workbench:
    return Workbench(TINY)


# Arithmetic


def test_a_plugin_with_options_is_one_provider() -> None:
    config = BenchConfig(providers="cpu, plugin:a:x=1,y=2,openvino,cpu")
    assert config.provider_names == ["cpu", "plugin:a:x=1,y=2", "openvino"]
    with pytest.raises(UsageError, match="`providers` foo: must be among cpu"):
        BenchConfig(providers="cpu,foo")


def test_flops_of_a_step_of_vgg19_to_relu5_1_are_1445_kflop_per_pixel_and_1514_with_grams() -> None:
    layers = layer_flops(ObjectiveOptions(), 512, 256)
    convolutions = sum(flop for layer, flop in layers.items() if layer.startswith("conv"))
    assert 2 * convolutions / (512 * 256) == pytest.approx(1.445e6, rel=1e-3)
    assert 2 * sum(layers.values()) / (512 * 256) == pytest.approx(1.514e6, rel=1e-3)


def test_flops_of_a_layer_are_counted_by_hand_also_of_odd_sizes() -> None:
    shallow = ObjectiveOptions(network="vgg16", content_taps="relu1_1", style_taps="relu1_1")
    assert layer_flops(shallow, 5, 7) == {"conv1_1": 2 * 9 * 3 * 64 * 35, "gram/relu1_1": 2 * 64 * 64 * 35}
    content = ObjectiveOptions(content_taps="relu2_1", style_weight=0)
    odd, even = (sum(layer_flops(content, 17, side).values()) for side in (19, 18))
    assert odd - even == 17 * 2 * 9 * (3 * 64 + 64 * 64)  # relu2_1 has 8x9 cells either way


def test_cosine_is_that_of_the_angle() -> None:
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(torch.tensor([2.0, 1.0]), torch.tensor([-4.0, -2.0])) == pytest.approx(-1)


def test_seeded_pictures_are_reproducible_different_and_within_range() -> None:
    first, again, other = (seeded_picture((40, 24), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (1, 3, 40, 24)
    assert 0 <= first.min() < 0.2 < 0.8 < first.max() <= 1


# Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sizes": "12y"}, "12y"),
        ({"sizes": ""}, "sizes"),
        ({"sizes": "64x8"}, "at least 16"),
        ({"engines": "eager,warp"}, "warp"),
        ({"engines": "fast:fp7"}, "fp7"),
        ({"providers": "cpu,gpu"}, "gpu"),
        ({"batch": 2, "engines": "ort"}, "one picture"),
        ({"batch": 2, "pairs": "sample"}, "single pictures"),
        ({"pairs": "a.png"}, "no pair"),
        ({"pairs": "sample", "plain": "adam"}, "no rate"),
        ({"pairs": "sample", "plain": "sgd:1"}, "sgd"),
        ({"pairs": "sample", "plain": ""}, "at least one"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        BenchConfig(**options)


@pytest.mark.parametrize(
    ("engines", "pairs"),
    [
        ("ort,eager", [("eager", "fp32"), ("ort", "auto")]),
        ("fast:fp32,fast:bf16", [("eager", "fp32"), ("fast", "fp32"), ("fast", "bf16")]),
        ("", []),
    ],
)
def test_eager_is_measured_first_and_an_engine_in_several_precisions(
    engines: str, pairs: list[tuple[str, str]]
) -> None:
    assert BenchConfig(engines=engines).engine_precisions == pairs


def test_sizes_are_squares_or_width_by_height() -> None:
    assert BenchConfig(sizes="128, 512x384").image_sizes == [(128, 128), (384, 512)]


# Turns


class Scripted(Contender):
    """Logs its calls; a turn gives a fixed time, or raises."""

    def __init__(self, name: str, log: list[str], result: float | Exception) -> None:
        super().__init__(LoopRow(width=1, height=1, engine=name, device="cpu"))
        self.name, self.log, self.result = name, log, result

    def prepare(self) -> None:
        self.log.append(f"prepare {self.name}")

    def take_turn(self) -> list[float]:
        self.log.append(self.name)
        if isinstance(self.result, Exception):
            raise self.result
        return [self.result, self.result]


def test_contenders_take_turns_and_every_other_round_runs_backwards() -> None:
    log: list[str] = []
    compete([Scripted("a", log, 2), Scripted("b", log, 1)], 3, lambda: False)
    assert log == ["prepare a", "prepare b", "a", "b", "b", "a", "a", "b"]


def test_a_contender_that_fails_becomes_its_row_and_leaves_the_others_alone() -> None:
    log: list[str] = []
    good, bad = Scripted("good", log, 1.0), Scripted("bad", log, RuntimeError("no\nmemory"))
    compete([good, bad], 3, lambda: False)
    assert (bad.row.status, bad.row.error, bad.row.turns) == (FAILED, "RuntimeError: no memory", 0)
    assert (good.row.status, good.row.turns) == (OK, 3)
    assert log.count("bad") == 1
    assert median_ratio(good, bad) is None


def test_a_missing_device_is_not_a_failure() -> None:
    contender = Scripted("gpu", [], DeviceError("no GPU", "Buy one"))
    compete([contender], 1, lambda: False)
    assert (contender.row.status, contender.row.error) == (NOT_AVAILABLE, "no GPU. Buy one")


def test_stop_ends_the_turns_with_those_taken() -> None:
    log: list[str] = []
    contender = Scripted("a", log, 1.0)
    compete([contender], 9, lambda: log.count("a") == 2)
    assert contender.row.turns == 2


def test_ratio_is_the_median_over_rounds() -> None:
    slow, fast = Scripted("slow", [], 1), Scripted("fast", [], 1)
    slow.turns, fast.turns = [[4.0], [10.0], [6.0]], [[2.0], [1.0], [2.0]]
    assert median_ratio(slow, fast) == 3


# Rows


def test_the_loop_row_of_eager_is_its_own_reference(workbench: Workbench) -> None:
    (row,) = loop_rows(workbench, 24, 32)
    assert (row.status, row.error, row.engine, row.precision, row.device) == (OK, "", "eager", "fp32", "cpu")
    assert (row.turns, row.quality_steps) == (3, 3)
    assert row.ratio_to_eager == 1
    assert row.gradient_cosine == pytest.approx(1, abs=1e-12)
    assert row.gradient_cosine_late == pytest.approx(1, abs=1e-12)
    assert row.final_loss_change == 0
    assert row.final_loss is not None and row.final_loss > 0
    assert row.step_ms is not None
    assert row.steps_per_second == pytest.approx(1e3 / row.step_ms)
    assert row.gflop == 2 * sum(layer_flops(TINY, 24, 32).values()) / 1e9
    assert row.gflops == pytest.approx(row.gflop / row.step_ms * 1e3)
    ceiling = workbench.ceilings["cpu", "fp32"]
    assert row.ceiling_share == pytest.approx(row.gflops / ceiling.gflops)
    least = ceiling.winograd_seconds(TINY, 24, 32)
    assert least is not None
    assert row.winograd_share == pytest.approx(2e3 * least / row.step_ms)  # forward and backward
    assert row.winograd_share <= row.ceiling_share


def test_the_fast_engine_is_compared_with_eager_and_named_as_it_was_chosen() -> None:
    _, fast, impossible = loop_rows(Workbench(TINY.replace(engines="auto:fp32,eager:bf16")), 24, 32)
    assert (fast.engine, fast.precision, fast.status) == ("fast", "fp32", OK)
    assert fast.gradient_cosine == pytest.approx(1, abs=1e-3)
    assert fast.gradient_cosine_late == pytest.approx(1, abs=1e-3)
    assert fast.final_loss_change == pytest.approx(0, abs=1e-2)
    assert fast.ratio_to_eager is not None
    assert (impossible.status, impossible.ratio_to_eager) == (NOT_AVAILABLE, None)
    assert "fp32" in impossible.error


def reversed_gradient(right: Evaluator) -> Evaluator:
    """A wrong engine: its gradient has the right length and the opposite direction."""

    def evaluate(pastiche: torch.Tensor) -> Evaluation:
        evaluation = right(pastiche)
        return Evaluation(evaluation.total, evaluation.terms, -evaluation.gradient)

    return evaluate


def broken(pastiche: torch.Tensor) -> Evaluation:
    raise NstFastError("this engine does not start", "Use another")


def test_a_wrong_engine_shows_in_its_quality_and_a_broken_one_in_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Workbench.evaluator

    def evaluator(self: Workbench, run: StylizeConfig, scene: Scene, *opened: Any) -> Evaluator:
        right = real(self, run, scene)
        return {"eager": right, "fast": reversed_gradient(right), "compiled": broken}[run.engine]

    monkeypatch.setattr(Workbench, "evaluator", evaluator)
    eager, wrong, failed = loop_rows(Workbench(TINY.replace(engines="fast:fp32,compiled:fp32")), 24, 32)
    assert (eager.status, wrong.status, failed.status) == (OK, OK, FAILED)
    assert (wrong.gradient_cosine, wrong.gradient_cosine_late) == (pytest.approx(-1), pytest.approx(-1))
    assert wrong.final_loss_change is not None and wrong.final_loss_change > 0.01
    assert wrong.ratio_to_eager is not None
    assert "this engine does not start" in failed.error
    assert failed.step_ms is None


@pytest.mark.parametrize(("optimizer", "whole"), [("adam", True), ("lbfgs", False)])
def test_onnx_runtimes_engine_names_its_provider_and_does_the_whole_step_with_adam(
    optimizer: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    original = WholeStep.__init__

    def noted(self: WholeStep, *arguments: Any) -> None:
        made.append(self)
        original(self, *arguments)

    monkeypatch.setattr(WholeStep, "__init__", noted)
    eager, ort = loop_rows(Workbench(TINY.replace(engines="ort", optimizer=optimizer)), 24, 32)
    assert (ort.status, ort.provider, eager.provider) == (OK, "cpu", "")
    assert ort.gradient_cosine == pytest.approx(1, abs=1e-3)
    assert ort.final_loss_change == pytest.approx(0, abs=1e-2)
    assert bool(made) == whole


def test_opening_the_session_is_part_of_the_setup_and_without_steps_there_is_no_quality(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = engine_module.make_session

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += 80  # as a TensorRT engine, which takes a minute or more to build
        return original(*arguments, **options)

    clock = [0.0]
    monkeypatch.setattr(engine_module, "make_session", slow)
    monkeypatch.setattr(loops, "make_clock", lambda device: lambda: clock.__setitem__(0, clock[0] + 0.01) or clock[0])
    _, ort = loop_rows(Workbench(TINY.replace(engines="ort", optimizer="adam", steps=0)), 24, 32)
    assert ort.status == OK
    assert ort.setup_seconds is not None and ort.setup_seconds > 80
    assert ort.step_ms is not None and ort.step_ms < 100
    assert ort.gradient_cosine is None


def test_several_pictures_in_a_step_are_all_counted() -> None:
    workbench = Workbench(TINY.replace(engines="fast:fp32", batch=3, monitor_every=0))
    scene = workbench.scene(24, 32, 3)
    assert scene.start.shape == (3, 3, 24, 32)
    assert torch.equal(scene.content_image[:1], workbench.scene(24, 32).content_image)
    assert len({picture.mean().item() for picture in scene.content_image}) == 3
    one = workbench.flops(LoopRow(width=32, height=24, engine="fast", device="cpu"))
    for row in loop_rows(workbench, 24, 32):
        assert (row.status, row.batch) == (OK, 3), row.error
        assert row.steps_per_second is not None
        assert row.pictures_per_second == pytest.approx(3 * row.steps_per_second)
        assert row.gflop == pytest.approx(3 * 2e-9 * one)
        assert row.gradient_cosine == pytest.approx(1, abs=1e-3)
        assert size_of(row.as_dict()) == "3 of 32x24"


def test_the_monitor_row_compares_with_and_without(workbench: Workbench) -> None:
    (row,) = monitor_rows(workbench, 24, 32)
    assert (row.status, row.error, row.requested, row.actual) == (OK, "", "cpu", "cpu")
    assert row.turn_steps is not None and row.turn_steps % 2 == 0
    assert row.slowdown_percent is not None
    assert row.readings + row.dropped == 1 + 3 * row.turn_steps // 2
    assert row.steps_per_second is not None
    assert row.steps_per_second_without is not None


@pytest.mark.parametrize(
    ("off", "kinds"),
    [
        ({"pairs": "sample"}, ["quality", "evaluation"]),
        ({"monitor_every": 0}, ["loop", "evaluation"]),
        ({"engines": ""}, ["evaluation"]),
        ({"providers": ""}, ["loop", "monitor"]),
    ],
)
def test_what_is_turned_off_is_neither_measured_nor_announced(
    monkeypatch: pytest.MonkeyPatch, off: dict[str, Any], kinds: list[str]
) -> None:
    nothing = {kind: (wanted, lambda *case: []) for kind, (wanted, _) in suite.KINDS.items()}
    monkeypatch.setattr(suite, "KINDS", nothing)
    notes: list[str] = []
    suite.run_benchmark(TINY.replace(**off), Listeners(note=notes.append))
    assert [note.split()[1] for note in notes] == kinds


def test_evaluation_rows_have_pytorch_as_baseline_and_name_a_missing_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_provider(name: str) -> None:
        if name != "cpu":
            raise DeviceError(f"provider {name} does not work", "Use cpu")

    monkeypatch.setattr(evaluations, "check_provider", check_provider)
    pytorch, cpu, cuda = evaluation_rows(Workbench(TINY.replace(providers="cpu,cuda")), 24, 32)
    assert (pytorch.status, pytorch.runtime, pytorch.ratio_to_pytorch) == (OK, "pytorch", 1)
    assert (cpu.status, cpu.requested, cpu.actual) == (OK, "cpu", "cpu")
    assert cpu.latency_ms is not None
    assert cpu.evaluations_per_second == pytest.approx(1e3 / cpu.latency_ms)
    assert cpu.ratio_to_pytorch is not None
    assert (cuda.status, cuda.error) == (NOT_AVAILABLE, "provider cuda does not work. Use cpu")
    assert cuda.latency_ms is None


# Memory


def test_memory_of_a_loop_is_measured_in_a_fresh_process(workbench: Workbench) -> None:
    row = LoopRow(width=32, height=24, engine="eager", device="cpu")
    memory.measure_memory(row, workbench)
    assert row.error == ""
    assert row.idle_memory_mib is not None
    assert row.peak_memory_mib is not None
    assert 50 < row.idle_memory_mib <= row.peak_memory_mib < 4000


def test_memory_of_a_session_is_measured_without_torch(workbench: Workbench) -> None:
    row = EvaluationRow(width=32, height=24, runtime="onnxruntime", requested="cpu", actual="cpu")
    memory.measure_memory(row, workbench)
    assert row.error == ""
    assert row.peak_memory_mib is not None
    check = "import nst_fast.benchmark.memory, nst_fast.onnx.session, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_a_child_that_dies_costs_the_row_its_memory_only(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHILD", [sys.executable, "-c", "raise SystemExit('killed')"])
    row = LoopRow(width=32, height=24, engine="eager", device="cpu")
    memory.measure_memory(row, workbench)
    assert (row.status, row.error, row.peak_memory_mib) == (OK, "memory: killed", None)


# Ceilings


def test_a_known_gpu_has_its_ceiling_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    ceiling = find_ceiling(torch.device("cuda:0"), "bf16", TINY)
    assert (ceiling.gflops, ceiling.matrix_gflops) == (790e3, None)
    assert ceiling.winograd_seconds(TINY, 24, 32) is None


def test_a_cpu_has_its_rates_measured_those_of_winograd_for_every_pair_of_channels_in_fp32_only() -> None:
    ceiling = find_ceiling(torch.device("cpu"), "fp32", TINY)
    assert find_ceiling(torch.device("cpu"), "fp16", TINY).gflops > 0
    assert ceiling.source.startswith("measured here")
    assert ceiling.matrix_gflops and ceiling.convolution_gflops
    assert ceiling.gflops == max(ceiling.matrix_gflops, ceiling.convolution_gflops)
    assert list(ceiling.winograd_gflops) == ["64x64", "64x128"]
    assert min(ceiling.winograd_gflops.values()) > 0
    assert find_ceiling(torch.device("cpu"), "bf16", TINY).winograd_gflops == {}


def test_the_winograd_limit_takes_a_quarter_of_the_work_where_its_products_are_fast_enough() -> None:
    rates = {"64x64": 50.0, "64x128": 20.0}  # of 100 directly: half the time for one layer, and none gained for another
    ceiling = Ceiling("cpu", "fp32", 100.0, "by hand", winograd_gflops=rates)
    work = layer_flops(TINY, 24, 32)
    assert list(work) == ["conv1_1", "conv1_2", "conv2_1", "gram/relu1_1", "gram/relu2_1"]
    expected = (sum(work.values()) - work["conv1_2"] / 2) / 100e9
    assert ceiling.winograd_seconds(TINY, 24, 32) == pytest.approx(expected)


def test_turns_leave_the_switch_for_tf32_as_it_was() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with float32_arithmetic("tf32"):
        loop_rows(Workbench(TINY.replace(repeats=1, steps=1)), 24, 32)
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before


# Reports


@pytest.fixture(scope="module")
def report() -> BenchReport:
    machine: dict[str, Any] = {"cpu": "Intel(R) Xeon(R) Processor", "cores_physical": 8, "gpus": [], "commit": "abc"}
    machine["packages"] = {"torch": "2.15.0", "onnxruntime-gpu": "1.31.1"}
    rows: list[Row] = []
    for side in (64, 128):
        loop = LoopRow(width=side, height=side, engine="eager", device="cpu", quality_steps=3)
        loop.step_ms, loop.step_ms_p10, loop.step_ms_p90 = side / 2, side / 3, side / 1.5
        loop.gflop, loop.gflops, loop.ceiling_share, loop.final_loss = 1.0, 50.0, 0.25, float("nan")
        rows.append(loop)
        cuda = EvaluationRow(width=side, height=side, runtime="onnxruntime", requested="cuda")
        cuda.status, cuda.error = NOT_AVAILABLE, "no driver"
        rows.append(cuda)
    return BenchReport(options={}, machine=machine, device="cpu", rows=rows, created="2026-01-02T03:04:05+00:00")


def test_json_is_strict_and_names_its_schema(report: BenchReport) -> None:
    data = json.loads(to_json(report.as_dict()))
    assert data["schema"] == "nst-fast/bench/1"
    assert [row["kind"] for row in data["rows"]] == ["loop", "evaluation"] * 2
    assert data["rows"][0]["final_loss"] is None  # NaN is no JSON
    assert set(asdict(report.rows[0])) | {"kind"} == set(data["rows"][0])


@pytest.mark.parametrize("kind", [LoopRow, EvaluationRow, MonitorRow, QualityRow])
def test_the_readme_explains_every_column(kind: type[Row]) -> None:
    text = (ROOT / "bench" / "README.md").read_text()
    unexplained = {field.name for field in fields(kind) if f"`{field.name}`" not in text}
    assert unexplained <= {"scores"}  # whose columns are the jury's


def test_csv_has_a_line_per_row_and_the_conditions_in_every_line(report: BenchReport) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(report.as_dict()))))
    assert [line["step_ms"] for line in lines] == ["32.0", "", "64.0", ""]
    assert (lines[1]["requested"], lines[1]["error"]) == ("cuda", "no driver")
    assert {line["machine"] for line in lines} == {"Intel(R) Xeon(R) Processor, 8 cores"}
    assert {line["torch"] for line in lines} == {"2.15.0"}


def test_tables_show_figures_and_remarks_say_once_what_is_missing(report: BenchReport) -> None:
    (table,) = tables(report.as_dict())
    assert table.row_count == 2
    assert remarks(report.as_dict()) == ["evaluation cuda 64, 128: not available: no driver"]


def test_the_file_name_holds_the_conditions(report: BenchReport) -> None:
    assert file_stem("steps", report.as_dict()) == "steps-intel-xeon-8-cores-pt215-ort131-2026-01-02"


def test_the_plot_is_a_png_and_is_not_drawn_from_nothing(report: BenchReport, tmp_path: Path) -> None:
    assert save_plot(report.as_dict(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert not save_plot({**report.as_dict(), "rows": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# The whole


def test_a_run_measures_every_kind_at_every_size_and_describes_the_machine_once() -> None:
    notes: list[str] = []
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24", repeats=1), Listeners(note=notes.append))
    kinds = ("loop", "monitor", "evaluation", "evaluation")
    rows = [(row.kind, size_of(row.as_dict())) for row in report.rows]
    assert rows == [(kind, size) for size in ("24", "32x24") for kind in kinds]
    assert [row.error for row in report.failed] == []
    assert report.status == "complete"
    assert report.machine["packages"]["torch"]
    assert notes[0] == "measuring loop at 24x24"


def test_a_stopped_run_keeps_its_rows() -> None:
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24"), Listeners(stop=lambda: True))
    assert (report.status, report.rows) == ("stopped", [])


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        suite.run_benchmark(TINY.replace(engines="", providers=""))


def test_options_are_published_without_the_users_folders() -> None:
    files = {"pairs": "here/a.png+there/b.jpg,sample", "jury": "here/vgg.safetensors", "weights": "/home/me/vgg.pth"}
    options = suite.shareable(TINY.replace(**files))
    assert (options["pairs"], options["jury"]) == ("a.png+b.jpg,sample", "vgg.safetensors")
    assert options["weights"] == "vgg.pth"
    assert suite.shareable(TINY)["weights"] == "random:0"


def test_a_picture_that_does_not_fit_fails_its_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loops.PacedLoop.advance

    def advance(self: loops.PacedLoop, steps: int) -> float:
        if self.stepper.pastiche.shape[3] == 32:
            raise MemoryError("32 is too much")
        return real(self, steps)

    monkeypatch.setattr(loops.PacedLoop, "advance", advance)
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24", providers="", monitor_every=0))
    assert [row.status for row in report.rows] == [OK, FAILED]
    assert report.rows[1].error == "MemoryError: 32 is too much"


# The command


@pytest.fixture
def command(report: BenchReport, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """``nst-fast bench`` with a report made beforehand: exit code, stdout, stderr."""

    monkeypatch.setattr(suite, "run_benchmark", lambda config, observer: report)
    return lambda *arguments: command("bench", *arguments)


def test_json_on_stdout_is_all_that_is_there(command: Run, tmp_path: Path) -> None:
    code, out, err = command("--json", "-", "--csv", tmp_path / "r.csv")
    assert code == 0
    assert len(json.loads(out)["rows"]) == 4
    assert (tmp_path / "r.csv").read_text().startswith("kind,")
    assert "steps/s" in err
    assert "evaluation cuda 64, 128: not available: no driver" in err
    assert "…" not in err  # no figure is cut off


def test_files_are_named_on_stdout_and_replaced_only_on_request(command: Run, tmp_path: Path) -> None:
    arguments = ("--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    assert command(*arguments)[:2] == (0, f"{tmp_path / 'r.json'}\n{tmp_path / 'r.png'}\n")
    code, _, err = command(*arguments)
    assert code == 4
    assert "r.json exists" in err
    assert command(*arguments, "--overwrite")[0] == 0


def test_a_failed_row_ends_the_command_with_10_after_all_is_written(
    command: Run, report: BenchReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report.rows[0], "status", FAILED)
    code, _, err = command("--csv", tmp_path / "r.csv")
    assert code == 10
    assert "1 of 4 rows failed" in err
    assert (tmp_path / "r.csv").exists()


# Scenarios


def test_a_scenario_has_a_description_and_options(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('description = "why"\n[options]\nsizes = "64"\n')
    assert load_scenario(tmp_path / "mine.toml") == ("why", BenchConfig(sizes="64"))


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("sizes = 64", UsageError, "unknown key sizes"),
        ("[options]\nsiezs = '64'", UsageError, "siezs"),
        ("[options", InputError, "TOML"),
    ],
)
def test_a_bad_scenario_is_refused(tmp_path: Path, text: str, error: type[Exception], named: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(error, match=named):
        load_scenario(tmp_path / "bad.toml")


def test_the_spread_of_samples_is_interpolated_between_them() -> None:
    assert spread((5.0, 1.0, 3.0, 2.0, 4.0)) == pytest.approx((3.0, 1.4, 4.6))
    assert spread((7.0,)) == (7.0, 7.0, 7.0)
