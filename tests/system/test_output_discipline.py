"""Results on stdout, messages on stderr, whoever reads them: a program, a pipe that closes, an old terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from batches import draw
from PIL import Image
from tiny import flags

from nst_fast import stylize
from nst_fast.benchmark.rows import BenchReport, LoopRow
from nst_fast.cli import main
from nst_fast.cli.commands import COMMANDS, made
from nst_fast.cli.console import Messages, complain

TINY = flags()
TAPS = TINY[:3]
QUICK_BENCH = ("--sizes", "24", "--engines", "eager", "--steps", "1", "--repeats", "1", "--turn-seconds", "0.001")
BENCH = (*QUICK_BENCH, "--providers", "cpu", "--monitor-every", "0", "--no-memory", "--device", "cpu", *TAPS)

SHORT = ("--weights=random:0", "--image-size=24", "--steps=2")
BATCH = ("batch", "content.png", "--style", "style.png", *TINY)

# What is called with --json, its exit code, and the schema of what it gives.
CALLS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "batch": (("batch", "content.png", "bad.png", "--style", "style.png", "-o", "many", *TINY), 10, "batch-result"),
    "stylize": (("stylize", "content.png", "style.png", "-o", "one.png", *TINY), 0, "stylize"),
    "resume what is finished": (("resume", "made.png"), 0, "stylize"),
    "video": (("video", "clip.gif", "--style", "style.png", "-o", "painted.gif", *SHORT), 0, "video-result"),
    "video with a hole": (("video", "bad.png", "--style", "style.png", "-o", "no.gif", *SHORT), 3, "error"),
    "sweep": (("sweep", "content.png", "--style", "style.png", "--vary", "seed=0,1", *TINY), 0, "sweep"),
    "sweep with a hole": (("sweep", "bad.png", "--style", "style.png", "-o", "holes", *TINY), 10, "sweep"),
    "reconstruct": (("reconstruct", "content.png", "--taps", "relu1_1", *SHORT), 0, "reconstruction"),
    "texture": (("texture", "style.png", "--style-taps", "relu1_1", *SHORT), 0, "texture"),
    "plan": (("plan", "512x384"), 0, "plan"),
    "plot": (("plot", "made.png", "-o", "curves.png"), 0, "plot"),
    "export": (("export", "-o", "tiny.onnx", *TAPS), 0, "export"),
    "bench": (("bench", *BENCH), 0, "bench"),
    "bench compare": (("bench", "compare", "bench.json", "bench.json"), 0, "bench-compare"),
    "evaluate": (("evaluate", "content.png", "style.png", "made.png", "--weights=random:0"), 0, "evaluate"),
    "evaluate a bad one": (("evaluate", "content.png", "style.png", "bad.png", "--weights=random:0"), 3, "error"),
    "presets": (("presets",), 0, "presets"),
    "one preset": (("presets", "classic"), 0, "presets"),
    "info": (("info", "made.png"), 0, "run"),
    "taps": (("taps",), 0, "taps"),
    "doctor": (("doctor",), 0, "doctor"),
    "weights list": (("weights", "list"), 0, "weights"),
    "weights verify": (("weights", "verify"), 0, "weights"),
    "weights import": (("weights", "import", "bad.png"), 5, "error"),
    "weights fetch": (("weights", "fetch"), 5, "error"),
    "serve": (("serve", "--folder", "content.png"), 4, "error"),  # what it gives when it serves: test_server.py
    "ui": (("ui", "--no-browser", "--folder", "content.png"), 4, "error"),
    "no record": (("info", "content.png"), 3, "error"),
    "unknown network": (("taps", "--network", "vgg11"), 2, "error"),
    "unknown option": (("taps", "--netwerk", "vgg16"), 2, "error"),
}
ELSEWHERE = {"demo"}  # the object of stylize: test_demonstration.py


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workshop")
    pair = draw(folder / "content.png", 1), draw(folder / "style.png", 2)
    (folder / "bad.png").write_bytes(b"")
    with Image.open(pair[0]) as first, Image.open(pair[1]) as second:
        first.save(folder / "clip.gif", save_all=True, append_images=[second])
    stylize(*pair, tiny.TINY).save(folder / "made.png")
    row = LoopRow(width=24, height=24, engine="eager", device="cpu", step_ms=1.0)
    report = BenchReport(device="cpu", options={}, machine={"packages": {}}, rows=[row])
    (folder / "bench.json").write_text(json.dumps(report.as_dict()))
    return folder


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(workshop: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process, where loading costs nothing: exit code, and all that came on both streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(workshop)
        monkeypatch.setattr(sys, "argv", ["nst-fast", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run


@pytest.mark.parametrize(("arguments", "code", "schema"), CALLS.values(), ids=CALLS.keys())
def test_json_is_one_object_with_a_schema_and_all_that_stdout_gets(
    arguments: tuple[str, ...], code: int, schema: str, call: Call
) -> None:
    ended, out, err = call(*arguments, "--json", *(("-",) if arguments[0] in ("bench", "evaluate") else ()))
    assert ended == code, err
    facts = json.loads(out)  # a second object, or a message, would be an error
    assert facts["schema"] == f"nst-fast/{schema}/1"
    assert out.isascii()
    assert "\x1b" not in err
    assert err.count("error: ") == (code != 0)


def commands() -> Iterator[tuple[str, Any]]:
    for name in COMMANDS:
        command = made(name)
        inner = getattr(command, "commands", {})
        yield from ((f"{name} {part}", inner[part]) for part in inner)
        if not inner or command.invoke_without_command:
            yield name, command


def test_every_command_has_json_and_is_called_above() -> None:
    known = dict(commands())
    assert [name for name, command in known.items() if all("--json" not in p.opts for p in command.params)] == []
    called = {name for name in known for arguments, _, _ in CALLS.values() if " ".join(arguments).startswith(name)}
    assert set(known) - called - ELSEWHERE == set()


def test_without_json_stdout_gets_the_results_path_alone(call: Call) -> None:
    code, out, err = call("plot", "made.png", "-o", "alone.png")
    assert (code, out, err) == (0, "alone.png\n", "")
    code, out, err = call(*BATCH, "-o", "quiet", "--quiet")
    assert (code, out, err) == (0, "quiet\n", "")
    code, out, err = call("batch", "bad.png", "content.png", "--style", "style.png", "-o", "some", *TINY, "--quiet")
    assert (code, out) == (10, "some\n")
    assert [line.split(":")[0] for line in err.splitlines()] == ["failed", "error"]


ODD = ("[red].png", "[/x].png", "-dash.png", "new\nline.png", "é ü.png", "esc\x1b[31m.png", "tab\t.png")


@pytest.fixture(scope="module")
def odd(workshop: Path) -> Path:
    """Pictures with names that were never meant to be printed, one of them damaged."""
    folder = workshop / "[b]odd"
    (folder / "[").mkdir(parents=True)
    for name in (*ODD, os.fsdecode(b"not-utf8-\xff.png")):
        (folder / name).write_bytes((workshop / "content.png").read_bytes())
    (folder / "[bad]\n\x1b[2J.png").write_bytes(b"")
    return folder


def environment(**changes: str | None) -> dict[str, str]:
    """This process' environment with other values; None takes one away."""
    merged = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **changes}
    return {name: value for name, value in merged.items() if value is not None}


C_LOCALE = {"LC_ALL": "C", "LANG": None, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "HOME": None, "TERM": None}


def test_odd_names_work_in_the_c_locale_without_a_home_and_are_printed_escaped(odd: Path, workshop: Path) -> None:
    command = [sys.executable, "-m", "nst_fast", "batch", odd.name, "--style", "style.png", "-o", "[i]out é", *TINY]
    done = subprocess.run(command, cwd=workshop, capture_output=True, env=environment(**C_LOCALE), timeout=120)
    assert done.returncode == 10, done.stderr
    out = workshop / "[i]out é"
    assert len(list(out.rglob("*.png"))) == len(ODD) + 1
    assert (out / "new\nline.png").exists()
    assert os.fsencode(done.stdout.decode("ascii").strip()) in {b"[i]out \\udcc3\\udca9", b"[i]out \\xe9"}
    text = done.stderr.decode("ascii")  # and so holds nothing that this locale could not show
    assert "Traceback" not in text
    assert not set(text) & {"\x1b", "\t"}
    assert "[red].png" in text
    assert "new\\nline.png" in text
    assert text.count("failed: ") == 1
    assert len([line for line in text.splitlines() if line.startswith("failed: [bad]\\n\\x1b[2J.png: ")]) == 1


@pytest.fixture
def inside(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workshop, as the current folder."""
    monkeypatch.chdir(workshop)
    return workshop


def test_a_name_that_is_not_utf_8_comes_out_as_its_bytes(
    inside: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = os.fsdecode(b"curves-\xff.png")
    for given, expected in ((), b"curves-\xff.png\n"), (("--overwrite", "--json"), rb'"curves-\udcff.png"}' + b"\n"):
        monkeypatch.setattr(sys, "argv", ["nst-fast", "plot", "made.png", "-o", name, *given])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert capfdbinary.readouterr().out.endswith(expected)
    assert (inside / name).exists()


def test_a_name_that_is_markup_or_control_bytes_is_an_ordinary_error(call: Call) -> None:
    for name in ("[/x].png", "[red]\x1b[2J.png", "a\nb.png"):
        code, _, err = call("info", name)
        assert code == 3
        assert len(err.splitlines()) == 1
        assert "\x1b" not in err
    assert "[red]\\x1b[2J.png" in call("info", "[red]\x1b[2J.png")[2]


def test_a_message_is_one_line_of_what_can_be_printed_and_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Messages(quiet=False).say("[/x] [red]a\x1b[2J\nb")
    complain("[/x] a\x1b[2J\nb")
    assert capsys.readouterr().err == "[/x] [red]a\\x1b[2J\\nb\n[/x] a\\x1b[2J\\nb\n"


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_reader_who_went_away_leaves_no_trace_in_the_exit_code_or_in_the_other_stream(closed: str) -> None:
    writing = closed_pipe()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writing}
    arguments = ("taps",) if closed == "stdout" else ("taps", "--network", "vgg11")
    command = [sys.executable, "-m", "nst_fast", *arguments]
    try:
        done = subprocess.run(command, **streams, env=environment(), timeout=60)  # type: ignore[call-overload]
    finally:
        os.close(writing)
    assert done.returncode == (0 if closed == "stdout" else 2)
    assert not done.stdout
    assert not done.stderr


def test_the_work_is_finished_though_nobody_reads_of_it(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nst-fast", *BATCH, "-o", "unread"])
    with os.fdopen(closed_pipe(), "w") as out, os.fdopen(closed_pipe(), "w") as err, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    assert (inside / "unread" / "content.png").exists()


def test_streams_that_are_not_there_at_all_do_not_matter(workshop: Path) -> None:
    for missing in (">&-", "2>&-", ">&- 2>&-"):
        command = f"exec {sys.executable} -m nst_fast taps --network vgg11 --json {missing}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(), timeout=60)
        assert done.returncode == 2, done.stderr
        assert b"Traceback" not in done.stderr


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str, **changes: str) -> str:
    """What a command, in this process, writes to a terminal that is its stderr."""
    import pty

    ours, theirs = pty.openpty()
    said = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux's word for: the other end was closed
            while piece := os.read(ours, 4096):
                said.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setattr(sys, "argv", ["nst-fast", *arguments])
        for name, value in changes.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit, match="0"):
            main()
    reader.join()
    os.close(ours)
    return said.decode()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
@pytest.mark.usefixtures("inside")
def test_terminals_get_a_bar_no_colour_if_they_say_so_and_plain_lines_if_they_are_dumb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*[34][0-7][0-9;]*m")
    assert colour.search(on_terminal(monkeypatch, *BATCH, "-o", "colour", TERM="xterm-256color"))
    plain = on_terminal(monkeypatch, *BATCH, "-o", "no-colour", TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[" in plain  # the bar moves
    assert not colour.search(plain)
    dumb = on_terminal(monkeypatch, *BATCH, "-o", "dumb", TERM="dumb")
    assert "\x1b" not in dumb
    assert "step 2/2" in dumb
