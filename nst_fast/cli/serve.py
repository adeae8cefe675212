"""``nst-fast serve``: the API over HTTP; and what ``nst-fast ui`` has in common with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from nst_fast.cli.console import Messages, emit_result
from nst_fast.cli.options import Json, Quiet
from nst_fast.errors import UsageError

Host = Annotated[str, typer.Option("--host", help="The address to listen on; other than this machine's, with a token.")]
Port = Annotated[int, typer.Option("--port", help="The port; 0 takes one that is free.", min=0, max=65535)]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where uploads and runs are kept; by default the user's data folder.")
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="Another name that browsers know this server by, as behind a proxy; may be repeated."),
]
SCHEMA = "nst-fast/serve/1"


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8765,
    folder: Folder = None,
    name: Names = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Serve the HTTP API of the page without the page, as for containers. Wants the extra ui.

    Example: NST_FAST_TOKEN=... nst-fast serve --host 0.0.0.0

    The API is described at /docs and /openapi.json. With another --host than this machine's, clients show a token: that
    of the environment variable NST_FAST_TOKEN, or one that is printed. A run that is interrupted goes on at the next
    start.
    """
    served(host, port, folder, name or [], Messages(quiet=quiet), as_json=as_json, page=False)


def served(
    host: str,
    port: int,
    folder: Path | None,
    names: list[str],
    messages: Messages,
    *,
    as_json: bool,
    page: bool,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until a signal; the address, or one JSON object, on stdout once clients are let in.

    Raises:
        UsageError: the extra is missing, or the address cannot be listened on.
        BusyError: another server has the folder.
    """
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)}: not installed", "pip install fastapi uvicorn python-multipart")
    from nst_fast.server.gate import Doors, token_for
    from nst_fast.server.serving import serve

    place = folder or platformdirs.user_data_path("nst-fast", appauthor=False) / "ui"
    doors = Doors(host, token_for(host), tuple(names))

    def begun(address: str) -> None:
        messages.say("Ctrl-C ends the server")
        facts = {"schema": SCHEMA, "address": address, "token": doors.token, "folder": str(place)}
        emit_result(facts, address, as_json=as_json)
        ready(address)

    serve(place, doors, port, messages.say, page=page, ready=begun)
