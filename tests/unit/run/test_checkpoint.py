"""The file of a checkpoint: what goes in comes out, and what is not one is refused; when one is due, which are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nst_fast.errors import OutputError, ResumeError, UsageError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.values import Interval
from nst_fast.run import checkpoint as checkpoint_files
from nst_fast.run.checkpoint import KEPT, SCHEMA, Checkpoint, CheckpointWriter, read_checkpoint, write_checkpoint
from nst_fast.run.outputs import OutputFiles
from nst_fast.system.files import sha256_bytes


def checkpoint(step: int = 7, **changes: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    facts: dict[str, Any] = {
        "record": {"options": {"steps": 12}, "warnings": ["a", "b"], "history": {}},
        "places": {"content": "/somewhere/\udcff.png", "styles": ["a", "b"]},
        "step": step,
        "scale": 1,
        "first": 3,
        "seconds": 0.1 + 0.2,
        "history": torch.rand(step, 3, generator=generator),
        "pastiche": torch.rand(1, 3, 5, 7, generator=generator),
        "optimizer": {
            "pairs": [torch.rand(4, generator=generator), torch.rand((), dtype=torch.float64, generator=generator)],
            "lengths": [1.0, torch.tensor(0.5), None],
            "nothing": [],
        },
        "guard": {"total": torch.tensor(math.inf), "step": torch.tensor(2**40), "tries": 0},
        "rules": {"best": math.inf, "improved_at": 5},
        "average": None,
    }
    return Checkpoint(**facts | changes)


def same(a: Any, b: Any) -> bool:
    """Equal bit by bit, and of the same kinds."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def test_what_is_written_is_read_again_bit_by_bit(tmp_path: Path) -> None:
    written = checkpoint(pastiche=torch.rand(1, 3, 5, 7).to(memory_format=torch.channels_last))
    write_checkpoint(tmp_path / "a.safetensors", written)
    assert same(vars(written), vars(read_checkpoint(tmp_path / "a.safetensors")))
    write_checkpoint(tmp_path / "b.safetensors", checkpoint(step=0))
    assert read_checkpoint(tmp_path / "b.safetensors").history.shape == (0, 3)


def test_any_program_can_read_the_tensors(tmp_path: Path) -> None:
    written = checkpoint()
    write_checkpoint(tmp_path / "a.safetensors", written)
    tensors = load_file(tmp_path / "a.safetensors")
    torch.testing.assert_close(tensors["pastiche"], written.pastiche, rtol=0, atol=0)
    assert {"optimizer/pairs/0", "guard/step", "sha256"} <= set(tensors)


def test_a_change_of_any_byte_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, checkpoint())
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(ResumeError, match=r"a\.safetensors.*damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 200, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, checkpoint())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ResumeError):
        read_checkpoint(path)


def sealed(data: bytes) -> bytes:
    """With a digest that fits, as one who tampers with a file would give it."""
    return data[:-32] + bytes.fromhex(sha256_bytes(data[:-32]))


def test_foreign_and_tampered_files_are_refused_however_well_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    padding = {"z": torch.zeros(32, dtype=torch.uint8)}
    tampered = [{}, {"nst-fast/checkpoint/9": "{}"}]
    tampered += [{SCHEMA: text} for text in ("", "[]", "{}", "nonsense", "[" * 100_000, '{"step": {"$tensor": "no"}}')]
    for metadata in tampered:
        save_file(padding, path, metadata)
        path.write_bytes(sealed(path.read_bytes()))
        with pytest.raises(ResumeError) as caught:
            read_checkpoint(path)
        assert caught.value.exit_code == 12
        assert "`overwrite`" in caught.value.remedy
    path.write_bytes(sealed(b"\xff" * 100))
    with pytest.raises(ResumeError):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_resume_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(path)


def writer(folder: Path, interval: Interval, notes: list[str] | None = None) -> CheckpointWriter:
    return CheckpointWriter(OutputFiles(folder / "out.png"), interval, (notes if notes is not None else []).append)


def test_the_two_newest_are_kept_and_others_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("other-checkpoint-000001.safetensors", "out-checkpoint-1.safetensors", "out-000001.png"):
        (tmp_path / name).write_bytes(b"")
    kept = writer(tmp_path, Interval(steps=1))
    for step in (999_998, 999_999, 1_000_000):
        kept.write(checkpoint(step=step, history=torch.zeros(0, 3)))
    names = [path.name for path in kept.files.checkpoints()]
    assert len(names) == KEPT
    assert names == ["out-checkpoint-1000000.safetensors", "out-checkpoint-999999.safetensors"]
    assert len(list(tmp_path.iterdir())) == KEPT + 3


def test_a_checkpoint_is_due_every_so_many_steps_but_not_at_the_start(tmp_path: Path) -> None:
    kept = writer(tmp_path, Interval(steps=4))
    assert [step for step in range(13) if kept.due(step)] == [4, 8, 12]


def test_by_time_a_checkpoint_is_due_when_it_has_passed_and_takes_a_small_share_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint_files.time, "monotonic", lambda: now[0])
    kept = writer(tmp_path, Interval(seconds=60))

    def slow(path: Path, checkpoint: Checkpoint) -> None:
        now[0] += 9  # seconds for a large one

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", slow)
    assert not kept.due(5)
    now[0] += 60
    assert kept.due(6)
    kept.write(checkpoint())
    now[0] += 170
    assert not kept.due(7)
    now[0] += 11
    assert kept.due(8)


def test_a_disk_that_is_full_ends_the_checkpoints_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, checkpoint: Checkpoint) -> None:
        raise OutputError("out.png: no space left", "Free some")

    monkeypatch.setattr(checkpoint_files, "write_checkpoint", full)
    notes: list[str] = []
    kept = writer(tmp_path, Interval(steps=1), notes)
    problem = kept.write(checkpoint())
    assert notes == [problem] == ["no checkpoint at step 7, nor after it: out.png: no space left. Free some"]
    assert not kept.due(5)


@pytest.mark.parametrize(
    ("text", "interval"),
    [("200", Interval(steps=200)), ("30s", Interval(seconds=30)), ("1.5m", Interval(seconds=90)), ("0", Interval())],
)
def test_intervals(text: str, interval: Interval) -> None:
    given = StylizeConfig(checkpoint_every=text).checkpoint_every
    assert given == interval
    assert bool(given) == (text != "0")


@pytest.mark.parametrize("text", ["", "soon", "-3", "0s", "5d", "1e3", "nan"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="`checkpoint_every`"):
        StylizeConfig(checkpoint_every=text)


def test_the_json_of_a_checkpoint_stands_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, checkpoint())
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"][SCHEMA])
    assert facts["step"] == 7
    assert facts["pastiche"] == {"$tensor": "pastiche"}
