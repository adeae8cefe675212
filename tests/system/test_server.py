"""``nst-fast serve`` and ``ui`` as processes: killed, restarted, and with clients that are slow, many, or gone."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest

pytest.importorskip("uvicorn", reason="no server: pip install 'nst-fast[ui]'")

from pictures import encoded, sample
from PIL import Image
from processes import PATIENCE, python, wait_until
from served import LONG, Process, events, finished, started, until_step, upload

from nst_fast.cli.serve import serve


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    with Process(tmp_path / "folder") as server:
        yield server
        assert server.end() == 130
        log = server.log.read_text()
    assert "Traceback" not in log and "rror" not in log, log


def pixels(client: httpx.Client, id: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(f"/api/runs/{id}/picture").content)))


def connection(server: Process) -> socket.socket:
    place = urlsplit(server.address)
    return socket.create_connection((place.hostname, place.port), timeout=PATIENCE)


def follower(server: Process, id: str) -> socket.socket:
    """One who has asked for the events of a run, and reads nothing."""
    made = connection(server)
    made.sendall(f"GET /api/runs/{id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return made


def outside(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name not in ("folder", "log")]


def test_a_server_that_is_killed_loses_nothing_and_goes_on_with_what_was_running(tmp_path: Path) -> None:
    options = {"steps": 80, "optimizer": "adam", "checkpoint_every": "10"}
    with Process(tmp_path / "folder") as server:
        done = finished(server.client, started(server.client, **options))["id"]
        before = server.client.get(f"/api/runs/{done}").json()
        interrupted, queued = started(server.client, **options), started(server.client)
        until_step(server.client, interrupted, 20)
    assert list((tmp_path / "folder" / "runs" / interrupted).glob("*.safetensors"))
    with Process(tmp_path / "folder") as server:
        assert server.client.get(f"/api/runs/{done}").json() == before
        first = next(data["step"] for kind, data in events(server.client, interrupted) if kind == "step")
        assert first >= 10
        assert finished(server.client, interrupted)["state"] == finished(server.client, queued)["state"] == "done"
        assert (pixels(server.client, interrupted) == pixels(server.client, done)).all()
        assert server.end() == 130
    assert outside(tmp_path) == []


def test_the_end_of_the_server_does_not_wait_for_those_who_follow(tmp_path: Path) -> None:
    with Process(tmp_path / "folder") as server:
        id = started(server.client, **LONG)
        silent = follower(server, id)
        until_step(server.client, id)
        assert server.end() == 130
        with silent, silent.makefile("rb") as stream:
            assert b"event: step" in stream.read()
        assert "Traceback" not in server.log.read_text()


def test_two_clients_at_once_get_their_own(server: Process) -> None:
    def client(name: str, side: int) -> int:
        with httpx.Client(base_url=server.address, timeout=PATIENCE) as own:
            for value in range(10):
                data = encoded(Image.new("RGB", (side, side), (value, side, 0)), "PNG")
                facts = upload(own, data, f"{name}-{value}.png").json()
                assert facts["name"] == f"{name}-{value}.png" and facts["width"] == side
            return int(finished(own, started(own, image_size=side))["width"])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(client, "ab", (32, 48))) == [32, 48]


def test_clients_that_do_not_read_or_vanish_cost_nothing(server: Process) -> None:
    id = started(server.client, **LONG)
    until_step(server.client, id)
    process = psutil.Process(server.process.pid)
    silent = [follower(server, id) for _ in range(20)]
    for each in silent[::2]:
        each.close()
    until_step(server.client, id, 20)
    before = process.memory_info().rss
    for _ in range(200):
        assert server.client.get(f"/api/runs/{id}").json()["state"] == "running"
    assert process.memory_info().rss - before < 64 << 20
    for each in silent:
        each.close()
    server.client.post(f"/api/runs/{id}/stop")
    assert finished(server.client, id)["state"] == "stopped"


def test_an_upload_that_does_not_end_leaves_nothing_and_holds_up_nobody(server: Process, tmp_path: Path) -> None:
    head = b"POST /api/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + encoded(sample(), "PNG")
    slow, gone = connection(server), connection(server)
    for each in (slow, gone):
        each.sendall(head + b"Content-Length: 5000000\r\n\r\n" + body + bytes(200_000))
    gone.close()
    assert upload(server.client).status_code == 201
    slow.close()
    wait_until(lambda: not list((tmp_path / "folder" / "uploads").glob("*.part")), 10)
    assert len(server.client.get("/api/uploads").json()) == 1
    assert outside(tmp_path) == []


def test_more_followers_than_there_is_room_for_are_refused(server: Process) -> None:
    id = started(server.client, **LONG)
    until_step(server.client, id)
    crowd = [follower(server, id) for _ in range(64)]
    for each in crowd:
        assert each.recv(12) == b"HTTP/1.1 200"
    assert server.client.get(f"/api/runs/{id}/events").status_code == 429
    for each in crowd:
        each.close()

    def has_room() -> bool:
        with server.client.stream("GET", f"/api/runs/{id}/events") as answer:
            return answer.status_code == 200

    wait_until(has_room, 20)
    server.client.post(f"/api/runs/{id}/stop")


def test_a_folder_has_one_server_and_a_port_too(server: Process, tmp_path: Path) -> None:
    port = str(urlsplit(server.address).port)
    for arguments, code, said in (
        (["0", "--folder", str(tmp_path / "folder")], 11, "is being written by process"),
        ([port, "--folder", str(tmp_path / "other")], 2, f"--port {port}: cannot be listened on"),
    ):
        found = python("-m", "nst_fast", "serve", "--port", *arguments)
        assert (found.returncode, said in found.stderr) == (code, True), found.stderr
    (tmp_path / "other").rmdir()


def test_another_host_prints_a_token_that_it_wants(tmp_path: Path) -> None:
    with Process(tmp_path / "folder", "--host", "0.0.0.0") as server:
        found = re.fullmatch(r"http://[^/]+:(\d+)/\?token=([\w-]{40,})", server.address)
        assert found
        with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=PATIENCE) as client:
            assert client.get("/api/options").status_code == 401
            assert client.get("/api/options", headers={"authorization": f"Bearer {found[2]}"}).status_code == 200
        server.end()
        assert found[2] not in server.log.read_text()


def test_json_gives_the_address(tmp_path: Path) -> None:
    given = ["ui", "--no-browser", "--port=0", f"--folder={tmp_path / 'folder'}", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "nst_fast", *given], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert (facts["schema"], facts["token"]) == ("nst-fast/serve/1", "")
        answer = httpx.get(facts["address"], timeout=PATIENCE)
        assert (answer.status_code, "nst-fast" in answer.text) == (200, True)
        process.send_signal(signal.SIGINT)
        assert (process.wait(PATIENCE), process.stdout.read()) == (130, b"")


def test_serve_has_no_page(server: Process) -> None:
    assert server.client.get("/").status_code == server.client.get("/page/main.js").status_code == 404
    docs = server.client.get("/docs").text
    assert "POST /api/runs" in docs and not re.search(r"(?:src|href)=\"(?!openapi.json)", docs)


def test_without_the_extra_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from nst_fast.errors import UsageError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install fastapi uvicorn python-multipart"):
        serve()
