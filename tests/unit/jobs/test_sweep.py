"""Sweeps: every combination once, finished ones kept, failed ones marked, and the same sheet after a kill."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from batches import Watcher, draw
from PIL import Image

from nst_fast import evaluate
from nst_fast.cli.console import Messages
from nst_fast.cli.series import conclude_series
from nst_fast.cli.signals import Stop
from nst_fast.errors import BusyError, OutputError, PartialError, UsageError, WeightsError
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.series import Series, run_series
from nst_fast.jobs.sweep import jury_measure, plan_sweep
from nst_fast.options.commands import SweepConfig
from nst_fast.system.files import lock

TINY = SweepConfig(
    weights="random:0", content_taps="relu2_1", style_taps="relu1_1", image_size=32, steps=3, engine="eager"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(["one", "two", "three", "wave"]):
        draw(folder / f"{name}.png", seed, (40, 30))
    (folder / "broken.png").write_bytes(b"not a picture")
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def small_series(pictures: Path, *contents: str, vary: str = "content-weight=1,10", **options: object) -> Series:
    paths = [pictures / f"{name}.png" for name in contents or ("one", "two")]
    return plan_sweep(paths, [pictures / "wave.png"], [vary], TINY.replace(**options))


def test_every_combination_is_one_job_with_the_last_axis_running_fastest(pictures: Path) -> None:
    taps = "style-taps=relu1_1;relu1_1,relu2_1:0.5"
    series = plan_sweep(
        [pictures / "one.png", pictures / "two.png"], [pictures / "wave.png"], ["content-weight=0.01,1,100", taps], TINY
    )
    assert series.axes == {
        "content": ["one", "two"],
        "content-weight": ["0.01", "1", "100"],
        "style-taps": ["relu1_1", "relu1_1,relu2_1:0.5"],
    }
    configs = [(job.content, job.config.content_weight, str(job.config.style_taps)) for job in series.jobs]
    assert len(set(configs)) == len({job.name for job in series.jobs}) == 12
    assert configs[1] == (pictures / "one.png", 0.01, "relu1_1,relu2_1:0.5")
    assert configs[2] == (pictures / "one.png", 1.0, "relu1_1")


def test_pictures_of_one_name_and_values_that_are_no_file_names_stay_apart(tmp_path: Path) -> None:
    contents = [tmp_path / "a" / "photo.jpg", tmp_path / "b" / "photo.jpg", tmp_path / "photo.png"]
    series = plan_sweep(contents, [tmp_path / "s.jpg"], ["init=x/y,x:y"], TINY)
    names = [job.name for job in series.jobs]
    assert len(set(names)) == 6
    assert not any(set("/\\:") & set(name) for name in names)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("content-wait=1,2", "content-weight"),
        ("content-weight", "no values"),
        ("content-weight=1,x", "'x': must be a number"),
        ("steps=1.5", "must be a whole number"),
        ("content-weight=-1", "`content_weight` -1"),
        ("style-taps=relu1_1;relu9_9", "relu9_9"),
        ("allow-fallback=perhaps", "true or false"),
    ],
)
def test_what_no_run_could_do_is_refused_before_any_work(vary: str, words: str, pictures: Path) -> None:
    with pytest.raises(UsageError, match=words):
        small_series(pictures, vary=vary)


def test_an_option_may_be_varied_once_and_words_may_be_values(pictures: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        plan_sweep([pictures / "one.png"], [pictures / "wave.png"], ["steps=1,2", "--steps=3,4"], TINY)
    series = small_series(pictures, "one", vary="learning_rate=none,0.5")
    assert [job.config.learning_rate for job in series.jobs] == [None, 0.5]
    assert [job.config.allow_fallback for job in small_series(pictures, "one", vary="allow-fallback=no,yes").jobs] == [
        *(False, True)
    ]


def test_a_loss_that_not_every_run_has_is_a_column_of_the_table(pictures: Path, tmp_path: Path) -> None:
    run_series(small_series(pictures, "one", vary="edge-weight=0,0.5"), tmp_path, Watcher())
    assert [bool(row["edges"]) for row in rows_of(tmp_path)] == [False, True]


def test_finished_runs_are_kept_and_unfinished_ones_are_done(pictures: Path, tmp_path: Path) -> None:
    series = small_series(pictures)
    run_series(series, tmp_path, Watcher())
    sheet = (tmp_path / "sheet.png").read_bytes()
    damaged, lost, other = (tmp_path / "pictures" / f"{job.name}.png" for job in series.jobs[:3])
    damaged.write_bytes(damaged.read_bytes()[:-20])
    lost.with_suffix(".json").unlink()
    record = json.loads(other.with_suffix(".json").read_text())
    other.with_suffix(".json").write_text(json.dumps(record | {"output_sha256": "00"}))
    watcher = Watcher()
    run_series(series, tmp_path, watcher)
    assert watcher.updates == [3, 3, 3]
    assert (tmp_path / "sheet.png").read_bytes() == sheet
    assert [row["status"] for row in rows_of(tmp_path)] == ["complete"] * 4
    assert all(float(row["seconds"]) > 0 for row in rows_of(tmp_path))


def test_a_run_that_is_kept_has_a_title_and_a_note() -> None:
    watcher = Watcher()
    JobObserver.kept(watcher, "1/4 content one")
    assert (watcher.titles, watcher.notes) == (["1/4 content one"], ["finished before, kept"])


def test_a_wider_sweep_in_the_same_folder_runs_only_what_is_new(pictures: Path, tmp_path: Path) -> None:
    run_series(small_series(pictures), tmp_path, Watcher())
    watcher = Watcher()
    run_series(small_series(pictures, vary="content-weight=1,5,10"), tmp_path, watcher)
    assert watcher.updates == [3, 3]


def test_pictures_of_other_options_are_not_replaced_unless_asked(pictures: Path, tmp_path: Path) -> None:
    run_series(small_series(pictures), tmp_path, Watcher())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"`steps` 3, not 4.*`overwrite`"):
        run_series(small_series(pictures, steps=4), tmp_path, Watcher())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    watcher = Watcher()
    run_series(small_series(pictures, steps=4), tmp_path, watcher, overwrite=True)
    assert watcher.updates == [4] * 4


def test_another_picture_under_the_same_name_is_another_start(pictures: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    for seed, expected in [(0, [1]), (0, [])]:
        Image.fromarray(np.full((30, 40, 3), seed, dtype=np.uint8)).save(start)
        watcher = Watcher()
        run_series(small_series(pictures, "one", vary="steps=1", init=str(start)), tmp_path / "out", watcher)
        assert watcher.updates == expected
    Image.fromarray(np.full((30, 40, 3), 99, dtype=np.uint8)).save(start)
    with pytest.raises(OutputError, match="another picture to start from"):
        run_series(small_series(pictures, "one", vary="steps=1", init=str(start)), tmp_path / "out", Watcher())


def test_two_sweeps_do_not_write_to_one_folder(pictures: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "plan.json"), pytest.raises(BusyError):
        run_series(small_series(pictures), tmp_path, Watcher())
    assert not (tmp_path / "plan.json").exists()


def test_a_long_axis_is_wrapped_on_the_sheet(pictures: Path, tmp_path: Path) -> None:
    run_series(small_series(pictures, "one", vary="seed=0,1,2,3,4,5,6", steps=1, init="noise"), tmp_path, Watcher())
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert width < 7 * 32 + 8 * 12
    assert height > 2 * 24


def test_a_sheet_of_the_users_is_not_replaced(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"sheet\.png exists"):
        run_series(small_series(pictures), tmp_path, Watcher())
    assert (tmp_path / "sheet.png").read_bytes() == b"mine"


def test_a_failed_run_is_a_hole_a_row_and_exit_10_and_spoils_no_other(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = small_series(pictures, "one", "broken", "two")
    outcomes = run_series(series, tmp_path, Watcher())
    assert [row["status"] for row in rows_of(tmp_path)] == [*["complete"] * 2, *["failed"] * 2, *["complete"] * 2]
    assert "broken.png" in rows_of(tmp_path)[2]["error"]
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 0
    with pytest.raises(PartialError, match="2 of 6") as error:
        conclude_series(series, outcomes, tmp_path, Messages(quiet=True), Stop(), as_json=False)
    assert error.value.exit_code == 10
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: content broken")]
    assert len(lines) == 2


def test_a_stopped_series_keeps_what_is_finished_and_can_continue(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = small_series(pictures)
    outcomes = run_series(series, tmp_path / "a", Watcher(stop_at=2))
    assert [outcome.status for outcome in outcomes] == ["complete", "not run", "not run", "not run"]
    assert len(list((tmp_path / "a" / "pictures").glob("*.png"))) == 1
    stop = Stop()
    stop.signal_number = 2
    with pytest.raises(typer.Exit) as error:
        conclude_series(series, outcomes, tmp_path, Messages(quiet=False), stop, as_json=False)
    assert error.value.exit_code == 130
    assert "1 of 4 runs" in capsys.readouterr().err
    run_series(series, tmp_path / "a", Watcher())
    run_series(series, tmp_path / "b", Watcher())
    assert (tmp_path / "a" / "sheet.png").read_bytes() == (tmp_path / "b" / "sheet.png").read_bytes()


def test_a_sweep_killed_at_a_random_moment_ends_with_the_same_sheet(pictures: Path, tmp_path: Path) -> None:
    vary = ["content-weight=0.1,1,10", "style-weight=1,10,100"]
    options = {"steps": 15, "image_size": 32, "init": "noise"}
    series = plan_sweep([pictures / "one.png"], [pictures / "wave.png"], vary, TINY.replace(**options))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_series(series, whole, Watcher())
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    flags += ["--weights=random:0", "--content-taps=relu2_1", "--style-taps=relu1_1", "--engine=eager"]
    command = [sys.executable, "-m", "nst_fast", "sweep", "one.png", "--style", "wave.png", "-q", "-o", str(broken)]
    process = subprocess.Popen(
        [*command, *flags, *(part for text in vary for part in ("--vary", text))],
        cwd=pictures,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 60
    while not list(broken.glob("pictures/*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    first = next(iter(broken.glob("pictures/*.json")))
    delay = random.uniform(0, 4) * json.loads(first.read_text())["seconds"]
    time.sleep(delay)
    process.kill()
    process.wait()
    done = len(list(broken.glob("pictures/*.json")))
    assert 1 <= done < 9, f"killed {delay:.3f} s after the first picture, with {done} done"
    watcher = Watcher()
    run_series(series, broken, watcher)
    assert len(watcher.updates) <= 10 - done
    assert (broken / "sheet.png").read_bytes() == (whole / "sheet.png").read_bytes()


def test_the_jury_adds_its_columns_to_the_table_also_for_pictures_that_are_kept(pictures: Path, tmp_path: Path) -> None:
    series = small_series(pictures, "one", vary="steps=1,12", style_scale=0.8)
    run_series(series, tmp_path, Watcher())
    assert "style_swd" not in rows_of(tmp_path)[0]
    watcher = Watcher()
    run_series(series, tmp_path, watcher, measure=jury_measure(series, "random:1"))
    assert watcher.updates == []
    for row in rows_of(tmp_path):
        picture = tmp_path / "pictures" / row["picture"]
        scores = evaluate(
            pictures / "one.png", pictures / "wave.png", picture, weights="random:1", device="cpu", style_scale=0.8
        )
        for name, score in scores.pictures[0].scores.items():
            assert score is None or float(row[name]) == pytest.approx(score, rel=1e-5)
    assert float(rows_of(tmp_path)[0]["content_ssim"]) > float(rows_of(tmp_path)[1]["content_ssim"])


def test_a_jury_that_could_not_score_is_refused_before_any_run(pictures: Path) -> None:
    with pytest.raises(UsageError, match="`jury` needs"):
        jury_measure(small_series(pictures, content_fit="square"), "random:1")
    with pytest.raises(WeightsError):
        jury_measure(small_series(pictures), "nowhere.safetensors")


def test_blends_are_a_row_of_the_sheet_from_one_style_to_the_other(pictures: Path, tmp_path: Path) -> None:
    styles = [pictures / "wave.png", pictures / "three.png"]
    series = plan_sweep([pictures / "one.png"], styles, ["style-weight-each=1,0;0.5,0.5;0,1"], TINY)
    assert [list(job.styles) for job in series.jobs] == [styles] * 3
    assert [job.config.style_weight_each for job in series.jobs] == [(1, 0), (0.5, 0.5), (0, 1)]
    outcomes = run_series(series, tmp_path / "blend", JobObserver())
    alone = run_series(plan_sweep([pictures / "one.png"], styles, [], TINY), tmp_path / "alone", JobObserver())
    ends = [outcomes[0], outcomes[2]]
    for end, single in zip(ends, alone, strict=True):
        assert end.record is not None and single.record is not None
        assert end.record["losses"] == single.record["losses"]
    with Image.open(tmp_path / "blend" / "sheet.png") as sheet:
        assert sheet.width > 3 * 32


def test_weights_of_regions_are_a_row_of_the_sheet(pictures: Path, tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(pictures / "left.png")
    config = TINY.replace(region=[(pictures / "left.png", pictures / "three.png")])
    vary = ["style-weight-each=1,0;1,1;1,4"]
    series = plan_sweep([pictures / "one.png"], [pictures / "wave.png"], vary, config)
    outcomes = run_series(series, tmp_path / "regions", JobObserver())
    terms = [outcome.record["losses"]["style/relu1_1/1"] for outcome in outcomes if outcome.record is not None]
    assert terms[0] == 0 < terms[2] / 4 < terms[1]  # the larger its weight, the nearer it is to its style
    with Image.open(tmp_path / "regions" / "sheet.png") as sheet:
        assert sheet.width > 3 * 32


def test_weights_of_a_blend_that_are_not_one_for_each_style_are_refused(pictures: Path, tmp_path: Path) -> None:
    series = plan_sweep([pictures / "one.png"], [pictures / "wave.png"], ["style-weight-each=1,0;0,1"], TINY)
    with pytest.raises(UsageError, match="2 weights for 1 style images"):
        run_series(series, tmp_path / "out", JobObserver())
