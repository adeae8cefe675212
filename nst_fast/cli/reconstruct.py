"""``nst-fast reconstruct``: pictures from the features of one tap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli import completion
from nst_fast.cli.console import Messages
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.series import run_and_conclude
from nst_fast.cli.startup import loading
from nst_fast.options.commands import RECONSTRUCT_FIXED, ReconstructConfig


@takes(ReconstructConfig, without=RECONSTRUCT_FIXED)
def reconstruct(
    config: ReconstructConfig,
    messages: Messages,
    content: Annotated[Path, typer.Argument(help="The picture to reconstruct.")],
    taps: Annotated[
        str,
        typer.Option(
            "--taps",
            help="One picture for each of these taps: TAP,...",
            metavar="TAPS",
            autocompletion=completion.taps(),
        ),
    ] = "relu1_2,relu2_2,relu3_4,relu4_4,relu5_4",
    seeds: Annotated[
        str, typer.Option("--seeds", help="One picture per tap for each of these seeds: SEED,...", metavar="SEEDS")
    ] = "0",
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("reconstruction"),
    overwrite: Annotated[bool, overwrites("the pictures of another series")] = False,
    as_json: Json = False,
) -> None:
    """Find a picture with the same features as CONTENT, from noise, for one tap at a time.

    Example: nst-fast reconstruct photo.jpg --taps relu1_2,relu3_1 --seeds 0,1 -o taps

    The folder gets sheet.png with the PSNR to CONTENT, table.csv, curves.png and the pictures with their records.
    Interrupted, the same command continues.
    """
    with loading(messages):
        from nst_fast.jobs.reconstruct import label, measure, plan_reconstruction

    series = plan_reconstruction(content, taps, seeds, config)
    run_and_conclude(series, folder, messages, as_json=as_json, overwrite=overwrite, label=label, measure=measure)
