"""``nst-fast reconstruct``: what the taps of a network know of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.console import Messages
from nst_fast.cli.options import takes
from nst_fast.cli.series import conclude_series, watching
from nst_fast.cli.signals import graceful_stop
from nst_fast.options.commands import RECONSTRUCT_FIXED, ReconstructConfig


@takes(ReconstructConfig, without=RECONSTRUCT_FIXED)
def reconstruct(
    config: ReconstructConfig,
    content: Annotated[Path, typer.Argument(help="The picture to reconstruct.", show_default=False)],
    taps: Annotated[
        str, typer.Option("--taps", help="One picture for each of these taps: TAP,...", metavar="TAPS")
    ] = "relu1_2,relu2_2,relu3_4,relu4_4,relu5_4",
    seeds: Annotated[
        str, typer.Option("--seeds", help="One picture per tap for each of these seeds: SEED,...", metavar="SEEDS")
    ] = "0",
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("reconstruction"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pictures of another series.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout at the end.")] = False,
) -> None:
    """Find a picture with the same features as CONTENT, from noise, for one tap at a time.

    Example: nst-fast reconstruct photo.jpg --taps relu1_2,relu3_1 --seeds 0,1 -o taps

    The folder gets sheet.png with the PSNR to CONTENT, table.csv, curves.png and the pictures with their records.
    Interrupted, the same command goes on where it was.
    """
    messages = Messages(quiet=quiet)
    messages.say("loading")
    from nst_fast.jobs.reconstruct import label, measure, plan_reconstruction
    from nst_fast.jobs.series import run_series

    series = plan_reconstruction(content, taps, seeds, config)
    with graceful_stop(messages.say) as stop:
        watch = watching(messages, stop)
        outcomes = run_series(series, folder, watch, overwrite=overwrite, label=label, measure=measure)
    conclude_series(series, outcomes, folder, messages, stop, as_json=as_json)
