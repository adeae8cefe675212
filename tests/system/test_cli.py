"""The command line as a user meets it: one run in a process of its own, help, and what other commands say of a run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from batches import draw
from in_process import Run
from PIL import Image
from processes import python
from tiny import TINY, flags

from nst_fast import __version__
from nst_fast.cli.stylize import peak_memory
from nst_fast.run.record import RunRecord

SMALL = flags(TINY, engine="auto", convolution="direct", style_taps="relu1_1,relu2_1", image_size=48)
FOLLOWED = flags({"steps": 6, "monitor_every": 2, "save_every": 3})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "content.png", 1, (64, 48))
    draw(folder / "style.png", 2, (50, 70))
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path) -> subprocess.CompletedProcess[str]:
    """One complete run, whose outcome several tests look at."""
    arguments = ("stylize", "content.png", "style.png", "-o", "out.png", "--json")
    done = python("-m", "nst_fast", *arguments, *SMALL, *FOLLOWED, cwd=pictures)
    assert done.returncode == 0, done.stderr
    return done


def test_stylize_writes_picture_record_curve_and_snapshots(
    run: subprocess.CompletedProcess[str], pictures: Path
) -> None:
    with Image.open(pictures / "out.png") as picture:
        assert picture.size == (48, 36)
    names = {path.name for path in pictures.iterdir()}
    assert {"out.json", "out-losses.png", "out-000003.png", "out-000006.png"} <= names


def test_json_has_the_documented_fields(run: subprocess.CompletedProcess[str]) -> None:
    facts = json.loads(run.stdout)
    known = {"status": "complete", "output": "out.png", "steps": 6, "device": "cpu", "engine": "fast"}
    known |= {"precision": "fp32", "provider": {"requested": "cpu", "actual": "cpu"}}
    assert {name: facts[name] for name in known} == known
    assert (facts["weights"]["source"], len(facts["weights"]["sha256"])) == ("random, seed 0", 64)
    assert {"seconds", "steps_per_second", "losses", "peak_memory_mib", "warnings"} <= set(facts)


def test_off_a_terminal_there_are_plain_lines_without_control_bytes_and_details(
    run: subprocess.CompletedProcess[str],
) -> None:
    assert "weights: random, seed 0" in run.stderr
    assert "step 6/6" in run.stderr
    assert "\x1b" not in run.stderr + run.stdout
    assert "engine " not in run.stderr
    assert "plan:" not in run.stderr


def test_monitor_readings_stand_beside_the_loops_own_terms(
    run: subprocess.CompletedProcess[str], pictures: Path
) -> None:
    record = json.loads((pictures / "out.json").read_text())
    monitor = record["monitor"]
    assert monitor["steps"], run.stderr
    for name, values in monitor["terms"].items():
        for step, value in zip(monitor["steps"], values, strict=True):
            assert value == pytest.approx(record["history"][name][step], rel=1e-3)


@pytest.mark.usefixtures("run")
def test_info_prints_the_record_from_inside_the_picture(pictures: Path, command: Run) -> None:
    code, shown, _ = command("info", pictures / "out.png")
    assert (code, "--style-taps relu1_1,relu2_1" in shown, "random" in shown) == (0, True, True)


def test_verbose_adds_engine_and_plan_once_and_the_summary_explains_the_memory(pictures: Path, command: Run) -> None:
    pair = (pictures / "content.png", pictures / "style.png")
    _, _, err = command("stylize", *pair, "-o", pictures / "v.png", "-v", *SMALL)
    for beginning in ("engine fast", "plan: 48x36 whole"):
        assert len([line for line in err.splitlines() if line.startswith(beginning)]) == 1, err
    assert "peak memory" in err
    record = RunRecord(options={}, inputs={}, weights={}, device="", engine="", precision="", machine={})
    record.peak_memory_mib = 1174.4
    assert peak_memory(record) == "peak memory 1174 MiB"
    record.plan = {"program_memory_mib": 799.2}
    assert peak_memory(record) == "peak memory 1174 MiB, of which 799 MiB the program itself"


@pytest.mark.parametrize(
    ("name", "own"), [("stylize", ["--output"]), ("sweep", ["--style", "--vary", "--jury", "--output"])]
)
def test_help_begins_with_the_options_that_most_people_need(name: str, own: list[str]) -> None:
    panels = python("-m", "nst_fast", name, "--help", COLUMNS="80").stdout.split("╭─ ")
    titles = [panel.split(" ─")[0] for panel in panels[1:]]
    assert titles[:4] == ["Arguments", "Options", "Files and messages", "Images"]
    first = re.findall(r"--[a-z-]+", " ".join(line[:25] for line in panels[2].splitlines()))
    common = ["--image-size", "--quality", "--preset", "--strength", "--color", "--style-scale", "--steps", "--seed"]
    assert first == [*own, *common, "--device", "--help"]
    assert all(len(line) <= 80 for line in "".join(panels).splitlines())


def test_version_and_taps_and_bare_call(command: Run) -> None:
    assert command("--version")[1].strip() == f"nst-fast {__version__}"
    listed = json.loads(command("taps", "--network", "vgg16", "--image-size", "64", "--json")[1])
    assert listed["taps"]["relu5_3"] == [512, 4, 4]
    assert "relu5_4" not in listed["taps"]
    assert "Usage" in command()[1]


def test_doctor_tries_every_provider_and_says_how_to_get_the_others(command: Run) -> None:
    providers = {status["name"]: status for status in json.loads(command("doctor", "--json")[1])["providers"]}
    assert providers["cpu"]["works"]
    assert all(status["works"] or status["remedy"] for status in providers.values())
    assert "provider cpu" in command("doctor")[1]
