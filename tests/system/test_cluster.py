"""A batch in a Ray cluster: machines come and go, workers and the driver are killed; each picture is made once."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from batches import TINY, Watcher, draw
from PIL import Image
from places import ROOT, SUPPORT

from nst_fast.errors import DeviceError
from nst_fast.jobs.batch import BatchRequest, run_batch
from nst_fast.jobs.storage import Place, Url, place_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: pip install 'nst-fast[ray]'")

GOOD, STEPS = 17, 30
SECONDS = 240


class Cluster:
    """A head and two nodes, in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SUPPORT / "ray_cluster.py", "2"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout
        self.address = self.process.stdout.readline().strip()
        assert self.address

    def order(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A server of S3's kind; what processes must know to reach it."""
    pytest.importorskip("s3fs", reason="no s3fs: pip install 'nst-fast[cloud]'")
    server = pytest.importorskip("moto.server", reason="no moto[s3], which plays S3").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **secrets}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        Url("s3://batch").call("mkdir")
        yield environment
    server.stop()


@pytest.fixture(scope="module")
def cluster(store: dict[str, str]) -> Iterator[Cluster]:
    environment = {**os.environ, **store, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"}
    made = Cluster(environment)
    yield made
    made.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    for seed in range(GOOD):
        draw(folder / str(seed % 3) / f"{seed:02}.png", seed)
    draw(folder / "deadly.png", 98)
    (folder / "bad.png").write_bytes(b"")
    (folder / "1" / "text.jpg").write_bytes(b"hello")
    draw(folder.parent / "style.png", 99)
    return folder


@pytest.fixture(scope="module")
def local(photos: Path) -> dict[str, np.ndarray]:
    """The pictures of a run without a cluster."""
    (photos.parent / "deadly.png").hardlink_to(photos / "deadly.png")
    request = BatchRequest(
        inputs=[photos], styles=[photos.parent / "style.png"], folder=photos.parent / "local",
        config=TINY.replace(steps=STEPS),
    )  # fmt: skip
    done = {entry.input: pixels(photos.parent / "local" / entry.output) for entry in run_batch(request, Watcher()).done}
    return {name: picture for name, picture in done.items() if name != "deadly.png"}


def pixels(place: Place) -> np.ndarray:
    path = place if isinstance(place, Path) else place.call("open")
    with Image.open(path) as picture:
        return np.asarray(picture)


def upload(folder: Path, place: Url) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (place / path.relative_to(folder).as_posix()).call("pipe_file", path.read_bytes())


def start(photos: str, style: str, out: str, address: str) -> subprocess.Popen[str]:
    options = ["--weights=random:0", "--image-size=24", "--engine=eager", "--content-taps=relu1_2", "--json"]
    options += ["--style-taps=relu1_1", "--precision=fp32", f"--steps={STEPS}", "--on=ray", f"--address={address}"]
    return subprocess.Popen(
        [sys.executable, SUPPORT / "deadly_batch.py", "batch", photos, "--style", style, "-o", out, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.1)


def made(out: Place) -> int:
    """The number of pictures in their places with their records: one of the two comes last."""
    names = (str(path.relative_to(out)) for path in out.rglob("*")) if isinstance(out, Path) else dict(out.files())
    count = Counter(Path(name).with_suffix("") for name in names if not name.startswith(".") and "manifest" not in name)
    return sum(number == 2 for number in count.values())


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_killed_drivers_workers_and_machines_cost_no_picture_and_make_none_twice(
    where: str, photos: Path, cluster: Cluster, local: dict[str, np.ndarray]
) -> None:
    base = str(photos.parent)
    if where == "s3":
        base = "s3://batch/it"
        upload(photos, Url(f"{base}/photos"))
        Url(f"{base}/style.png").call("pipe_file", (photos.parent / "style.png").read_bytes())
    out = place_of(f"{base}/out")
    command = (f"{base}/photos", f"{base}/style.png", f"{base}/out", cluster.address)

    first = start(*command)
    wait_for(lambda: made(out) >= 3, first)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    at_death = made(out)

    second = start(*command)
    wait_for(lambda: made(out) >= at_death + 3, second)
    cluster.order("kill")
    cluster.order("add")
    stdout, messages = second.communicate(timeout=SECONDS)

    assert second.returncode == 10, messages
    assert f"{GOOD} of 20 done, 3 failed" in messages
    facts = json.loads(stdout)
    assert (facts["done"], facts["left"]) == (GOOD, [])
    assert facts["made"] <= GOOD - at_death, "what the first driver made, the second made again"
    codes = {failure["input"]: failure["exit_code"] for failure in facts["failed"]}
    assert codes == {"bad.png": 3, "1/text.jpg": 3, "deadly.png": 7}
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_bytes().splitlines()]
    assert sorted(line["input"] for line in lines if line["status"] == "done") == sorted(local)
    for line in lines:
        if line["status"] == "done":
            np.testing.assert_array_equal(pixels(out / line["output"]), local[line["input"]])
    assert made(out) == GOOD
    left = out.rglob("attempts/*") if isinstance(out, Path) else (n for n, _ in out.files() if "/attempts/" in n)
    assert not list(left)


def test_an_address_without_a_cluster_is_named_at_once() -> None:
    from nst_fast.jobs.cluster import check_reachable

    with pytest.raises(DeviceError, match=r"no Ray cluster answers at 127\.0\.0\.1:1: connection refused.*`address`"):
        check_reachable("127.0.0.1:1")
    for other in ("", "auto", "ray://head:10001"):
        check_reachable(other)


def test_workers_share_the_cores_and_each_fits_on_any_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from nst_fast.jobs import cluster

    nodes = [(True, {"CPU": 4.0}), (True, {"CPU": 2.0}), (True, {}), (False, {"CPU": 1.0})]
    found = [{"Alive": alive, "Resources": resources} for alive, resources in nodes]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: found)
    assert [cluster.cores_of(workers) for workers in (None, 1, 2, 3, 6, 50)] == [1, 2, 2, 2, 1, 1]
