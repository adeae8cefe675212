"""``nst-fast serve``: the API over HTTP; and what ``nst-fast ui`` has in common with it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.console import Messages, emit
from nst_fast.cli.options import PANEL
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.", rich_help_panel=PANEL)]


def serve(
    host: Host = "127.0.0.1", port: Port = 8765, folder: Folder = None, name: Names = None, quiet: Quiet = False
) -> None:
    """Serve the HTTP API of the page without the page, as for containers. Wants the extra ui.

    Example: NST_FAST_TOKEN=... nst-fast serve --host 0.0.0.0

    The API is described at /docs and /openapi.json. With another --host than this machine's, clients show a token: that
    of the environment variable NST_FAST_TOKEN, or one that is printed. A run that is interrupted goes on at the next
    start.
    """
    served(host, port, folder, name or [], Messages(quiet=quiet), page=False)


def served(
    host: str,
    port: int,
    folder: Path | None,
    names: list[str],
    messages: Messages,
    *,
    page: bool,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until a signal. Raises :class:`UsageError` where the extra is missing."""
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)}: not installed", "pip install 'nst-fast[ui]'")
    from nst_fast.server.gate import Doors, token_for
    from nst_fast.server.serving import default_folder, serve

    doors = Doors(host, token_for(host), tuple(names))

    def begun(address: str) -> None:
        messages.say("Ctrl-C ends the server")
        emit(address)
        ready(address)

    serve(folder or default_folder(), doors, port, messages.say, page=page, ready=begun)
