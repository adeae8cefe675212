"""Runs shared by processes: the same losses and picture as one process has; and what happens when one is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rank_worker
import torch
from PIL import Image
from places import ROOT, SUPPORT

from nst_fast import api
from nst_fast.cli.torchrun import check_command
from nst_fast.distributed import ErrorReporter, ProcessRank, process_rank, watch
from nst_fast.distributed.group import device_of, reason_of
from nst_fast.distributed.watch import Watch
from nst_fast.errors import DeviceError, UsageError
from nst_fast.images import save_image
from nst_fast.options.config import StylizeConfig
from nst_fast.run.layout import check_shareable

WORKER = Path(rank_worker.__file__)
RUN = [
    *("--weights", "random:0", "--content-taps", "relu2_2", "--style-taps", "relu1_1,relu2_1", "--engine", "fast"),
    *("--precision", "fp32", "--image-size", "51", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("ranks")
    generator = torch.Generator().manual_seed(5)
    for name in ("content.png", "style.png"):
        save_image(torch.rand(1, 3, *rank_worker.SIZE, generator=generator), found / name)
    return found


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def ranks_of(*arguments: str, count: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """So many copies of ``python ARGUMENTS``, numbered in the environment as torchrun does it."""
    common = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    if sys.platform == "linux":
        common["GLOO_SOCKET_IFNAME"] = "lo"
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=common | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def first_snapshot(picture: Path) -> Path:
    """The first snapshot of a run, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if snapshots := sorted(picture.parent.glob(f"{picture.stem}-0*.png")):
            return snapshots[0]
        time.sleep(0.1)
    raise AssertionError("the run did not start")


def long_run(folder: Path, output: Path) -> list[str]:
    pictures = [str(folder / "content.png"), str(folder / "style.png")]
    return [
        "-m",
        "nst_fast",
        "stylize",
        *pictures,
        "-o",
        str(output),
        *RUN,
        "--steps",
        "100000",
        "--save-every=5",
        "-q",
    ]


@pytest.fixture(scope="module")
def shared(folder: Path) -> Path:
    """The folder, with what two processes made together of the cases in ``rank_worker``."""
    with ranks_of(str(WORKER), str(folder)) as processes:
        for process in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize("case", list(rank_worker.CASES))
def test_two_processes_have_the_losses_and_the_picture_of_one(shared: Path, case: str) -> None:
    alone = api.stylize(shared / "content.png", shared / "style.png", rank_worker.CONFIG, **rank_worker.CASES[case])
    record = json.loads((shared / f"{case}.json").read_text())
    assert record["plan"]["ranks"] == 2
    assert list(record["history"]) == list(alone.record.history)
    for name, column in alone.record.history.items():
        assert record["history"][name] == pytest.approx(column, rel=1e-5), name
    assert record["steps"] == alone.record.steps == 20
    with Image.open(shared / f"{case}.png") as file:
        picture = np.asarray(file).astype(int)
    expected = (alone.image[0].permute(1, 2, 0) * 255).round().numpy()
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the threads of a process")
@pytest.mark.parametrize("rank", [0, 1])
def test_the_groups_threads_end_with_its_block(shared: Path, rank: int) -> None:
    names = json.loads((shared / f"threads-{rank}.json").read_text())
    assert names and not [name for name in names if "gloo" in name]


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_in_double_precision_twenty_steps_are_the_same_whatever_the_rate(shared: Path, pooling: str) -> None:
    found = json.loads((shared / "float64.json").read_text())[pooling]
    assert found == pytest.approx(rank_worker.in_float64(pooling, None), rel=1e-9)
    assert min(found) < 0.8 * found[0]


def test_a_snapshot_is_the_whole_picture_of_its_step(shared: Path) -> None:
    assert sorted(path.name for path in shared.glob("scales-0*")) == ["scales-000010.png", "scales-000020.png"]
    with Image.open(shared / "scales-000020.png") as picture:
        assert picture.size == (51, 45)


def test_one_process_resumes_where_two_were_stopped_by_one(shared: Path) -> None:
    stopped = json.loads((shared / "stopped.json").read_text())
    assert (stopped["status"], stopped["steps"]) == ("stopped", 8)
    resumed = api.resume(shared / "stopped.png")
    alone = api.stylize(shared / "content.png", shared / "style.png", rank_worker.CONFIG)
    assert resumed.record.history["total"] == pytest.approx(alone.record.history["total"], rel=1e-5)
    torch.testing.assert_close(resumed.image, alone.image, rtol=0, atol=1e-3)


def test_when_a_rank_is_killed_the_other_ends_with_a_message_and_code_and_the_last_snapshot_stays(folder: Path) -> None:
    output = folder / "killed.png"
    with ranks_of(*long_run(folder, output)) as processes:
        snapshot = first_snapshot(output)
        processes[1].kill()
        _, said = processes[0].communicate(timeout=10)
        assert processes[0].returncode == 6
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: rank 1 was lost (")
    assert not output.exists()
    with Image.open(snapshot) as picture:
        picture.load()


def test_torchrun_shares_a_picture_and_rank_0_alone_prints(folder: Path) -> None:
    output = folder / "torchrun.png"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    pictures = [str(folder / "content.png"), str(folder / "style.png")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    done = subprocess.run(
        [*launcher, "-m", "nst_fast", "stylize", *pictures, "-o", str(output), *RUN, "--steps", "3", "-v"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(output)]
    assert done.stderr.count("plan: ") == 1
    assert "2 ranks share 51x45" in done.stderr
    assert json.loads(output.with_suffix(".json").read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"line_search": "strong_wolfe"}, "`line_search` strong_wolfe: is PyTorch's"),
        ({"engine": "ort"}, "`engine` ort: computes whole pictures only"),
        ({"on_oom": "tile"}, "`on_oom` tile: ranks cannot restart"),
        ({"seamless": "xy"}, "`seamless` xy: processes share rows"),
    ],
)
def test_what_needs_the_whole_picture_is_refused(option: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_shareable(StylizeConfig(**option))


def test_a_command_that_shares_nothing_is_refused_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    check_command("doctor")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_command("stylize")
    with pytest.raises(UsageError, match="torchrun started 4 copies of sweep, which share nothing"):
        check_command("sweep")


def test_the_rank_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_rank() == ProcessRank()
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == ProcessRank(5, 8, 1, 4)
    assert not ErrorReporter().may_report()
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(UsageError, match="RANK=8, WORLD_SIZE=8"):
        process_rank()
    assert ErrorReporter().may_report()


def test_every_rank_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto", ProcessRank(3, 4, 1, 2)) == "cuda:1"
    assert device_of("cpu", ProcessRank(3, 4, 1, 2)) == "cpu"
    with pytest.raises(DeviceError, match="4 ranks on a machine with 2 GPUs"):
        device_of("cuda", ProcessRank(3, 4, 3, 4))
    with pytest.raises(DeviceError, match="`device` 'cuda:1': 4 ranks cannot share it"):
        device_of("cuda:1", ProcessRank(3, 4, 1, 2))


def test_gloos_message_is_shortened_to_its_reason() -> None:
    said = "[/src/gloo/pair.cc:545] Read error [127.0.0.1]:11906: Connection reset by peer. This is typically caused"
    assert reason_of(RuntimeError(said)) == "Read error [127.0.0.1]:11906: Connection reset by peer"


class MemoryStore(torch.distributed.HashStore):
    broken = False

    def set(self, key: str, value: str) -> None:
        if self.broken:
            raise RuntimeError("Connection refused")
        super().set(key, value)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BEAT", 0.02)


def watched(store: MemoryStore, lost: list[str], patience: float, noticed: threading.Event) -> Watch:
    def note(who: str, why: str) -> None:
        lost.append(f"{who}: {why}")
        noticed.set()

    return Watch(ProcessRank(0, 2), store, note, patience)


def test_a_rank_without_a_heartbeat_is_lost(quick: None) -> None:
    store, lost, noticed = MemoryStore(), [], threading.Event()
    store.set("nst-fast/alive/1", "0")
    with watched(store, lost, 0.3, noticed):
        assert noticed.wait(30)
    assert lost == ["rank 1: no sign of life for 0.3 s"]


def test_ranks_with_heartbeats_are_not_lost(quick: None) -> None:
    store, lost, noticed = MemoryStore(), [], threading.Event()
    other = Watch(ProcessRank(1, 2), store, lambda who, why: lost.append(who), 20.0)
    with watched(store, lost, 20.0, noticed), other:
        deadline = time.monotonic() + 30
        while int(store.get("nst-fast/alive/1")) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert int(store.get("nst-fast/alive/1")) >= 5
    assert lost == []


def test_a_store_that_is_gone_took_rank_0_with_it(quick: None) -> None:
    store, lost, noticed = MemoryStore(), [], threading.Event()
    store.set("nst-fast/alive/1", "0")
    with watched(store, lost, 0.3, noticed):
        store.broken = True
        assert noticed.wait(30)
    assert lost == ["rank 0: its store does not answer"]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process without ending it")
def test_when_a_rank_is_stopped_the_other_does_not_wait_for_it(folder: Path) -> None:
    output = folder / "halted.png"
    with ranks_of(*long_run(folder, output)) as processes:
        first_snapshot(output)
        processes[0].send_signal(signal.SIGSTOP)
        _, said = processes[1].communicate(timeout=15)
        assert processes[1].returncode == 6
        assert said.splitlines()[-1].startswith("error: rank 0 was lost (")
