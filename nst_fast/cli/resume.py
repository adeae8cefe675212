"""``nst-fast resume``: continue an interrupted run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.cli.console import Messages
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.cli.startup import loading
from nst_fast.cli.stylize import conclude, resumable
from nst_fast.cli.tracking import FilmKind, LogDir, Table, TrackerName, file_trackers, tracked
from nst_fast.options.config import StylizeConfig


@takes(StylizeConfig, as_given=True)
def resume(
    config: dict[str, Any],
    messages: Messages,
    output: Annotated[Path, typer.Argument(help="The picture that the run was to write.")],
    content: Annotated[
        Path | None, typer.Option("--content", help="Where the content image is now, if it was moved.")
    ] = None,
    style: Annotated[
        list[Path] | None, typer.Option("--style", help="Where the style image is now; once for each of several.")
    ] = None,
    overwrite: Annotated[bool, overwrites("OUTPUT if it is not what the run left when it stopped")] = False,
    log_dir: LogDir = None,
    tracker: TrackerName = None,
    csv: Table = False,
    film: FilmKind = None,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run, from its newest checkpoint to the picture that it would have made.

    Example: nst-fast resume out.png

    The options are those that the run began with. Given again, or harmless (what is shown, saved or monitored), they
    are accepted; those that would change the picture are refused.
    """
    with loading(messages):
        from nst_fast import api
        from nst_fast.cli.display import Display
        from nst_fast.run.outputs import OutputFiles
        from nst_fast.run.record import RunRecord
        from nst_fast.run.resumption import deciding_changes, ended

    files = OutputFiles(output)
    if (facts := ended(files)) is not None and not deciding_changes(config, facts):
        messages.say("nothing to resume: the run came to its end")
        record = RunRecord(**{field.name: facts[field.name] for field in dataclasses.fields(RunRecord)})
        conclude(record, output, messages, as_json=as_json)
        return
    shown = StylizeConfig().replace(**{name: config[name] for name in ("log_every", "log_format") if name in config})
    with (
        graceful_stop(messages.say) as stop,
        resumable(output, messages),
        Display(messages, stop, shown).begin() as display,
        tracked(
            display, file_trackers(display.note, output, csv, film, overwrite, style or ()), log_dir, tracker
        ) as observer,
    ):
        pastiche = api.resume(
            output, content=content, style=style or (), overwrite=overwrite, listeners=observer, **config
        )
    conclude(pastiche.record, output, messages, as_json=as_json)
    if stop():
        raise typer.Exit(stop.exit_code)
