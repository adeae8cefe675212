"""Reconstruction: one picture per tap and seed, measured against the original; shallow taps come nearer."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from batches import draw
from PIL import Image

from nst_fast.errors import UsageError
from nst_fast.jobs.reconstruct import label, measure, plan_reconstruction, psnr
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.series import run_series
from nst_fast.options.commands import ReconstructConfig


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", 3, (64, 48))


def measured(content: Path, taps: str, folder: Path, config: ReconstructConfig, seeds: str = "0") -> list[float]:
    """The PSNR of every picture, as the table has it."""
    series = plan_reconstruction(content, taps, seeds, config)
    outcomes = run_series(series, folder, JobObserver(), label=label, measure=measure)
    with (folder / "table.csv").open(newline="") as stream:
        values = [float(row["psnr_db"]) for row in csv.DictReader(stream)]
    assert [label(outcome) for outcome in outcomes] == [f"PSNR {value:.1f} dB" for value in values]
    return values


def test_psnr_is_that_of_the_textbook() -> None:
    black, grey = np.zeros((4, 5, 3), dtype=np.uint8), np.full((4, 5, 3), 51, dtype=np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))
    assert psnr(grey, black) == psnr(black, grey)
    assert psnr(black, black) == np.inf


def test_rows_are_seeds_and_columns_taps_and_there_is_no_style(photo: Path) -> None:
    series = plan_reconstruction(photo, "conv1_2, relu2_1", "0,7", ReconstructConfig())
    assert series.axes == {"seed": ["0", "7"], "tap": ["conv1_2", "relu2_1"]}
    assert [job.name for job in series.jobs] == [f"seed={s}-{t}" for s in (0, 7) for t in ("conv1_2", "relu2_1")]
    for job in series.jobs:
        assert job.config.taps == [job.values["tap"]]
        assert job.config.seed == int(job.values["seed"])
        assert not job.styles and job.config.init == "noise"


def test_one_tap_and_one_seed_are_named_after_the_tap(photo: Path) -> None:
    (job,) = plan_reconstruction(photo, "relu1_1", "3", ReconstructConfig()).jobs
    assert job.name == "relu1_1"


@pytest.mark.parametrize(("taps", "seeds"), [("relu9_1", "0"), ("", "0"), ("relu1_1", "a"), ("relu1_1", "")])
def test_what_is_no_tap_or_no_seed_is_refused(taps: str, seeds: str, photo: Path) -> None:
    with pytest.raises(UsageError):
        plan_reconstruction(photo, taps, seeds, ReconstructConfig())


def test_two_seeds_start_from_two_noises(photo: Path, tmp_path: Path) -> None:
    config = ReconstructConfig(weights="random:0", image_size=32, steps=2, engine="eager")
    assert len(measured(photo, "relu1_1", tmp_path / "out", config, seeds="0,1")) == 2
    one, two = (np.asarray(Image.open(tmp_path / "out" / "pictures" / f"seed={s}.png")) for s in (0, 1))
    assert not np.array_equal(one, two)


def test_the_original_network_reconstructs_relu1_2_best_and_deeper_taps_less(assets: Path, tmp_path: Path) -> None:
    config = ReconstructConfig(image_size=48, steps=80)
    values = measured(assets / "images" / "tubingen.png", "relu1_2,relu2_2,relu3_1", tmp_path, config)
    assert values[0] > 28
    assert values == sorted(values, reverse=True)
