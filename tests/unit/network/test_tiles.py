from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_fast.errors import UsageError
from nst_fast.network.taps import CONVS_PER_BLOCK, layer_names, smallest_side
from nst_fast.network.tiles import Extent, grid_for_side, grid_like, halo_of, make_tiling, reach, stride_of

NETWORKS = st.sampled_from(list(CONVS_PER_BLOCK))


@pytest.mark.parametrize(
    ("network", "taps", "pixels", "halo"),
    [
        ("vgg19", ["relu5_1", "relu1_1"], 70, 80),
        ("vgg19", ["relu4_2"], 38, 40),
        ("vgg19", ["relu4_1"], 30, 32),
        ("vgg16", ["relu4_1"], 26, 32),
        ("vgg19", ["conv1_1"], 1, 1),
        ("vgg19", ["pool5"], 118, 128),
    ],
)
def test_the_halo_follows_from_the_taps(network: str, taps: list[str], pixels: int, halo: int) -> None:
    assert reach(network, taps) == pixels
    assert halo_of(network, taps) == halo


@given(NETWORKS, st.data(), st.integers(16, 700), st.integers(16, 700), st.integers(1, 5), st.integers(1, 5))
def test_every_cell_of_every_tap_belongs_to_exactly_one_tile(
    network: str, data: st.DataObject, height: int, width: int, rows: int, columns: int
) -> None:
    tap = data.draw(st.sampled_from(layer_names(network)))
    tiling = make_tiling(network, [tap], height, width, (rows, columns))
    for earlier in layer_names(network)[: layer_names(network).index(tap) + 1]:
        stride = stride_of(earlier)
        for axis, length in (("rows", height), ("columns", width)):
            extents: list[Extent] = sorted(
                {getattr(tile, axis) for tile in tiling.tiles}, key=lambda extent: extent.start
            )
            cells = [cell for extent in extents for cell in range(length)[extent.cells(stride)]]
            assert cells == list(range(length // stride))
            for extent in extents:
                inside = range((extent.high - extent.low) // stride)[extent.cells_in_crop(stride)]
                assert [cell + extent.low // stride for cell in inside] == list(range(length)[extent.cells(stride)])


@given(NETWORKS, st.data(), st.integers(16, 2000), st.integers(16, 2000), st.integers(1, 4), st.integers(1, 4))
def test_crops_start_on_the_pooling_grid_and_reach_the_border_or_the_halo(
    network: str, data: st.DataObject, height: int, width: int, rows: int, columns: int
) -> None:
    taps = data.draw(st.lists(st.sampled_from(layer_names(network)), min_size=1, max_size=3))
    tiling = make_tiling(network, taps, height, width, (rows, columns))
    assert len(list(tiling.tiles)) == tiling.grid[0] * tiling.grid[1] <= rows * columns
    for tile in tiling.tiles:
        for extent, length in ((tile.rows, height), (tile.columns, width)):
            assert extent.low % smallest_side(taps) == 0
            assert extent.low == 0 or extent.start - extent.low >= reach(network, taps)
            assert extent.high == length or (
                extent.high - extent.stop >= reach(network, taps) and extent.high % smallest_side(taps) == 0
            )


@given(st.integers(16, 5000), st.integers(16, 5000), st.integers(1, 3000))
def test_tiles_are_no_larger_than_the_side_that_was_asked_for(height: int, width: int, side: int) -> None:
    tiling = make_tiling("vgg19", ["relu5_1"], height, width, grid_for_side(["relu5_1"], height, width, side))
    for tile in tiling.tiles:
        for extent in (tile.rows, tile.columns):
            assert extent.stop - extent.start <= max(side, 16)


def test_no_test_of_hypothesis_is_timed() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None, "tests/conftest.py loads the profile"


def test_target_tiles_of_a_small_picture_are_no_smaller_than_its_own_tiles() -> None:
    """They were 108, of 65 times the picture's area: their crops had two halos where the step's have one."""
    taps = ["relu5_1"]
    tiling = make_tiling("vgg19", taps, 144, 192, grid_for_side(taps, 144, 192, 96))
    assert tiling.grid == grid_like(tiling, taps, 144, 192) == (2, 2)


@given(st.integers(64, 700), st.integers(64, 700), st.integers(64, 700), st.integers(64, 700), st.integers(40, 400))
def test_halos_of_other_pictures_tiles_cost_no_more_than_a_few_times_their_area(
    height: int, width: int, other_height: int, other_width: int, side: int
) -> None:
    taps = ["relu5_1"]
    tiling = make_tiling("vgg19", taps, height, width, grid_for_side(taps, height, width, side))
    other = make_tiling("vgg19", taps, other_height, other_width, grid_like(tiling, taps, other_height, other_width))
    least = min(160, max(each.stop - each.start for each in (*tiling.rows, *tiling.columns)))  # two halos, or a tile
    inner = (1 + 160 / (least - 16)) ** 2  # tiles end on the pooling grid
    assert tiling.whole or other.overhead <= max(inner, 1.3 * tiling.overhead)


def test_one_tile_is_the_picture_itself() -> None:
    tiling = make_tiling("vgg19", ["relu5_1"], 123, 77, (1, 1))
    assert [(tile.rows, tile.columns) for tile in tiling.tiles] == [(Extent(0, 123, 0, 123), Extent(0, 77, 0, 77))]
    assert tiling.overhead == 1.0


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one tile"):
        make_tiling("vgg19", ["relu5_1"], 100, 100, (0, 3))
