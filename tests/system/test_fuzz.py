"""A short fuzzing campaign, and proof that the campaign of bench/reliability/fuzz.py sees what it looks for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import imported
from places import ROOT

from nst_fast.errors import InputError, NstFastError
from nst_fast.images import read_text

FOLDER = ROOT / "bench" / "reliability"
PLACES = ["options", "inputs", "weights", "losses", "history", "finish", "warnings", "size", "plan", "monitor", "steps"]


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with imported(FOLDER, ["fuzz"]) as found:
        yield found["fuzz"]


TARGETS = [
    *("png", "jpeg", "tiff", "webp", "gif", "bmp", "avif", "png-colors", "tiff-deep", "exif", "differential"),
    *("safetensors", "pth", "pth-legacy", "record", "onnx", "checkpoint"),
    *("film-mp4", "film-mkv", "film-webm", "film-gif", "film-webp"),
]


def test_the_list_of_targets_is_whole(fuzz: ModuleType) -> None:
    assert list(fuzz.TARGETS) == TARGETS
    shares = {name: target.share for name, target in fuzz.TARGETS.items()}
    assert sum(shares[name] for name in TARGETS[:11]) >= 30_000
    assert sum(shares[name] for name in TARGETS[11:]) >= 5_000


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused_in_one_line(name: str, fuzz: ModuleType, tmp_path: Path) -> None:
    if name == "differential":
        pytest.importorskip("pyvips", reason="the extra nst-fast[large] is not installed", exc_type=ImportError)
    if name.startswith("film"):
        pytest.importorskip("av", reason="no PyAV: pip install av")
    tally = fuzz.Tally()
    for number in range(40):
        assert fuzz.feed(name, fuzz.input_of(1, name, number), tmp_path, tally) == "", f"--seed 1 --only {number}"
    assert tally.accepted
    assert tally.refused or name == "differential"


def test_an_input_follows_from_seed_target_and_number(fuzz: ModuleType) -> None:
    assert fuzz.input_of(1, "png", 5) == fuzz.input_of(1, "png", 5)
    assert len({fuzz.input_of(seed, "png", number) for seed in (1, 2) for number in range(20)}) > 35


def raise_what_is_not_ours(path: Path) -> None:
    raise ValueError("not ours")


def speak_two_lines(path: Path) -> None:
    raise InputError("one\ntwo")


def warn(path: Path) -> None:
    import warnings

    warnings.warn("on the user's terminal", stacklevel=1)


def take_memory(path: Path) -> None:
    bytearray(400 * 2**20)[::4096] = b"x" * (400 * 2**20 // 4096)


@pytest.mark.parametrize("reader", [raise_what_is_not_ours, speak_two_lines, warn, take_memory])
def test_a_planted_fault_is_seen(
    reader: Any, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fuzz.TARGETS, "png", replace(fuzz.TARGETS["png"], readers=(reader,)))
    assert reader.__name__ in fuzz.feed("png", b"", tmp_path, fuzz.Tally())


def hang(path: Path) -> None:
    time.sleep(5 if path.read_bytes() == b"2" else 0)


def die(path: Path) -> None:
    if path.read_bytes() == b"2":
        os._exit(11)


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("reader", "words"), [(hang, "hangs"), (die, "ended the process with 11")])
def test_a_hang_and_a_crash_are_seen_and_the_campaign_goes_on(
    reader: Any, words: str, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "input_of", lambda seed, name, number: str(number).encode())
    monkeypatch.setitem(fuzz.TARGETS, "png", replace(fuzz.TARGETS["png"], readers=(reader,)))
    tally, failures = fuzz.Tally(), list[dict[str, Any]]()
    fuzz.campaign(0, "png", range(5), tally, failures)
    assert tally.inputs == 5
    assert [(failure["number"], words in failure["problem"]) for failure in failures] == [(2, True)]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=PLAIN)
def test_any_value_in_a_record_is_taken_or_refused(place: str, value: object, fuzz: ModuleType, tmp_path: Path) -> None:
    record = json.loads(fuzz.m.record()) | {place: value}
    (tmp_path / "a.json").write_text(json.dumps(record))
    try:
        fuzz.use_record(tmp_path / "a.json")
    except NstFastError as error:
        assert error.exit_code in {2, 3}
        assert "\n" not in str(error)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tail=st.binary(max_size=300),
    head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"GIF89a", b"BM"]),
)
def test_any_bytes_behind_a_signature_are_read_or_refused(
    head: bytes, tail: bytes, fuzz: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(head + tail)
    for read in (fuzz.load_small, read_text):
        try:
            read(tmp_path / "a")
        except NstFastError as error:
            assert error.exit_code == 3


def test_mutations_reach_below_the_checksums(fuzz: ModuleType, tmp_path: Path) -> None:
    """Else every damaged PNG would be refused by a checksum, and nothing behind it would be tested."""
    sound = fuzz.m.picture("PNG", 0)
    problems = set()
    for number in range(60):
        (tmp_path / "a").write_bytes(fuzz.m.png_below_the_checksums(sound, Random(number)))
        try:
            fuzz.load_whole(tmp_path / "a")
        except InputError as error:
            problems.add(str(error).rpartition("(")[2])
    assert len(problems) > 4
