"""The sample pictures: the same at every call and size, and rich enough to take part in a style transfer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from nst_fast.errors import UsageError
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jobs.sample_art.noise import SMALLEST, Floats, Pixels, fbm, noise

DRAW: dict[str, Callable[[int], Pixels]] = {"content": draw_content, "style": draw_style}
# Height over width.
ASPECT = {"content": 0.75, "style": 0.8}

both = pytest.mark.parametrize("which", sorted(DRAW))


@cache
def picture(which: str, size: int = 128) -> Pixels:
    return DRAW[which](size)


def luma(pixels: Pixels) -> Floats:
    return pixels @ np.array([0.299, 0.587, 0.114], np.float32)


def shrunk(pixels: Pixels) -> Floats:
    return np.asarray(Image.fromarray(pixels).resize((16, 12), Image.Resampling.BOX), np.float32)


def busyness(pixels: Pixels) -> float:
    """The mean step of brightness from a pixel to its neighbours."""
    down, right = np.gradient(luma(pixels))
    return float(np.hypot(down, right).mean())


@both
@pytest.mark.parametrize("size", [SMALLEST, 33, 97, 128])
def test_the_longest_side_is_the_size_and_the_picture_is_eight_bit_rgb(which: str, size: int) -> None:
    actual = picture(which, size)
    assert actual.shape == (round(ASPECT[which] * size), size, 3)
    assert actual.dtype == np.uint8


@both
def test_each_call_draws_the_same_picture_into_an_array_of_its_own(which: str) -> None:
    again = DRAW[which](128)
    np.testing.assert_array_equal(again, picture(which))
    assert again.flags.writeable


@both
def test_a_smaller_picture_shows_the_same_scene(which: str) -> None:
    difference = np.abs(shrunk(picture(which, 97)) - shrunk(picture(which)))
    assert difference.mean() < 6
    assert np.abs(shrunk(picture(which))[::-1] - shrunk(picture(which))).mean() > 30, "the measure sees a difference"


@both
def test_tones_reach_from_dark_to_light_and_no_part_is_flat(which: str) -> None:
    pixels = luma(picture(which))
    dark, light = np.percentile(pixels, [1, 99])
    assert dark < 45 and light > 190
    tiles = [pixels[y : y + 16, x : x + 16] for y in range(0, 96, 16) for x in range(0, 128, 16)]
    assert min(tile.std() for tile in tiles) > 1.5


@both
def test_warm_and_cold_colours_are_both_present(which: str) -> None:
    red, _, blue = np.moveaxis(picture(which).astype(np.int32), -1, 0)
    assert (red - blue > 40).mean() > 0.04
    assert (blue - red > 40).mean() > 0.04


def test_strokes_are_busier_than_the_landscape() -> None:
    assert busyness(picture("style")) > 1.5 * busyness(picture("content"))


def test_the_lake_mirrors_the_mountains() -> None:
    """Rows above the horizon (at 0.6 of the height) resemble the mirrored rows under it more than the unmirrored."""
    pixels = luma(picture("content"))[:, 32:80]
    above, below = pixels[28:54], pixels[62:88]
    mirrored = np.corrcoef(above[::-1].ravel(), below.ravel())[0, 1]
    straight = np.corrcoef(above.ravel(), below.ravel())[0, 1]
    assert mirrored > 0.4 > straight


@both
@pytest.mark.parametrize("size", [SMALLEST - 1, 0, -5])
def test_a_size_too_small_is_refused(which: str, size: int) -> None:
    with pytest.raises(UsageError, match=rf"{size} pixels is too small.*{SMALLEST} or more"):
        DRAW[which](size)


def test_noise_slopes_match_finite_differences() -> None:
    x, y = np.random.default_rng(0).uniform(-40, 40, (2, 200))
    step = 1e-5
    _, slope_x, slope_y = noise(x, y)
    np.testing.assert_allclose((noise(x + step, y)[0] - noise(x - step, y)[0]) / (2 * step), slope_x, atol=1e-3)
    np.testing.assert_allclose((noise(x, y + step)[0] - noise(x, y - step)[0]) / (2 * step), slope_y, atol=1e-3)


def test_noise_stays_between_minus_one_and_one() -> None:
    x, y = np.random.default_rng(1).uniform(-300, 300, (2, 5000)).astype(np.float32)
    value = noise(x, y)[0]
    assert -1 <= value.min() < -0.8
    assert 0.8 < value.max() <= 1


def test_erosion_lowers_what_noise_adds_up_to() -> None:
    x, y = np.random.default_rng(2).uniform(0, 50, (2, 5000)).astype(np.float32)
    assert fbm(x, y, 5, erosion=1.0).std() < fbm(x, y, 5).std()
