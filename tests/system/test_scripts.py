"""The scripts in bench/ and export/: each is run as a user runs it, at tiny size; what they are given is valid."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from batches import draw
from in_process import Run, imported
from places import ROOT
from processes import python

from nst_fast import StylizeConfig
from nst_fast.benchmark.scenarios import load_scenario
from nst_fast.run.scales import plan_scales

TINY_SCENARIO = """
description = "as small as it gets"
[options]
sizes = "24"
engines = "eager"
content_taps = "relu1_1"
style_taps = "relu1_1"
providers = "cpu"
repeats = 1
turn_seconds = 0.001
steps = 1
monitor_every = 0
device = "cpu"
memory = false
"""


TINY_RECIPE = 'network = "vgg16"\ncontent_taps = "relu1_1"\nstyle_taps = "relu1_2"\n'


def main_of(name: str) -> Callable[[], int]:
    return runpy.run_path(str(ROOT / name))["main"]


def test_bench_run_writes_a_scenarios_result_under_a_name_that_says_all(script: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_SCENARIO)
    code, out, err = script(main_of("bench/run.py"), tmp_path / "tiny.toml", "--results", tmp_path / "results")
    assert code == 0, err
    written = [Path(line) for line in out.splitlines()]
    assert [path.suffix for path in written] == [".json", ".csv", ".png"]
    assert all(path.is_file() and path.parent == tmp_path / "results" for path in written)
    assert written[0].name.startswith("tiny-")
    data = json.loads(written[0].read_text())
    assert [(row["kind"], row["status"]) for row in data["rows"]] == [
        ("loop", "ok"),
        ("evaluation", "ok"),
        ("evaluation", "ok"),
    ]
    assert str(tmp_path) not in written[0].read_text()


def test_bench_run_reads_all_scenarios_before_it_runs_one(script: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_SCENARIO)
    (tmp_path / "bad.toml").write_text("[options]\nsizes = 'big'\n")
    code, out, err = script(
        main_of("bench/run.py"), tmp_path / "tiny.toml", tmp_path / "bad.toml", "--results", tmp_path
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: `sizes` 'big'")


def test_options_of_a_scenario_can_be_set_on_the_command_line(script: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_SCENARIO)
    for change, message in (("sizes=big", "`sizes` 'big'"), ("repeets=3", "repeats"), ("repeats=three", "as in TOML")):
        code, out, err = script(main_of("bench/run.py"), tmp_path / "tiny.toml", "--set", "seed=1", "--set", change)
        assert (code, out) == (2, "")
        assert message in err


def test_export_build_writes_a_proven_model_per_recipe(script: Run, tmp_path: Path) -> None:
    (tmp_path / "vgg16-small.toml").write_text(TINY_RECIPE)
    given = (tmp_path / "vgg16-small.toml", "--output", tmp_path, "--weights", "random:3")
    code, out, err = script(main_of("export/build.py"), *given)
    assert code == 0, err
    model = tmp_path / "vgg16-small.onnx"
    assert out.strip() == str(model)
    manifest = json.loads((tmp_path / "vgg16-small.onnx.json").read_text())
    assert (manifest["network"], manifest["style_taps"]) == ("vgg16", ["relu1_2"])
    assert manifest["parity"]
    assert model.stat().st_size == manifest["model_bytes"]


@pytest.mark.parametrize(
    ("recipe", "code", "message"),
    [('network = "vgg11"', 2, "error: `network` 'vgg11'"), ("network vgg", 3, "error: {path}: cannot be read as TOML")],
)
def test_export_build_ends_with_the_code_of_what_is_wrong(
    script: Run, tmp_path: Path, recipe: str, code: int, message: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(recipe)
    ended, out, err = script(main_of("export/build.py"), path, "--output", tmp_path)
    assert (ended, out) == (code, "")
    assert err.startswith(message.format(path=path))


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.toml")), ids=lambda path: path.stem)
def test_committed_scenarios_are_valid_and_described(path: Path) -> None:
    assert load_scenario(path)[0]
    assert f"`{path.name}`" in (ROOT / "bench" / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "export").glob("*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_are_valid_and_their_names_say_what_comes_out(path: Path) -> None:
    recipe = runpy.run_path(str(ROOT / "export" / "build.py"))["read_recipe"](path, None)
    deepest = path.stem.split("-")[-4]
    pooling = ["average"] if recipe.pooling == "average" else []
    parts = [recipe.network, *pooling, deepest, recipe.graph, f"op{recipe.opset}", recipe.precision]
    assert path.stem == "-".join(parts)
    assert deepest in recipe.taps
    assert f"`{path.stem}`" in (ROOT / "export" / "README.md").read_text()


def test_memory_is_measured_beside_its_prediction(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text('[[case]]\nsize = "64x48"\nengine = "fast"\nprecision = "fp32"\n')
    done = python(ROOT / "bench/memory/footprints.py", tmp_path / "out.json", tmp_path / "tiny.toml")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["engine"], row["precision"]) == ("fast", "fp32")
    assert row["measured_mib"] > 0
    assert row["predicted_mib"] > 0


def test_a_huge_picture_is_measured_in_tiles(tmp_path: Path) -> None:
    shallow = ("--content-taps", "relu2_1", "--style-taps", "relu1_1", "--precision", "fp32")
    done = python(ROOT / "bench/memory/huge.py", "96", "1GiB", "--tile-size", "64", *shallow)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["peak_mib"] > 0
    assert facts["plan"]["grid"] != [1, 1]


def test_bench_start_times_every_phase_from_the_command_to_the_file(tmp_path: Path) -> None:
    options = ("--weights", "random", "--content-taps", "relu1_1", "--style-taps", "relu1_1", "--monitor-every", "0")
    sizes = ("--rounds", "1", "--size", "24", "--steps", "2", "--results", tmp_path)
    done = python(ROOT / "bench/start/start.py", *sizes, "--", *options)
    assert done.returncode == 0, done.stderr
    text = Path(done.stdout.strip()).read_text()
    rows = {row["case"]: row for row in json.loads(text)["rows"]}
    assert list(rows) == ["--help", "stylize --help", "2 steps"]
    found = rows["2 steps"]
    assert 0 < found["cpu_called"] < found["cpu_first_step"] < found["cpu_total"]
    phases = ("import", "pictures", "weights", "targets", "trial", "engine", "first step", "loop", "finish")
    assert found["total"] == pytest.approx(
        sum(found[name] for name in (*phases, "monitor", "write and exit")), abs=1e-3
    )
    assert all(found[name] >= 0 for name in phases)
    assert str(tmp_path) not in text


def test_bench_trackers_measures_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Run
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found(name) if name == "tensorboard" else None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    flags = ("--rounds", "1", "--size", "32", "--steps", "2")
    code, out, err = script(main_of("bench/trackers/trackers.py"), *flags, "--results", tmp_path)
    assert code == 0, err
    rows = json.loads(Path(out.strip()).read_text())["rows"]
    assert {row["follower"] for row in rows} >= {"none", "--progress json", "--csv"}
    assert all(row["step_ms"] > 0 and row["event_ms"] >= 0 for row in rows)
    assert all(row["slow_down"] <= row["slow_down_every_step"] for row in rows)


# --- bench/optimizers


@pytest.fixture
def table() -> Iterator[ModuleType]:
    with imported(ROOT / "bench" / "optimizers", ["optimizers"]) as found:
        yield found["optimizers"]


def test_steps_at_coarser_scales_cost_their_share_of_the_pixels(table: ModuleType) -> None:
    config = StylizeConfig(image_size=1024, scales=2)
    steps = table.steps_for(config, 100)
    assert [(scale.fraction, scale.steps) for scale in plan_scales(config, steps, 1024, 1024)] == [(0.5, 80), (1.0, 80)]
    assert table.steps_for(config.replace(scales=1), 100) == 100


def test_gradients_to_a_loss_are_interpolated(table: ModuleType) -> None:
    curve = {25: 3.0, 50: 2.0, 100: 1.0}
    assert [table.gradients_to(curve, loss) for loss in (4.0, 2.5, 1.0, 0.5)] == [25, 37.5, 100, None]


def test_the_table_has_every_recipe_on_every_pair(
    table: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: Run
) -> None:
    draw(tmp_path / "content.png", 1, (40, 30)), draw(tmp_path / "style.png", 2, (40, 30))
    monkeypatch.setattr(table, "PAIRS", [("content.png", "style.png")])
    monkeypatch.setattr(table, "COUNTS", (2, 4))
    monkeypatch.setattr(table, "EACH", (4,))
    arguments = ["--images", tmp_path, "--output", tmp_path / "kept", "--size", "40", "--steps", "4", "--results"]
    recipes = ["from a half", "PyTorch's L-BFGS, strong Wolfe"]
    given = [*arguments, tmp_path / "results", "--weights", "random:0", "--recipes", *recipes]
    code, out, _ = script(table.main, *given)
    assert code == 0
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == [table.DEFAULT, *recipes]
    report = json.loads(next((tmp_path / "results").iterdir()).read_text())
    assert report["losses"][table.DEFAULT]["content+style"].keys() == {"2", "4"}
    assert report["rows"][0]["relative"]["4"] == 1.0
    assert len(list((tmp_path / "kept").iterdir())) == 3
