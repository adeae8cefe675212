"""``nst-fast ui``: a page to paint with."""

from __future__ import annotations

import threading
import webbrowser
from typing import Annotated

import typer

from nst_fast.cli.console import Messages
from nst_fast.cli.serve import Folder, Host, Names, Port, Quiet, served


def ui(
    host: Host = "127.0.0.1",
    port: Port = 8765,
    folder: Folder = None,
    name: Names = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address alone.")] = False,
    quiet: Quiet = False,
) -> None:
    """Open a page to paint with: pictures in, sliders, the pastiche as it grows. Wants the extra ui.

    The page is this machine's own and asks nothing of any other. Runs are kept in the folder, survive a reload of the
    page, and go on after a restart.
    """

    def opened(address: str) -> None:
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=(address,), name="browser", daemon=True).start()

    served(host, port, folder, name or [], Messages(quiet=quiet), page=True, ready=opened)
