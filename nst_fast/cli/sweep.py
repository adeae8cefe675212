"""``nst-fast sweep``: every combination of contents, styles and options on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.console import Messages
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.series import run_and_conclude
from nst_fast.cli.startup import loading
from nst_fast.options.commands import SweepConfig


@takes(SweepConfig, recipes=True)
def sweep(
    config: SweepConfig,
    messages: Messages,
    content: Annotated[list[Path], typer.Argument(help="The picture, or pictures, whose scene is kept.")],
    style: Annotated[list[Path], typer.Option("--style", help="A picture to paint like; may be repeated.")],
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", help="Any option and its values; may be repeated.", metavar="OPTION=VALUE,VALUE,..."),
    ] = None,
    jury: Annotated[
        str | None,
        typer.Option(
            "--jury",
            help="Add the scores of `evaluate` to the table, its network with these weights, as 'original'.",
            metavar="SOURCE",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("sweep"),
    overwrite: Annotated[bool, overwrites("the pictures of another series")] = False,
    as_json: Json = False,
) -> None:
    """Paint every CONTENT like every --style with every combination of the varied options.

    Example: nst-fast sweep photo.jpg --style painting.jpg --vary content-weight=0.01,1,100 --vary init=noise,content

    Values that hold commas are parted by semicolons: --vary "style-taps=relu1_1;relu1_1,relu2_1". The folder gets
    sheet.png, table.csv with final losses and times, curves.png and the pictures with their records. Interrupted, or
    with failed runs, the same command continues: finished runs are kept.
    """
    with loading(messages):
        from nst_fast.jobs.sweep import jury_measure, plan_sweep

    series = plan_sweep(content, style, vary or [], config)
    measure = jury_measure(series, jury) if jury is not None else lambda job, picture: {}
    run_and_conclude(series, folder, messages, as_json=as_json, overwrite=overwrite, measure=measure)
