"""The comparison with other programs, bench/peers: with a stand-in for one of them, and how scores are summed up."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from in_process import Run, imported
from peer_folders import arguments, make_folders
from places import ROOT

from nst_fast.options.config import StylizeConfig

FOLDER = ROOT / "bench" / "peers"
NAMES = ("programs", "painting", "scoring", "compare")
STAND_IN = """
import argparse, shutil, time
parser = argparse.ArgumentParser()
for name in ("content_image", "style_image", "output_image", "model_file"):
    parser.add_argument("-" + name)
parser.add_argument("-num_iterations", type=int)
given, _ = parser.parse_known_args()
for step in range(given.num_iterations):
    time.sleep(0.01)
    print("Iteration", step + 1, "/", given.num_iterations)
shutil.copy(given.content_image, given.output_image)
"""
TINY = 'description = "tiny"\nsize = 32\nseconds = 0.3\npairs = [["a.png", "b.png"], ["a.png", "c.png"]]\n'


@pytest.fixture
def peers() -> Iterator[dict[str, ModuleType]]:
    with imported(FOLDER, NAMES) as modules:
        yield modules


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return make_folders(tmp_path, "abc", STAND_IN, TINY)


@pytest.fixture
def compared(peers: dict[str, ModuleType], folders: dict[str, Path], script: Run) -> Run:
    """The script on these folders."""
    given = [*arguments(folders, ("nst-fast", "neural-style-pt")), "--rounds", "1"]
    return lambda *more: script(peers["compare"].main, *given, *more)


def test_pictures_scores_table_and_sheet_are_made_and_what_is_there_is_kept(
    compared: Run, folders: dict[str, Path]
) -> None:
    code, out, err = compared()
    assert code == 0, err
    written = [folders["results"] / line for line in out.splitlines()]
    assert [path.suffix for path in written] == [".json", ".csv", ".md", ".jpg"]
    data = json.loads(written[0].read_text())
    assert [(row["pair"], row["program"]) for row in data["rows"]] == [
        (pair, program) for pair in ("a+b", "a+c") for program in ("nst-fast", "neural-style-pt")
    ]
    for row in data["rows"]:
        pace = data["paces"][row["program"]]["a.png"]
        assert row["seconds"] == pytest.approx(row["steps"] * pace["seconds_per_step"][""], abs=0.051)
        assert row["content_relu4_3"] == 0 or row["program"] == "nst-fast"  # the stand-in copies its content
    assert data["counts"]["neural-style-pt"]["pairs"] == 2
    assert str(folders["images"].parent) not in "".join(path.read_text() for path in written[:3])
    assert len(list(csv.reader(written[1].read_text().splitlines()))) == 5
    assert written[2].read_text().count("\n| a+") == 2
    assert (folders["output"] / "weights" / "vgg19-raw-bgr.pth").is_file()

    pictures = {path: path.stat().st_mtime_ns for path in folders["output"].glob("*/a+?.png")}
    assert len(pictures) == 4
    assert compared("--parts", "paint", "--again", "neural-style-pt")[0] == 0
    changed = [path for path, then in pictures.items() if path.stat().st_mtime_ns != then]
    assert {path.parent.name for path in changed} == {"neural-style-pt"}


def test_a_program_that_fails_is_named_and_the_others_pictures_are_made(
    compared: Run, folders: dict[str, Path]
) -> None:
    fails = 'import sys\nif "a+b" in " ".join(sys.argv):\n    sys.exit("no memory")\n' + STAND_IN
    (folders["sources"] / "neural-style-pt" / "neural_style.py").write_text(fails)
    code, _, err = compared("--programs", "neural-style-pt", "--parts", "paint")
    assert (code, "error: neural-style-pt ended with 1:\nno memory" in err) == (10, True)
    assert [path.name for path in (folders["output"] / "neural-style-pt").glob("*.png")] == ["a+c.png"]


def test_weights_are_the_published_ones_and_the_same_for_torchvisions_input(
    peers: dict[str, ModuleType], tmp_path: Path
) -> None:
    peers["programs"].write_raw(tmp_path)
    peers["programs"].write_hub(tmp_path)
    raw = torch.load(tmp_path / peers["programs"].RAW_FILE, weights_only=True)
    hub = torch.load(tmp_path / peers["programs"].HUB_FILE, weights_only=True)
    assert set(raw) == {name for name in hub if name.startswith("features.")}
    assert hub["classifier.0.weight"].shape == (4096, 25088)
    changed = [name for name in raw if not torch.equal(raw[name], hub[name])]
    assert changed == ["features.0.weight", "features.0.bias"]
    bgr = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    means = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    published = torch.conv2d(bgr - means, raw["features.0.weight"], raw["features.0.bias"])
    rewritten = torch.conv2d((bgr.flip(1) / 255 - mean) / std, hub["features.0.weight"], hub["features.0.bias"])
    torch.testing.assert_close(rewritten, published, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("style", "content", "expected"),
    [
        (0.9, 0.9, "both"),
        (0.9, 1.02, "style"),
        (1.02, 0.9, "content"),
        (0.5, 1.04, "no"),
        (1.01, 1.01, "no"),
        (1, 1, "no"),
    ],
)
def test_better_is_both_or_one_without_losing_the_other(
    peers: dict[str, ModuleType], style: float, content: float, expected: str
) -> None:
    theirs = {"style_swd": 2.0, "content_relu4_3": 0.5}
    ours = {"style_swd": 2.0 * style, "content_relu4_3": 0.5 * content}
    assert peers["scoring"].verdict(ours, theirs) == expected


def test_the_count_of_steps_is_what_fits_the_seconds(peers: dict[str, ModuleType]) -> None:
    programs: dict[str, Any] = {each.name: each for each in peers["programs"].PROGRAMS}
    run = peers["painting"].Watched()
    for scale, seconds in (("16x12", 1.0), ("32x24", 3.0)):
        for step in range(4):
            run.note_step(scale, 10 + step * seconds, step * 2 * seconds)
    program = programs["style-transfer-pytorch"]
    many = peers["painting"].pace(program, [run], 2)
    assert (many.seconds_of(program, 1), many.samples) == (5, 6)  # 2 steps of 1 s and 1 of 3 s
    assert many.count(program, 62) == 12
    assert many.count(programs["nst-fast"], 1e6) == StylizeConfig().steps  # its default, though more would fit
    assert many.processor_seconds_per_step == {"16x12": 2.0, "32x24": 6.0}


@pytest.mark.parametrize(
    ("program", "line", "scale"),
    [
        ("nst-fast", "step 3/24  total 1.5  content 0.5", None),
        ("pastiche", "3    12.5    3245.33", None),
        ("neural-style-pt", "Iteration 3 / 270", None),
        ("style-transfer-pytorch", "Size: 136x102, iteration: 3, loss: 11693.5", "136x102"),
    ],
)
def test_lines_that_end_a_step_are_known(
    peers: dict[str, ModuleType], program: str, line: str, scale: str | None
) -> None:
    pattern = next(each.step for each in peers["programs"].PROGRAMS if each.name == program)
    found = pattern.search(line)
    assert found
    assert (found[1] if pattern.groups else None) == scale
    for before_the_first in ("0    7.9     5.1", "step 0/24  total 2.5"):
        assert not pattern.search(before_the_first)


def test_the_committed_pairs_are_the_eight(peers: dict[str, ModuleType], folders: dict[str, Path]) -> None:
    images, sources, output = (folders[name] for name in ("images", "sources", "output"))
    what = peers["painting"].Comparison.read(FOLDER / "pairs.toml", images, sources, output, ())
    assert (what.size, what.seconds, len(set(what.pairs))) == (384, 120, 8)
