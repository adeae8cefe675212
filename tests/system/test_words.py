"""What is said of wrong use and of odd circumstances: what was given, what is wrong with it, and what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from batches import draw
from in_process import Run
from PIL import Image
from processes import python
from tiny import TINY, flags

from nst_fast import stylize
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.network.weights import cache

SMALL = flags()
PAIR = ("stylize", "content.png", "style.png", "-o", "out.png")
ONTO = (*PAIR[2:], *SMALL)  # what comes behind the content
BATCH = ("batch", "folder", "--style", "style.png", *SMALL)
SWEEP = ("sweep", "content.png", "--style", "style.png", "-o", "series", *SMALL)

# Arguments, exit code, and words of the one line that is said.
WORDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "address": (("stylize", "https://a.org/x.jpg", *ONTO), 2, "https://a.org/x.jpg is an address"),
    "address of the output": ((*PAIR[:3], "-o", "https://a.org/x.png", *SMALL), 2, "https://a.org/x.png is an address"),
    "address of weights": ((*PAIR, "--weights", "https://a.org/x.pth"), 2, "https://a.org/x.pth is an address"),
    "address of a record": (("info", "s3://a/x.png"), 2, "s3://a/x.png is an address"),
    "size of two sides": ((*PAIR, "--image-size", "96x64"), 2, "--image-size '96x64': must be a whole number, from 16"),
    "decimal comma": ((*PAIR, "--strength", "0,5"), 2, "--strength '0,5': must be a number, from 0 to 1"),
    "no range": ((*PAIR, "--tv-weight", "much"), 2, "--tv-weight 'much': must be a number, at least 0"),
    "a count": ((*BATCH, "-o", "b", "--together", "x"), 2, "--together 'x'"),
    "stdin twice": (("stylize", "-", "-", "-o", "out.png", *SMALL), 2, "standard input is given for several pictures"),
    "stdin to start from": ((*PAIR, "--init", "-", *SMALL), 2, "--init -: standard input is no picture to start from"),
    "stdin of a batch": ((*BATCH, "--style", "-", "-o", "b"), 2, "standard input cannot be used here"),
    "stdin of a sweep": (("sweep", "-", *SWEEP[2:]), 2, "standard input cannot be used here"),
    "PSD": (("stylize", "x.psd", *ONTO), 3, "as a Photoshop file does. Convert it to PNG"),
    "SVG": (("stylize", "x.svg", *ONTO), 3, "as a drawing (SVG, XML) or a web page does"),
    "dangling link": (("stylize", "link.png", *ONTO), 3, "is a link to nowhere.png, which does"),
    "one folder": ((*BATCH, "-o", "folder"), 2, "for the pictures and for the outputs"),
    "only other kinds": (("batch", "others", *BATCH[2:], "-o", "b"), 3, "files of other kinds: 1 .psd, 1 .tga"),
    "picture as folder": (("texture", "style.png", "-o", "tex.png"), 2, "--output tex.png: is the name of a picture"),
    "picture as folder of a sweep": ((*SWEEP, "-o", "x.jpg"), 2, "--output x.jpg: is the name of a picture"),
    "picture as folder of a batch": ((*BATCH, "-o", "x.tif"), 2, "Name a folder, as x"),
    "missing": (("stylize", "contnet.png", *ONTO), 3, "content.png"),
    "empty": (("stylize", "empty.png", *ONTO), 3, "empty"),
    "truncated": (("stylize", "cut.png", *ONTO), 3, "truncated"),
    "one pixel": (("stylize", "pixel.png", *ONTO), 3, "16"),
    "bomb": ((*PAIR, *SMALL, "--max-megapixels", "0.001"), 3, "--max-megapixels"),
    "unknown tap": ((*PAIR, "--content-taps", "relu4_9"), 2, "relu4_4"),
    "NaN": ((*PAIR, *SMALL, "--style-weight", "nan"), 2, "--style-weight nan"),
    "weights offline": ((*PAIR, "--weights", "imagenet"), 5, "weights import FILE"),
    "weights of another network": ((*PAIR, "--weights", "original", "--network", "vgg16"), 5, "Give --network vgg19"),
    "no such device": ((*PAIR, *SMALL, "--device", "cuda:7"), 6, "cpu"),
    "unknown option": ((*PAIR, "--stepz", "3"), 2, "--stepz"),
    "suffix of the output": ((*PAIR[:3], "-o", "bad.xyz", *SMALL), 2, ".xyz"),
    "existing output": ((*PAIR[:3], "-o", "made.png", *SMALL), 4, "--overwrite"),
    "no record": (("info", "content.png"), 3, "no run record"),
    "impossible start": ((*SWEEP, "--vary", "init=missing.png,content"), 3, "missing.png does not exist"),
    "impossible weights": ((*SWEEP, "--vary", "weights=nowhere.pth,random:0"), 5, "no weight file nowhere.pth"),
    "impossible colour": ((*SWEEP, "--vary", "background=white,foo"), 2, "not a colour: 'foo'"),
    "impossible shares": ((*SWEEP, "--vary", "style-weight-each=1;1,2"), 2, "--style-weight-each 1,2: 2 weights for 1"),
    "impossible number": ((*SWEEP, "--vary", "steps=1,two"), 2, "--steps 'two': must be a whole number, from 1"),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    pair = draw(folder / "content.png", 1, (48, 32)), draw(folder / "style.png", 2)
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(pair[0].read_bytes()[:400])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "x.psd").write_bytes(b"8BPS\0\1")
    (folder / "x.svg").write_bytes(b"<?xml version='1.0'?><svg/>")
    (folder / "link.png").symlink_to("nowhere.png")
    for name in ("folder", "others"):
        (folder / name).mkdir()
        (folder / name / "a.PSD").write_bytes(b"")
        (folder / name / "b.tga").write_bytes(b"")
    (folder / "folder" / "content.png").write_bytes(pair[0].read_bytes())
    stylize(*pair, TINY, output=folder / "made.png")
    return folder


@pytest.fixture
def call(workshop: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    monkeypatch.chdir(workshop)
    return command


@pytest.mark.parametrize(("arguments", "code", "words"), WORDS.values(), ids=WORDS.keys())
def test_the_line_names_what_was_given(
    arguments: tuple[str, ...], code: int, words: str, call: Run, workshop: Path
) -> None:
    before = {path: path.is_file() and path.read_bytes() for path in workshop.iterdir()}
    ended, _, err = call(*arguments)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert words in error
    assert ended == code
    assert "failed: " not in err  # nothing was begun
    assert {path: path.is_file() and path.read_bytes() for path in workshop.iterdir()} == before


def test_files_of_a_folder_that_are_passed_over_are_counted(call: Run) -> None:
    code, _, err = call(*BATCH, "-o", "counted")
    assert code == 0, err
    assert "note: files of other kinds are passed over: 1 .psd, 1 .tga" in err


def test_resume_of_what_is_finished_refuses_options_that_would_have_to_be_run(call: Run) -> None:
    assert call("resume", "made.png", "--steps", "2", "--monitor-every", "5")[0] == 0
    code, _, err = call("resume", "made.png", "--steps", "100")
    assert code == 12
    assert "made.png is finished: complete, 2 steps. To continue from it, use stylize with made.png as --init" in err


def test_a_damaged_weight_file_is_listed_as_damaged(call: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path))
    copy = cache.copy_of("vgg19")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"damaged")
    _, out, _ = call("weights", "list")
    assert f"{copy.name} (damaged)" in out


def run(workshop: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    program = f"import os, sys; os.execvp({command[0]!r}, {command!r})"
    return python("-c", program, cwd=workshop, **changes)


SHELL = f"{sys.executable} -m nst_fast"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_standard_output_is_no_fault_of_ours(workshop: Path) -> None:
    for arguments in ("taps", "taps --json"):
        done = run(workshop, "sh", "-c", f"{SHELL} {arguments} > /dev/full")
        assert (done.returncode, done.stderr.count("error: ")) == (4, 1)
        assert "standard output cannot be written: no space left on device" in done.stderr
    assert run(workshop, "sh", "-c", f"{SHELL} taps --network vgg11 2> /dev/full").returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux'")
def test_a_limit_of_memory_is_no_fault_of_ours(workshop: Path) -> None:
    done = run(workshop, "sh", "-c", f"ulimit -v 1000000; {SHELL} {' '.join(PAIR)} --image-size 24")
    assert done.returncode == 7, done.stderr
    assert "fault of nst-fast" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux'")
def test_a_machine_without_proc_is_no_fault_of_ours(workshop: Path) -> None:
    script = "mount -t tmpfs none /proc && exec $0 -m nst_fast doctor"
    done = run(workshop, "unshare", "-rm", "sh", "-c", script, sys.executable)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no namespaces here")
    assert done.returncode == 6
    assert "error: /proc/meminfo is not there: memory cannot be measured. Mount /proc" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux'")
def test_a_home_that_is_read_only_stays_quiet(workshop: Path, tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o ro none {tmp_path} && exec {SHELL} {' '.join(PAIR[:3])} -o ro.png -q {' '.join(SMALL)}"
    cleared = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NST_FAST_CACHE", "MPLCONFIGDIR"), "")
    done = run(workshop, "unshare", "-rm", "sh", "-c", script, HOME=str(tmp_path), **cleared)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no namespaces here")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_builder_of_extensions_does_not_warn_of_a_cuda_that_nobody_asked_for() -> None:
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.setLevel(logging.NOTSET)
    network = SimpleNamespace(max_pooling=SimpleNamespace(), convolutions={}, forward=abs, backward=abs)
    FastNetwork.compile(network)  # type: ignore[arg-type]
    assert not logger.isEnabledFor(logging.WARNING)
