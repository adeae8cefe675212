"""Pictures in memory are read as files with the same pixels are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import sample, turned
from PIL import Image

from nst_fast.errors import InputError
from nst_fast.images import Borders, load_image
from nst_fast.images.given import GivenPicture, source_of, sources_of

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def pixels() -> Array:
    return np.asarray(sample(size=(400, 300)))


FORMS: dict[str, Callable[[Array], Any]] = {
    "uint8": lambda array: array,
    "uint16": lambda array: array.astype(np.uint16) * 257,
    "float32": lambda array: array.astype(np.float32) / 255,
    "float64": lambda array: array / 255,
    "tensor": lambda array: torch.from_numpy(array / 255).permute(2, 0, 1).float(),
    "batch of one": lambda array: torch.from_numpy(array / 255).permute(2, 0, 1)[None].requires_grad_(),
    "PIL image": Image.fromarray,
}
SIZES: list[dict[str, Any]] = [
    {},
    {"longest_side": 100},  # reduced by averages first
    {"longest_side": 500},
    {"crop": Borders(left=0.1, bottom=0.2), "longest_side": 200},
    {"crop": "auto", "longest_side": 200},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", SIZES, ids=str)
def test_a_picture_in_memory_is_read_as_its_file(form: str, how: dict[str, Any], pixels: Array, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    file = load_image(tmp_path / "a.png", **how)
    given = load_image(source_of(FORMS[form](pixels)), **how)
    torch.testing.assert_close(given.tensor, file.tensor, atol=2e-6, rtol=0)
    assert (given.original_size, given.notes) == (file.original_size, file.notes)
    assert given.path.name == given.format == ("image" if form == "PIL image" else "array")


@pytest.mark.parametrize("form", ["uint8", "uint16", "float32"])
def test_transparency_is_composited_on_the_background(form: str, pixels: Array, tmp_path: Path) -> None:
    alpha = np.concatenate([pixels, np.full((300, 400, 1), 51, np.uint8)], axis=2)
    Image.fromarray(alpha).save(tmp_path / "a.png")
    file = load_image(tmp_path / "a.png", background="red")
    given = load_image(source_of(FORMS[form](alpha)), background="red")
    torch.testing.assert_close(given.tensor, file.tensor, atol=1e-6, rtol=0)
    assert given.notes == file.notes == ("transparent pixels composited on the background",)


def test_an_image_is_turned_as_its_orientation_says_and_its_palette_is_resolved(pixels: Array, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned(6))
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    for name in ("turned.png", "palette.png"):
        with Image.open(tmp_path / name) as image:
            given = load_image(source_of(image))
        file = load_image(tmp_path / name)
        assert torch.equal(given.tensor, file.tensor)
        assert given.original_size == file.original_size


def test_the_hash_is_that_of_the_pixels(pixels: Array) -> None:
    hashes = {form: GivenPicture(make(pixels)).sha256 for form, make in FORMS.items()}
    assert hashes["uint8"] == hashes["PIL image"]
    assert len({hashes[form] for form in ("float32", "tensor", "batch of one")}) == 1
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    for make in FORMS.values():
        assert GivenPicture(make(other)).sha256 != GivenPicture(make(pixels)).sha256
    assert GivenPicture(pixels.reshape(600, 200, 3)).sha256 != hashes["uint8"]


def test_what_is_given_may_be_changed_afterwards(pixels: Array) -> None:
    for make in FORMS.values():
        given = make(pixels.copy())
        source = source_of(given)
        before = load_image(source).tensor
        if isinstance(given, torch.Tensor):
            given.detach().zero_()
        elif isinstance(given, Image.Image):
            given.paste((0, 0, 0), (0, 0, 400, 300))
        else:
            given[:] = 0
        assert torch.equal(load_image(source).tensor, before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "int is no picture"),
        (np.zeros((20, 20), np.uint8), r"an array \[20, 20\] of uint8"),
        (np.zeros((20, 20, 2), np.uint8), r"\[20, 20, 2\]"),
        (np.zeros((20, 20, 3), np.int32), "of int32 is no picture.*uint8, uint16 or floats"),
        (np.full((20, 20, 3), 1.5), "not from 0 to 1"),
        (np.full((20, 20, 3), np.nan), "not from 0 to 1"),
        (torch.zeros(2, 3, 20, 20), r"a tensor \[2, 3, 20, 20\]"),
        (torch.zeros(20, 20, 3), r"a tensor \[20, 20, 3\]"),
        (torch.zeros(3, 20, 20, dtype=torch.uint8), "of torch.uint8"),
        (torch.zeros(3, 20, 20, device="meta"), "is no picture"),
        (torch.zeros(3, 20, 20).to_sparse(), "is no picture"),
        (np.zeros((0, 0, 3), np.uint8), "is no picture"),
        (np.zeros((1, 20, 20, 3), np.uint8), "is no picture"),
        (np.zeros((20, 20, 3), bool), "is no picture"),
        (np.full((20, 20, 3), "a", object), "is no picture"),
        (b"", "is empty"),
        (b"no picture at all", "not an image"),
        (None, "is no picture"),
        ([[1, 2], [3, 4]], "is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_is_one(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_image(source_of(given))


def test_limits_are_those_of_files(pixels: Array) -> None:
    with pytest.raises(InputError, match="the given array has 400x300 pixels"):
        load_image(source_of(pixels), max_megapixels=0.1)
    with pytest.raises(InputError, match="only 5x300"):
        load_image(source_of(pixels[:, :5]))


def test_one_picture_or_several(pixels: Array) -> None:
    assert sources_of("a.png") == sources_of(Path("a.png")) == sources_of(["a.png"]) == [Path("a.png")]
    assert len(sources_of(pixels)) == 1
    assert [type(source) for source in sources_of([pixels, "a.png"])] == [GivenPicture, type(Path())]
