"""The command line as a user meets it: every command in a process of its own where exit codes or streams matter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_fast import __version__
from nst_fast.cli.stylize import peak_memory
from nst_fast.run.record import RunRecord

TINY = (
    *("--weights", "random:0", "--content-taps", "relu2_1", "--style-taps", "relu1_1,relu2_1"),
    *("--image-size", "48", "--precision", "fp32"),
)


def nst_fast(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nst_fast", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=120, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name, size in {"content": (64, 48), "style": (50, 70)}.items():
        coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path) -> subprocess.CompletedProcess[str]:
    """One complete run, whose outcome several tests look at."""
    arguments = ("stylize", "content.png", "style.png", "-o", "out.png", *TINY)
    return nst_fast(*arguments, "--steps", "6", "--monitor-every", "2", "--save-every", "3", "--json", cwd=pictures)


def test_stylize_writes_picture_record_curve_and_snapshots(
    run: subprocess.CompletedProcess[str], pictures: Path
) -> None:
    assert run.returncode == 0, run.stderr
    with Image.open(pictures / "out.png") as picture:
        assert picture.size == (48, 36)
    names = {path.name for path in pictures.iterdir()}
    assert {"out.json", "out-losses.png", "out-000003.png", "out-000006.png"} <= names


def test_json_is_one_object_on_stdout_with_the_documented_fields(run: subprocess.CompletedProcess[str]) -> None:
    facts = json.loads(run.stdout)
    known = {"status": "complete", "output": "out.png", "steps": 6, "device": "cpu", "engine": "fast"}
    known |= {"precision": "fp32", "provider": {"requested": "cpu", "actual": "cpu"}}
    assert {name: facts[name] for name in known} == known
    assert (facts["weights"]["source"], len(facts["weights"]["sha256"])) == ("random, seed 0", 64)
    assert "weights: random, seed 0" in run.stderr
    assert {"seconds", "steps_per_second", "losses", "peak_memory_mib", "warnings"} <= set(facts)


def test_off_a_terminal_there_are_plain_lines_without_control_bytes_and_details(
    run: subprocess.CompletedProcess[str],
) -> None:
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


def test_info_prints_the_record_from_inside_the_picture(run: subprocess.CompletedProcess[str], pictures: Path) -> None:
    shown = nst_fast("info", "out.png", cwd=pictures)
    assert shown.returncode == 0
    assert "--style-taps relu1_1,relu2_1" in shown.stdout
    assert "random" in shown.stdout
    assert str(pictures) not in (pictures / "out.json").read_text()  # names, not where they lie


def test_an_existing_output_is_kept_unless_overwrite_is_given(
    run: subprocess.CompletedProcess[str], pictures: Path
) -> None:
    before = (pictures / "out.png").read_bytes()
    again = nst_fast("stylize", "content.png", "style.png", "-o", "out.png", *TINY, cwd=pictures)
    assert again.returncode == 4
    assert "--overwrite" in again.stderr
    assert (pictures / "out.png").read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(pictures: Path) -> None:
    for name in ("one.bmp", "two.bmp"):
        arguments = ("--steps", "4", "--init", "noise", "--monitor-every", "0")
        assert nst_fast(*stylized(*arguments, "-o", name), cwd=pictures).returncode == 0
    assert (pictures / "one.bmp").read_bytes() == (pictures / "two.bmp").read_bytes()


PAIR = ("content.png", "style.png", "-o", "bad.png")


def stylized(*arguments: str) -> tuple[str, ...]:
    return ("stylize", *PAIR, *TINY, *arguments)


# The exit code, words of the message, and the command.
BAD: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "missing": (3, "content.png", ("stylize", "contnet.png", *PAIR[1:], *TINY)),
    "empty": (3, "empty", ("stylize", "empty.png", *PAIR[1:], *TINY)),
    "truncated": (3, "truncated", ("stylize", "cut.png", *PAIR[1:], *TINY)),
    "one pixel": (3, "16", ("stylize", "pixel.png", *PAIR[1:], *TINY)),
    "bomb": (3, "--max-megapixels", stylized("--max-megapixels", "0.001")),
    "unknown tap": (2, "relu4_4", ("stylize", *PAIR, "--content-taps", "relu4_9")),
    "nan weight": (2, "--style-weight nan", stylized("--style-weight", "nan")),
    "offline weights": (5, "weights import FILE", ("stylize", *PAIR, "--weights", "imagenet")),
    "original weights of another network": (
        *(5, "Give --network vgg19"),
        ("stylize", *PAIR, "--weights", "original", "--network", "vgg16"),
    ),
    "no such device": (6, "cpu", stylized("--device", "cuda:7")),
    "unknown option": (2, "--stepz", ("stylize", *PAIR, "--stepz", "3")),
    "output suffix": (2, ".xyz", ("stylize", *PAIR[:3], "bad.xyz", *TINY)),
    "output is an input": (4, "content.png", ("stylize", *PAIR[:3], "content.png", "--overwrite", *TINY)),
    "no record": (3, "no run record", ("info", "content.png")),
}


@pytest.mark.parametrize(("code", "words", "arguments"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_with_a_remedy_and_its_exit_code(
    code: int, words: str, arguments: tuple[str, ...], pictures: Path
) -> None:
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "cut.png").write_bytes((pictures / "content.png").read_bytes()[:400])
    Image.new("RGB", (1, 1)).save(pictures / "pixel.png")
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    result = nst_fast(*arguments, cwd=pictures)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert words in errors[0]
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stderr
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


def test_an_error_is_json_too_when_json_was_asked_for(pictures: Path) -> None:
    result = nst_fast("stylize", "nothing.png", "style.png", "-o", "bad.png", "--json", *TINY, cwd=pictures)
    facts = json.loads(result.stdout)
    assert facts["status"] == "error"
    assert facts["code"] == 3
    assert facts["kind"] == "InputError"


def test_verbose_adds_engine_and_plan_once_and_the_summary_explains_the_memory(pictures: Path) -> None:
    made = nst_fast(*stylized("--overwrite", "--steps", "2", "--monitor-every", "0", "-v", "-o", "v.png"), cwd=pictures)
    lines = made.stderr.splitlines()
    for beginning in ("engine fast", "plan: 48x36 whole"):
        assert len([line for line in lines if line.startswith(beginning)]) == 1, made.stderr
    assert "peak memory" in made.stderr
    record = RunRecord(options={}, inputs={}, weights={}, device="", engine="", precision="", machine={})
    record.peak_memory_mib = 1174.4
    assert peak_memory(record) == "peak memory 1174 MiB"
    record.plan = {"program_memory_mib": 799.2}
    assert peak_memory(record) == "peak memory 1174 MiB, of which 799 MiB the program itself"


@pytest.mark.parametrize(
    ("command", "own"), [("stylize", ["--output"]), ("sweep", ["--style", "--vary", "--jury", "--output"])]
)
def test_help_begins_with_the_options_that_most_people_need(command: str, own: list[str]) -> None:
    panels = nst_fast(command, "--help", COLUMNS="80").stdout.split("╭─ ")
    titles = [panel.split(" ─")[0] for panel in panels[1:]]
    assert titles[:4] == ["Arguments", "Options", "Files and messages", "Images"]
    first = re.findall(r"--[a-z-]+", " ".join(line[:25] for line in panels[2].splitlines()))
    common = ["--image-size", "--quality", "--preset", "--strength", "--color", "--style-scale", "--steps", "--seed"]
    assert first == [*own, *common, "--device", "--help"]
    assert all(len(line) <= 80 for line in "".join(panels).splitlines())


def test_version_and_taps_and_bare_call() -> None:
    assert nst_fast("--version").stdout.strip() == f"nst-fast {__version__}"
    listed = json.loads(nst_fast("taps", "--network", "vgg16", "--image-size", "64", "--json").stdout)
    assert listed["taps"]["relu5_3"] == [512, 4, 4]
    assert "relu5_4" not in listed["taps"]
    assert "Usage" in nst_fast().stdout


def test_doctor_tries_every_provider_and_says_how_to_get_the_others() -> None:
    report = json.loads(nst_fast("doctor", "--json").stdout)
    providers = {status["name"]: status for status in report["providers"]}
    assert providers["cpu"]["works"]
    assert all(status["works"] or status["remedy"] for status in providers.values())
    assert "provider cpu" in nst_fast("doctor").stdout
