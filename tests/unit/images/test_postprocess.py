"""Colours, denoising, fits, blends and the dial: what is done to pictures before and after the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from nst_fast.api import Pastiche, stylize, stylize_together
from nst_fast.errors import UsageError
from nst_fast.images import load_image, save_image
from nst_fast.images.matching import color_statistics, luminance, matched_colors, matched_luminance, with_chroma_of
from nst_fast.images.postprocess import denoised, finished
from nst_fast.options.config import StylizeConfig
from nst_fast.run.problem import Networks, Problem, load_problem

NETWORKS = Networks()
TINY = StylizeConfig(
    **tiny.TINY | {"content_taps": "relu2_1", "style_taps": "relu1_1,relu2_1", "image_size": 32, "steps": 12},
    convolution="direct",
)


def smooth_picture(seed: int, height: int = 24, width: int = 32) -> torch.Tensor:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0.1, 0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_image(smooth_picture(1), folder / "content.png")
    save_image(smooth_picture(2, 40, 28).square(), folder / "style.png")
    save_image(1 - smooth_picture(3, 28, 40), folder / "other.png")
    return folder


def run(folder: Path, *styles: str, **options: object) -> Pastiche:
    paths = [folder / name for name in styles or ("style.png",)]
    return stylize(folder / "content.png", paths, TINY.replace(**options), networks=NETWORKS)


def problem(folder: Path, *styles: str, **options: object) -> Problem:
    paths = [folder / name for name in styles or ("style.png",)]
    return load_problem(TINY.replace(**options), folder / "content.png", paths, NETWORKS)


def chroma(image: torch.Tensor) -> torch.Tensor:
    """I and Q of YIQ, [1, 2, H, W]."""
    rows = torch.tensor([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    return torch.einsum("ij,bjhw->bihw", rows, image)


def test_luminance_and_chroma_come_each_from_their_picture() -> None:
    one, other = 0.4 + 0.2 * smooth_picture(1), 0.4 + 0.2 * smooth_picture(2)  # nothing to clip
    mixed = with_chroma_of(one, other)
    torch.testing.assert_close(luminance(mixed), luminance(one), atol=1e-5, rtol=0)
    torch.testing.assert_close(chroma(mixed), chroma(other), atol=1e-5, rtol=0)


def test_a_colour_that_does_not_exist_is_made_paler_and_keeps_luminance_and_hue() -> None:
    dark, colors = 0.1 * smooth_picture(1), smooth_picture(2).square()
    mixed = with_chroma_of(dark, colors)
    assert 0 <= mixed.min().item() <= mixed.max().item() <= 1
    torch.testing.assert_close(luminance(mixed), luminance(dark), atol=1e-5, rtol=0)
    found, wanted = chroma(mixed), chroma(colors)
    torch.testing.assert_close(found[:, 0] * wanted[:, 1], found[:, 1] * wanted[:, 0], atol=1e-5, rtol=0)
    share = found.norm(dim=1) / wanted.norm(dim=1)
    assert share.max().item() < 1.001
    assert share.min().item() < 0.5


def test_matched_colors_have_the_references_mean_and_covariance() -> None:
    image, reference = 0.4 + 0.2 * smooth_picture(1), 0.45 + 0.1 * smooth_picture(2, 20, 20)
    for found, wanted in zip(
        color_statistics(matched_colors(image, reference)), color_statistics(reference), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_matching_a_picture_to_itself_or_a_flat_one_is_harmless() -> None:
    image = smooth_picture(1)
    torch.testing.assert_close(matched_colors(image, image), image, atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.3)
    for found in (matched_colors(flat, image), matched_luminance(flat, image)):
        assert torch.isfinite(found).all()


def test_matched_luminance_is_grey_with_the_references_mean_and_deviation() -> None:
    found = matched_luminance(0.2 * smooth_picture(2), 0.3 + 0.2 * smooth_picture(1))
    wanted = luminance(0.3 + 0.2 * smooth_picture(1))
    assert found.std(1, correction=0).max().item() == 0
    assert luminance(found).mean().item() == pytest.approx(wanted.mean().item(), abs=1e-4)
    assert luminance(found).std().item() == pytest.approx(wanted.std().item(), rel=1e-2)


def test_denoising_brings_a_noised_picture_nearer_keeps_an_edge_and_changes_more_with_more_strength() -> None:
    clean = 0.8 * smooth_picture(1, 48, 48)
    clean[..., 24:] += 0.2
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noised = (clean + 0.05 * noise).clamp(0, 1)
    found = denoised(noised, 0.5)
    assert (found - clean).square().mean().item() < 0.5 * (noised - clean).square().mean().item()
    step = (found[..., 25] - found[..., 22]).mean() / (clean[..., 25] - clean[..., 22]).mean()
    assert step.item() > 0.8
    noised = smooth_picture(1) + 0.05 * torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    changes = [(denoised(noised, strength) - noised).abs().mean().item() for strength in (0.1, 0.3, 0.6, 1.0)]
    assert changes == sorted(changes)
    assert changes[-1] > 2 * changes[0] > 0


def assert_no_other_hue(image: torch.Tensor, reference: torch.Tensor) -> None:
    """The chroma is the reference's, or a paler form of it."""
    found, wanted = chroma(image), chroma(reference)
    torch.testing.assert_close(found[:, 0] * wanted[:, 1], found[:, 1] * wanted[:, 0], atol=1e-5, rtol=0)
    assert (found.norm(dim=1) <= wanted.norm(dim=1) + 1e-5).all()
    assert (found - wanted).abs().median().item() < 1e-4


def test_keep_gives_the_final_picture_the_contents_chroma_and_says_so(folder: Path) -> None:
    content = load_image(folder / "content.png", longest_side=32).tensor
    plain, kept = run(folder), run(folder, color="keep", denoise=0.2)
    assert (chroma(plain.image) - chroma(content)).abs().mean().item() > 0.02
    assert_no_other_hue(kept.image, content)
    assert [phrase.split(":")[0] for phrase in kept.record.finish] == ["denoise 0.2", "color keep"]
    assert kept.record.options["color"] == "keep"
    assert plain.record.finish == []


def test_match_changes_the_style_before_the_run_and_luma_transfers_luminance_only(folder: Path) -> None:
    content = load_image(folder / "content.png", longest_side=32).tensor
    matched = problem(folder, color="match").styles[0].tensor
    torch.testing.assert_close(color_statistics(matched)[0], color_statistics(content)[0], atol=0.02, rtol=0)
    gray = problem(folder, color="luma")
    scale = gray.scales[0]
    for image in (gray.content_at(scale), *gray.styles_at(scale), gray.start_at(scale)):
        assert image is not None
        assert chroma(image).abs().max().item() < 1e-5
    kept = run(folder, color="luma").image
    assert_no_other_hue(kept, content)


def test_colors_and_strength_need_a_content(folder: Path) -> None:
    with pytest.raises(UsageError, match="no content image"):
        load_problem(TINY.replace(color="match", content_weight=0), None, [folder / "style.png"], NETWORKS)
    with pytest.raises(UsageError, match="needs a content loss"):
        TINY.replace(strength=0.5, content_weight=0)


def test_fits_bring_content_and_style_to_the_shapes_they_name(folder: Path) -> None:
    made = problem(folder, content_fit="square", style_fit="match")
    assert (made.height, made.width) == (32, 32)
    assert made.styles[0].tensor.shape[2:] == (32, 32)
    made = problem(folder, style_fit="match")
    assert made.styles[0].tensor.shape[2:] == (24, 32)
    assert problem(folder).styles[0].tensor.shape[2:] == (32, 22)
    half = problem(folder, style_fit="match", scales=2, min_size=16, steps=12)
    assert half.styles_at(half.scales[0])[0].shape[2:] == (12, 16)


def test_content_plus_noise_is_the_content_raised_by_at_most_the_amplitude_and_seeded(folder: Path) -> None:
    made = problem(folder, init="content+noise", noise=0.3, seed=272)
    scale = made.scales[0]
    content, start = made.content_at(scale), made.start_at(scale)
    assert content is not None
    added = start - content
    assert added.min().item() >= 0
    assert 0.28 < added.max().item() <= 0.3 + 1e-6
    assert added.mean().item() == pytest.approx(0.15, abs=0.01)
    torch.testing.assert_close(problem(folder, init="content+noise", noise=0.3, seed=272).start_at(scale), start)
    assert problem(folder, init="content+noise", noise=1.0).start_at(scale).max().item() == 1.0


def distances(pastiche: Pastiche, folder: Path) -> tuple[float, float]:
    """How far a picture is from the content and from the style, by relative losses of the network."""
    made = problem(folder)
    scale = made.scales[0]
    objective = made.objective_at(scale)
    terms = objective.terms(objective.measure(made.encoder(pastiche.image)), pastiche.image)
    style = sum(term.item() for name, term in terms.items() if name.startswith("style"))
    return terms["content/relu2_1"].item(), style


@pytest.mark.parametrize(("init", "optimizer"), [("content", "adam"), ("noise", "lbfgs")])
def test_more_strength_is_farther_from_the_content_and_nearer_to_the_style(
    init: str, optimizer: str, folder: Path
) -> None:
    options = {"init": init, "optimizer": optimizer, "steps": 40}
    runs = [run(folder, strength=s, **options) for s in (0.0, 0.2, 0.5, 0.8, 1.0)]
    content, style = zip(*(distances(pastiche, folder) for pastiche in runs), strict=True)
    assert list(content) == sorted(content), content
    assert list(style) == sorted(style, reverse=True), style


@pytest.mark.parametrize(
    "options", [{}, {"init": "noise"}, {"scales": 2, "min_size": 16}, {"tv_weight": 5.0}, {"color": "luma"}]
)
def test_strength_0_is_the_content_image_itself(options: dict[str, object], folder: Path) -> None:
    result = run(folder, strength=0, **options)
    content = load_image(folder / "content.png", longest_side=32).tensor
    torch.testing.assert_close(result.image, content, atol=1e-5, rtol=0)
    assert (result.record.status, result.record.steps) == ("complete", 0)


@pytest.mark.parametrize("strength", [0.0, 1e-20])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("engine", [{"engine": "eager"}, {"engine": "fast"}, {"engine": "ort"}, {"tile_size": 16}])
def test_without_style_no_engine_computes_its_deeper_taps(
    engine: dict[str, object], optimizer: str, strength: float, folder: Path
) -> None:
    options = {**engine, "content_taps": "relu1_2", "optimizer": optimizer, "monitor_every": 1}
    result = run(folder, strength=strength, **options)
    content = load_image(folder / "content.png", longest_side=32).tensor
    torch.testing.assert_close(result.image, content, atol=1e-5, rtol=0)
    assert (result.record.status, result.record.steps) == ("complete", 0)
    assert result.record.warnings == []
    assert list(result.record.losses) == ["content/relu1_2", "total"]


def test_pictures_made_together_can_be_without_style(folder: Path) -> None:
    config = TINY.replace(strength=0, engine="fast", content_taps="relu1_2")
    contents = [folder / "content.png"] * 2
    for result in stylize_together(contents, folder / "style.png", config):
        torch.testing.assert_close(result.image, load_image(contents[0], longest_side=32).tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", [{"engine": "eager"}, {"engine": "fast"}, {"engine": "ort"}, {"tile_size": 16}])
def test_a_term_of_weight_0_takes_no_part(engine: dict[str, object], folder: Path) -> None:
    options = {**engine, "content_taps": "relu1_2", "style_taps": "relu1_1", "steps": 2}
    expected = run(folder, **options)
    assert torch.equal(run(folder, **options | {"content_taps": "relu1_2,relu2_2:0"}).image, expected.image)
    assert torch.equal(run(folder, **options | {"style_taps": "relu1_1,relu2_2:0"}).image, expected.image)


def test_strength_1_leaves_the_weights_and_the_dial_is_geometric() -> None:
    factors = [TINY.replace(strength=s).style_factor for s in (0, 0.25, 0.5, 0.75, 1)]
    assert factors[0] == 0
    assert factors[-1] == 1
    assert factors[3] / factors[2] == pytest.approx(100**0.25, rel=0.1)
    dialled = TINY.replace(strength=0.5, tv_weight=2.0, chroma_tv_weight=3.0).dialled()
    assert dialled.style_weight == pytest.approx(TINY.style_weight * factors[2])
    assert dialled.tv_weight == pytest.approx(2 * factors[2])
    assert dialled.chroma_tv_weight == pytest.approx(3 * factors[2])


def test_blend_weights_move_the_target_from_one_style_to_the_other(folder: Path) -> None:
    def gram(*styles: str, **options: object) -> torch.Tensor:
        made = problem(folder, *styles, **options)
        return made.targets_at(made.scales[0]).style["style/relu1_1"]

    one, other = gram("style.png"), gram("other.png")
    both = ("style.png", "other.png")
    torch.testing.assert_close(gram(*both, style_weight_each="7,3"), 0.7 * one + 0.3 * other)
    torch.testing.assert_close(gram(*both, style_weight_each="1,0"), one)
    torch.testing.assert_close(gram(*both), (one + other) / 2)


@pytest.mark.parametrize(
    ("weights", "words"),
    [("0.7", "1 weights for 2 style images"), ("a,b", "not numbers"), ("0,0", "not all 0"), ("-1,2", "at least 0")],
)
def test_blend_weights_that_make_no_sense_are_refused(weights: str, words: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=words):
        problem(folder, "style.png", "other.png", style_weight_each=weights)


def test_a_picture_that_wraps_is_denoised_across_its_sides() -> None:
    image = 0.5 + 0.1 * torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    found = denoised(image, 0.5, (True, True))
    rolled = denoised(image.roll((16, 24), (2, 3)), 0.5, (True, True)).roll((-16, -24), (2, 3))
    torch.testing.assert_close(found, rolled, rtol=0, atol=1e-5)
    assert not torch.allclose(found, denoised(image, 0.5), atol=1e-3)


@pytest.mark.parametrize("wraps", [(True, False), (False, True), (True, True)])
def test_a_texture_begins_where_its_seam_shows_least_and_a_picture_where_it_did(wraps: tuple[bool, bool]) -> None:
    texture = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    texture[:, :, 7], texture[:, :, :, 12] = texture[:, :, 6], texture[:, :, :, 11]
    found, done = finished(texture, None, TINY, wraps)
    expected = texture.roll([-7 * wraps[0], -12 * wraps[1]], (2, 3))
    assert torch.equal(found, expected)
    assert done == ["seamless: rolled to where the step across the seam is smallest"]
    assert finished(texture, texture, TINY, wraps)[0] is texture
