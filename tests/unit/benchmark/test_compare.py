"""Two results compared: rows matched, ratios, both environments, and what is refused or worse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from in_process import Run

from nst_fast.benchmark.compare import CompareConfig, compare, refuse, to_markdown
from nst_fast.benchmark.rows import (
    FAILED,
    NOT_AVAILABLE,
    BenchReport,
    EvaluationRow,
    LoopRow,
    MonitorRow,
    QualityRow,
    Row,
)
from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.errors import UsageError, VerificationError

MACHINE = {
    "os": "Linux 6",
    "cpu": "AMD EPYC 7763",
    "cpu_flags": ["avx2"],
    "cores_physical": 2,
    "torch_threads": 2,
    "gpus": [],
    "packages": {"torch": "2.15"},
    "commit": "aaa",
}


def results(*rows: Row, **options: Any) -> dict[str, Any]:
    made = BenchReport(options=BenchConfig(**options).as_dict(), machine=copy.deepcopy(MACHINE), device="cpu")
    made.rows += rows
    plain: dict[str, Any] = json.loads(json.dumps(made.as_dict()))
    return plain


def loop(engine: str, milliseconds: float | None, width: int = 512, **facts: Any) -> LoopRow:
    return LoopRow(engine=engine, device="cpu", width=width, height=384, step_ms=milliseconds, **facts)


def test_rows_are_matched_by_what_they_measure_and_ratios_are_costs() -> None:
    before = results(
        loop("eager", 1000, peak_memory_mib=100),
        loop("fast", 500),
        loop("fast", 50, 128),
        EvaluationRow(runtime="onnxruntime", requested="cpu", width=64, height=64, latency_ms=10),
        MonitorRow(
            engine="fast", device="cpu", requested="cpu", monitor_every=5, width=8, height=8, steps_per_second=6
        ),
        QualityRow(pair="a+b", recipe="lbfgs", device="cpu", width=8, height=8, late_seconds=4),
    )
    after = results(
        QualityRow(pair="a+b", recipe="lbfgs", device="cpu", width=8, height=8, late_seconds=2),
        MonitorRow(
            engine="fast", device="cpu", requested="cpu", monitor_every=5, width=8, height=8, steps_per_second=3
        ),
        EvaluationRow(runtime="onnxruntime", requested="cpu", width=64, height=64, latency_ms=11),
        loop("fast", 550),
        loop("eager", 2000, peak_memory_mib=150),
        loop("fast", 20, 96),
    )
    compared = compare(before, after)
    assert [(change.row, change.figure, change.ratio, change.beside_eager) for change in compared.changes] == [
        ("loop, eager, fp32, 512x384", "step_ms", 2, 1),
        ("loop, eager, fp32, 512x384", "peak_memory_mib", 1.5, None),
        ("loop, fast, fp32, 512x384", "step_ms", 1.1, 0.55),
        ("evaluation, onnxruntime, cpu, fp32, 64", "latency_ms", 1.1, None),
        ("monitor, fast, cpu, fp32, 8", "steps_per_second", 2, None),
        ("quality, fp32, a+b, lbfgs, 8", "late_seconds", 0.5, None),
    ]
    assert compared.notes == ["loop, fast, fp32, 128x384: only in A", "loop, fast, fp32, 96x384: only in B"]
    assert compared.worse(0.99) == [
        "loop, eager, fp32, 512x384: step_ms 2.000x",
        "monitor, fast, cpu, fp32, 8: steps_per_second 2.000x",
    ]
    with pytest.raises(VerificationError, match="worse by more than 60 %"):
        compared.check(0.6)
    compared.check(1.01)


def test_a_row_that_fails_now_is_worse_than_any_limit_one_that_failed_already_is_a_note() -> None:
    before = results(loop("eager", 5), loop("fast", 5), loop("ort", None, status=FAILED, error="no memory"))
    after = results(
        loop("eager", 5), loop("fast", None, status=FAILED, error="no kernel"), loop("ort", None, status=NOT_AVAILABLE)
    )
    after["rows"].append({**after["rows"][1], "engine": "compiled", "precision": "auto"})
    compared = compare(before, after)
    assert compared.worse(9) == [
        "loop, compiled, auto, 512x384: failed: no kernel",
        "loop, fast, fp32, 512x384: failed: no kernel",
    ]
    assert compared.notes == ["loop, ort, fp32, 512x384: failed in A already: no memory"]


def test_figures_and_providers_of_one_side_only_are_named_not_compared() -> None:
    before = results(loop("eager", 5, peak_memory_mib=9), loop("ort", 5, provider="cuda"))
    compared = compare(before, results(loop("eager", 5), loop("ort", 50, provider="cpu")))
    assert [change.figure for change in compared.changes] == ["step_ms"]
    assert compared.notes == [
        "loop, eager, fp32, 512x384: `peak_memory_mib` is in one only",
        "loop, ort, cuda, fp32, 512x384: ran on cuda and cpu",
    ]


def test_two_rows_alike_are_matched_in_their_order() -> None:
    twice = [loop("fast", 4), loop("fast", 8)]
    assert [change.ratio for change in compare(results(*twice), results(*twice)).changes] == [1, 1]


def test_results_without_a_common_figure_are_refused() -> None:
    with pytest.raises(UsageError, match="no figure in common"):
        compare(results(loop("fast", 5)), results(loop("fast", 5, 64)))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cpu", "Intel", "different machines .*: cpu AMD EPYC 7763 and Intel"),
        ("torch_threads", 1, "torch_threads 2 and 1"),
        ("gpus", [{"name": "H200"}], "gpus none and H200"),
    ],
)
def test_different_machines_are_refused(name: str, value: object, said: str) -> None:
    before, after = results(), results()
    after["machine"][name] = value
    with pytest.raises(UsageError, match=said):
        refuse(before, after)


def test_different_work_is_refused_other_rows_and_versions_are_not() -> None:
    other = results(sizes="64", engines="ort", repeats=3)
    other["machine"] |= {"commit": "bbb", "packages": {"torch": "2.16"}}
    del other["options"]["batch"]  # as of a version that had no such option
    refuse(results(), other)
    with pytest.raises(UsageError, match=r"different work: `style_weight` 5.0 and 7.0; `steps` 50 and 9"):
        refuse(results(), results(style_weight=7, steps=9))


def test_the_report_has_both_environments_and_marks_what_differs() -> None:
    before, after = results(loop("eager", 4)), results(loop("eager", 8), repeats=3)
    after["machine"]["packages"] = {"torch": "2.16"}
    text = to_markdown(compare(before, after), ("A", "B"), 0.05)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    assert ["torch", "2.15", "2.16", "differs"] in cells
    assert ["cpu", "AMD EPYC 7763", "AMD EPYC 7763", ""] in cells
    assert ["--repeats", "9", "3", "differs"] in cells
    assert ["loop, eager, fp32, 512x384", "step_ms", "4", "8", "2.000", "1.000"] in cells
    assert "## Worse by more than 5 %\n\n- loop, eager, fp32, 512x384: step_ms 2.000x" in text
    assert "## Worse by more than 150 %\n\n- Nothing." in to_markdown(compare(before, after), ("A", "B"), 1.5)
    assert "Worse" not in to_markdown(compare(before, after), ("A", "B"), None)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("2.5 %", 0.025), ("0%", 0)])
def test_a_limit_is_a_percentage(text: str, share: float) -> None:
    assert CompareConfig(fail_over=text).fail_over == share  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["5", "0.05", "-5%", "five%", ""])
def test_a_bare_number_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match=r"`fail_over`.*Write it as 5%"):
        CompareConfig(fail_over=text)  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, milliseconds in zip(paths, (100, 104), strict=True):
        path.write_text(json.dumps(results(loop("fast", milliseconds))))
    return paths


def test_the_command_shows_writes_and_ends_with_9_beyond_the_limit(
    files: tuple[Path, Path], command: Run, tmp_path: Path
) -> None:
    report = tmp_path / "report.md"
    call = ("bench", "compare", *files)
    code, out, err = command(*call, "--fail-over", "5%", "--markdown", report)
    assert (code, err) == (0, "")
    assert report.read_text() == out
    assert "1.040" in out
    code, out, err = command(*call, "--fail-over", "3%", "--json", "-")
    assert code == 9
    assert err.startswith("error: worse by more than 3 %: loop, fast, fp32, 512x384: step_ms 1.040x.")
    assert json.loads(out)["changes"][0]["ratio"] == 1.04


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("not json", 3, "cannot be read as JSON"),
        ('{"schema": "nst-fast/run/1"}', 3, "no result of the benchmark"),
        (json.dumps(results(loop("fast", 1), seed=4)), 2, "the two did different work: --seed 0 and 4"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    files: tuple[Path, Path], command: Run, change: str, code: int, said: str
) -> None:
    files[1].write_text(change)
    ended, out, err = command("bench", "compare", *files)
    assert (ended, out) == (code, "")
    assert said in err


def test_options_of_the_measurement_before_the_command_are_refused(files: tuple[Path, Path], command: Run) -> None:
    code, _, err = command("bench", "--sizes", "64", "--no-memory", "compare", *files)
    assert code == 2
    assert "--sizes, --memory before compare" in err
