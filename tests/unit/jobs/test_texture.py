"""Textures: a style's Gram matrices at any size, from several seeds and sets of taps, without any content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_fast.errors import OutputError, UsageError
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.series import run_series
from nst_fast.jobs.texture import parse_size, plan_textures, tap_sets
from nst_fast.options.commands import TextureConfig

TINY = TextureConfig(weights="random:0", image_size=32, min_size=16, scales=2, steps=30, engine="eager")


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    picture = np.zeros((48, 48, 3), dtype=np.uint8)
    picture[:, ::8] = picture[:, 1::8] = (250, 120, 20)
    Image.fromarray(picture).save(tmp_path / "stripes.png")
    return tmp_path / "stripes.png"


def test_sizes_are_width_by_height() -> None:
    assert parse_size("384x256") == (256, 384)
    for text in ("384", "x", "384x", "8x64", "64x99999", "a4"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_sets_of_taps_are_parted_by_semicolons_or_grow_one_by_one() -> None:
    assert tap_sets("conv1_2;conv1_2,conv2_2:0.5", cumulative=False) == ["conv1_2", "conv1_2,conv2_2:0.5"]
    assert tap_sets("conv1_2,conv2_2:0.5,conv3_4", cumulative=True) == [
        *("conv1_2", "conv1_2,conv2_2:0.5", "conv1_2,conv2_2:0.5,conv3_4")
    ]
    for text, cumulative in [("", False), (" ; ", True), ("conv1_2;conv2_2", True)]:
        with pytest.raises(UsageError):
            tap_sets(text, cumulative=cumulative)


def test_columns_are_sets_of_taps_or_seeds_where_there_is_one_set(stripes: Path) -> None:
    many = plan_textures([stripes], ["relu1_1", "relu2_1"], "0,1", TINY, None)
    assert list(many.axes) == ["seed", "style-taps"]
    one = plan_textures([stripes], ["relu1_1"], "0,1", TINY, None)
    assert list(one.axes) == ["seed"]
    assert [(job.config.seed, job.size, job.content) for job in one.jobs] == [(0, (32, 32), None), (1, (32, 32), None)]


def test_an_unknown_tap_is_refused_before_any_work(stripes: Path) -> None:
    with pytest.raises(UsageError, match="relu9_9"):
        plan_textures([stripes], ["relu9_9"], "0", TINY, None)


def test_a_texture_has_the_size_asked_for_and_nearly_the_styles_grams(stripes: Path, tmp_path: Path) -> None:
    series = plan_textures([stripes], ["relu1_1,relu2_1"], "0,1", TINY, (24, 56))
    outcomes = run_series(series, tmp_path / "out", JobObserver())
    pictures = [np.asarray(Image.open(tmp_path / "out" / "pictures" / f"seed={seed}.png")) for seed in (0, 1)]
    assert [picture.shape for picture in pictures] == [(24, 56, 3)] * 2
    assert not np.array_equal(*pictures)
    for outcome in outcomes:
        assert outcome.record is not None
        total = outcome.record["history"]["total"]
        assert total[-1] < total[0] / 20
        assert not outcome.record["losses"].keys() & {"content/relu4_2"}
    with pytest.raises(OutputError, match="another size"):
        run_series(
            plan_textures([stripes], ["relu1_1,relu2_1"], "0,1", TINY, (24, 40)), tmp_path / "out", JobObserver()
        )


def test_the_sides_of_a_seamless_texture_join(tmp_path: Path) -> None:
    """The step across the seam is not above the picture's mean."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / "style.png")
    ratios = {}
    for seamless in ("none", "xy"):
        config = TINY.replace(seamless=seamless, image_size=64, steps=40, engine="fast")
        series = plan_textures([tmp_path / "style.png"], ["relu1_1,relu2_1"], "0", config, (65, 64))
        run_series(series, tmp_path / seamless, JobObserver())
        picture = np.asarray(Image.open(tmp_path / seamless / "pictures" / "seed=0.png"), dtype=float)
        steps = [np.abs(np.roll(picture, -1, axis) - picture).mean((1 - axis, 2)) for axis in (0, 1)]
        ratios[seamless] = [each[-1] / each.mean() for each in steps]
    assert picture.shape == (64, 64, 3)  # a multiple of relu2_1's cell
    assert max(ratios["xy"]) <= 1.0 < 1.5 < min(ratios["none"])
