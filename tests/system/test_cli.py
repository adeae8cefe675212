"""The command line as a user meets it: every command in a process of its own where exit codes or streams matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nst_fast import __version__

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
    assert facts["status"] == "complete"
    assert facts["output"] == "out.png"
    assert facts["steps"] == 6
    assert facts["device"] == "cpu"
    assert facts["engine"] == "fast"
    assert facts["precision"] == "fp32"
    assert (facts["weights"]["source"], len(facts["weights"]["sha256"])) == ("random, seed 0", 64)
    assert "weights: random, seed 0" in run.stderr
    assert facts["provider"] == {"requested": "cpu", "actual": "cpu"}
    assert {"seconds", "steps_per_second", "losses", "precision", "peak_memory_mib", "warnings"} <= set(facts)


def test_off_a_terminal_there_are_plain_lines_and_no_control_bytes(run: subprocess.CompletedProcess[str]) -> None:
    assert "step 6/6" in run.stderr
    assert "\x1b" not in run.stderr + run.stdout


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
    for name in ("one", "two"):
        arguments = ("stylize", "content.png", "style.png", "-o", f"{name}.bmp", *TINY)
        assert (
            nst_fast(*arguments, "--steps", "4", "--init", "noise", "--monitor-every", "0", cwd=pictures).returncode
            == 0
        )
    assert (pictures / "one.bmp").read_bytes() == (pictures / "two.bmp").read_bytes()


BAD: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "missing": (3, "content.png", ("stylize", "contnet.png", "style.png", "-o", "bad.png", *TINY)),
    "empty": (3, "empty", ("stylize", "empty.png", "style.png", "-o", "bad.png", *TINY)),
    "truncated": (3, "truncated", ("stylize", "cut.png", "style.png", "-o", "bad.png", *TINY)),
    "one pixel": (3, "16", ("stylize", "pixel.png", "style.png", "-o", "bad.png", *TINY)),
    "bomb": (
        3,
        "--max-megapixels",
        ("stylize", "content.png", "style.png", "-o", "bad.png", "--max-megapixels", "0.001", *TINY),
    ),
    "unknown tap": (
        2,
        "relu4_4",
        ("stylize", "content.png", "style.png", "-o", "bad.png", "--content-taps", "relu4_9"),
    ),
    "nan weight": (
        2,
        "--style-weight nan",
        ("stylize", "content.png", "style.png", "-o", "bad.png", "--style-weight", "nan", *TINY),
    ),
    "offline weights": (
        5,
        "weights import FILE",
        ("stylize", "content.png", "style.png", "-o", "bad.png", "--weights", "imagenet"),
    ),
    "original weights of another network": (
        5,
        "Give --network vgg19",
        ("stylize", "content.png", "style.png", "-o", "bad.png", "--weights", "original", "--network", "vgg16"),
    ),
    "no such device": (6, "cpu", ("stylize", "content.png", "style.png", "-o", "bad.png", "--device", "cuda:7", *TINY)),
    "unknown option": (2, "--stepz", ("stylize", "content.png", "style.png", "-o", "bad.png", "--stepz", "3")),
    "output suffix": (2, ".xyz", ("stylize", "content.png", "style.png", "-o", "bad.xyz", *TINY)),
    "output is an input": (
        4,
        "content.png",
        ("stylize", "content.png", "style.png", "-o", "content.png", "--overwrite", *TINY),
    ),
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
