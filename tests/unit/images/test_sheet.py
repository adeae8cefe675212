"""Contact sheets: every picture at its place, headings above and beside, holes that say why."""

from __future__ import annotations

import numpy as np
import pytest

from nst_fast.images.sheet import HOLE, LABEL_SIZE, PAPER, Cell, Heading, contact_sheet, font, shorten, wrap


def plain(value: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), (value, 0, 200), dtype=np.uint8)


def places(sheet: np.ndarray, value: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of all pixels of a plain picture."""
    rows, columns = np.nonzero((sheet == (value, 0, 200)).all(2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_pictures_keep_their_pixels_and_stand_in_rows_and_columns() -> None:
    sheet = contact_sheet([[Cell("a", plain(10)), Cell("b", plain(60))], [Cell("c", plain(110))]])
    a, b, c = (places(sheet, value) for value in (10, 60, 110))
    assert (a[2] - a[0], a[3] - a[1]) == (40, 60)
    assert a[0] == b[0] and a[3] < b[1]
    assert c[1] == a[1] and c[0] > a[2]


def test_a_large_picture_is_shrunk_to_the_cell_and_a_small_one_is_left() -> None:
    sheet = contact_sheet([[Cell("", plain(10, 400, 200)), Cell("", plain(60, 20, 20))]], cell_size=100)
    large, small = places(sheet, 10), places(sheet, 60)
    assert (large[2] - large[0], large[3] - large[1]) == (100, 50)
    assert (small[2] - small[0], small[3] - small[1]) == (20, 20)


def test_a_hole_is_as_large_as_the_pictures_and_says_why() -> None:
    silent = contact_sheet([[Cell("", plain(10, 90, 160)), Cell("", None)]])
    telling = contact_sheet([[Cell("", plain(10, 90, 160)), Cell("", None, "failed")]])
    assert (silent == HOLE).all(2).sum() > 160 * 90 * 0.8
    assert telling.shape == silent.shape
    assert not np.array_equal(telling, silent)


def test_headings_stand_above_the_columns_and_beside_the_rows() -> None:
    cells = [[Cell("", plain(10)), Cell("", plain(60))]]
    bare = contact_sheet(cells)
    columns = [[Heading("steps", value)] for value in ("10", "20")]
    headed = contact_sheet(cells, columns=columns, row_headings=[[Heading("style", "wave")]])
    top, left, _, _ = places(headed, 10)
    assert top > places(bare, 10)[0] and left > places(bare, 10)[1]
    assert (headed[:top, left:] != PAPER).any()
    assert (headed[top:, :left] != PAPER).any()


def test_headings_that_do_not_belong_to_the_cells_are_a_fault() -> None:
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([[Cell("", plain(10))]], columns=[[Heading("steps", "1")], [Heading("steps", "2")]])


def test_text_is_wrapped_at_commas_and_never_wider_than_its_place() -> None:
    lines = wrap("relu1_1,relu2_1,relu3_1,relu4_1", 120)
    assert "".join(lines) == "relu1_1,relu2_1,relu3_1,relu4_1"
    assert all(font(LABEL_SIZE).getlength(line) <= 120 for line in lines)
    assert shorten("a-name-without-any-place-to-break-it", 80).endswith("…")
    assert font(LABEL_SIZE).getlength(shorten("a-name-without-any-place-to-break-it", 80)) <= 80
