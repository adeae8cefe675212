"""``nst-fast plan``: what a run would take, before it is started."""

from __future__ import annotations

from typing import Annotated

import typer

from nst_fast.cli.console import emit_result
from nst_fast.cli.options import Json, takes
from nst_fast.errors import UsageError
from nst_fast.options.config import StylizeConfig


def parse_size(text: str) -> tuple[int, int]:
    """``4096x3072`` or ``4096`` -> height and width."""
    width, cross, height = text.partition("x")
    try:
        size = int(height if cross else width), int(width)
    except ValueError:
        size = (0, 0)
    if min(size) < 16:
        raise UsageError(f"size {text!r}: not a size of at least 16 pixels each way", "Write it as 4096x3072")
    return size


@takes(StylizeConfig, without=("image_size",), recipes=True)
def plan(
    config: StylizeConfig,
    size: Annotated[str, typer.Argument(help="WIDTHxHEIGHT of the pastiche, in pixels.")],
    as_json: Json = False,
) -> None:
    """Say how much memory a picture of SIZE takes, and whether it would be computed whole or in tiles.

    Takes the options of `stylize`. One style image of the same size is assumed.
    Precision 'auto' counts as fp32, which needs the most.

    Example: nst-fast plan 4096x4096 --max-memory 8GiB
    """
    from nst_fast.run.forecast import memory_of
    from nst_fast.run.scales import seamless_size

    height, width = seamless_size(config, *parse_size(size))
    style = (max(16, round(height * config.style_scale)), max(16, round(width * config.style_scale)))
    made = memory_of(config, (height, width), [style])
    emit_result({"schema": "nst-fast/plan/1", **made.as_dict()}, str(made), as_json=as_json)
