"""Time to quality: the goal is the best plain run's, curves are read correctly."""

from __future__ import annotations

from pathlib import Path

import pytest

from nst_fast.benchmark import quality, suite
from nst_fast.benchmark.charts import save_plot
from nst_fast.benchmark.quality import TURN_STEPS, quality_rows, time_to
from nst_fast.benchmark.report import tables, to_csv
from nst_fast.benchmark.rows import FAILED, OK, QualityRow
from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.benchmark.workbench import Workbench
from nst_fast.errors import WeightsError
from nst_fast.jury.columns import COLUMNS
from nst_fast.run.observer import Listeners

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = BenchConfig(
    weights="random:0",
    sizes="32",
    engines="fast:fp32",
    pairs="sample",
    plain="adam:0.001,adam:0.02",
    content_taps="relu1_2",
    style_taps="relu1_1",
    style_weight=100.0,
    chroma_tv_weight=0.0,
    providers="",
    steps=3 * TURN_STEPS,
    device="cpu",
    memory=False,
)


@pytest.fixture(scope="module")
def rows() -> list[QualityRow]:
    return quality_rows(Workbench(TINY.replace(jury="random:0")), 32, 32)


def test_a_curve_is_read_between_its_points() -> None:
    assert time_to([10, 6, 2], [0, 5, 9], 4) == pytest.approx(7)
    assert time_to([10, 6, 2], [0, 5, 9], 10) == 0
    assert time_to([10, 6, 2], [0, 5, 9], 1) is None
    assert time_to([10, 3, 8, 2], [0, 1, 2, 3], 3) == 1  # the first time counts


def test_plain_runs_come_first_and_start_from_the_content(rows: list[QualityRow]) -> None:
    assert [row.recipe for row in rows] == [
        "adam 0.001 from content",
        "adam 0.02 from content",
        "lbfgs 1 from recolored",
    ]
    assert [row.engine for row in rows] == ["eager", "eager", "fast"]
    assert {row.status for row in rows} == {OK}
    assert rows[0].losses[0] == rows[1].losses[0] != rows[2].losses[0]


def test_curves_begin_before_the_first_update_and_time_only_grows(rows: list[QualityRow]) -> None:
    for row in rows:
        assert row.steps == list(range(0, TINY.steps + 1, TURN_STEPS))
        assert row.seconds[0] == 0
        assert row.seconds == sorted(row.seconds)
        assert row.turns == TINY.steps // TURN_STEPS
        assert len(row.losses) == len(row.steps)


def test_the_goal_is_the_best_plain_runs_loss(rows: list[QualityRow]) -> None:
    slow, plain, ours = rows
    assert plain.losses[-1] < slow.losses[-1]
    for row in rows:
        assert row.early_loss == plain.losses[1]
        assert row.late_loss == plain.losses[-1]
    assert plain.late_share == plain.early_share == 1
    assert slow.late_seconds is None
    assert ours.late_seconds is not None and ours.late_share == pytest.approx(ours.late_seconds / plain.seconds[-1])


def test_a_run_that_is_behind_the_plain_ones_continues_for_as_many_steps_again() -> None:
    plain, ours = quality_rows(Workbench(TINY.replace(learning_rate=1e-4, plain="adam:0.02")), 32, 32)
    assert plain.steps[-1] == TINY.steps
    assert ours.steps[-1] == 2 * TINY.steps
    assert ours.late_seconds is None


def test_an_engine_that_fails_becomes_its_row_and_sets_no_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(quality, "confirm_precision", broken)
    *plain, failed = quality_rows(Workbench(TINY.replace(engines="fast:auto", plain="adam:0.02")), 32, 32)
    assert failed.status == FAILED
    assert "no such kernel" in failed.error
    assert [row.late_share for row in plain] == [1]


def test_a_run_that_is_stopped_keeps_its_curves_and_claims_no_goal() -> None:
    workbench = Workbench(TINY, Listeners(stop=lambda: True))
    for row in quality_rows(workbench, 32, 32):
        assert row.steps == [0]
        assert row.late_loss is None


def test_curves_are_shown_in_table_csv_and_plot(
    rows: list[QualityRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = dict(suite.KINDS)
    monkeypatch.setattr(suite, "KINDS", kinds | {"quality": (kinds["quality"][0], lambda *arguments: rows)})
    data = suite.run_benchmark(TINY).as_dict()
    assert {row["kind"] for row in data["rows"]} == {"quality"}
    assert data["rows"][0]["losses"] == pytest.approx(rows[0].losses, rel=1e-5)
    assert [table.row_count for table in tables(data)] == [3]
    assert "late_share" in to_csv(data).splitlines()[0]
    assert "losses" not in to_csv(data).splitlines()[0]
    assert save_plot(data, tmp_path / "curves.png")
    assert data["rows"][0]["style_swd"] == pytest.approx(rows[0].scores["style_swd"], rel=1e-5)
    assert "style_swd" in to_csv(data).splitlines()[0]


def test_the_jurys_scores_are_those_of_every_runs_last_picture(rows: list[QualityRow]) -> None:
    slow, plain, ours = (row.scores for row in rows)
    assert list(ours) == [column.name for column in COLUMNS]
    assert slow["content_ssim"] > 0.98 > plain["content_ssim"]  # from the content, at a rate that hardly leaves it
    assert slow["style_gram_relu1_1"] > plain["style_gram_relu1_1"] > ours["style_gram_relu1_1"]


def test_a_jury_without_its_weights_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(WeightsError):
        quality_rows(Workbench(TINY.replace(jury="nowhere.safetensors")), 32, 32)
