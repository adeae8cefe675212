"""Batches: each picture made once, whoever dies in between; what failed is named; nothing of others is replaced."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import typer
from batches import TINY, Watcher, batch_of, draw, run
from PIL import Image
from places import ROOT

from nst_fast.cli.batch import conclude
from nst_fast.cli.console import Messages
from nst_fast.cli.signals import Stop
from nst_fast.errors import BusyError, DeviceError, InputError, OutputError, PartialError, UsageError
from nst_fast.images import READABLE
from nst_fast.images.sources import open_source
from nst_fast.jobs import batch as batch_module
from nst_fast.jobs.batch import BatchResult, run_batch
from nst_fast.jobs.inputs import STATE, Shard, find_pictures, output_names, stem_key
from nst_fast.jobs.manifest import Entry, Manifest, append_line
from nst_fast.jobs.painter import ATTEMPTS


def records(photos: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (photos.parent / "out" / "manifest.jsonl").read_bytes().splitlines()]


def test_the_tree_is_mirrored_and_each_picture_has_a_line_in_the_manifest(photos: Path) -> None:
    outcome, painted = run(photos)
    out = photos.parent / "out"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.png")} == {"a.png", "deep/er/b.png"}
    assert painted == ["a.jpg", "deep/er/b.PNG"]
    assert (len(outcome.done), outcome.failed, outcome.left, outcome.made) == (2, [], [], 2)
    first, _ = records(photos)
    assert first["schema"] == "nst-fast/batch/1"
    assert (first["input"], first["output"], first["status"], first["error"]) == ("a.jpg", "a.png", "done", None)
    assert json.loads((out / "a.json").read_text())["output_sha256"] == first["output_sha256"]


def test_what_is_done_is_not_done_again_and_done_means_hashes_not_presence(photos: Path) -> None:
    run(photos)
    assert run(photos)[1] == []
    out = photos.parent / "out"
    (out / "a.png").write_bytes((out / "a.png").read_bytes()[:-9])
    assert run(photos)[1] == ["a.jpg"]
    (out / "deep" / "er" / "b.png").unlink()
    assert run(photos)[1] == ["deep/er/b.PNG"]
    draw(photos / "a.jpg", 5)
    assert run(photos)[1] == ["a.jpg"]
    (photos / "a.jpg").touch()
    assert run(photos)[1] == []


def test_a_picture_that_was_whole_when_its_worker_died_is_not_made_again(photos: Path) -> None:
    run(photos)
    manifest = photos.parent / "out" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes().splitlines(keepends=True)[1])
    outcome, painted = run(photos)
    assert painted == []
    assert len(outcome.done) == 2
    assert sorted(str(record["input"]) for record in records(photos)) == ["a.jpg", "deep/er/b.PNG"]


def test_a_torn_last_line_is_ignored_and_repaired(photos: Path) -> None:
    run(photos)
    manifest = photos.parent / "out" / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-30])
    (photos.parent / "out" / "deep" / "er" / "b.json").unlink()
    assert run(photos)[1] == ["deep/er/b.PNG"]
    assert [record["input"] for record in records(photos)] == ["a.jpg", "deep/er/b.PNG"]


def test_a_damaged_line_counts_as_not_made_and_a_newer_version_is_not_touched(photos: Path) -> None:
    run(photos)
    manifest = photos.parent / "out" / "manifest.jsonl"
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first[:50] + b"\n" + second)
    assert len(run(photos)[0].done) == 2
    manifest.write_bytes(first.replace(b"batch/1", b"batch/2"))
    with pytest.raises(OutputError, match="line 1 is of another version"):
        run(photos)


def test_an_append_that_fails_halfway_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    append_line(path, "one")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="no space left on device"):
            append_line(path, "two")
    assert path.read_bytes() == b"one\n"
    path.write_bytes(b"one\n" + b"x" * 10_000)  # cut in the middle of a long line
    append_line(path, "three")
    assert path.read_bytes() == b"one\nthree\n"


def test_many_appending_at_once_lose_no_line(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: append_line(tmp_path / "lines", str(number)), range(75)))
    assert sorted(map(int, (tmp_path / "lines").read_text().split())) == list(range(75))


def test_other_options_are_refused_with_what_differs_and_overwrite_makes_all_again(photos: Path) -> None:
    run(photos)
    before = (photos.parent / "out" / "a.png").read_bytes()
    with pytest.raises(OutputError, match=r"`steps` 2, not 3.*`overwrite`") as error:
        run(photos, steps=3)
    assert "content_weight" not in str(error.value)
    draw(photos.parent / "style.png", 10)
    with pytest.raises(OutputError, match="other style pictures"):
        run(photos)
    assert (photos.parent / "out" / "a.png").read_bytes() == before
    assert len(run(photos, overwrite=True, steps=3)[1]) == 2
    assert run(photos, overwrite=True, steps=3)[1] == []  # theirs now, and made
    assert run(photos, steps=3)[1] == []


def test_options_may_change_while_nothing_has_been_made(photos: Path) -> None:
    watcher = Watcher(stop_at=1)
    run_batch(batch_of(photos), watcher)
    assert len(run(photos, steps=3)[1]) == 2


def test_workers_of_one_batch_may_compute_on_different_devices_and_report_differently(photos: Path) -> None:
    run(photos)
    assert run(photos, device="cpu", log_every=1)[1] == []


def test_what_no_batch_made_is_not_replaced_and_nothing_is_made_before_the_refusal(photos: Path) -> None:
    out = photos.parent / "out"
    draw(out / "deep" / "er" / "b.png", 7)
    mine = (out / "deep" / "er" / "b.png").read_bytes()
    with pytest.raises(OutputError, match=r"b\.png exists and was not made by this batch"):
        run(photos)
    assert not (out / "a.png").exists()
    (out / "deep" / "er" / "b.png").rename(out / "elsewhere.png")
    (out / "a.json").write_text("{}")
    with pytest.raises(OutputError, match=r"a\.json exists"):
        run(photos)
    assert (out / "elsewhere.png").read_bytes() == mine
    assert len(run(photos, overwrite=True)[1]) == 2


def test_an_output_that_is_an_input_is_refused_even_with_overwrite(photos: Path) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (out / "a.png").symlink_to(photos / "a.jpg")
    with pytest.raises(OutputError, match="is the input"):
        run(photos, overwrite=True)


def test_pictures_that_would_have_one_name_get_two_and_keep_them(photos: Path) -> None:
    draw(photos / "A.png", 4)
    run(photos)
    names = {record["input"]: record["output"] for record in records(photos)}
    assert names == {"A.png": "A.png", "a.jpg": "a.jpg.png", "deep/er/b.PNG": "deep/er/b.png"}
    draw(photos / "A.gif", 5)  # comes before the others in order
    assert run(photos)[1] == ["A.gif"]
    assert {record["input"]: record["output"] for record in records(photos)} == names | {"A.gif": "A.gif.png"}


def test_names_do_not_depend_on_the_shard_or_on_who_was_first() -> None:
    names = ["a.jpg", "a.jpg.png", "a.png", "b/a.png"]
    chosen = output_names(names, ".png", {})
    assert chosen == {"a.jpg": "a.png", "a.jpg.png": "a.jpg.png", "a.png": "a.png.png", "b/a.png": "b/a.png"}
    assert output_names(names, ".png", {"a.png": chosen["a.png"]}) == chosen
    assert len({stem_key(name) for name in ("a.jpg", "a.png", "A.tif")}) == 1


def test_several_inputs_keep_the_names_of_their_folders(photos: Path) -> None:
    other = photos.parent / "more"
    draw(other / "a.jpg", 4)
    single = draw(photos.parent / "single.dat.png", 5).rename(photos.parent / "single.dat")  # named: its suffix is free
    found = find_pictures([photos, other, single, photos], photos.parent / "out")
    assert list(found) == ["more/a.jpg", "photos/a.jpg", "photos/deep/er/b.PNG", "single.dat"]
    with pytest.raises(UsageError, match=r"one name in the output, a\.jpg"):
        find_pictures([photos / "a.jpg", other / "a.jpg"], photos.parent / "out")


def test_outputs_of_batches_below_the_input_and_links_in_a_circle_are_left(photos: Path) -> None:
    (photos / "deep" / "circle").symlink_to(photos, target_is_directory=True)
    for folder in ("one", "two"):
        outcome, _ = run(photos, folder=photos / folder)
        assert sorted(outcome.entries) == ["a.jpg", "deep/er/b.PNG"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photoz", "photoz does not exist. Did you mean photos"),
        ("empty", r"no pictures in .*empty. Looked for .*\.png"),
    ],
)
def test_a_missing_input_and_an_empty_folder_are_refused(name: str, words: str, photos: Path) -> None:
    (photos.parent / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        run(photos, photos.parent / name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style_weight_each": "1,2"}, "2 weights for 1 style"),
        ({"format": "gif"}, r"`format` gif: cannot be written. Use .*\.png"),
        ({"format": "jpg", "bit_depth": 16}, "JPEG holds 8 bits per channel, not 16"),
    ],
)
def test_a_fault_that_all_would_have_ends_the_batch_before_the_first(
    options: dict[str, object], words: str, photos: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run(photos, **options)
    (photos.parent / "style.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"style\.png is empty"):
        run(photos)
    assert not (photos.parent / "out" / "manifest.jsonl").exists()


def test_failures_are_recorded_tried_again_and_skipped_if_asked(photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"")
    watcher = Watcher()
    outcome = run_batch(batch_of(photos), watcher)
    assert [(entry.input, entry.status) for entry in outcome.failed] == [("bad.png", "failed")]
    assert watcher.failures == [
        f"bad.png: {photos / 'bad.png'} is empty. Give a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"
    ]
    assert outcome.failed[0].error is not None
    assert outcome.failed[0].error["exit_code"] == 3
    assert len(run(photos, retry_failed=False)[0].failed) == 1
    assert len(records(photos)) == 3
    run(photos)
    assert len(records(photos)) == 4
    draw(photos / "bad.png", 6)  # mended: no failure of that picture is on record
    assert run(photos, retry_failed=False)[1] == ["bad.png"]


def test_a_stopped_batch_leaves_no_half_picture_and_continues_later(photos: Path) -> None:
    watcher = Watcher(stop_at=2)
    outcome = run_batch(batch_of(photos), watcher)
    assert (len(outcome.done), outcome.left) == (1, ["deep/er/b.PNG"])
    assert run(photos)[1] == ["deep/er/b.PNG"]
    assert not (photos.parent / "out" / STATE / "attempts").exists()


def test_weights_are_loaded_and_the_style_is_measured_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nst_fast.objective import targets
    from nst_fast.run import problem

    calls: list[str] = []
    load, build = problem.load_weights, targets.build_targets
    monkeypatch.setattr(problem, "load_weights", lambda *given: calls.append("load") or load(*given))
    monkeypatch.setattr(targets, "build_targets", lambda *given: calls.append("build") or build(*given))
    run(photos)
    assert sorted(calls) == ["build"] * 3 + ["load"]  # two contents, one style


def test_shards_part_a_batch_exactly() -> None:
    names = [f"{number}/é.png" for number in range(200)]
    parts = [[name for name in names if Shard(index, 3).holds(name)] for index in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert min(map(len, parts)) > 40
    assert Shard.parse("2/3") == Shard(2, 3)
    for text in ("0/3", "4/3", "1", "1/0", "a/b", "-1/3"):
        with pytest.raises(UsageError, match="2/5"):
            Shard.parse(text)


def test_a_shard_does_its_own_and_counts_only_that(photos: Path) -> None:
    names = ["a.jpg", "deep/er/b.PNG"]
    mine = {index: [name for name in names if Shard(index, 2).holds(name)] for index in (1, 2)}
    for index in (1, 2):
        outcome, painted = run(photos, shard=Shard(index, 2))
        assert painted == mine[index] == list(outcome.entries)


def done(path: Path) -> dict[str, Entry]:
    """The lines of a manifest about pictures that were made."""
    manifest = Manifest(path)
    manifest.refresh()
    return {name: entry for name, entry in manifest.entries.items() if entry.status == "done"}


def wait_for(condition: Callable[[], object], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_watch_takes_new_pictures_when_they_have_stopped_growing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "WATCH_SECONDS", 0.3)
    looks: list[int] = []
    find = batch_module.find_pictures
    monkeypatch.setattr(batch_module, "find_pictures", lambda *given: looks.append(0) or find(*given))
    (photos / "bad.png").write_bytes(b"")
    stop, path = threading.Event(), photos.parent / "out" / "manifest.jsonl"
    watcher = Watcher()
    watcher.stop = stop.is_set  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(stop.set)
        result = pool.submit(run_batch, batch_of(photos, keep_watching=True), watcher)
        wait_for(lambda: len(done(path)) == 2)
        data = draw(photos.parent / "late.png", 6).read_bytes()
        with (photos / "late.png").open("wb") as stream:
            before = len(looks)
            while len(looks) < before + 3:  # it changes between any two looks
                stream.write(data[:1])
                stream.flush()
                data = data[1:]
                time.sleep(0.02)
            stream.write(data)
        wait_for(lambda: "late.png" in done(path))
    assert [entry.status for entry in result.result().entries.values()] == ["done", "failed", "done", "done"]
    assert len(records(photos)) == 4  # what failed is not tried at every look


def exit_of(
    photos: Path, outcome: BatchResult, capsys: pytest.CaptureFixture[str], signal_number: int = 0
) -> tuple[int, dict[str, object]]:
    stop = Stop()
    stop.signal_number = signal_number
    code = 0
    try:
        conclude(outcome, batch_of(photos), Messages(quiet=True), stop, as_json=True)
    except (PartialError, InputError, typer.Exit) as error:
        code = error.exit_code
    return code, json.loads(capsys.readouterr().out)


def test_exit_code_and_json_say_what_came_of_it(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, _ = run(photos)
    code, facts = exit_of(photos, outcome, capsys)
    assert (code, facts["schema"], facts["status"]) == (0, "nst-fast/batch-result/1", "complete")
    assert exit_of(photos, outcome, capsys, signal_number=2)[0] == 130
    (photos / "bad.png").write_bytes(b"")
    code, facts = exit_of(photos, run(photos)[0], capsys)
    assert (code, facts["status"], facts["done"], facts["made"]) == (10, "partial", 2, 0)
    assert [failure["input"] for failure in facts["failed"]] == ["bad.png"]  # type: ignore[attr-defined]
    code, facts = exit_of(photos, run(photos, photos / "bad.png", folder=photos.parent / "none")[0], capsys)
    assert (code, facts["done"]) == (3, 0)


def test_the_page_about_batches_names_every_field_and_suffix(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    _, facts = exit_of(photos, run(photos)[0], capsys)
    assert [name for name in facts if f"`{name}`" not in page] == []
    assert [name for name in records(photos)[0] if f'"{name}"' not in page] == []
    assert [suffix for suffix in READABLE if suffix not in page] == []


def test_a_folder_in_the_place_of_a_picture_points_to_batch(photos: Path) -> None:
    with pytest.raises(UsageError, match="nst-fast batch"):
        open_source(photos)


def make_fifty(folder: Path) -> set[str]:
    """43 good pictures and 7 that are none; the names of the good ones."""
    good = {f"{number % 3}/{number:02}.png" for number in range(43)}
    for seed, name in enumerate(sorted(good)):
        draw(folder / name, seed)
    draw(folder / "small.png", 0, (3, 3))
    whole = draw(folder / "cut.png", 99).read_bytes()
    bad = {"cut.png": whole[: len(whole) // 2], "0/empty.jpg": b"", "text.png": b"hello", "1/zeros.tif": bytes(500)}
    bad |= {"tail.jpg": b"\xff\xd8\xff" + bytes(200), "2/noise.webp": np.random.default_rng(0).bytes(700)}
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    return good


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_fifty_pictures_and_two_killed_drivers_each_picture_made_once(tmp_path: Path) -> None:
    good = make_fifty(tmp_path / "photos")
    draw(tmp_path / "style.png", 9)
    options = [f"--{name.replace('_', '-')}={getattr(TINY, name)}" for name in ("weights", "image_size", "engine")]
    options += ["--content-taps=relu1_2", "--style-taps=relu1_1", "--precision=fp32", "--steps=4", "--seed=3"]
    command = [sys.executable, "-m", "nst_fast", "batch", "photos", "--style", "style.png", "-o", "out", *options]
    path = tmp_path / "out" / "manifest.jsonl"

    one = start([*command, "--workers", "2"], tmp_path)
    wait_for(lambda: len(done(path)) >= 8)
    one.kill()
    one.communicate()
    workers = {int(entry.worker.partition(":")[2]) for entry in done(path).values()}
    two = start(command, tmp_path)
    at_first_kill = len(done(path))
    wait_for(lambda: len(done(path)) >= at_first_kill + 8)
    two.kill()
    two.communicate()
    assert (one.returncode, two.returncode) == (-signal.SIGKILL, -signal.SIGKILL)
    assert 8 <= at_first_kill < len(done(path)) < 43
    assert one.pid not in workers
    wait_for(lambda: not any(map(psutil.pid_exists, workers)))  # which end by themselves
    with path.open("ab") as stream:
        stream.write(b'{"schema": "nst-fast/batch/1", "inp')

    third = start([*command, "--json"], tmp_path)
    output, messages = third.communicate(timeout=100)

    assert third.returncode == 10, messages
    assert "43 of 50 done, 7 failed" in messages
    facts = json.loads(output)
    assert (facts["done"], len(facts["failed"]), facts["left"]) == (43, 7, [])
    lines_of = [json.loads(line) for line in path.read_bytes().splitlines()]
    made = [line["input"] for line in lines_of if line["status"] == "done"]
    assert sorted(made) == sorted(good)  # every one, and none twice
    assert len({line["input"] for line in lines_of if line["status"] == "failed"}) == 7
    for entry in done(path).values():
        with Image.open(tmp_path / "out" / entry.output) as picture:
            picture.load()
    assert len(list((tmp_path / "out").rglob("*.png"))) == 43


def test_shards_may_share_a_folder_at_one_time_and_two_drivers_of_one_may_not(photos: Path) -> None:
    request = batch_of(photos, shard=Shard(1, 2))
    with batch_module.driving(request):
        assert run(photos, shard=Shard(2, 2))[0].left == []
        with pytest.raises(BusyError, match=f"the batch in .*out is being written by process {os.getpid()}"):
            run(photos, shard=Shard(1, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on": "slurm"}, "`on` slurm: .* Use local or ray"),
        ({"address": "auto"}, "`address` is of a Ray cluster"),
        ({"gpus_per_worker": 0.5}, "`gpus_per_worker` is of a Ray cluster"),
    ],
)
def test_options_of_a_cluster_are_refused_without_one(options: dict[str, object], words: str, photos: Path) -> None:
    with pytest.raises(UsageError, match=words):
        run(photos, **options)


def test_without_ray_the_remedy_names_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "nst_fast.jobs.cluster", raising=False)  # imported by another test
    with pytest.raises(DeviceError, match="pip install ray"):
        run(photos, on="ray")


def test_attempts_of_a_killed_driver_are_removed_but_not_those_of_another_shard(photos: Path) -> None:
    left = photos.parent / "out" / ATTEMPTS / "0123" / "x.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of another")
    run(photos, shard=Shard(1, 2))
    run(photos, shard=Shard(2, 2))
    assert [path.name for path in (photos.parent / "out" / ATTEMPTS).iterdir()] == ["0123"]
    run(photos)
    assert not (photos.parent / "out" / ATTEMPTS).exists()
