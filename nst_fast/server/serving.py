"""A server of HTTP around the application: its socket, its start and its end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType

import uvicorn

from nst_fast.errors import UsageError
from nst_fast.server.app import application
from nst_fast.server.gate import Doors
from nst_fast.server.queue import Queue
from nst_fast.system.files import lock, make_folder, shown

GRACE_SECONDS = 3  # that answers have to end in when the server does


class Server(uvicorn.Server):
    """Stops the run, and the streams of events, at the signal that ends the server."""

    def __init__(self, config: uvicorn.Config, queue: Queue) -> None:
        super().__init__(config)
        self.queue = queue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.queue.interrupt()
        super().handle_exit(sig, frame)


def serve(
    folder: Path, doors: Doors, port: int, say: Callable[[str], None], *, page: bool, ready: Callable[[str], None]
) -> None:
    """Serve a folder until a signal ends it; what is running then goes on at the next start.

    Args:
        port: 0 for any that is free.
        say: receives lines for the log.
        ready: receives the address, with the token, once clients are let in.

    Raises:
        UsageError: the address cannot be listened on.
        BusyError: another server has the folder.
    """
    with (
        lock(make_folder(folder) / "server", title=f"the folder {shown(folder)}"),
        listening(doors.host, port) as bound,
    ):
        app, queue = application(folder, doors, say, page=page)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, server_header=False
        )
        # The first request for a plan or an upload would wait for it.
        threading.Thread(target=import_module, args=("nst_fast.api",), name="imports", daemon=True).start()
        ready(address_of(bound, doors))
        Server(config, queue).run([bound])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; the browser may come as soon as it does."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        remedy = "Choose another `port`; 0 takes one that is free"
        raise UsageError(f"`host` {host}, `port` {port}: cannot be listened on: {reason}", remedy) from None


def address_of(bound: socket.socket, doors: Doors) -> str:
    """What to open in a browser."""
    host, port = bound.getsockname()[:2]
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + (f"?token={doors.token}" if doors.token else "")
