"""The speeds of other programs, bench/peers/speed.py: with stand-ins for one of them and for nst-fast."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from in_process import Run, imported
from peer_folders import arguments, make_folders
from places import ROOT
from torch import Tensor
from torch.nn.functional import mse_loss

from nst_fast.engines.precision import float32_arithmetic
from nst_fast.errors import UsageError
from nst_fast.images import load_image, save_image
from nst_fast.network.weights import make_encoder
from nst_fast.options.config import StylizeConfig

FOLDER = ROOT / "bench" / "peers"
NAMES = ("programs", "painting", "scoring", "racing", "reaching", "speed")
# Both paint by fading the content into the style, which they are given at one size: the peer half of the way.
PAINTS = """
import sys, time
from PIL import Image
def blend(content, style, share):
    return Image.blend(Image.open(content).convert("RGB"), Image.open(style).convert("RGB"), share)
"""
PEER = f"""{PAINTS}
import argparse
parser = argparse.ArgumentParser()
for name in ("content_image", "style_image", "output_image", "model_file"):
    parser.add_argument("-" + name)
parser.add_argument("-num_iterations", type=int)
given, _ = parser.parse_known_args()
for step in range(given.num_iterations):
    time.sleep(0.004)
    print("Iteration", step + 1, "/", given.num_iterations)
share = 0.5 if given.num_iterations == 10 else 0.1  # less in the race
blend(given.content_image, given.style_image, share).save(given.output_image)
"""
OURS = f"""{PAINTS}
content, style, output, steps = *sys.argv[1:4], int(sys.argv[4])
paint = blend
if "5.0" in sys.argv:  # with the peer's content weight it gets nowhere
    paint = lambda content, style, share: Image.new("RGB", (32, 24))
for step in range(1, steps + 1):
    time.sleep(0.002)
    if step % 5 == 0 and "--save-every" in sys.argv:
        picture = paint(content, style, step / steps)
        picture = picture.resize((24, 18)) if step == 5 else picture  # of a coarser scale
        picture.save(f"{{output[:-4]}}-{{step:06d}}.png")
    print(f"step {{step}}/{{steps}} total")
paint(content, style, 1).save(output)
open(output[:-4] + ".json", "w").write('{{"engine": "fast", "precision": "fp32"}}')
"""
TINY = 'description = "tiny"\nsize = 32\nstyle_size = 32\npairs = [["a.png", "b.png"]]\n'
RECIPE = "[recipes.neural-style-pt]\nstyle_weight = 1.2\n"


@pytest.fixture
def peers() -> Iterator[dict[str, ModuleType]]:
    with imported(FOLDER, NAMES) as modules:
        yield modules


@pytest.fixture
def folders(tmp_path: Path, peers: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    found = make_folders(tmp_path, "ab", PEER, TINY + RECIPE)
    (found["sources"] / "ours.py").write_text(OURS)

    def ours(job: Any, count: int) -> list[Any]:
        return [found["sources"] / "ours.py", job.content, job.style, job.output, count]

    stand_in = replace(peers["racing"].our_program(), arguments=ours, default=20)
    for module in ("racing", "reaching"):
        monkeypatch.setattr(peers[module], "our_program", lambda: stand_in)
    monkeypatch.setattr(peers["racing"], "has_bf16", lambda: False)
    return found


@pytest.fixture
def measured(peers: dict[str, ModuleType], folders: dict[str, Path], script: Run) -> Run:
    """The script on these folders."""
    small = ["--portion", "0.01", "--steps", "4", "--rounds", "2"]
    given = [*arguments(folders, ["neural-style-pt"]), *small]
    return lambda *more: script(peers["speed"].main, *given, *more)


@pytest.fixture
def what(peers: dict[str, ModuleType], folders: dict[str, Path]) -> Any:
    """The comparison of all peers on these folders."""
    places = [folders[name] for name in ("images", "sources", "output")]
    return peers["painting"].Comparison.read(folders["images"].parent / "tiny.toml", *places, peers["speed"].PEERS)


def test_everything_is_measured_kept_and_reported(measured: Run, folders: dict[str, Path]) -> None:
    code, out, err = measured()
    assert code == 0, err
    written = [folders["results"] / line for line in out.splitlines()]
    assert [path.suffix for path in written] == [".json", ".md"]
    data = json.loads(written[0].read_text())
    assert str(folders["images"].parent) not in "".join(path.read_text() for path in written)
    race = data["race"]["a+b"]
    assert {name: len(runs) for name, runs in race.items()} == {
        "neural-style-pt": 2,
        "nst-fast": 2,
        "nst-fast in fp32": 2,
    }
    (row,) = data["rows"]
    assert (row["steps"], row["ours"]) == (10, "fast fp32")
    assert row["seconds"] == pytest.approx(10 * row["step_seconds"], rel=1e-5)
    assert min(row["peak_mib"], row["our_peak_mib"]) > 0
    default, recipe = row["scores"]
    assert (default["recipe"], recipe["recipe"]) == ("", "--style-weight 1.2")
    # Half of the way is half of the steps, where there is a snapshot; later the content is farther than theirs.
    clock = json.loads(next(folders["output"].glob("nst-fast by default/*.run.json")).read_text())["clock"][""]
    at = clock[9] - clock[0] + clock[1] - clock[0]
    for name in ("swd", "gram", "score"):
        assert default[f"{name}_seconds"] == pytest.approx(at, rel=1e-5)
        assert default[f"{name}_share"] == pytest.approx(at / row["seconds"], rel=1e-5)
    assert default["our_style_swd"] < default["style_swd"]
    assert row["our_loss"] > row["loss"]
    assert (row["loss_seconds"], row["loss_share"]) == (None, None)  # the stand-in stops before
    report = written[1].read_text()
    assert report.count("\n| a+b | neural-style-pt |") == 4
    assert "not reached" in report

    pictures = {path: path.stat().st_mtime_ns for path in folders["output"].rglob("*.*")}
    assert measured()[0] == 0
    assert {path for path, then in pictures.items() if path.stat().st_mtime_ns != then} == set()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("paint",), "neural-style-pt has not raced on a+b. Run the part race first"),
        (("race",), "neural-style-pt has not painted a+b. Run the parts that paint first"),
        (("paint", "race"), "nst-fast by default has not painted a+b"),
    ],
)
def test_a_report_before_all_is_there_says_what_is_missing(measured: Run, parts: tuple[str, ...], said: str) -> None:
    code, _, err = measured("--parts", *parts, "report")
    assert (code, said in err) == (UsageError.exit_code, True)


def test_the_ratio_is_the_median_over_rounds_and_scales_have_their_shares(peers: dict[str, ModuleType]) -> None:
    racing, programs = peers["racing"], {program.name: program for program in peers["programs"].PROGRAMS}
    race, pair = racing.Race(Path("nothing")), ("a.png", "b.png")
    theirs, ours = [8.0, 30.0, 12.0], [4.0, 3.0, 3.0]
    name = "style-transfer-pytorch, all its scales"
    race.runs["a+b"] = {
        "pastiche": [{"seconds": {"": seconds}} for seconds in theirs],
        "nst-fast": [{"seconds": {"": seconds}} for seconds in ours],
        name: [{"seconds": {"16x12": 1.0, "32x24": seconds}} for seconds in theirs],
    }
    assert race.ratio(pair, "pastiche", "nst-fast") == 4
    assert race.seconds(pair, "pastiche") == 12
    assert race.default_seconds(pair, programs["pastiche"], 1000) == 12_000
    assert race.default_seconds(pair, programs["style-transfer-pytorch"], 500) == 500 * (2 * 1 + 12)


def test_every_racer_steps_at_the_final_size_and_one_peer_at_all_its_scales_too(
    peers: dict[str, ModuleType], what: Any
) -> None:
    job = peers["programs"].Job(*map(Path, ("c.png", "s.png", "o.png")), 32, Path("sources"), Path("weights"))
    commands = {each.name: [*map(str, each.arguments(job, each.probe))] for each in peers["racing"].racers(what, 10)}
    assert list(commands) == [
        "pastiche",
        "neural-style-pt",
        "style-transfer-pytorch, all its scales",
        "style-transfer-pytorch",
        "nst-fast",
        "nst-fast in fp32",
    ]
    assert commands["style-transfer-pytorch"][-2:] == ["-ms", "32"]
    assert "10" in commands["style-transfer-pytorch"]  # its first scale has twice the count
    assert commands["nst-fast in fp32"][-2:] == ["--precision", "fp32"]
    assert "--style-size" in peers["speed"].at_style_size(peers["speed"].PEERS[0], what).arguments(job, 1)


@pytest.mark.parametrize("peer", ["pastiche", "neural-style-pt"])
def test_a_peers_objective_is_expressed_by_our_options(
    peers: dict[str, ModuleType], folders: dict[str, Path], what: Any, peer: str
) -> None:
    """Their formulas, written out by hand, on a picture that is neither content nor style."""
    pair = what.pairs[0]
    picture = folders["output"] / "c.png"
    save_image(torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(5)), picture)
    loss = peers["reaching"].Judge(folders["output"] / "judged.json", what).loss(picture, pair, peer)["loss"]

    taps = [f"relu{block}_1" for block in range(1, 6)]
    encoder, _ = make_encoder("original", "vgg19", [*taps, "relu4_2"], padding="zeros")
    with torch.no_grad(), float32_arithmetic("fp32"):
        ours, content, style = (
            encoder(load_image(path).tensor) for path in (picture, what.content(pair), what.style(pair))
        )

        def distance(tap: str) -> Tensor:
            grams = [features[tap].flatten(2)[0] for features in (ours, style)]
            products = [rows @ rows.T / rows.shape[1] for rows in grams]
            channels = products[0].shape[0]
            if peer == "pastiche":
                return 10 / channels**2 * mse_loss(*products)
            return 100 * mse_loss(*(product / channels for product in products))

        kept = mse_loss(ours["relu4_2"], content["relu4_2"]) * {"pastiche": 0.01, "neural-style-pt": 5}[peer]
        expected = kept + sum(distance(tap) for tap in taps)
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_flags_of_our_runs_are_options_of_stylize(peers: dict[str, ModuleType]) -> None:
    for options in peers["reaching"].OBJECTIVES.values():
        StylizeConfig(**options)
        given = peers["reaching"].flags(options)
        assert all(re.fullmatch(r"--[a-z-]+", flag) for flag in given[::2])
        read = {flag[2:].replace("-", "_"): text for flag, text in zip(given[::2], given[1::2], strict=True)}
        assert read == {name: str(value) for name, value in options.items()}


def test_the_committed_pair_and_recipe_are_read(peers: dict[str, ModuleType]) -> None:
    read = peers["painting"].Comparison.read
    what = read(FOLDER / "speed.toml", Path("images"), Path("sources"), Path("output"), peers["speed"].PEERS)
    assert (what.size, what.style_size, what.seconds) == (384, 384, 0)
    assert all(peer in [program.name for program in what.programs] for peer in what.recipes)
    for recipe in what.recipes.values():
        StylizeConfig(**recipe)
