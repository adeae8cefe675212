"""Borders of style images: what is none stays, what is one goes, whole; the option that says so, its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY
from torch import Tensor

from nst_fast.api import stylize
from nst_fast.errors import InputError, UsageError
from nst_fast.images import borders as borders_module
from nst_fast.images import from_uint8, load_image, save_image
from nst_fast.images.borders import NO_BORDERS, WIDEST, Borders, find_borders
from nst_fast.images.resizing import resize, resize_to
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.options.config import StylizeConfig
from nst_fast.run.checkpoint import Checkpoint
from nst_fast.run.problem import read_style
from nst_fast.run.provenance import Provenance, recorded_options
from nst_fast.run.resumption import continued_config

WHITE, GRAY, BLACK, CREAM = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.93, 0.88, 0.75)
SIDES = ("left", "top", "right", "bottom")


def textured(height: int, width: int, seed: int = 0, blob: int = 5) -> Tensor:
    """A picture of blobs of strong colours, [1, 3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // blob + 2, width // blob + 2, generator=generator)
    return 0.05 + 0.9 * resize_to(coarse, (height, width))


def framed(
    picture: Tensor, borders: Borders, color: tuple[float, ...] = WHITE, grain: float = 0.0
) -> tuple[Tensor, Borders]:
    """The picture with its outer parts painted over, and the shares that whole pixels came to."""
    height, width = picture.shape[2:]
    left, top, right, bottom = borders.inside(width, height)
    frame = torch.tensor(color).view(1, 3, 1, 1).expand_as(picture)
    frame = frame + grain * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    frame[:, :, top:bottom, left:right] = picture[:, :, top:bottom, left:right]
    true = Borders(left / width, top / height, 1 - right / width, 1 - bottom / height)
    return frame.clamp(0, 1), true


def check_found(image: Tensor, true: Borders, slack: float = 0.01) -> None:
    """All of the border is found, at most a hundredth of the side more, and nothing where there is none."""
    for name, found, share in zip(SIDES, find_borders(image), true, strict=True):
        assert share - 1e-6 <= found <= (share + slack if share else 0), (name, found, share)


def without(image: Tensor, borders: Borders) -> Tensor:
    left, top, right, bottom = borders.inside(image.shape[3], image.shape[2])
    return image[:, :, top:bottom, left:right]


@pytest.mark.parametrize("color", [WHITE, GRAY, BLACK, CREAM])
@pytest.mark.parametrize("grain", [0.0, 0.03])
@pytest.mark.parametrize(
    "borders",
    [
        Borders(top=0.01),
        Borders(left=0.1),
        Borders(top=0.08, bottom=0.08),
        Borders(0.03, 0.05, 0.04),
        Borders(0.1, 0.1, 0.1, 0.1),
        Borders(0.02, 0.09, 0.06, 0.013),
    ],
    ids=str,
)
def test_a_frame_on_any_sides_is_found(borders: Borders, color: tuple[float, ...], grain: float) -> None:
    check_found(*framed(textured(311, 457), borders, color, grain))


@settings(max_examples=25)
@given(
    borders=st.builds(Borders, *[st.one_of(st.just(0.0), st.floats(0.01, 0.1))] * 4),
    height=st.integers(301, 513),
    width=st.integers(301, 513),
    seed=st.integers(0, 1000),
    color=st.sampled_from([WHITE, BLACK, CREAM]),
)
def test_a_framed_picture_is_found_within_a_hundredth_and_what_is_left_is_left_alone(
    borders: Borders, height: int, width: int, seed: int, color: tuple[float, ...]
) -> None:
    picture = textured(height, width, seed)
    assert find_borders(picture) == NO_BORDERS
    image, true = framed(picture, borders, color)
    check_found(image, true)
    assert find_borders(without(image, find_borders(image))) == NO_BORDERS


def test_borders_within_borders_are_found_up_to_the_limit() -> None:
    image, _ = framed(textured(400, 400), Borders(0.1, 0.1, 0.1, 0.1), CREAM)
    check_found(*framed(image, Borders(0.04, 0.04, 0.04, 0.04), BLACK)[:1], Borders(0.1, 0.1, 0.1, 0.1))
    for share in (0.11, 0.118, 0.13):
        found = find_borders(framed(textured(400, 400), Borders(top=share))[0])
        assert found.top == 0 or share <= found.top <= WIDEST


def test_a_slanted_and_blurred_edge_goes_too() -> None:
    """As a hand lays paper on a scanner: 3 pixels over the length."""
    image, top = textured(400, 480), 20 + torch.linspace(0, 3, 480)
    inside = (torch.arange(400)[:, None] - top[None]).clamp(-1, 1) / 2 + 0.5
    image = image * inside + (1 - inside)
    found = find_borders(image)
    assert 24 / 400 <= found.top <= 26 / 400
    assert found._replace(top=0.0) == NO_BORDERS


def rows(*values: float, width: int = 400, height: int = 400) -> Tensor:
    """Grey that depends on the height only: linear between values at equal distances."""
    column = np.interp(np.linspace(0, len(values) - 1, height), range(len(values)), values)
    return torch.tensor(column, dtype=torch.float32).view(1, 1, height, 1).expand(1, 3, height, width).clone()


def stripes(thickness: int) -> Tensor:
    return (torch.arange(400) // thickness % 2).float().view(1, 1, 400, 1).expand(1, 3, 400, 400).clone()


def sky() -> Tensor:
    """A flat sky down to hills, and a flat meadow."""
    image = torch.full((1, 3, 400, 400), 0.8)
    ridge = 30 + 25 * torch.sin(torch.arange(400) / 60)
    return torch.where(torch.arange(400).view(1, 1, 400, 1) > ridge, 0.3, image)


def mondrian() -> Tensor:
    """White, red, blue and yellow fields between black lines of 6 pixels that run through from side to side."""
    image = torch.ones(1, 3, 400, 400)
    image[:, :, 30:250, 120:] = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    image[:, :, 250:, :120] = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1)
    image[:, :, 370:, 360:] = torch.tensor([0.95, 0.85, 0.1]).view(1, 3, 1, 1)
    for at in (30, 250, 370):
        image[:, :, at : at + 6] = 0
    for at in (35, 120, 360):
        image[:, :, :, at : at + 6] = 0
    return image


def horizon() -> Tensor:
    """A flat sky, a straight horizon, and a mast of 5 pixels before both."""
    image = rows(0.8, 0.8)
    image[:, :, 30:] = 0.2 * textured(370, 400)
    image[:, :, :, 150:155] = 0.1
    return image


def squares() -> Tensor:
    """Squares within squares, each as flat as paper, as Albers painted them."""
    image = torch.full((1, 3, 400, 400), 0.9)
    for index, gray in enumerate((0.7, 0.5, 0.3), start=1):
        image[:, :, 35 * index : -35 * index, 35 * index : -35 * index] = gray
    return image


def object_on_white() -> Tensor:
    image = torch.ones(1, 3, 400, 400)
    image[:, :, 20:380, 100:300] = 0.1
    return image


WHOLE: dict[str, Callable[[], Tensor]] = {
    "one colour": lambda: torch.full((1, 3, 300, 401), 0.7),
    "black": lambda: torch.zeros(1, 3, 300, 401),
    "gradient": lambda: rows(0.2, 0.9),
    "steep gradient": lambda: rows(1.0, 0.0, 0.5, 0.5, 0.5, 0.5),
    "dark corner": lambda: rows(0.0, 0.4, 0.6, *[0.65] * 20),
    "sky": sky,
    "thin stripes": lambda: stripes(4),
    "stripes": lambda: stripes(20),
    "wide stripes": lambda: stripes(40),
    "halves": lambda: stripes(200),
    "mondrian": mondrian,
    "horizon": horizon,
    "squares": squares,
    "object on white": object_on_white,
    "white margin beyond the limit": lambda: framed(textured(400, 400), Borders(0.2, 0.2, 0.2, 0.2))[0],
    "noise": lambda: torch.rand(1, 3, 300, 401, generator=torch.Generator().manual_seed(0)),
    "small": lambda: framed(textured(60, 90), Borders(0.1, 0.1, 0.1, 0.1))[0],
    "our landscape": lambda: from_uint8(draw_content(360)),
    "our painting": lambda: from_uint8(draw_style(360)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_without_a_border_is_left_whole(name: str) -> None:
    image = WHOLE[name]()
    for turned in (image, image.flip(2), image.transpose(2, 3), image.transpose(2, 3).flip(3)):
        assert find_borders(turned.contiguous()) == NO_BORDERS


@pytest.mark.parametrize("slope", [0.001 * step for step in range(1, 40, 2)])
def test_no_straight_gradient_is_a_border(slope: float) -> None:
    image = (0.1 + slope * torch.arange(400.0)).clamp(0, 1).view(1, 1, 400, 1).expand(1, 3, 400, 400)
    assert find_borders(image) == NO_BORDERS


PHOTOGRAPHS = ("tubingen.png", "golden_gate.jpg", "taj_mahal.jpg", "figures.jpg")
PAINTINGS = ("starry_night.jpg", "cafe_terrace.jpg", "vangogh_self.jpg", "vangogh_olive.jpg", "gauguin_tahiti.jpg")


@pytest.mark.parametrize("name", [*PHOTOGRAPHS, *PAINTINGS])
def test_nothing_is_cut_from_real_pictures(name: str, assets: Path) -> None:
    plain, found = (load_image(assets / "images" / name, longest_side=300, crop=c) for c in (NO_BORDERS, "auto"))
    assert found.notes == ()
    assert torch.equal(plain.tensor, found.tensor)


def test_the_paper_edge_of_a_print_is_cut_the_same_at_every_size(assets: Path) -> None:
    path = assets / "images" / "great_wave.jpg"  # 4 of its 485 rows are paper
    wholes = [load_image(path, longest_side=side, crop="auto") for side in (200, 485, 900)]
    assert {image.notes for image in wholes} == {("border left out: top 1.4 % (`style_crop` none keeps it)",)}
    assert [max(image.tensor.shape) for image in wholes] == [200, 485, 900]
    paper = load_image(path).tensor[:, :, :2].mean()
    assert all(image.tensor[:, :, :2].mean() < paper - 0.08 for image in wholes)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A picture of 600 x 440 pixels with paper at the top (44 rows) and the left (30 columns)."""
    image, _ = framed(textured(440, 600, blob=30), Borders(left=0.05, top=0.1), CREAM)
    save_image(image, tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.mark.parametrize("side", [150, 300, 569, 600, 1000, None])
@pytest.mark.parametrize("crop", ["auto", Borders(left=0.05, top=0.1)], ids=["auto", "given"])
def test_what_is_left_has_the_size_asked_for_and_is_what_a_picture_without_border_gives(
    scan: Path, side: int | None, crop: Borders, monkeypatch: pytest.MonkeyPatch
) -> None:
    if side is None or side < 500:  # the file has pixels enough: nothing is made of too few of them
        monkeypatch.setattr(borders_module, "resize_to", None)
    found = load_image(scan, longest_side=side, crop=crop)
    assert found.original_size == (600, 440)
    inner = load_image(scan).tensor[:, :, 44:, 30:]
    expected = inner if side is None else resize(inner, side)
    assert found.tensor.is_contiguous()
    assert side is None or max(found.tensor.shape) == side
    got = resize_to(found.tensor, (expected.shape[2], expected.shape[3]))
    assert (got - expected).abs().mean() < 0.06  # two pixels of the border's side are lost at the most
    assert (got[:, :, 0] - torch.tensor(CREAM)[None, :, None]).abs().mean() > 0.2


def test_a_narrow_picture_keeps_a_border_without_which_it_would_be_too_small(tmp_path: Path) -> None:
    image, _ = framed(textured(130, 1000), Borders(top=0.1, bottom=0.1))
    save_image(image, tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", longest_side=140, crop="auto").tensor.shape == (1, 3, 18, 140)
    assert load_image(tmp_path / "a.png", longest_side=280, crop="auto").tensor.shape == (1, 3, 29, 280)
    with pytest.raises(InputError, match=r"a\.png without its border \(1000x104\) becomes 140x15"):
        load_image(tmp_path / "a.png", longest_side=140, crop=Borders(top=0.1, bottom=0.1))
    save_image(textured(20, 1000), tmp_path / "b.png")  # at the size of the overview it would be too narrow to be read
    assert load_image(tmp_path / "b.png", longest_side=1000, crop="auto").tensor.shape == (1, 3, 20, 1000)


def test_a_stretched_style_image_has_no_border_either(scan: Path) -> None:
    image = read_style(scan, StylizeConfig(style_fit="match"), (90, 70), None)
    assert image.tensor.shape == (1, 3, 90, 70)
    assert image.notes == ("border left out: left 5.1 %, top 10.1 % (`style_crop` none keeps it)",)


@pytest.mark.parametrize("text", ["", "5", "1,2,3", "1,2,3,4,5", "a,0,0,0", "top"])
def test_what_is_no_crop_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"`style_crop` .*: not auto, none or four numbers.*as 0,3,0,0"):
        StylizeConfig(style_crop=text)


@pytest.mark.parametrize("text", ["-1,0,0,0", "50,0,50,0", "0,95,0,0", "nan,0,0,0", "0,inf,0,0"])
def test_a_crop_that_leaves_too_little_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"`style_crop` '{text}': must be each at least 0.*at most 90 together"):
        StylizeConfig(style_crop=text)


def test_a_given_crop_applies_to_each_style_image_and_is_not_spoken_of(scan: Path) -> None:
    config = StylizeConfig(style_crop="0, 50,10,0", image_size=540)
    image = read_style(scan, config, (16, 16), None)
    assert image.tensor.shape == (1, 3, 220, 540)
    assert image.notes == ()
    assert torch.equal(image.tensor, load_image(scan).tensor[:, :, 220:, :540])


CONFIG = StylizeConfig(**TINY | {"image_size": 64})


def test_a_run_says_once_what_it_left_out_and_the_record_keeps_it(scan: Path, tmp_path: Path) -> None:
    save_image(textured(48, 64), tmp_path / "content.png")
    record = stylize(tmp_path / "content.png", scan, CONFIG, output=tmp_path / "out.png").record
    said = "scan.png: border left out: left 5.1 %, top 10.1 % (`style_crop` none keeps it)"
    assert record.warnings.count(said) == 1
    assert record.options["style_crop"] == "auto"
    kept = stylize(tmp_path / "content.png", scan, CONFIG.replace(style_crop="none")).record
    assert kept.warnings == []
    assert kept.losses != record.losses


def test_a_record_without_the_option_is_of_a_run_that_left_nothing_out(scan: Path, tmp_path: Path) -> None:
    save_image(textured(48, 64), tmp_path / "content.png")
    one_scale = CONFIG.replace(scales=1)  # 0 meant something else in those days
    record = stylize(tmp_path / "content.png", scan, one_scale, output=tmp_path / "out.png").record.as_dict()
    assert recorded_options(tmp_path / "out.png")["style_crop"] == "auto"
    del record["options"]["style_crop"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    assert recorded_options(tmp_path / "old.json")["style_crop"] == "none"
    nothing = torch.zeros(0)
    old = Checkpoint(
        record=record, places={"weights": "random:0"}, step=0, scale=0, first=0, seconds=0.0, history=nothing,
        pastiche=nothing, optimizer={}, guard={}, rules={}, average=None,
    )  # fmt: skip
    assert continued_config(old, {}).as_dict()["style_crop"] == "none"
    found = Provenance.of_record(record)
    weights = record["weights"]["sha256"]
    for crop, phrases in (("none", []), ("auto", ["`style_crop` none, not auto"])):
        wanted = Provenance.of_run(one_scale.replace(style_crop=crop), tmp_path / "content.png", [scan], weights)
        assert wanted.differences(found) == phrases


def test_a_border_is_never_more_than_the_limit() -> None:
    for share in (0.11, 0.118, 0.13):
        found = find_borders(framed(textured(400, 400), Borders(top=share))[0])
        assert found.top == 0 or share <= found.top <= WIDEST
