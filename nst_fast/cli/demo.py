"""``nst-fast demo``: from nothing to a picture, without any file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.console import Messages
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.cli.startup import loading
from nst_fast.cli.stylize import conclude
from nst_fast.options.config import DemoConfig


@takes(DemoConfig, recipes=True)
def demo(
    config: DemoConfig,
    messages: Messages,
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("nst-fast-demo"),
    overwrite: Annotated[bool, overwrites("the pictures of an earlier demo")] = False,
    as_json: Json = False,
) -> None:
    """Draw a scene and a painting by code, export the network, and paint the one like the other.

    Writes pastiche.png, its record and loss curve, both sources, and comparison.png with the three side by side.
    """
    with loading(messages):
        from nst_fast.cli.display import Display
        from nst_fast.jobs.demo import demonstrate

    with graceful_stop(messages.say) as stop, Display(messages, stop, config).begin() as display:
        result = demonstrate(folder, config, overwrite=overwrite, listeners=display)
    messages.say(f"model: {result.model}")
    conclude(result.pastiche.record, result.sheet if not as_json else result.picture, messages, as_json=as_json)
    if stop():
        raise typer.Exit(stop.exit_code)
