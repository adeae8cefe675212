"""A server of the API in this process or in one of its own, with tiny pictures and runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import tiny
import uvicorn
from pictures import encoded, sample
from processes import PATIENCE

from nst_fast.server.app import application
from nst_fast.server.gate import Doors
from nst_fast.server.serving import Server, listening

TINY = {name: value for name, value in tiny.TINY.items() if name not in ("precision", "device")}
TINY |= {"style_taps": "relu1_1,relu2_1", "image_size": 32, "steps": 6}
LONG = TINY | {"steps": 100_000}


@contextmanager
def in_process(folder: Path, doors: Doors | None = None, *, page: bool = False) -> Iterator[httpx.Client]:
    """A client of a server in a thread; whatever the server says must be expected."""
    said: list[str] = []
    app, queue = application(folder, doors or Doors(), said.append, page=page)
    bound = listening("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=5), queue)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=PATIENCE) as client:
            yield client
    finally:
        queue.interrupt()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class Process:
    """``nst-fast serve`` on a folder, in a ``with`` block."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.command = [sys.executable, "-m", "nst_fast", "serve", "--port", "0", "--folder", str(folder), *arguments]
        self.log = folder.parent / "log"

    def __enter__(self) -> Self:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()

    def end(self) -> int:
        """As Ctrl-C does; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


def upload(client: httpx.Client, data: bytes | None = None, name: str = "harbour.png") -> httpx.Response:
    return client.post("/api/uploads", files={"file": (name, encoded(sample(), "PNG") if data is None else data)})


def order(client: httpx.Client, **options: Any) -> dict[str, Any]:
    """The body of a request for a run of two small pictures."""
    style = encoded(sample().transpose(0).rotate(90), "PNG")
    ids = [upload(client).json()["id"], upload(client, style, "starry.png").json()["id"]]
    return {"content": ids[0], "styles": ids[1:], "options": TINY | options}


def started(client: httpx.Client, **options: Any) -> str:
    answer = client.post("/api/runs", json=order(client, **options))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def events(client: httpx.Client, id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a run until the server ends the stream."""
    kind = ""
    with client.stream("GET", f"/api/runs/{id}/events") as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])


def finished(client: httpx.Client, id: str) -> dict[str, Any]:
    """The run once it has ended."""
    for kind, data in events(client, id):
        if kind == "state" and data["state"] in ("stopped", "done", "failed"):
            return data
    raise AssertionError("the events ended before the run")


def until_step(client: httpx.Client, id: str, step: int = 1) -> None:
    """Wait until a run has done so many steps."""
    assert any(kind == "step" and data["step"] >= step for kind, data in events(client, id))
