"""The benchmark: its arithmetic, its fairness, that rows say the truth, and that trouble becomes a row."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from nst_fast import cli
from nst_fast.benchmark import ceilings, evaluations, loops, memory, suite
from nst_fast.benchmark.charts import save_plot
from nst_fast.benchmark.config import BenchConfig
from nst_fast.benchmark.evaluations import evaluation_rows
from nst_fast.benchmark.flops import flops_per_evaluation, flops_per_step
from nst_fast.benchmark.loops import cosine, loop_rows
from nst_fast.benchmark.monitoring import monitor_rows
from nst_fast.benchmark.report import file_stem, remarks, tables, to_csv, to_json
from nst_fast.benchmark.rows import FAILED, NOT_AVAILABLE, OK, EvaluationRow, LoopRow, Report, Row
from nst_fast.benchmark.scenario import load_scenario
from nst_fast.benchmark.turns import Contender, compete, median_ratio, spread
from nst_fast.benchmark.workbench import Scene, Workbench, arithmetic, seeded_picture
from nst_fast.engines import Evaluation, Evaluator
from nst_fast.engines import ort as engine_module
from nst_fast.engines.ort_step import WholeStep
from nst_fast.errors import DeviceError, InputError, NstFastError, UsageError
from nst_fast.options.config import StylizeConfig

ALL_STYLE_TAPS = [f"relu{block}_1" for block in range(1, 6)]
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
    monkeypatch.setattr(ceilings, "MATMUL_SIDE", {"cpu": 128})
    monkeypatch.setattr(ceilings, "CONV_SIDE", {"cpu": 8})


@pytest.fixture(scope="module")
def workbench() -> Workbench:
    return Workbench(TINY)


# Arithmetic


def test_flops_of_vgg19_to_relu5_1_are_1445_kflop_per_pixel_and_1514_with_grams() -> None:
    taps = ["relu4_2", *ALL_STYLE_TAPS]
    assert flops_per_step("vgg19", taps, 512, 256) / (512 * 256) == pytest.approx(1.445e6, rel=1e-3)
    assert flops_per_step("vgg19", taps, 512, 256, ALL_STYLE_TAPS) / (512 * 256) == pytest.approx(1.514e6, rel=1e-3)


def test_flops_of_one_layer_are_counted_by_hand() -> None:
    assert flops_per_evaluation("vgg16", ["relu1_1"], 5, 7) == 2 * 9 * 3 * 64 * 35
    assert flops_per_evaluation("vgg16", ["relu1_1"], 5, 7, ["relu1_1"]) == 2 * (9 * 3 * 64 + 64 * 64) * 35


def test_flops_follow_the_pooling_of_odd_sizes() -> None:
    odd, even = (flops_per_evaluation("vgg19", ["relu2_1"], 17, side) for side in (19, 18))
    first = 9 * (3 * 64 + 64 * 64) * 2
    assert odd - even == 17 * first  # relu2_1 has 8x9 cells either way


def test_cosine_tells_the_angle() -> None:
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert cosine(torch.tensor([2.0, 1.0]), torch.tensor([-4.0, -2.0])) == pytest.approx(-1)


def test_seeded_pictures_are_reproducible_different_and_within_range() -> None:
    first, again, other = (seeded_picture((40, 24), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (1, 3, 40, 24)
    assert 0 <= first.min() < 0.2
    assert 0.8 < first.max() <= 1


# Options


def test_sizes_are_squares_or_width_by_height() -> None:
    assert BenchConfig(sizes="128, 512x384").image_sizes == [(128, 128), (384, 512)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sizes": "12y"}, "12y"),
        ({"sizes": ""}, "--sizes"),
        ({"sizes": "64x8"}, "at least 16"),
        ({"engines": "eager,warp"}, "warp"),
        ({"engines": "fast:fp7"}, "fp7"),
        ({"providers": "cpu,gpu"}, "gpu"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        BenchConfig(**options)


def test_eager_is_measured_first_whatever_else_was_asked_for() -> None:
    assert BenchConfig(engines="ort,eager").engine_precisions == [("eager", "fp32"), ("ort", "auto")]
    assert BenchConfig(engines="").engine_precisions == []


def test_an_engine_can_be_measured_in_several_precisions() -> None:
    pairs = BenchConfig(engines="fast:fp32,fast:bf16").engine_precisions
    assert pairs == [("eager", "fp32"), ("fast", "fp32"), ("fast", "bf16")]


# Turns


class Scripted(Contender):
    """Notes who is at work; takes as long as it is told, or raises."""

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
    good, bad = Scripted("good", log, 1.0), Scripted("bad", log, RuntimeError("out of\nluck"))
    compete([good, bad], 3, lambda: False)
    assert (bad.row.status, bad.row.error, bad.row.turns) == (FAILED, "RuntimeError: out of luck", 0)
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
    assert row.final_loss is not None
    assert row.final_loss > 0
    assert row.step_ms is not None
    assert row.steps_per_second == pytest.approx(1e3 / row.step_ms)
    taps, style = ["relu1_1", "relu2_1"], ["relu1_1", "relu2_1"]
    assert row.gflop == flops_per_step("vgg19", taps, 24, 32, style) / 1e9
    assert row.gflops == pytest.approx(row.gflop / row.step_ms * 1e3)
    assert row.ceiling_share == pytest.approx(row.gflops / workbench.ceilings["cpu", "fp32"].gflops)


def test_the_fast_engine_is_compared_with_eager_and_named_as_it_was_chosen() -> None:
    eager, fast, impossible = loop_rows(Workbench(TINY.replace(engines="auto:fp32,eager:bf16")), 24, 32)
    assert (fast.engine, fast.precision, fast.status) == ("fast", "fp32", OK)
    assert fast.gradient_cosine == pytest.approx(1, abs=1e-3)
    assert fast.gradient_cosine_late == pytest.approx(1, abs=1e-3)
    assert fast.final_loss_change == pytest.approx(0, abs=1e-2)
    assert eager.step_ms is not None
    assert fast.ratio_to_eager is not None
    assert (impossible.status, impossible.ratio_to_eager) == (NOT_AVAILABLE, None)
    assert "fp32" in impossible.error


class Tilted:
    """An engine that is wrong: its gradient has the right length and a wrong direction."""

    def __init__(self, right: Evaluator) -> None:
        self.right = right

    def __call__(self, pastiche: torch.Tensor) -> Evaluation:
        evaluation = self.right(pastiche)
        return Evaluation(evaluation.total, evaluation.terms, -evaluation.gradient)


class Broken:
    def __call__(self, pastiche: torch.Tensor) -> Evaluation:
        raise NstFastError("this engine does not start", "Use another")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside eager a wrong engine and a broken one."""
    real = Workbench.evaluator

    def evaluator(self: Workbench, run: StylizeConfig, scene: Scene, *opened: Any) -> Evaluator:
        right = real(self, run, scene)
        return {"eager": right, "fast": Tilted(right), "compiled": Broken()}[run.engine]

    monkeypatch.setattr(Workbench, "evaluator", evaluator)


@pytest.mark.usefixtures("engines")
def test_a_wrong_engine_shows_in_its_quality_and_a_broken_one_in_its_status() -> None:
    eager, tilted, broken = loop_rows(Workbench(TINY.replace(engines="fast:fp32,compiled:fp32")), 24, 32)
    assert (eager.status, tilted.status, broken.status) == (OK, OK, FAILED)
    assert (tilted.gradient_cosine, tilted.gradient_cosine_late) == (pytest.approx(-1), pytest.approx(-1))
    assert tilted.final_loss_change is not None
    assert tilted.final_loss_change > 0.01
    assert tilted.ratio_to_eager is not None
    assert "this engine does not start" in broken.error
    assert broken.step_ms is None


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


def test_opening_the_session_is_part_of_the_setup_and_of_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the building of a TensorRT engine, which takes a minute or more."""
    original = engine_module.make_session

    def slow(*arguments: Any, **options: Any) -> Any:
        clock[0] += 80
        return original(*arguments, **options)

    clock = [0.0]
    monkeypatch.setattr(engine_module, "make_session", slow)
    monkeypatch.setattr(loops, "make_clock", lambda device: lambda: clock.__setitem__(0, clock[0] + 0.01) or clock[0])
    _, ort = loop_rows(Workbench(TINY.replace(engines="ort", optimizer="adam", steps=0)), 24, 32)
    assert ort.status == OK
    assert ort.setup_seconds is not None
    assert ort.setup_seconds > 80
    assert ort.step_ms is not None
    assert ort.step_ms < 100


def test_without_steps_the_quality_is_left_out() -> None:
    (row,) = loop_rows(Workbench(TINY.replace(steps=0)), 24, 32)
    assert row.step_ms is not None
    assert row.gradient_cosine is None


def test_the_monitor_row_compares_with_and_without(workbench: Workbench) -> None:
    (row,) = monitor_rows(workbench, 24, 32)
    assert (row.status, row.error, row.requested, row.actual) == (OK, "", "cpu", "cpu")
    assert row.turn_steps is not None
    assert row.turn_steps % 2 == 0
    assert row.slowdown_percent is not None
    assert row.readings + row.dropped == 1 + 3 * row.turn_steps // 2
    assert row.steps_per_second is not None
    assert row.steps_per_second_without is not None


@pytest.mark.parametrize(
    ("off", "kinds"),
    [
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
    heard: list[str] = []
    suite.run_benchmark(TINY.replace(**off), note=heard.append)
    assert [sentence.split()[1] for sentence in heard] == kinds


def test_evaluation_rows_have_pytorch_as_baseline_and_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
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
    check = "import nst_fast.benchmark.providers, nst_fast.benchmark.memory, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_a_child_that_dies_costs_the_row_its_memory_only(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHILD", [sys.executable, "-c", "raise SystemExit('killed')"])
    row = LoopRow(width=32, height=24, engine="eager", device="cpu")
    memory.measure_memory(row, workbench)
    assert (row.status, row.error, row.peak_memory_mib) == (OK, "memory: killed", None)


# Ceilings


def test_a_known_gpu_has_its_ceiling_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert ceilings.find_ceiling(torch.device("cuda:0"), "bf16").gflops == 790e3


def test_a_cpu_has_its_ceiling_measured() -> None:
    ceiling = ceilings.find_ceiling(torch.device("cpu"), "fp32")
    assert ceiling.gflops > 0
    assert ceiling.source.startswith("measured here")


def test_turns_leave_the_switch_for_tf32_as_it_was() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with arithmetic("tf32"):
        loop_rows(Workbench(TINY.replace(repeats=1, steps=1)), 24, 32)
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before


# Reports


@pytest.fixture(scope="module")
def report() -> Report:
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
    return Report(options={}, machine=machine, device="cpu", rows=rows, created="2026-01-02T03:04:05+00:00")


def test_json_is_strict_and_names_its_schema(report: Report) -> None:
    data = json.loads(to_json(report.as_dict()))
    assert data["schema"] == "nst-fast/bench/1"
    assert [row["kind"] for row in data["rows"]] == ["loop", "evaluation"] * 2
    assert data["rows"][0]["final_loss"] is None  # NaN is no JSON
    assert set(asdict(report.rows[0])) | {"kind"} == set(data["rows"][0])


def test_csv_has_a_line_per_row_and_the_conditions_in_every_line(report: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(report.as_dict()))))
    assert len(lines) == 4
    assert lines[0]["step_ms"] == "32.0"
    assert (lines[1]["step_ms"], lines[1]["requested"], lines[1]["error"]) == ("", "cuda", "no driver")
    assert {line["machine"] for line in lines} == {"Intel(R) Xeon(R) Processor, 8 cores"}
    assert {line["torch"] for line in lines} == {"2.15.0"}


def test_tables_show_figures_and_remarks_say_once_what_is_missing(report: Report) -> None:
    (table,) = tables(report.as_dict())
    assert table.row_count == 2
    assert remarks(report.as_dict()) == ["evaluation cuda 64, 128: not available: no driver"]


def test_the_file_name_holds_the_conditions(report: Report) -> None:
    assert file_stem("steps", report.as_dict()) == "steps-intel-xeon-8-cores-pt215-ort131-2026-01-02"


def test_the_plot_is_a_png_and_is_not_drawn_from_nothing(report: Report, tmp_path: Path) -> None:
    assert save_plot(report.as_dict(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert not save_plot({**report.as_dict(), "rows": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# The whole


def test_a_run_measures_every_kind_at_every_size_and_describes_the_machine_once() -> None:
    heard: list[str] = []
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24", repeats=1), note=heard.append)
    assert [(row.kind, row.size) for row in report.rows] == [
        *(("loop", "24"), ("monitor", "24"), ("evaluation", "24"), ("evaluation", "24")),
        *(("loop", "32x24"), ("monitor", "32x24"), ("evaluation", "32x24"), ("evaluation", "32x24")),
    ]
    assert [row.error for row in report.failed] == []
    assert report.status == "complete"
    assert report.machine["packages"]["torch"]
    assert heard[0] == "measuring loop at 24x24"


def test_a_stopped_run_keeps_its_rows() -> None:
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24"), stop=lambda: True)
    assert (report.status, report.rows) == ("stopped", [])


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        suite.run_benchmark(TINY.replace(engines="", providers=""))


def test_options_are_published_without_the_users_folders() -> None:
    assert suite.shareable(TINY.replace(weights="/home/me/vgg.pth"))["weights"] == "vgg.pth"
    assert suite.shareable(TINY)["weights"] == "random:0"


def test_a_picture_that_does_not_fit_fails_its_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = loops.PacedLoop.advance

    def advance(self: loops.PacedLoop, steps: int) -> float:
        if self.pastiche.shape[3] == 32:
            raise MemoryError("32 is too much")
        return real(self, steps)

    monkeypatch.setattr(loops.PacedLoop, "advance", advance)
    report = suite.run_benchmark(TINY.replace(sizes="24,32x24", providers="", monitor_every=0))
    assert [row.status for row in report.rows] == [OK, FAILED]
    assert report.rows[1].error == "MemoryError: 32 is too much"


# The command


@pytest.fixture
def command(
    report: Report, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`nst-fast bench` with a report made beforehand: exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(suite, "run_benchmark", lambda config, note, stop: report)
        monkeypatch.setattr(sys, "argv", ["nst-fast", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_json_on_stdout_is_all_that_is_there(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = command("--json", "-", "--csv", tmp_path / "r.csv")
    assert code == 0
    assert len(json.loads(out)["rows"]) == 4
    assert (tmp_path / "r.csv").read_text().startswith("kind,")
    assert "steps/s" in err
    assert "evaluation cuda 64, 128: not available: no driver" in err
    assert "…" not in err  # no figure is cut off


def test_files_are_named_on_stdout_and_not_replaced_unasked(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    arguments = ("--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    assert command(*arguments)[:2] == (0, f"{tmp_path / 'r.json'}\n{tmp_path / 'r.png'}\n")
    code, _, err = command(*arguments)
    assert code == 4
    assert "r.json exists" in err
    assert command(*arguments, "--overwrite")[0] == 0


def test_a_failed_row_ends_the_command_with_10_after_all_is_written(
    command: Callable[..., tuple[int, str, str]], report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report.rows[0], "status", FAILED)
    code, _, err = command("--csv", tmp_path / "r.csv")
    assert code == 10
    assert "1 of 4 rows failed" in err
    assert (tmp_path / "r.csv").exists()


# Scenarios


def test_a_scenario_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('description = "why"\n[options]\nsizes = "64"\n')
    scenario = load_scenario(tmp_path / "mine.toml")
    assert (scenario.name, scenario.description, scenario.config.sizes) == ("mine", "why", "64")


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
