"""The jury: its measures compute what they state, with the same result on every machine; what it refuses; its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import Run
from jury_pictures import brushwork, painted_over, save, scene
from PIL import Image
from places import ROOT

import nst_fast
from nst_fast import Evaluation, evaluate
from nst_fast.errors import InputError, UsageError
from nst_fast.images import load_image
from nst_fast.jury import measures
from nst_fast.jury.columns import COLUMNS, GRAM_TAPS, HEADLINE, HIGHER, LOWER, WASSERSTEIN_TAPS
from nst_fast.jury.judge import load_encoder
from nst_fast.options.config import StylizeConfig
from nst_fast.options.evaluate import EvaluateConfig
from nst_fast.options.presets import PRESETS

RANDOM = {"weights": "random:0", "device": "cpu"}
# Of a scene whose left half is painted over, against the scene and a brushwork of another size, with random:0.
GOLDEN = {
    "style_swd": 0.27449887,
    "style_swd_relu1_2": 0.25070967,
    "style_swd_relu2_2": 0.24948370,
    "style_swd_relu3_3": 0.26292513,
    "style_swd_relu4_3": 0.33487698,
    "style_gram": 0.42148843,
    "style_gram_relu1_1": 0.29592779,
    "style_gram_relu2_1": 0.15356256,
    "style_gram_relu3_1": 0.33054486,
    "style_gram_relu4_1": 0.50961125,
    "style_gram_relu5_1": 0.81779569,
    "content_relu4_3": 0.79556829,
    "content_ssim": 0.54961552,
    "chroma_noise": 0.76696836,
    "clipped": 0.0,
}

# The same with the default weights, the original VGG-19.
GOLDEN_ORIGINAL = GOLDEN | {
    "style_swd": 0.49452894,
    "style_swd_relu1_2": 0.47227379,
    "style_swd_relu2_2": 0.43160583,
    "style_swd_relu3_3": 0.41062905,
    "style_swd_relu4_3": 0.66360707,
    "style_gram": 0.64737895,
    "style_gram_relu1_1": 0.55080992,
    "style_gram_relu2_1": 0.20893380,
    "style_gram_relu3_1": 0.34296334,
    "style_gram_relu4_1": 0.55752540,
    "style_gram_relu5_1": 1.57666230,
    "content_relu4_3": 0.68747526,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scene.png, the content; style.png, of another size; style_in_shape.png; mixed-N.png, painted over to N %."""
    folder = tmp_path_factory.mktemp("pictures")
    save(folder, "scene", scene())
    save(folder, "style", brushwork(70, 50))
    save(folder, "style_in_shape", brushwork())
    for percent in (25, 50, 75):
        save(folder, f"mixed-{percent}", painted_over(scene(), brushwork(), percent))
    return folder


@pytest.fixture(scope="module")
def ranked(folder: Path) -> Evaluation:
    """The content, three pictures nearer and nearer to the style, and the style."""
    names = ("scene", "mixed-25", "mixed-50", "mixed-75", "style_in_shape")
    return scored(folder, *(folder / f"{name}.png" for name in names), style="style_in_shape.png")


def scored(folder: Path, *pictures: Path, style: str = "style.png", **options: object) -> Evaluation:
    """The scores of pictures, by default of mixed-50.png, against scene.png and a style."""
    given = pictures or (folder / "mixed-50.png",)
    return evaluate(folder / "scene.png", folder / style, given, **(RANDOM | options))


def column(evaluation: Evaluation, name: str) -> list[float]:
    values = [each.scores[name] for each in evaluation.pictures]
    assert all(value is not None for value in values)
    return values  # type: ignore[return-value]


@pytest.mark.parametrize(("weights", "golden"), [("random:0", GOLDEN), ("original", GOLDEN_ORIGINAL)])
def test_scores_are_the_golden_ones(folder: Path, weights: str, golden: dict[str, float]) -> None:
    scores = scored(folder, weights=weights).pictures[0].scores
    assert list(scores) == [column.name for column in COLUMNS]
    for name, value in golden.items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name


def test_style_and_content_distances_are_the_plain_formulas_in_float64(folder: Path) -> None:
    encoder, _ = load_encoder(EvaluateConfig(**RANDOM))
    rows = {}
    for kind, name in (("picture", "mixed-50.png"), ("content", "scene.png"), ("style", "style.png")):
        with torch.no_grad():
            taps = encoder.double()(load_image(folder / name, longest_side=64).tensor.double())
        rows[kind] = {tap: features[0].flatten(1).numpy() for tap, features in taps.items()}
    for tap in WASSERSTEIN_TAPS:
        along = measures.directions(tap, len(rows["style"][tap])).double().numpy()
        picture, style = (np.sort(along @ rows[kind][tap], axis=1) for kind in ("picture", "style"))
        levels, known = ((np.arange(each.shape[1]) + 0.5) / each.shape[1] for each in (picture, style))
        wanted = np.stack([np.interp(levels, known, row) for row in style])
        distance = np.sqrt(np.square(picture - wanted).sum() / np.square(wanted).sum())
        assert GOLDEN[f"style_swd_{tap}"] == pytest.approx(distance, rel=1e-6)
    for tap in GRAM_TAPS:
        picture, style = (r @ r.T / r.shape[1] for r in (rows["picture"][tap], rows["style"][tap]))
        distance = np.square(picture - style).sum() / np.square(style).sum()
        assert GOLDEN[f"style_gram_{tap}"] == pytest.approx(distance, rel=1e-6)
    picture, content = rows["picture"]["relu4_3"], rows["content"]["relu4_3"]
    distance = np.square(picture - content).sum() / np.square(content).sum()
    assert GOLDEN["content_relu4_3"] == pytest.approx(distance, rel=1e-6)


def test_content_and_style_themselves_have_no_distance_to_themselves(ranked: Evaluation) -> None:
    content, style = ranked.pictures[0].scores, ranked.pictures[-1].scores
    assert (content["content_relu4_3"], content["content_ssim"]) == (0, 1)
    assert all(style[name] == 0 for name in style if name.startswith("style_"))
    assert style["chroma_noise"] == 1


def test_pictures_are_ranked_by_how_much_of_them_is_painted_over(ranked: Evaluation) -> None:
    for name in ("style_swd", *(f"style_swd_{tap}" for tap in WASSERSTEIN_TAPS), "style_gram"):
        assert column(ranked, name) == sorted(column(ranked, name), reverse=True), name
    assert column(ranked, "content_relu4_3") == sorted(column(ranked, "content_relu4_3"))
    assert column(ranked, "content_ssim") == sorted(column(ranked, "content_ssim"), reverse=True)


def test_a_picture_has_the_same_scores_alone_and_among_others(folder: Path, ranked: Evaluation) -> None:
    assert scored(folder, style="style_in_shape.png").pictures[0] == ranked.pictures[2]


def test_a_single_directions_distance_is_the_wasserstein_distance_of_sorted_values() -> None:
    features = torch.tensor([[3.0, 1.0, 2.0, 8.0]]).view(1, 1, 2, 2)
    style = measures.sorted_projections(torch.tensor([[2.0, 4.0, 1.0, 2.0]]).view(1, 1, 2, 2), torch.eye(1))
    distance = measures.sliced_wasserstein(features, style, torch.eye(1))
    assert distance == pytest.approx(np.sqrt((0 + 0 + 1 + 16) / (1 + 4 + 4 + 16)))


def test_directions_are_an_orthonormal_basis_that_differs_by_tap() -> None:
    basis = measures.directions("relu1_2", 64)
    assert torch.allclose(basis @ basis.T, torch.eye(64), atol=1e-6)
    assert not torch.equal(basis, measures.directions("relu2_2", 64))
    assert basis[0, :3].abs().tolist() == pytest.approx([0.0042168, 0.0390809, 0.0536217], abs=1e-6)


def test_confetti_raises_chroma_noise_and_grey_noise_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.linspace(0.2, 0.7, 64).expand(1, 3, 48, 64)
    grey = smooth + 0.2 * (torch.rand(1, 1, 48, 64, generator=generator) - 0.5)
    confetti = smooth + 0.2 * (torch.rand(1, 3, 48, 64, generator=generator) - 0.5)
    assert measures.chroma_energy(grey) < measures.ROUNDING_ENERGY < 100 * measures.ROUNDING_ENERGY
    assert measures.chroma_energy(confetti) > 100 * measures.ROUNDING_ENERGY
    tinted = smooth * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1)  # low-frequency colour is no noise
    assert measures.chroma_energy(tinted) < measures.ROUNDING_ENERGY


def test_a_grey_style_leaves_chroma_noise_finite() -> None:
    assert measures.chroma_noise(0.0, 0.0) == 0
    assert measures.chroma_noise(measures.ROUNDING_ENERGY, 0.0) == pytest.approx(1)


def test_clipped_counts_channel_values_at_both_ends_of_eight_bits() -> None:
    image = torch.full((1, 3, 4, 4), 0.5)
    image[0, 0, 0, 0], image[0, 1, 1, 1], image[0, 2, 2, 2], image[0, 2, 3, 3] = 0.0, 1.0, 0.001, 0.01
    assert measures.clipped(image) == 3 / 48


def test_the_style_is_used_at_the_pictures_longest_side_or_a_fraction_of_it(folder: Path) -> None:
    Image.open(folder / "style.png").resize((46, 64), Image.Resampling.BICUBIC).save(folder / "smaller.png")
    found = (scored(folder), scored(folder, style="smaller.png"), scored(folder, style_scale=0.5))
    plain, smaller, half = (each.pictures[0].scores["style_swd"] for each in found)
    assert smaller == pytest.approx(plain, rel=0.02)
    assert half != pytest.approx(plain, rel=0.02)


def test_a_picture_of_another_size_is_compared_at_its_own(folder: Path, tmp_path: Path) -> None:
    content = save(tmp_path, "large", scene(192, 256))
    sizes = [(128, 96), (64, 48), (64, 47)]  # the last is a pixel off, as programs round differently
    pictures = [tmp_path / "{}x{}.png".format(*size) for size in sizes]
    for size, picture in zip(sizes, pictures, strict=True):
        Image.open(content).resize(size, Image.Resampling.BICUBIC).save(picture)
    found = evaluate(content, folder / "style.png", pictures, **RANDOM)
    assert [each.size for each in found.pictures] == sizes
    assert all(similarity > 0.99 for similarity in column(found, "content_ssim"))
    assert all(distance < 0.03 for distance in column(found, "content_relu4_3"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def cropped(path: Path) -> None:
    Image.open(path).crop((0, 0, 64, 40)).save(path)


def turned(path: Path) -> None:
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(truncated, "truncated"), (cropped, "64x40, another shape than the content's 64x48"), (turned, "48x64")],
    ids=["damaged", "cropped", "turned"],
)
def test_damaged_and_wrongly_sized_pictures_are_refused(
    folder: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    path = save(tmp_path, "bad", scene())
    harm(path)
    with pytest.raises(InputError, match=words) as caught:
        scored(folder, folder / "mixed-50.png", path)
    assert "bad.png" in str(caught.value)


def test_a_style_used_too_small_for_the_network_is_refused(folder: Path, tmp_path: Path) -> None:
    strip = save(tmp_path, "strip", brushwork(16, 90))
    with pytest.raises(InputError, match="becomes 64x11 pixels"):
        scored(folder, style=str(strip))


def test_no_picture_and_an_unknown_option_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no picture"):
        evaluate(folder / "scene.png", folder / "style.png", [], **RANDOM)
    with pytest.raises(UsageError, match="style_scale"):
        scored(folder, style_size=3)


def test_every_column_is_complete_and_the_docs_state_it_as_the_code_does() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    for each in COLUMNS:
        assert each.better in (LOWER, HIGHER)
        assert each.unit and each.source and each.what
    text = (ROOT / "docs" / "jury.md").read_text()
    for each in HEADLINE:
        assert f"| `{each.name}` | {each.unit} | {each.better} | {each.source} |" in text


def test_no_held_out_tap_is_read_by_the_default_objective_or_a_preset() -> None:
    for values in ({}, *(preset.values for preset in PRESETS.values())):
        assert not set(WASSERSTEIN_TAPS) & set(StylizeConfig().replace(**values).style_tap_weights)


def test_without_its_weights_lpips_is_empty_and_says_what_is_missing(
    ranked: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measures, "find_spec", lambda name: None)
    assert "pip install torchmetrics" in measures.missing_for_lpips()
    monkeypatch.setattr(measures, "find_spec", lambda name: name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "alexnet-owt-7be5be79.pth is not in" in measures.missing_for_lpips()
    measures.alexnet_file().parent.mkdir(parents=True)
    measures.alexnet_file().write_bytes(b"not AlexNet")
    assert "damaged" in measures.missing_for_lpips()
    if ranked.notes:
        assert {each.scores["content_lpips"] for each in ranked.pictures} == {None}


def test_lpips_compares_picture_and_content_where_its_weights_are_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "missing_for_lpips", lambda: "")
    monkeypatch.setattr(measures, "_lpips_metric", lambda: lambda image, content: (image - content).abs().mean())
    found = scored(folder, folder / "scene.png", folder / "mixed-50.png")
    assert column(found, "content_lpips")[0] == 0 < column(found, "content_lpips")[1]
    assert not found.notes


@pytest.fixture
def command(command: Run) -> Run:
    """``nst-fast evaluate`` with random weights."""
    return lambda *arguments: command("evaluate", *arguments, "--weights", "random:0", "--device", "cpu")


def test_the_command_shows_a_table_and_writes_json_and_csv(
    folder: Path, ranked: Evaluation, tmp_path: Path, command: Run
) -> None:
    given = (folder / "scene.png", folder / "style_in_shape.png", folder / "mixed-25.png", folder / "mixed-50.png")
    code, out, err = command(*given, "--json", tmp_path / "scores.json", "--csv", tmp_path / "scores.csv")
    assert code == 0
    assert "64x48" in out and "SWD ↓" in out and "SSIM ↑" in out
    assert ranked.weights["sha256"] in err
    data = json.loads((tmp_path / "scores.json").read_text())
    assert data["schema"] == "nst-fast/evaluate/1"
    assert data["weights"] == {"source": "random, seed 0", "sha256": ranked.weights["sha256"]}
    assert [column["name"] for column in data["columns"]] == [column.name for column in COLUMNS]
    assert all({"name", "unit", "better", "source", "what"} == set(column) for column in data["columns"])
    with (tmp_path / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for expected, as_json, row in zip(ranked.pictures[1:3], data["pictures"], rows, strict=True):
        assert as_json["sha256"] == expected.sha256
        assert as_json["size"] == [64, 48] == [int(row["width"]), int(row["height"])]
        for name, value in expected.scores.items():
            if value is None:
                assert as_json["scores"][name] is None and row[name] == ""
            else:
                assert as_json["scores"][name] == float(row[name]) == pytest.approx(value, rel=1e-6)


def test_json_to_stdout_is_one_object_and_files_are_replaced_only_on_request(
    folder: Path, tmp_path: Path, command: Run
) -> None:
    given = (folder / "scene.png", folder / "style.png", folder / "mixed-25.png")
    code, out, err = command(*given, "--json", "-", "--quiet")
    assert (code, json.loads(out)["status"], err) == (0, "complete", "")
    (tmp_path / "scores.csv").write_text("mine")
    assert command(*given, "--csv", tmp_path / "scores.csv")[0] == 4
    assert (tmp_path / "scores.csv").read_text() == "mine"
    assert command(*given, "--json", folder / "mixed-25.png", "--overwrite")[0] == 4


def test_the_command_ends_with_3_for_a_bad_picture_and_shows_its_columns_without_any(
    folder: Path, tmp_path: Path, command: Run
) -> None:
    code, _, err = command(folder / "scene.png", folder / "style.png", save(tmp_path, "bad", scene(40, 64)))
    assert code == 3
    assert "another shape" in err
    code, out, _ = command("--columns")
    assert code == 0
    assert all(column.name in out for column in COLUMNS)


def test_brackets_in_file_names_are_shown_and_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    content, style = save(tmp_path, "[red]", scene()), save(tmp_path, "[b]", brushwork())
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(content.name, style.name, content.name)
    assert code == 0
    assert "[red].png in the style of [b].png" in out
    assert "│ [red].png" in out


def test_the_package_exports_evaluate_and_its_results() -> None:
    assert {"Evaluation", "Scores", "evaluate"} <= set(nst_fast.__all__)
    assert nst_fast.Scores.__name__ == "Scores"
