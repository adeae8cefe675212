"""A server on this machine in the place of torchvision's, which serves its file well, badly, or not at all."""

from __future__ import annotations

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import Tensor

from nst_fast.weights import load_weights
from nst_fast.weights.download import HubFile


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
        self.stalls_before = ""  # "answer" or "body"
        self.asked: list[str] = []
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
        if hub.stalls_before == "answer":
            hub.stop_stalling.wait(5)
            return
        self.send_response(hub.status)
        self.send_header("Content-Length", str(hub.stated_length or len(hub.body)))
        self.end_headers()
        if hub.stalls_before == "body":
            self.wfile.write(hub.body[:1000])
            hub.stop_stalling.wait(5)
            return
        self.wfile.write(hub.body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""
