"""Addresses: a batch in an object store is what it is in a folder; two drivers do not mix there."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from batches import TINY, Watcher, run
from PIL import Image

from nst_fast.errors import InputError, OutputError, UsageError
from nst_fast.jobs import manifest as manifest_module
from nst_fast.jobs.batch import BatchRequest, run_batch
from nst_fast.jobs.inputs import find_pictures
from nst_fast.jobs.storage import Fetched, Url, commit, place_of, sha256_at

ROOT = Url("memory://it")


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    yield
    if ROOT.exists():
        ROOT.call("rm", recursive=True)


@pytest.fixture
def remote(photos: Path) -> BatchRequest:
    """The batch of ``photos``, all of it at addresses."""
    for path in photos.rglob("*"):
        if path.is_file():
            (ROOT / "photos" / path.relative_to(photos).as_posix()).call("pipe_file", path.read_bytes())
    (ROOT / "style.png").call("pipe_file", (photos.parent / "style.png").read_bytes())
    config = TINY.replace(steps=12, optimizer="lbfgs", checkpoint_every="1", log_every=1)
    return BatchRequest(inputs=[ROOT / "photos"], styles=[ROOT / "style.png"], folder=ROOT / "out", config=config)


def names(below: str) -> list[str]:
    return [name for name, _ in (ROOT / below).files()]


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in (ROOT / "out" / "manifest.jsonl").read_bytes().splitlines()]


def test_a_batch_at_addresses_makes_what_one_in_folders_makes(remote: BatchRequest, photos: Path) -> None:
    watcher = Watcher()
    outcome = run_batch(remote, watcher)
    assert [entry.output for entry in outcome.done] == ["a.png", "deep/er/b.png"]
    assert names("out") == [
        ".nst-fast-batch/plan.json", "a.json", "a.png", "deep/er/b.json", "deep/er/b.png", "manifest.jsonl"
    ]  # fmt: skip
    options = {"steps": 12, "optimizer": "lbfgs", "checkpoint_every": "1", "log_every": 1}
    run(photos, **options)
    for name in ("a", "deep/er/b"):
        with (ROOT / "out" / f"{name}.png").call("open") as stream, Image.open(stream) as there:
            pixels = np.asarray(there)
        with Image.open(photos.parent / "out" / f"{name}.png") as here:
            np.testing.assert_array_equal(pixels, np.asarray(here))
        records = [
            json.loads(place.read_bytes())
            for place in (ROOT / "out" / f"{name}.json", photos.parent / "out" / f"{name}.json")
        ]
        assert records[0]["inputs"] == records[1]["inputs"]
        assert sha256_at(ROOT / "out" / f"{name}.png") == records[0]["output_sha256"]
    again = Watcher()
    assert run_batch(remote, again).made == 0
    assert again.titles == []


def test_what_is_damaged_deleted_or_without_a_line_is_mended(remote: BatchRequest) -> None:
    run_batch(remote, Watcher())
    (ROOT / "out" / "a.png").call("pipe_file", b"cut")
    (ROOT / "out" / "deep" / "er" / "b.png").call("rm_file")
    assert run_batch(remote, Watcher()).made == 2
    (ROOT / "out" / "manifest.jsonl").call("rm_file")
    watcher = Watcher()
    outcome = run_batch(remote, watcher)
    assert (len(outcome.done), outcome.made) == (2, 0)
    assert len(lines()) == 2


def test_a_stopped_picture_goes_on_from_the_checkpoint_in_the_store(remote: BatchRequest) -> None:
    class Stopping(Watcher):
        def stop(self) -> bool:
            return bool(self.updates and self.updates[-1] >= 5)

    run_batch(remote, Stopping())
    kept = names("out/.nst-fast-batch/checkpoints")
    assert 1 <= len(kept) <= 3
    assert all(name.startswith("a-checkpoint-00000") for name in kept)
    watcher = Watcher()
    assert len(run_batch(remote, watcher).done) == 2
    newest = max(int(name[-18:-12]) for name in kept)
    assert newest >= 5
    assert f"continuing after step {newest} of 12" in watcher.notes
    assert not any("checkpoint" in name for name in names("out"))


def test_errors_name_addresses_and_a_style_that_is_not_there_ends_the_batch(remote: BatchRequest) -> None:
    (ROOT / "photos" / "bad.png").call("pipe_file", b"hello")
    watcher = Watcher()
    outcome = run_batch(remote, watcher)
    (error,) = [entry.error for entry in outcome.failed]
    assert error is not None
    assert str(error["message"]).startswith("memory://it/photos/bad.png is not an image")
    with pytest.raises(InputError, match=r"memory://it/none\.png does not exist"):
        run_batch(BatchRequest(**{**vars(remote), "styles": [ROOT / "none.png"]}), Watcher())
    with pytest.raises(InputError, match="memory://it/nowhere does not exist"):
        run_batch(BatchRequest(**{**vars(remote), "inputs": [ROOT / "nowhere"]}), Watcher())


def test_what_no_batch_made_is_not_replaced_and_an_input_never(remote: BatchRequest) -> None:
    (ROOT / "out" / "a.png").call("pipe_file", b"mine")
    with pytest.raises(OutputError, match=r"memory://it/out/a\.png exists and was not made by this batch"):
        run_batch(remote, Watcher())
    clash = BatchRequest(**{**vars(remote), "inputs": [ROOT / "out" / "a.png"], "overwrite": True})
    with pytest.raises(OutputError, match=r"out/a\.png is the input"):
        run_batch(clash, Watcher())
    assert (ROOT / "out" / "a.png").read_bytes() == b"mine"


def test_of_two_drivers_the_second_is_told_and_keeps_the_firsts_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, attempt = ROOT / "out" / "a.png", ROOT / "out" / "attempt" / "a.png"
    for text in (b"one", b"two"):
        attempt.call("pipe_file", text)
        commit(attempt, picture, text)
    assert (picture.read_bytes(), (ROOT / "out" / "a.json").read_bytes()) == (b"two", b"two")
    assert not attempt.exists()
    attempt.call("pipe_file", b"three")
    monkeypatch.setattr("nst_fast.jobs.storage.delete", lambda place: None)  # the other writes after it was deleted
    with pytest.raises(OutputError, match="another batch works there"):
        commit(attempt, picture, b"three")
    assert picture.read_bytes() == b"two"


def test_lines_of_an_object_are_written_together_and_all_at_the_end(
    remote: BatchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = manifest_module.write
    monkeypatch.setattr(manifest_module, "write", lambda place, data: written.append(len(data)) or write(place, data))
    run_batch(remote, Watcher())
    assert len(written) == 1
    monkeypatch.setattr(manifest_module, "KEPT_BACK_SECONDS", -1)
    for place in ((ROOT / "out" / "a.png"), (ROOT / "out" / "deep/er/b.png")):
        place.call("rm_file")
    run_batch(remote, Watcher())
    assert len(written) == 3
    assert len(lines()) == 4


def test_pictures_at_addresses_are_found_without_hidden_ones_and_outputs_of_batches(photos: Path) -> None:
    for name in (
        "a.PNG",
        "b/c.jpg",
        ".d.png",
        ".e/f.png",
        "notes.txt",
        "old/.nst-fast-batch/plan.json",
        "old/g.png",
        "out/h.png",
    ):
        (ROOT / "in" / name).call("pipe_file", b"x")
    passed_over: Counter[str] = Counter()
    assert list(find_pictures([ROOT / "in"], ROOT / "in" / "out", passed_over)) == ["a.PNG", "b/c.jpg"]
    assert passed_over == {".txt": 1}
    found = find_pictures([ROOT / "in", photos, ROOT / "in" / "notes.txt"], ROOT / "out")
    assert list(found) == [
        "in/a.PNG",
        "in/b/c.jpg",
        "in/out/h.png",
        "notes.txt",
        "photos/a.jpg",
        "photos/deep/er/b.PNG",
    ]
    with pytest.raises(UsageError, match="given for the pictures and for the outputs"):
        find_pictures([ROOT / "in"], ROOT / "in")


def test_addresses_are_told_from_paths_and_unknown_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_of("s3://bucket/photos/") == Url("s3://bucket/photos")
    assert isinstance(place_of("C:/photos"), Path)
    assert (ROOT / "a" / "b.c.png").with_suffix(".json") == Url("memory://it/a/b.c.json")
    with pytest.raises(UsageError, match=r"nowhere://x: .*nowhere.* s3:// needs s3fs"):
        Url("nowhere://x").exists()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match=r"gs://bucket: .*gcsfs"):
        Url("gs://bucket").exists()


def test_a_store_that_cannot_be_reached_is_an_error_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise RuntimeError("no\ncredentials")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", refuse)
    with pytest.raises(OutputError, match=r"memory://it/a\.png: no credentials\. Check the address"):
        Fetched().local(ROOT / "a.png")
