"""Every command that the documentation site shows, run as it is shown but for what stands in these tables.

In a run of the tests a sample of the pages, drawn by the date; with NST_FAST_DOCS=all every page, and with
NST_FAST_DOCS=2026-11-26 the sample of that day.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from clips import made_clip, write_clip
from in_process import imported, run_command
from markdown_it import MarkdownIt
from PIL import Image, ImageDraw
from places import ROOT

import nst_fast
from nst_fast.cli.commands import COMMANDS, made

# --- what is put in place of what a page says -------------------------------------------------------------------------

# Appended to a command: of two equal options the last one counts.
PICTURE = "--image-size 48 --steps 2 --weights random:0 --monitor-every 0 --precision fp32"
SHALLOW = "--weights random:0 --content-taps relu1_2 --style-taps relu1_1"
TINY = {
    **dict.fromkeys(("stylize", "batch", "sweep", "reconstruct", "texture"), PICTURE),
    "demo": PICTURE.replace("48", "64"),
    "video": PICTURE.replace("--monitor-every 0 ", ""),
    "evaluate": "--weights random:0",
    "export": SHALLOW,
    "bench": f"{SHALLOW} --sizes 24 --engines eager --repeats 1 --turn-seconds 0.001 --steps 1 --no-memory",
    "ui": "--no-browser --port 0 --folder served",
    "serve": "--port 0 --folder served",
}
INSTALLING = r"^pip install [^&]*&& "
# Patterns and what replaces them: placeholders, what takes long, and what not every machine has.
REPLACED = {
    INSTALLING: "",
    r"(?<=stylize )\.\.\.": "photo.jpg painting.jpg -o out.png",
    r"(?<=sweep )\.\.\.": "photo.jpg --style painting.jpg --vary steps=1,2 -o sweep",
    r"(?<=--pairs )\.\.\.": "photo.jpg+painting.jpg",
    r" \.\.\.$": "",
    r"\bCONTENT\b": "photo.jpg",
    r"\bSTYLE\b": "painting.jpg",
    r"\bDIR\b": "bundle",
    r"(?<=--size )512x\S+": "48x48",
    r"(?<=steps=)300,1000": "1,2",
    r"(?<=--nproc-per-node )8": "2",
    r"--device cuda": "--device cpu",
    r"magick .*": "cat > small.jpg",
    r"\S+-MACHINE\.json": "result.json",
}
# Commands that need a package which not every install has.
NEEDS = {
    "nst-fast video": "av",
    r"nst-fast (ui|serve)": "uvicorn",
    "bench/server": "uvicorn",
    "bench/batch/": "ray",
    "TensorBoard": "tensorboard",
}
# Scripts with their own small sizes.
SCRIPTS = {
    "bench/server/previews.py": "--size 32 --turns 2 --seconds 0.05 --results .",
    "bench/batch/overhead.py": "--pictures 2 --rounds 1",
    "bench/reliability/crashes.py": "--kills 3",
}
# Commands that another file's tests run, or check as far as can be.
ELSEWHERE = {
    r"pip (install|wheel) ": "system/test_install_lines.py",
    r"pytest$|ruff ": "system/test_workflows.py",
    r"ln -s|python -c|curl --json": "system/test_comfyui.py",
    r"docker ": "system/test_docker.py",
    r"curl ": "system/test_documented_commands.py",
    r"python docs/site/make_site.py": "system/test_site.py",
    r"python docs/pictures/": "system/test_docs_pictures.py",
    r"python examples/": "system/test_examples.py",
    r"python (bench/run|export/build|bench/memory/huge).py": "system/test_scripts.py",
    r"python bench/(optimizers|start|trackers)/": "system/test_scripts.py",
    r"python bench/peers/compare.py": "system/test_peers.py",
    r"python bench/peers/speed.py": "system/test_peers_speed.py",
    r"python bench/reliability/fuzz.py": "system/test_fuzz.py",
    r"GOMP_SPINCOUNT=10000 THP_MEM_ALLOC_ENABLE=1 python bench/convolutions/": "system/test_documented_commands.py",
    r"nst-fast .*--on ray": "system/test_cluster.py",
    r"nst-fast weights (fetch|import)": "system/test_weights_command.py",
    r"nst-fast .*--target openvino": "unit/onnx/test_openvino.py",
    r"nst-fast .*--prove": "unit/onnx/test_tensorrt_rtx.py",
}
SAMPLE = 5  # pages in a run
# Files that a command reads and no earlier one of its block has written. Any other picture is a pastiche with a record.
PICTURES = r"[\w/-]+\.(?:png|jpg|jpeg|heic|tif)\b"
FILMS = r"[\w/-]+\.(?:mp4|mov|mkv|webm)\b"
OUTPUTS = rf"(?:-o|--output|--plot|--csv|--json|>) ?({PICTURES}|{FILMS}|\S+\.json)"


# --- the pages --------------------------------------------------------------------------------------------------------

NAV = tomllib.loads((ROOT / "docs" / "site" / "zensical.toml").read_text("utf-8"))["project"]["nav"]
PROGRAM = r"(?:[A-Z_]+=(?:\$\([^)]*\)|\S+) )*(nst-fast|pip|python|pytest|ruff|torchrun|curl|docker|cat) ?"


def pages_of(nav: Sequence[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages_of(value)  # type: ignore[arg-type]  # of TOML


def text_of(page: str) -> str:
    return examples() if page == EXAMPLES else (ROOT / page).read_text("utf-8")


def examples() -> str:
    """The examples of the commands' help texts, each a block."""
    tops = [made(name) for name in COMMANDS]
    helps = [each.help or "" for top in tops for each in (top, *getattr(top, "commands", {}).values())]
    found = [example for text in helps for example in re.findall(r"^Example: (nst-fast .*)", text, re.MULTILINE)]
    return "".join(f"```sh\n{example}\n```\n" for example in found)


def code(text: str) -> list[tuple[str, str]]:
    """The code blocks of a page: language and text."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [(token.info, token.content) for token in tokens if token.type in ("fence", "code_block")]


def blocks(text: str) -> list[list[str]]:
    """The commands of each code block that begins with one, without comments, continued lines joined."""
    found = []
    for language, content in code(text):
        lines = re.sub(r"\s+#\s.*$", "", content, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
        commands = [" ".join(line.split()) for line in lines if line.strip()]
        if language in ("", "sh") and re.match(PROGRAM, commands[0]):
            found.append(commands)
    return found


PAGES = [page for page in pages_of(NAV) if "/reference/" not in page]
EXAMPLES = "docs/reference/commands.md"  # generated: its commands are the examples of the help texts
SHOWING = [*(page for page in PAGES if blocks(text_of(page))), EXAMPLES]
WANTED = os.environ.get("NST_FAST_DOCS") or datetime.date.today().isoformat()
CHOSEN = SHOWING if WANTED == "all" else random.Random(WANTED).sample(SHOWING, SAMPLE)


def elsewhere(command: str) -> str | None:
    """The tests of a command that is not run here."""
    command = re.sub(INSTALLING, "", command)
    return next((tests for pattern, tests in ELSEWHERE.items() if re.match(pattern, command)), None)


def test_no_command_is_overlooked() -> None:
    for page in PAGES:
        found = sum(len(block) for block in blocks(text_of(page)))
        shown = sum(
            len(re.findall(r"^(?:[A-Z_]+=\S+ )*nst-fast ", content, re.MULTILINE)) for _, content in code(text_of(page))
        )
        assert found >= shown, page
    assert {"README.md", "docs/how-to/poster.md", "docs/settings.md"} <= set(SHOWING)
    assert sum(len(block) for page in SHOWING for block in blocks(text_of(page))) > 80


def test_files_that_are_named_are_there() -> None:
    assert [name for name in ELSEWHERE.values() if not (ROOT / "tests" / name).is_file()] == []


def test_flags_in_the_text_are_those_of_a_command() -> None:
    texts = {page: text_of(page) for page in PAGES}
    texts |= {path.name: path.read_text("utf-8") for path in (ROOT / "nst_fast" / "cli").glob("*.py")}
    for source, text in texts.items():
        for command, rest in re.findall(r"`nst-fast ([a-z]+)([^`\n]*)`", text):
            assert command in COMMANDS, source
            assert set(re.findall(r"(?<=\s)--[\w-]+", rest)) <= options_of(command), (source, command, rest)


def options_of(command: str) -> set[str]:
    top = made(command)
    commands = [top, *getattr(top, "commands", {}).values()]
    return {
        name for each in commands for parameter in each.params for name in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}


# --- running them -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pastiche(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with a record, which stands for any picture."""
    folder = tmp_path_factory.mktemp("pastiche")
    for seed, name in enumerate(("content.png", "style.png")):
        Image.effect_mandelbrot((48, 36), (-2, -1, 1 - seed / 4, 1), 100).convert("RGB").save(folder / name)
    options = {"image_size": 48, "steps": 2, "weights": "random:0", "monitor_every": 0, "engine": "eager"}
    nst_fast.stylize(folder / "content.png", folder / "style.png", options, output=folder / "made.png")
    return folder / "made.png"


@pytest.fixture
def folder(tmp_path: Path, pastiche: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a block, with `nst-fast` and `python` on the path."""
    if sys.platform == "win32":
        pytest.skip("what is shown is for the shells of Linux and macOS")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, command in {"nst-fast": "-m nst_fast", "python": "", "torchrun": "-m torch.distributed.run"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("NST_FAST_TOKEN", raising=False)
    return tmp_path


def shortened(command: str) -> str:
    """The command with small sizes."""
    for pattern, text in REPLACED.items():
        command = re.sub(pattern, text, command)
    if script := next((name for name in SCRIPTS if name in command), ""):
        return f"{command.replace(script, str(ROOT / script)).partition(' >')[0]} {SCRIPTS[script]}"
    found = re.search(r"nst[-_]fast (\w+)", command)
    if found is None or found[1] not in COMMANDS or "compare" in command:
        return command
    tiny = TINY.get(found[1], "") + " --overwrite" * ("--overwrite" in options_of(found[1]))
    return re.sub(r"( [|>].*)?$", rf" {tiny}\1", command, count=1)


def provide(command: str, page: str, pastiche: Path) -> None:
    """Make what a command reads and nothing has made yet."""
    for name in set(re.findall(PICTURES, command)) - set(re.findall(OUTPUTS, command)):
        path = Path(name)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pastiche, path)
        if path.stem in ("sky", "face") or "regions" in path.stem:
            mask = Image.new("RGB", (48, 36))
            ImageDraw.Draw(mask).rectangle((0, 0, 48, 17), fill="white")
            mask.save(path, "PNG")
    for name in set(re.findall(FILMS, command)) - set(re.findall(OUTPUTS, command)):
        write_clip(Path(name), made_clip(frames=3))
    if "--config run.toml" in command:
        Path("run.toml").write_text(next(text for language, text in code(text_of(page)) if language == "toml"))
    if "batch photos" in command:
        Path("photos").mkdir(exist_ok=True)
        shutil.copyfile(pastiche, "photos/lake.png")
    for name in command.split()[3:5] if "bench compare" in command else ():
        shutil.copyfile(next((ROOT / "bench" / "results").glob("precisions-*.json")), name)


@pytest.mark.parametrize("page", SHOWING)
def test_the_commands_of_a_page_run(
    page: str, folder: Path, pastiche: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page not in CHOSEN:
        pytest.skip(f"not in the sample of {WANTED}; NST_FAST_DOCS=all runs the commands of all pages")
    left_out: list[str] = []
    for number, block in enumerate(blocks(text_of(page))):
        (folder / str(number)).mkdir()
        monkeypatch.chdir(folder / str(number))
        for shown in block:
            if missing := lacking(shown):
                left_out.append(f"{shown} (no {missing})")
            elif elsewhere(shown) is None:
                command = shortened(shown)
                provide(command, page, pastiche)
                code, err = result_of(command, monkeypatch, capsys)
                assert code == 0, f"{shown!r}, as {command!r}: {err}"
    if left_out:
        pytest.skip(f"all but {left_out}")


def lacking(shown: str) -> str:
    """The package that a command or a program needs and that is not installed."""
    needed = (package for pattern, package in NEEDS.items() if re.search(pattern, shown))
    return next((package for package in needed if importlib.util.find_spec(package) is None), "")


def result_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error: of a server once it answers, of others in this process but for shell syntax."""
    if re.search(r"nst-fast (ui|serve) ", command):
        with serving(command):
            return 0, ""
    if command.startswith("nst-fast ") and not set("|>&$") & set(command):
        code, _, err = run_command(monkeypatch, capsys, *shlex.split(command)[1:])
        return code, err
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@contextmanager
def serving(command: str) -> Iterator[str]:
    """A server's address, in a ``with`` block."""
    with (
        Path("log").open("w") as log,
        subprocess.Popen(
            ["sh", "-c", command], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        ) as server,
    ):
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            assert address.startswith("http://"), f"{command!r}: {Path('log').read_text()}"
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.communicate(timeout=60)


def test_the_commands_to_the_server_are_answered(folder: Path, pastiche: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := lacking("nst-fast ui"):
        pytest.skip(f"no {missing}")
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    monkeypatch.chdir(folder)
    shutil.copyfile(pastiche, "photo.jpg")
    (block,) = [block for block in blocks(text_of("docs/ui.md")) if block[0].startswith("curl ")]
    answers: list[dict[str, str]] = []
    with serving(f"nst-fast ui {TINY['ui']}") as address:
        for command in block:
            given = answers[-1]["id"] if answers else ""
            changed = command.replace("localhost:8765/", address).replace('"ID"', f'"{given}"')
            changed = changed.replace('"image_size": 512', '"image_size": 48, "steps": 2, "weights": "random:0"')
            done = subprocess.run(["sh", "-c", f"{changed} -sS --fail-with-body"], capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            answers.append(json.loads(done.stdout))
    assert [set(answer) >= {"id"} for answer in answers] == [True, True]


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)])
def test_the_programs_of_a_page_run(page: str, folder: Path, pastiche: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    stylize = nst_fast.stylize
    small = {"image_size": 48, "steps": 2, "weights": "random:0", "monitor_every": 0}
    monkeypatch.setattr(nst_fast, "stylize", lambda *pictures, **given: stylize(*pictures, **{**given, **small}))
    for name in ("photo.jpg", "painting.jpg"):
        shutil.copyfile(pastiche, name)
    for language, program in code(text_of(page)):
        if language == "python":
            if missing := lacking(program):
                pytest.skip(f"no {missing}")
            exec(compile(program, page, "exec"), {})


def test_convolutions_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "bench/README.md" not in CHOSEN:
        pytest.skip(f"its page is not in the sample of {WANTED}")
    with imported(ROOT / "bench" / "convolutions", ["convolutions"]) as found:
        script = found["convolutions"]
        monkeypatch.setattr(script, "SIZES", ((32, 32),))
        monkeypatch.setattr(script, "TURNS", 1)
        script.main(tmp_path / "result.json")
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert {row["case"] for row in rows} == {"eager", "fast, direct", "fast, winograd", "ort"}
