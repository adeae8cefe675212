"""Completion by the protocol that Typer's scripts speak, and by the scripts in the shells that are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import python

from nst_fast.cli.commands import COMMANDS
from nst_fast.network.taps import layer_names
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.presets import PRESETS, QUALITIES
from nst_fast.options.providers import PROVIDERS
from nst_fast.options.style import STYLE_LOSSES

PROGRAM = "import sys; sys.argv[0] = 'nst-fast'; from nst_fast.cli import main; main()"
COMPLETE = "_NST_FAST_COMPLETE"


EVERY_COMMAND = """
import os, sys
from nst_fast.cli import main
sys.argv = ["nst-fast"]
for command in {commands!r}:
    os.environ["COMP_WORDS"] = "nst-fast " + command + " given --"
    try:
        main()
    except SystemExit:
        pass
sys.stderr.write(",".join(name for name in {heavy!r} if name in sys.modules))
if sys.platform == "linux":  # a run of `stylize` opens the libraries ahead of the import
    sys.stderr.write("libtorch" * ("libtorch" in open("/proc/self/maps").read()))
"""


def spoken(instruction: str, program: str = PROGRAM, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program as a shell starts it to complete."""
    return python("-c", program, **{COMPLETE: instruction}, **variables)


def bash(line: str) -> list[str]:
    words = ["nst-fast", *line.split(" ")]
    done = spoken("complete_bash", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def zsh(line: str) -> list[str]:
    done = spoken("complete_zsh", _TYPER_COMPLETE_ARGS=f"nst-fast {line}")
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "_files":
        return []
    lines = done.stdout.removeprefix("_arguments '*: :((").rstrip().removesuffix("))'").splitlines()
    return [line.split('"')[1].replace(r"\\:", ":") for line in lines]  # which the script reads twice


def fish(line: str) -> list[str]:
    asked = {"_TYPER_COMPLETE_ARGS": f"nst-fast {line}"}
    done = spoken("complete_fish", _TYPER_COMPLETE_FISH_ACTION="get-args", **asked)
    assert done.returncode == 0, done.stderr
    found = [line.partition("\t")[0] for line in done.stdout.splitlines() if line]
    any_found = spoken("complete_fish", _TYPER_COMPLETE_FISH_ACTION="is-args", **asked).returncode == 0
    assert any_found == bool(found)  # else fish completes files
    return found


EVERY = {
    "--preset ": list(PRESETS),
    "--quality ": list(QUALITIES),
    "--engine-provider ": ["auto", *PROVIDERS],
    "--engine ": ["auto", "eager", "fast", "compiled", "ort"],
    "--style-loss ": list(STYLE_LOSSES),
    "--color ": ["none", "keep", "match", "luma"],
    "--style-taps ": layer_names("vgg19"),
    "--network vgg16 --content-taps ": layer_names("vgg16"),
    "--device ": ["auto", "cpu", "cuda", "rocm", "mps", "xpu"],
    "--weights ": ["auto", "original", "imagenet", "random"],
    "--style-crop ": ["auto", "none"],
    "--progress ": ["auto", "json"],
    "--tracker ": ["wandb", "mlflow"],
    "--film ": ["gif", "sheet"],
}


@pytest.mark.parametrize("given", EVERY)
def test_values_are_offered(given: str) -> None:
    assert bash(f"stylize a.jpg b.jpg {given}") == EVERY[given]


@pytest.mark.parametrize("shell", [bash, zsh, fish])
def test_every_shell_is_offered_what_begins_so(shell: Callable[[str], list[str]]) -> None:
    assert shell("stylize --preset fa") == ["faithful"]
    assert shell("stylize --style-taps relu1_1:0.5,relu2") == ["relu1_1:0.5,relu2_1", "relu1_1:0.5,relu2_2"]
    assert shell("stylize --style-lo") == ["--style-loss"]
    assert shell("presets lbfgs-n") == ["lbfgs-noise"]
    assert shell("ev") == ["evaluate"]
    assert shell("stylize pictures/a") == []  # files, by the shell


def test_losses_are_offered_after_a_tap_and_its_weight() -> None:
    assert bash("stylize --style-taps relu1_1:2:n") == ["relu1_1:2:nearest"]
    assert bash("stylize --content-taps relu4_2:1:") == ["relu4_2:1:features", "relu4_2:1:self-similarity"]
    assert bash("stylize --content-taps relu4_2:") == []


def test_every_option_with_choices_offers_them() -> None:
    from nst_fast.cli.completion import completion_of

    offered = {name: completion_of(item) for name, item in declared(StylizeConfig).items() if item.option.choices}
    assert len(offered) > 20
    assert all(offered.values())


def test_a_users_own_presets_are_offered_and_a_folder_that_cannot_be_used_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NST_FAST_CONFIG_DIR", str(tmp_path))
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "misty.toml").write_text("steps = 3\n")
    assert bash("stylize --preset m") == ["misty"]
    (tmp_path / "presets" / "bold.toml").write_text("steps = 3\n")  # the name of one of ours
    assert bash("stylize --preset b") == ["bold"]


def test_descriptions_stay_on_the_line_of_their_value() -> None:
    asked = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "nst-fast stylize --"}
    done = spoken("complete_fish", **asked)
    assert {line[:2] for line in done.stdout.splitlines()} == {"--"}


def test_completion_imports_nothing_that_computes() -> None:
    heavy = ("torch", "onnxruntime", "matplotlib", "numpy", "onnx", "pydantic")
    program = EVERY_COMMAND.format(commands=list(COMMANDS), heavy=heavy)
    done = spoken("complete_bash", program, COMP_CWORD="3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("--help") == len(COMMANDS)


SCRIPTS = {
    "bash": "COMP_WORDS=(nst-fast stylize --preset fa); COMP_CWORD=3; _nst_fast_completion nst-fast; "
    'printf "%s\\n" "${COMPREPLY[@]}"',
    "zsh": "words=(nst-fast stylize --preset fa); CURRENT=4; _arguments() { print -r -- $1 }; _nst_fast_completion",
    "fish": "complete -C 'nst-fast stylize --preset fa'",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_works_in_the_shell(shell: str, tmp_path: Path) -> None:
    if sys.platform == "win32" or shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    program = tmp_path / "nst-fast"
    program.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    program.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(spoken(f"source_{shell}").stdout)
    define = "compdef() { :; }; " if shell == "zsh" else ""
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = [shell, "-c", f"{define}source {script}; {SCRIPTS[shell]}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "faithful" in done.stdout
    assert "bold" not in done.stdout
