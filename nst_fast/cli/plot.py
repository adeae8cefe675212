"""``nst-fast plot``: loss curves of several runs in one plot, or pictures beside their curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.completion import words
from nst_fast.cli.console import emit_result
from nst_fast.cli.options import Json, overwrites
from nst_fast.errors import UsageError


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Pictures made by nst-fast, or the .json beside them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("curves.png"),
    terms: Annotated[
        str, typer.Option("--terms", help="Losses to draw, side by side: total, content, style, tv.", metavar="TERMS")
    ] = "total",
    against: Annotated[
        str,
        typer.Option(
            "--against", help="What runs to the right: step or seconds.", autocompletion=words("step", "seconds")
        ),
    ] = "step",
    beside: Annotated[bool, typer.Option("--beside", help="Each picture with its loss curve beside it.")] = False,
    overwrite: Annotated[bool, overwrites("OUTPUT if it exists")] = False,
    as_json: Json = False,
) -> None:
    """Draw the loss curves of RUNS in one plot, named by the options in which the runs differ.

    Example: nst-fast plot adam.png lbfgs.png -o curves.png --terms total,style

    With --beside it shows every picture and its curve side by side instead.
    """
    from nst_fast.jobs.comparison import compare_curves, show_beside

    if beside and (terms, against) != ("total", "step"):
        raise UsageError("--beside shows every loss against the step", "Leave --terms and --against out")
    if beside:
        show_beside(runs, output, overwrite=overwrite)
    else:
        compare_curves(runs, output, terms=terms.split(","), against=against, overwrite=overwrite)
    facts = {"schema": "nst-fast/plot/1", "status": "complete", "output": str(output)}
    emit_result(facts, str(output), as_json=as_json)
