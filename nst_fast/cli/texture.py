"""``nst-fast texture``: a picture made of a style alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli import completion
from nst_fast.cli.console import Messages
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.series import run_and_conclude
from nst_fast.cli.startup import loading
from nst_fast.options.commands import TEXTURE_FIXED, TextureConfig
from nst_fast.options.style import STYLE_LOSSES


@takes(TextureConfig, without=TEXTURE_FIXED)
def texture(
    config: TextureConfig,
    messages: Messages,
    style: Annotated[list[Path], typer.Argument(help="The picture, or pictures, whose texture is made.")],
    style_taps: Annotated[
        str,
        typer.Option(
            "--style-taps",
            help="Taps of the style loss: TAP[:WEIGHT],...; several sets, one picture each, are parted by semicolons.",
            metavar="TAPS",
            autocompletion=completion.taps(STYLE_LOSSES),
        ),
    ] = str(TextureConfig().style_taps),
    cumulative: Annotated[
        bool, typer.Option("--cumulative", help="Make a picture for the first tap, the first two, the first three ...")
    ] = False,
    size: Annotated[
        str | None, typer.Option("--size", help="Size of the texture; by default a square.", metavar="WIDTHxHEIGHT")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="One picture for each of these seeds: SEED,...", metavar="SEEDS")
    ] = "0",
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("texture"),
    overwrite: Annotated[bool, overwrites("the pictures of another series")] = False,
    as_json: Json = False,
) -> None:
    """Make a texture with the look of STYLE and no scene, from noise.

    Example: nst-fast texture painting.jpg --size 512x256 --seeds 0,1 -o texture

    The folder gets sheet.png, table.csv, curves.png and the pictures with their records. Interrupted, the same command
    continues.
    """
    with loading(messages):
        from nst_fast.jobs.texture import parse_size, plan_textures, tap_sets

    sets = tap_sets(style_taps, cumulative=cumulative)
    series = plan_textures(style, sets, seeds, config, parse_size(size) if size else None)
    run_and_conclude(series, folder, messages, as_json=as_json, overwrite=overwrite)
