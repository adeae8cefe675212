"""A server on this machine in the place of torchvision's, which serves its file well, badly, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nst_fast.network.weights import hub, load_weights
from nst_fast.network.weights.hub import HubFile


def block_one() -> dict[str, Tensor]:
    return load_weights("random:5", "vgg19", ["relu1_2"]).state


def published() -> bytes:
    """A small stand-in for torchvision's file: legacy format as the real one, features and a classifier."""
    stream = io.BytesIO()
    torch.save(block_one() | {"classifier.0.bias": torch.ones(7)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


class Hub(ThreadingHTTPServer):
    """What a test sets here is what the server does next."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = published()
        self.stated_length: int | None = None
        self.status = 200
        self.busy: list[int] = []  # statuses of the next answers
        self.cuts: list[int] = []  # how many bytes of their bodies the next answers send
        self.knows_ranges = True
        self.misplaced = False  # claims the range that was asked for and sends another
        self.endless = False
        self.drips = False  # the first bytes come alone
        self.stalls_before = ""  # "answer" or "body"
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.stop_stalling = threading.Event()
        self.file = HubFile(
            f"vgg19-{hashlib.sha256(self.body).hexdigest()[:8]}.pth", hashlib.sha256(self.body).hexdigest()[:8]
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        hub.asked.append(self.path)
        hub.ranges.append(self.headers.get("Range", ""))
        if hub.stalls_before == "answer":
            hub.stop_stalling.wait(5)
            return
        status = hub.busy.pop(0) if hub.busy else hub.status
        start = int(hub.ranges[-1].removeprefix("bytes=").removesuffix("-") or 0) if hub.knows_ranges else 0
        if start >= len(hub.body) > 0:
            status, start = 416, len(hub.body)
        self.send_response(206 if start and status == 200 else status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(hub.body) - 1}/{len(hub.body)}")
        body = hub.body[0 if hub.misplaced else start :][: len(hub.body) - start]
        if not hub.endless:
            self.send_header("Content-Length", str(hub.stated_length or len(body)))
        self.end_headers()
        self.send_body(body)

    def send_body(self, body: bytes) -> None:
        hub = self.server
        if hub.stalls_before == "body":
            self.wfile.write(body[:1000])
            hub.stop_stalling.wait(5)
            return
        if hub.drips:
            self.wfile.write(body[:5])
            hub.stop_stalling.wait(0.1)
            body = body[5:]
        self.wfile.write(body[: hub.cuts.pop(0)] if hub.cuts else body)
        with contextlib.suppress(OSError):  # the reader has had enough
            while hub.endless:
                self.wfile.write(bytes(1 << 16))

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stop_stalling.set()
        server.endless = False
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def in_place_of_torchvision(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The same, asked in place of torchvision's, with an empty cache and an empty torch hub folder below ``folder``."""
    patch.setenv("NST_FAST_CACHE", str(folder / "cache"))
    patch.setenv("TORCH_HOME", str(folder / "torch"))
    patch.setenv("no_proxy", "*")
    patch.delenv("NST_FAST_OFFLINE")
    patch.setattr(hub, "PAUSES", (0.0, 0.0))
    with serving() as server:
        patch.setenv("NST_FAST_WEIGHTS_URL", server.address)
        yield server
