"""Masks, maps and transparency from files to pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import DEEPER

from nst_fast import resume, stylize
from nst_fast.errors import InputError, NstFastError, ResumeError, UsageError
from nst_fast.objective.losses import gram_matrix
from nst_fast.options.config import StylizeConfig
from nst_fast.options.regions import MapPair, Masks, Regions
from nst_fast.run.observer import Listeners
from nst_fast.run.problem import Networks, Problem, check_blend, load_problem
from nst_fast.run.provenance import Provenance, recorded_options
from nst_fast.run.record import read_record

TINY = DEEPER | {"image_size": 48, "scales": 1, "steps": 4}
SIZE = (36, 48)


def save(path: Path, array: NDArray[Any]) -> Path:
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A content, two styles, masks of its halves, and soft ones that add up to white."""
    generator = np.random.default_rng(0)
    for name, low, high in [("content", 0, 256), ("dark", 0, 90), ("bright", 150, 256)]:
        save(tmp_path / f"{name}.png", generator.integers(low, high, (*SIZE, 3)))
    left = np.zeros(SIZE)
    left[:, :24] = 255
    ramp = np.broadcast_to(np.linspace(255, 0, 48).round(), SIZE)
    for name, mask in [("left", left), ("right", 255 - left), ("soft", ramp), ("other", 255 - ramp)]:
        save(tmp_path / f"{name}.png", mask)
    return tmp_path


def problem(folder: Path, styles: tuple[str, ...] = ("dark.png",), **options: Any) -> Problem:
    named = {name: value for name, value in options.items() if name != "content"}
    content = folder / options.get("content", "content.png")
    return load_problem(StylizeConfig(**{**TINY, **named}), content, [folder / name for name in styles], Networks())


def region(folder: Path, *pairs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [(folder / mask, folder / style, *weight) for mask, style, *weight in pairs]


def terms_of(made: Problem) -> dict[str, float]:
    return {name: term.weight for name, term in made.objective_at(made.scales[-1]).style_terms.items()}


def test_a_region_and_the_rest_have_terms_of_their_own_weighed_by_their_part_of_the_picture(folder: Path) -> None:
    weights = terms_of(problem(folder, region=region(folder, ("left.png", "bright.png", 3.0)), style_weight=8.0))
    assert weights == {
        "style/relu1_1/1": 12.0,
        "style/relu1_1/rest": 4.0,
        "style/relu2_1/1": 12.0,
        "style/relu2_1/rest": 4.0,
    }


def test_weights_of_styles_may_go_on_with_those_of_regions(folder: Path) -> None:
    given = region(folder, ("left.png", "bright.png", 3.0), ("right.png", "dark.png"))
    made = problem(folder, ("dark.png", "bright.png"), region=given, style_weight_each="1,3,0.5,2", style_weight=8.0)
    assert made.style_weights == [1.0, 3.0, 1.0, 1.0]
    assert [terms_of(made)[f"style/relu1_1/{name}"] for name in "12"] == [2.0, 8.0]
    own = problem(folder, ("dark.png", "bright.png"), region=given, style_weight_each="1,3", style_weight=8.0)
    assert [terms_of(own)[f"style/relu1_1/{name}"] for name in "12"] == [12.0, 4.0]
    for weights, words in [("1,2,3", "3 weights for 2 style images and 2 regions"), ("0,0,1,1", "leaves no style")]:
        with pytest.raises(UsageError, match=words):
            check_blend(own.config.replace(style_weight_each=weights), 2)


@pytest.mark.parametrize(("one", "other"), [("left.png", "right.png"), ("soft.png", "other.png")])
def test_masks_that_add_up_to_all_leave_no_rest_and_no_gap(folder: Path, one: str, other: str) -> None:
    made = problem(folder, region=region(folder, (one, "bright.png"), (other, "dark.png")))
    guides = made.guides_at(made.scales[-1])
    assert list(guides.regions) == ["1", "2"]
    torch.testing.assert_close(
        guides.regions["1"] + guides.regions["2"],
        torch.ones(1, 1, *SIZE),
        rtol=0,
        atol=1e-6,  # type: ignore[operator]
    )


def test_where_masks_overlap_all_their_styles_count_and_the_rest_is_what_no_mask_has(folder: Path) -> None:
    save(folder / "most.png", np.broadcast_to(np.arange(48) < 36, SIZE) * 255)
    made = problem(folder, region=region(folder, ("left.png", "bright.png"), ("most.png", "dark.png")))
    guides = made.guides_at(made.scales[-1])
    assert {name: float(mask.mean()) for name, mask in guides.regions.items() if mask is not None} == {
        "1": 0.5,
        "2": 0.75,
        "rest": 0.25,
    }


def test_each_half_comes_nearer_to_its_own_style_by_a_factor_of_three(folder: Path) -> None:
    """The pixels' second moments, after a few steps of the shallowest tap."""
    options = {**TINY, "content_weight": 0.01, "steps": 30, "style_taps": "relu1_1"}
    regions = region(folder, ("left.png", "bright.png"), ("right.png", "dark.png"))
    made = stylize(folder / "content.png", folder / "dark.png", options, region=regions)
    encoder = problem(folder, style_taps="relu1_1").encoder.unwrapped

    def gram(image: torch.Tensor) -> torch.Tensor:
        return gram_matrix(encoder(image)["relu1_1"])

    styles = [torch.from_numpy(np.array(Image.open(folder / f"{name}.png"))) for name in ("bright", "dark")]
    bright, dark = (gram(style.permute(2, 0, 1)[None] / 255) for style in styles)
    for half, own, foreign in [(made.image[..., :22], bright, dark), (made.image[..., 26:], dark, bright)]:
        found = gram(half)
        assert 3 * (found - own).square().sum() < (found - foreign).square().sum()


def test_a_map_paints_each_colour_like_the_same_colour_of_the_styles_map(folder: Path) -> None:
    """Compression and soft edges make no regions of their own."""
    content_map, style_map = np.zeros((36, 48, 3), np.uint8), np.zeros((20, 30, 3), np.uint8)
    content_map[:, :24], content_map[:, 24:] = (250, 5, 5), (0, 0, 250)
    style_map[:10], style_map[10:] = (0, 10, 245), (255, 0, 0)
    Image.fromarray(content_map).resize((96, 72), Image.Resampling.BILINEAR).save(folder / "a.jpg", quality=60)
    save(folder / "b.png", style_map)
    made = problem(folder, map=(folder / "a.jpg", folder / "b.png"))
    guides, (style,) = made.guides_at(made.scales[-1]), made.style_guides_at(made.scales[-1])
    assert len(guides.regions) == 2 and guides.regions.keys() == style.regions.keys()
    red = next(name for name in guides.regions if name.startswith("f"))
    mask, used = guides.regions[red], style.regions[red]
    assert mask is not None and used is not None
    assert mask[..., :22].min() > 0.95 and mask[..., 26:].max() < 0.05
    assert used[:, :, 20:].min() > 0.95 and used[:, :, :16].max() < 0.05


def test_a_style_mask_leaves_the_rest_of_the_style_out(folder: Path) -> None:
    made = problem(folder, style_mask=folder / "left.png")
    target = made.objective_at(made.scales[-1]).targets.style["style/relu1_1"]
    features = made.encoder(made.styles_at(made.scales[-1])[0])["relu1_1"]
    torch.testing.assert_close(target, gram_matrix(features[..., :24]))


def test_a_content_mask_weighs_the_content_loss_and_no_more(folder: Path) -> None:
    made = problem(folder, content_mask=folder / "left.png")
    objective, pastiche = made.objective_at(made.scales[-1]), torch.rand(1, 3, *SIZE)
    features = made.encoder(pastiche)
    changed = {tap: value.clone() for tap, value in features.items()}
    changed["relu2_1"][..., 13:] = 0
    found = objective.content_term("relu2_1", features["relu2_1"])
    assert torch.equal(found, objective.content_term("relu2_1", changed["relu2_1"]))
    assert list(objective.style_terms) == ["style/relu1_1", "style/relu2_1"]


def test_a_mask_of_another_shape_is_stretched_with_a_note(folder: Path) -> None:
    save(folder / "square.png", np.broadcast_to(np.arange(64) < 32, (64, 64)) * 255)
    made = problem(folder, region=region(folder, ("square.png", "bright.png")))
    assert [note for note in made.notes if "another shape" in note] == [
        "square.png: 64x64, of another shape than its picture, to which it is stretched"
    ]
    mask = made.guides_at(made.scales[-1]).regions["1"]
    assert mask is not None and mask.shape[2:] == SIZE and abs(float(mask.mean()) - 0.5) < 1e-3


def refusals() -> list[tuple[dict[str, Any], type[NstFastError], str]]:
    return [
        ({"region": "black.png=bright.png"}, InputError, "black all over"),
        ({"region": "gone.png=bright.png"}, InputError, "does not exist"),
        ({"style_mask": "left.png;right.png"}, UsageError, "2 masks for 1 style images"),
        ({"content_mask": "left.png;right.png"}, UsageError, "one content image"),
        ({"map": "left.png"}, UsageError, "not two maps"),
        ({"map": "left.png=grey.png"}, InputError, "no region of the colour #"),
        ({"map": "content.png=left.png"}, InputError, "is no map"),
        ({"map": "left.png=right.png", "region": "left.png=bright.png"}, UsageError, "both say"),
        ({"map": "left.png=right.png", "style_mask": "right.png"}, InputError, "leave nothing of region"),
        ({"region": "left.png"}, UsageError, "one mask and one style"),
        ({"region": "left.png=bright.png:0"}, UsageError, "above 0"),
        ({"region": [("left.png", np.zeros((2, 2)))]}, UsageError, "masks are read from files"),
    ]


@pytest.mark.parametrize(("options", "error", "words"), refusals())
def test_masks_that_make_no_sense_are_refused_with_a_sentence(
    options: Mapping[str, Any], error: type[NstFastError], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    save(folder / "black.png", np.zeros(SIZE))
    save(folder / "grey.png", np.full(SIZE, 128))
    with pytest.raises(error, match=words):
        problem(folder, **options)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_ort_paints_regions_edges_and_what_is_visible_as_eager_does(folder: Path, optimizer: str) -> None:
    with Image.open(folder / "content.png") as image, Image.open(folder / "other.png") as alpha:
        Image.merge("RGBA", [*image.convert("RGB").split(), alpha.convert("L")]).save(folder / "cut_out.png")
    options = {
        **TINY,
        "optimizer": optimizer,
        "learning_rate": 0.1 if optimizer == "lbfgs" else 0.02,
        "region": region(folder, ("left.png", "bright.png", 2.0)),
        "content_mask": folder / "soft.png",
        "edge_weight": 0.5,
    }
    found = {
        engine: stylize(folder / "cut_out.png", folder / "dark.png", {**options, "engine": engine})
        for engine in ("eager", "ort")
    }
    terms, expected = (found[engine].record.losses for engine in ("ort", "eager"))
    assert list(terms) == list(expected) and {"style/relu1_1/1", "style/relu1_1/rest", "edges"} <= set(terms)
    assert terms == pytest.approx(expected, rel=1e-3)
    assert float((found["ort"].image - found["eager"].image).abs().mean()) < 0.2 / 255


@pytest.mark.parametrize("losses", [{"style_loss": "sliced"}, {"content_loss": "self-similarity"}])
def test_losses_that_count_all_pixels_alike_are_refused_with_masks(folder: Path, losses: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="counts all pixels alike"):
        problem(folder, style_mask=folder / "left.png", **losses)


def test_options_with_masks_are_text_in_records_and_python_values_in_programs() -> None:
    made = Regions.of("sky.png = a.jpg:0.5; b/ground.png=C:/d.jpg")
    assert (made.masks, made.styles) == ((Path("sky.png"), Path("b/ground.png")), (Path("a.jpg"), Path("C:/d.jpg")))
    assert made.weights == (0.5, 1.0)
    assert made == Regions.of([("sky.png", "a.jpg", 0.5), (Path("b/ground.png"), "C:/d.jpg")]) == Regions.of(made.text)
    assert made.shape == Regions.of("1=2:0.5;3=4").shape != Regions.of("1=2;3=4").shape
    assert MapPair.of(("a", Path("b"))).text == "a=b" and Masks.of(Path("a")).text == "a" and not Masks.of("").files


def test_a_record_has_the_masks_by_name_and_hash_and_is_replayed_from_where_they_are(folder: Path) -> None:
    regions = region(folder, ("left.png", "bright.png", 2.0))
    made = stylize(folder / "content.png", folder / "dark.png", TINY, region=regions, output=folder / "out.png")
    record = read_record(folder / "out.png")
    assert record["options"]["region"] == "left.png=bright.png:2.0"
    assert [file["name"] for file in record["inputs"]["masks"]["region"]] == ["left.png", "bright.png"]
    assert str(folder) not in json.dumps(record)
    assert [style["name"] for style in record["inputs"]["styles"]] == ["dark.png"]
    options = recorded_options(folder / "out.png", ["region"])
    assert options["region"] == Regions.of(regions).text
    again = stylize(folder / "content.png", folder / "dark.png", {**TINY, "region": options["region"]})
    assert torch.equal(again.image, made.image)


def test_the_same_masks_elsewhere_are_the_same_run_and_other_ones_are_not(folder: Path) -> None:
    def provenance(mask: str) -> Provenance:
        config = StylizeConfig(**TINY, region=[(folder / mask, folder / "bright.png")])
        return Provenance.of_run(config, folder / "content.png", [folder / "dark.png"], None)

    (folder / "copy.png").write_bytes((folder / "left.png").read_bytes())
    assert provenance("left.png").differences(provenance("copy.png")) == []
    assert "`region`" in provenance("left.png").differences(provenance("right.png"))[0]


class _StopAt(Listeners):
    def __init__(self, step: int) -> None:
        super().__init__(stop=lambda: self.step >= step)
        self.step = -1

    def event(self, event: Any) -> None:
        self.step = event.step


def test_an_interrupted_run_with_masks_goes_on_to_the_same_picture_and_with_no_other_masks(folder: Path) -> None:
    options = {**TINY, "checkpoint_every": 1, "log_every": 1, "region": region(folder, ("left.png", "bright.png"))}
    whole = stylize(folder / "content.png", folder / "dark.png", options)
    stylize(folder / "content.png", folder / "dark.png", options, output=folder / "out.png", listeners=_StopAt(2))
    kept = (folder / "left.png").read_bytes()
    (folder / "left.png").write_bytes((folder / "right.png").read_bytes())
    with pytest.raises(ResumeError, match=r"left\.png is not the picture"):
        resume(folder / "out.png")
    (folder / "moved.png").write_bytes(kept)
    found = resume(folder / "out.png", region=region(folder, ("moved.png", "bright.png")))
    assert torch.equal(found.image, whole.image)


def transparent(folder: Path, name: str, hidden: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A disc with a soft edge, of the content's colours, and other colours where it is invisible."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    alpha = np.clip((13 - np.hypot(rows - 18, columns - 24)) * 60 + 128, 0, 255).astype(np.uint8)
    colors = np.asarray(Image.open(folder / "content.png")).copy()
    colors[alpha == 0] = hidden
    save(folder / name, np.dstack([colors, alpha]))
    return alpha


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_kept_bit_by_bit(folder: Path, suffix: str) -> None:
    alpha = transparent(folder, "disc.png", (0, 0, 0))
    stylize(folder / "disc.png", folder / "dark.png", TINY, output=folder / f"out.{suffix}")
    with Image.open(folder / f"out.{suffix}") as picture:
        assert picture.mode == "RGBA"
        assert np.array_equal(np.asarray(picture)[..., 3], alpha)


def test_sixteen_bits_of_alpha_are_kept_too(folder: Path) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (*SIZE, 4), dtype=np.uint16)
    made = stylize(values, folder / "dark.png", TINY, bit_depth=16)
    assert made.alpha is not None
    assert np.array_equal(np.round(made.alpha[0, 0].double().numpy() * 65535), values[..., 3])


def test_where_a_format_holds_no_alpha_the_picture_is_put_on_the_background(folder: Path) -> None:
    transparent(folder, "disc.png", (0, 0, 0))
    stylize(folder / "disc.png", folder / "dark.png", TINY, background="#00ff00", output=folder / "out.bmp")
    with Image.open(folder / "out.bmp") as picture:
        assert picture.getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.parametrize("init", ["recolored", "content"])
def test_colours_that_are_invisible_in_content_and_style_change_no_pixel(folder: Path, init: str) -> None:
    made = []
    for hidden in [(0, 0, 0), (255, 0, 255)]:
        transparent(folder, "disc.png", hidden)
        for color in ("none", "match"):
            made.append(stylize(folder / "disc.png", folder / "disc.png", TINY, init=init, color=color))
    assert torch.equal(made[0].image, made[2].image) and torch.equal(made[1].image, made[3].image)


def test_what_is_transparent_takes_no_part_in_the_statistics(folder: Path) -> None:
    alpha = transparent(folder, "disc.png", (9, 9, 9))
    made = problem(folder, ("disc.png",), content="disc.png")
    scale = made.scales[-1]
    weights = torch.from_numpy(alpha / np.float32(255))[None, None]
    features = made.encoder(made.styles_at(scale)[0])["relu1_1"]
    torch.testing.assert_close(made.objective_at(scale).targets.style["style/relu1_1"], gram_matrix(features, weights))
    guides = made.guides_at(scale)
    assert torch.equal(guides.content, weights) and torch.equal(guides.regions[""], weights)  # type: ignore[arg-type]
    opaque = problem(folder, ("disc.png",), content="disc.png", transparency="background")
    assert opaque.guides_at(scale).plain and opaque.alpha is None


def test_a_picture_that_is_transparent_all_over_is_refused(folder: Path) -> None:
    save(folder / "nothing.png", np.zeros((*SIZE, 4)))
    with pytest.raises(InputError, match="transparent all over"):
        problem(folder, content="nothing.png")


def test_pictures_with_alpha_run_by_themselves_in_a_batch_of_several(folder: Path) -> None:
    from nst_fast.api import stylize_together

    transparent(folder, "disc.png", (9, 9, 9))
    together = stylize_together([folder / "disc.png", folder / "content.png"], folder / "dark.png", TINY)
    alone = [stylize(folder / name, folder / "dark.png", TINY) for name in ("disc.png", "content.png")]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.image, other.image)
    assert together[0].alpha is not None and together[1].alpha is None


def test_a_batch_with_regions_is_done_once_and_refuses_other_masks(folder: Path) -> None:
    from nst_fast.errors import OutputError
    from nst_fast.jobs.batch import BatchRequest, run_batch
    from nst_fast.jobs.runner import JobObserver
    from nst_fast.options.commands import BatchConfig

    def made(mask: str) -> int:
        config = BatchConfig(**TINY, region=[(folder / mask, folder / "bright.png")])
        request = BatchRequest(
            inputs=[folder / "content.png"], styles=[folder / "dark.png"], folder=folder / "out", config=config
        )
        return run_batch(request, JobObserver()).made

    assert [made("left.png"), made("left.png")] == [1, 0]
    with pytest.raises(OutputError, match="`region`"):
        made("right.png")
    with pytest.raises(InputError, match="does not exist"):
        made("gone.png")
