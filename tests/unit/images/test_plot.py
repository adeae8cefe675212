"""Plots of several runs: what the legend says, where the points stand, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nst_fast.cli.plot import plot
from nst_fast.errors import InputError, OutputError, UsageError
from nst_fast.images.plots import positions
from nst_fast.jobs.comparison import compare_curves, labels_of, show_beside
from nst_fast.options.config import StylizeConfig
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.record import RunRecord, read_record


def save_run(path: Path, steps: int = 8, **options: Any) -> Path:
    """A picture with a record, as a run leaves it."""
    column = [10.0 / (1 + step) for step in range(steps + 1)]
    record = RunRecord(
        options=StylizeConfig(steps=steps, **options).as_dict(),
        inputs={"content": {"name": "c.png", "sha256": "00", "size": [9, 9]}, "styles": []},
        weights={"source": "random, seed 0", "sha256": "00"},
        device="cpu",
        engine="eager",
        precision="fp32",
        machine={},
        status="complete",
        steps=steps,
        seconds=4.0,
        history={"content/relu1_1": column, "style/relu1_1": column, "total": [2 * value for value in column]},
    )
    OutputFiles(path).save_picture(torch.rand(1, 3, 24, 32), record)
    return path


def test_the_legend_names_the_options_that_differ(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / f"{name}.png", content_weight=w) for name, w in [("a", 0.01), ("b", 100.0)]]
    assert labels_of(runs, [read_record(run) for run in runs]) == ["content-weight 0.01", "content-weight 100"]


def test_the_legend_names_the_files_when_options_do_not_tell_the_runs_apart(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    runs = [save_run(tmp_path / "a.png"), save_run(tmp_path / "b.png", monitor_every=7)]
    assert labels_of(runs, [read_record(run) for run in runs]) == ["a", "b"]
    twins = [runs[0], save_run(tmp_path / "x" / "a.png")]
    assert labels_of(twins, [read_record(run) for run in twins]) == [str(path) for path in twins]


def test_a_thinned_history_still_ends_at_the_last_step(tmp_path: Path) -> None:
    run = save_run(tmp_path / "long.png", steps=1000)
    inside = read_record(run)
    assert positions(inside, len(inside["history"]["total"]), "step")[-1] == 1000
    assert positions(inside, len(inside["history"]["total"]), "seconds")[-1] == 4.0
    assert positions({"steps": 3}, 4, "step") == [0, 1, 2, 3]


def test_curves_of_several_runs_are_one_picture_and_each_adds_ink(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / "a.png", steps=4), save_run(tmp_path / "b.png", steps=8).with_suffix(".json")]
    for count in (1, 2):
        compare_curves(runs[:count], tmp_path / f"{count}.png", terms=["total", "style"], overwrite=False)
    one, two = (np.asarray(Image.open(tmp_path / f"{count}.png").convert("RGB")) for count in (1, 2))
    orange = (217, 95, 2)  # the second run's
    assert not (one == orange).all(2).any()
    assert (two == orange).all(2).any()


def test_beside_shows_the_picture_given_by_either_file(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a.png")
    show_beside([run], tmp_path / "one.png", overwrite=False)
    show_beside([run.with_suffix(".json")], tmp_path / "two.png", overwrite=False)
    one, two = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("one.png", "two.png"))
    assert np.array_equal(one, two)


def test_what_cannot_be_plotted_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a.png")
    plain = tmp_path / "plain.png"
    Image.new("RGB", (20, 20)).save(plain)
    with pytest.raises(UsageError, match="`terms` 'loss'"):
        compare_curves([run], tmp_path / "out.png", terms=["loss"], overwrite=False)
    with pytest.raises(UsageError, match="PNG"):
        compare_curves([run], tmp_path / "out.pdf", overwrite=False)
    with pytest.raises(InputError, match="no run record"):
        compare_curves([run, plain], tmp_path / "out.png", overwrite=False)
    with pytest.raises(OutputError, match="is the input"):
        compare_curves([run], run, overwrite=True)
    with pytest.raises(OutputError, match="exists"):
        compare_curves([run], plain, overwrite=False)
    with pytest.raises(UsageError, match="--beside"):
        plot([run], tmp_path / "out.png", against="seconds", beside=True)
    assert not (tmp_path / "out.png").exists()
