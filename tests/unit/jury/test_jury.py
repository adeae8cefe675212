"""The jury: its measures are what they say, and agree with themselves on every machine; what it refuses; its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jury_pictures import brushwork, painted_over, save, scene
from PIL import Image
from places import ROOT

import nst_fast
from nst_fast import Evaluation, evaluate
from nst_fast.cli import main
from nst_fast.errors import InputError, UsageError
from nst_fast.images import load_image
from nst_fast.jury import measures, perceptual
from nst_fast.jury.columns import COLUMNS, GRAM_TAPS, HIGHER, LOWER, WASSERSTEIN_TAPS, headline
from nst_fast.jury.judge import load_encoder
from nst_fast.options.evaluate import EvaluateConfig

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

# The same under the default weights, the original VGG-19.
GOLDEN_ORIGINAL = {
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
    return evaluate(
        folder / "scene.png", folder / "style_in_shape.png", [folder / f"{name}.png" for name in names], **RANDOM
    )


def column(evaluation: Evaluation, name: str) -> list[float]:
    values = [each.scores[name] for each in evaluation.pictures]
    assert all(value is not None for value in values)
    return values  # type: ignore[return-value]


def test_scores_are_the_golden_ones(folder: Path) -> None:
    found = evaluate(folder / "scene.png", folder / "style.png", folder / "mixed-50.png", **RANDOM)
    scores = found.pictures[0].scores
    assert list(scores) == [column.name for column in COLUMNS]
    for name, value in GOLDEN.items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name


def test_scores_under_the_default_weights_are_the_golden_ones(folder: Path) -> None:
    found = evaluate(folder / "scene.png", folder / "style.png", folder / "mixed-50.png", device="cpu")
    scores = found.pictures[0].scores
    for name, value in (GOLDEN | GOLDEN_ORIGINAL).items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name


def test_style_and_content_distances_are_the_plain_formulas_in_float64(folder: Path) -> None:
    encoder, _ = load_encoder(EvaluateConfig(**RANDOM))
    with torch.no_grad():
        paths = {"picture": "mixed-50.png", "content": "scene.png", "style": "style.png"}
        found = {
            kind: encoder.double()(load_image(folder / name, longest_side=64).tensor.double())
            for kind, name in paths.items()
        }
    rows = {kind: {tap: f[0].flatten(1).numpy() for tap, f in taps.items()} for kind, taps in found.items()}
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


def test_the_content_itself_has_no_distance_to_the_content(ranked: Evaluation) -> None:
    scores = ranked.pictures[0].scores
    assert scores["content_relu4_3"] == 0
    assert scores["content_ssim"] == 1


def test_the_style_itself_has_no_distance_to_the_style(ranked: Evaluation) -> None:
    scores = ranked.pictures[-1].scores
    assert all(scores[name] == 0 for name in scores if name.startswith("style_"))
    assert scores["chroma_noise"] == 1


def test_pictures_are_ranked_as_they_plainly_stand_between_content_and_style(ranked: Evaluation) -> None:
    for name in ("style_swd", *(f"style_swd_{tap}" for tap in WASSERSTEIN_TAPS), "style_gram"):
        assert column(ranked, name) == sorted(column(ranked, name), reverse=True), name
    assert column(ranked, "content_relu4_3") == sorted(column(ranked, "content_relu4_3"))
    assert column(ranked, "content_ssim") == sorted(column(ranked, "content_ssim"), reverse=True)


def test_the_same_call_gives_the_same_scores_and_company_does_not_matter(folder: Path, ranked: Evaluation) -> None:
    alone = evaluate(folder / "scene.png", folder / "style_in_shape.png", str(folder / "mixed-50.png"), **RANDOM)
    assert alone.pictures[0] == ranked.pictures[2]


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


def test_quantiles_of_another_number_of_positions_lie_between_the_samples() -> None:
    rows = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert measures.quantiles(rows, 2).tolist() == [[0.5, 2.5]]
    assert measures.quantiles(rows, 8).tolist() == [[0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]]
    assert measures.quantiles(rows[:, :1], 3).tolist() == [[0, 0, 0]]
    assert measures.quantiles(rows, 4) is rows


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
    plain = evaluate(folder / "scene.png", folder / "style.png", folder / "mixed-50.png", **RANDOM)
    Image.open(folder / "style.png").resize((46, 64), Image.Resampling.BICUBIC).save(folder / "smaller.png")
    smaller = evaluate(folder / "scene.png", folder / "smaller.png", folder / "mixed-50.png", **RANDOM)
    half = evaluate(folder / "scene.png", folder / "style.png", folder / "mixed-50.png", style_scale=0.5, **RANDOM)
    scores = [each.pictures[0].scores["style_swd"] for each in (plain, smaller, half)]
    assert scores[1] == pytest.approx(scores[0], rel=0.02)
    assert scores[2] != pytest.approx(scores[0], rel=0.02)


def test_a_picture_of_another_size_is_compared_at_its_own(folder: Path, tmp_path: Path) -> None:
    content = save(tmp_path, "large", scene(192, 256))
    sizes = [(128, 96), (64, 48), (64, 47)]  # the last is a pixel off, as programs round differently
    for size in sizes:
        Image.open(content).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "{}x{}.png".format(*size))
    pictures = [tmp_path / "{}x{}.png".format(*size) for size in sizes]
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
    good = folder / "mixed-50.png"
    with pytest.raises(InputError, match=words) as caught:
        evaluate(folder / "scene.png", folder / "style.png", [good, path], **RANDOM)
    assert caught.value.exit_code == 3
    assert "bad.png" in str(caught.value)


def test_a_style_used_too_small_for_the_network_is_refused(folder: Path, tmp_path: Path) -> None:
    strip = save(tmp_path, "strip", brushwork(16, 90))
    with pytest.raises(InputError, match="becomes 64x11 pixels"):
        evaluate(folder / "scene.png", strip, folder / "mixed-50.png", **RANDOM)


def test_no_picture_and_an_unknown_option_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no picture"):
        evaluate(folder / "scene.png", folder / "style.png", [], **RANDOM)
    with pytest.raises(UsageError, match="style_scale"):
        evaluate(folder / "scene.png", folder / "style.png", folder / "scene.png", style_size=3)


def test_every_column_has_unit_direction_and_source_and_its_own_name() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    for each in COLUMNS:
        assert each.better in (LOWER, HIGHER)
        assert each.unit and each.source and each.what


def test_the_docs_state_the_columns_as_the_code_does() -> None:
    text = (ROOT / "docs" / "jury.md").read_text()
    for each in headline():
        assert f"| `{each.name}` | {each.unit} | {each.better} | {each.source} |" in text


def test_no_held_out_tap_is_read_by_the_default_objective_or_a_preset() -> None:
    from nst_fast.options.config import StylizeConfig
    from nst_fast.options.presets import PRESETS

    for values in ({}, *(preset.values for preset in PRESETS.values())):
        config = StylizeConfig().replace(**values)
        assert not set(WASSERSTEIN_TAPS) & set(config.style_tap_weights)


def test_without_its_weights_lpips_is_empty_and_says_what_is_missing(
    ranked: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "nst-fast[jury]" in perceptual.missing()
    monkeypatch.setattr(perceptual, "find_spec", lambda name: name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "alexnet-owt-7be5be79.pth is not in" in perceptual.missing()
    perceptual.backbone().parent.mkdir(parents=True)
    perceptual.backbone().write_bytes(b"not AlexNet")
    assert "damaged" in perceptual.missing()
    if ranked.notes:
        assert {each.scores["content_lpips"] for each in ranked.pictures} == {None}


def test_lpips_is_asked_for_picture_and_content_where_it_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "missing", lambda: "")
    monkeypatch.setattr(perceptual, "_metric", lambda: lambda image, content: (image - content).abs().mean())
    found = evaluate(
        folder / "scene.png", folder / "style.png", [folder / "scene.png", folder / "mixed-50.png"], **RANDOM
    )
    assert column(found, "content_lpips")[0] == 0 < column(found, "content_lpips")[1]
    assert not found.notes


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit code of ``nst-fast evaluate``."""
    monkeypatch.setattr("sys.argv", ["nst-fast", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_shows_a_table_and_writes_json_and_csv(
    folder: Path,
    ranked: Evaluation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = (folder / "scene.png", folder / "style_in_shape.png", folder / "mixed-25.png", folder / "mixed-50.png")
    files = ("--json", tmp_path / "scores.json", "--csv", tmp_path / "scores.csv")
    assert command(monkeypatch, *given, *files, "--weights", "random:0", "--device", "cpu") == 0
    shown = capsys.readouterr()
    assert "64x48" in shown.out and "SWD ↓" in shown.out and "SSIM ↑" in shown.out
    assert ranked.weights["sha256"] in shown.err
    data = json.loads((tmp_path / "scores.json").read_text())
    assert data["schema"] == "nst-fast/evaluate/1"
    assert data["weights"] == {"source": "random, seed 0", "sha256": ranked.weights["sha256"]}
    assert [column["name"] for column in data["columns"]] == [column.name for column in COLUMNS]
    assert all({"unit", "better", "source", "what"} <= set(column) for column in data["columns"])
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


def test_json_to_stdout_is_one_object_and_files_are_not_replaced_unasked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (folder / "scene.png", folder / "style.png", folder / "mixed-25.png", "--weights", "random:0")
    assert command(monkeypatch, *given, "--json", "-", "--quiet") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["status"] == "complete"
    assert shown.err == ""
    (tmp_path / "scores.csv").write_text("mine")
    assert command(monkeypatch, *given, "--csv", tmp_path / "scores.csv") == 4
    assert (tmp_path / "scores.csv").read_text() == "mine"
    assert command(monkeypatch, *given, "--json", folder / "mixed-25.png", "--overwrite") == 4


def test_the_command_ends_with_3_for_a_bad_picture_and_shows_its_columns_without_any(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = save(tmp_path, "bad", scene(40, 64))
    assert command(monkeypatch, folder / "scene.png", folder / "style.png", bad, "--weights", "random:0") == 3
    assert "another shape" in capsys.readouterr().err
    assert command(monkeypatch, "--columns") == 0
    shown = capsys.readouterr().out
    assert all(column.name in shown for column in COLUMNS)


def test_names_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, style = save(tmp_path, "[red]", scene()), save(tmp_path, "[b]", brushwork())
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, content.name, style.name, content.name, "--weights", "random:0") == 0
    shown = capsys.readouterr().out
    assert "[red].png in the style of [b].png" in shown
    assert "│ [red].png" in shown


def test_the_package_offers_it() -> None:
    assert {"Evaluation", "Scores", "evaluate"} <= set(nst_fast.__all__)
    assert nst_fast.Scores.__name__ == "Scores"
