"""``nst-fast evaluate``: a neutral jury's scores of pictures made by any program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nst_fast.cli.console import TABLE_WIDTH, LastingConsole, Messages, emit, emit_report
from nst_fast.cli.options import JsonFile, Quiet, overwrites, path_of, takes
from nst_fast.cli.startup import loading
from nst_fast.options.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from rich.table import Table


def show_columns(value: bool) -> None:
    """The legend, and the end: --columns needs no pictures."""
    if value:
        from nst_fast.jury.report import legend

        emit(drawn(legend()))
        raise typer.Exit


@takes(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    content: Annotated[Path, typer.Argument(help="The picture whose scene was to be kept.")],
    style: Annotated[Path, typer.Argument(help="The picture whose manner was to be taken.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures to score, of the content's shape, of any size.")],
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the scores as CSV.", metavar="FILE")] = None,
    overwrite: Annotated[bool, overwrites("files that exist")] = False,
    quiet: Quiet = False,
    columns: Annotated[
        bool, typer.Option("--columns", help="Show what every column means.", callback=show_columns, is_eager=True)
    ] = False,
) -> None:
    """Score PICTURES, made by any program, against CONTENT and STYLE: the same measures for all, in fp32.

    Example: nst-fast evaluate photo.jpg painting.jpg ours.png theirs.png --json scores.json

    All is compared at each picture's own size. An arrow in the table says which way is better; --columns says what each
    column measures, in which unit, and which paper it is from. JSON and CSV have single taps too.
    """
    from nst_fast.system.files import check_all_writable, write_atomic

    messages = Messages(quiet=quiet)
    inputs = [content, style, *pictures, Path(config.weights)]
    check_all_writable(filter(None, (path_of(json_file), csv_file)), overwrite, inputs)
    with loading(messages):
        from nst_fast.jury.evaluation import evaluate as judged
        from nst_fast.jury.report import score_table, to_csv

    evaluation = judged(content, style, pictures, config)
    messages.say("weights {source}, sha256 {sha256}".format(**evaluation.weights))
    notes = [f"{each.picture}: {note}" for each in evaluation.pictures for note in each.notes]
    for note in [*notes, *evaluation.notes]:
        messages.note(note)
    if csv_file is not None:
        write_atomic(csv_file, to_csv(evaluation).encode())
    emit_report(evaluation.as_dict(), drawn(score_table(evaluation)), json_file)


def drawn(table: Table) -> str:
    """A table as text, wide enough for its figures."""
    console = LastingConsole(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")
