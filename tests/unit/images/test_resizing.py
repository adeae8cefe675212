"""Sizes and the filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nst_fast.errors import UsageError
from nst_fast.images.resizing import resize, resize_to, resize_wrapped, scaled_size

SIDES = st.integers(1, 20_000)


@given(SIDES, SIDES, st.integers(1, 4096))
def test_the_longest_side_is_exact_and_the_other_differs_by_rounding_only(
    width: int, height: int, longest_side: int
) -> None:
    scaled = scaled_size(width, height, longest_side)
    assert max(scaled) == longest_side
    exact = min(width, height) * longest_side / max(width, height)
    assert min(scaled) == 1 or abs(min(scaled) - exact) <= 0.5 + 1e-9
    assert (width >= height) == (scaled[0] >= scaled[1]) or scaled[0] == scaled[1]


def test_no_longest_side_keeps_the_size_and_none_below_1_is_taken(picture: torch.Tensor) -> None:
    assert scaled_size(123, 45, None) == (123, 45)
    assert resize(picture, 32) is picture
    with pytest.raises(UsageError):
        scaled_size(10, 10, 0)


@pytest.mark.parametrize("size", [(5, 9), (48, 70)])
def test_the_filter_is_pillows_bicubic(picture: torch.Tensor, size: tuple[int, int]) -> None:
    expected = [
        np.asarray(Image.fromarray(channel.numpy()).resize(size[::-1], Image.Resampling.BICUBIC))
        for channel in picture[0]
    ]
    actual = resize_to(picture, size)[0].numpy()
    np.testing.assert_allclose(actual, np.clip(np.stack(expected), 0, 1), atol=2e-5)


def test_fine_stripes_become_grey_and_not_a_pattern() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    assert (resize(stripes, 16)[..., 2:-2] - 0.5).abs().max() < 0.02


def test_the_size_is_exact_where_floating_point_is_not() -> None:
    assert int(49 * (1 / 49)) == 0  # what a naive factor would give
    assert resize_to(torch.zeros(1, 3, 49, 49), (1, 1)).shape == (1, 3, 1, 1)


def test_a_part_is_placed_by_its_true_extent() -> None:
    """A ramp of 300 pixels, averaged by sevens: the last cell holds 6, so the picture ends at 42 6/7 cells."""
    ramp = torch.arange(0.5, 300) / 300
    cells = torch.nn.functional.avg_pool1d(ramp.view(1, 1, -1), 7, ceil_mode=True).expand(1, 3, 43)
    image = cells.view(1, 3, 1, 43).expand(1, 3, 43, 43)
    actual = resize_to(image, (10, 10), (300 / 7, 300 / 7))[0, 0, 0]
    expected = (torch.arange(10) + 0.5) / 10
    torch.testing.assert_close(actual[2:-2], expected[2:-2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(48, 64), (16, 16), (24, 32), (70, 33), (48, 64 * 3)])
@pytest.mark.parametrize("wraps", [(True, False), (False, True), (True, True)])
def test_an_image_that_wraps_is_resized_as_its_copies_side_by_side_would_be(
    size: tuple[int, int], wraps: tuple[bool, bool]
) -> None:
    image = torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(0))
    times = [3 if wrapped else 1 for wrapped in wraps]
    tiled = resize_to(image.repeat(1, 1, *times), (size[0] * times[0], size[1] * times[1]))
    rows, columns = (
        slice(side, 2 * side) if wrapped else slice(None) for side, wrapped in zip(size, wraps, strict=True)
    )
    torch.testing.assert_close(resize_wrapped(image, size, wraps), tiled[:, :, rows, columns], rtol=0, atol=2e-5)
