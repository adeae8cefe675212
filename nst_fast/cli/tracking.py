"""Where else a run's losses go: a table, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nst_fast.cli.options import PANEL
from nst_fast.distributed import process_rank
from nst_fast.errors import UsageError, nearest
from nst_fast.system.files import check_writable

if TYPE_CHECKING:
    from nst_fast.cli.display import Display
    from nst_fast.run.observer import Observer

LogDir = Annotated[
    Path | None,
    typer.Option(
        "--log-dir", help="Write TensorBoard's files to this folder.", metavar="FOLDER", rich_help_panel=PANEL
    ),
]
TrackerName = Annotated[
    str | None,
    typer.Option(
        "--tracker", help="Report the run to Weights & Biases or MLflow.", metavar="wandb|mlflow", rich_help_panel=PANEL
    ),
]
Table = Annotated[
    bool,
    typer.Option("--csv", help="Also write OUT-losses.csv, the losses of every step.", rich_help_panel=PANEL),
]


def tables_of(output: Path, wanted: bool, overwrite: bool, inputs: Sequence[Path]) -> list[Path]:
    """The table of losses, if it is wanted. Raises :class:`OutputError` if it cannot be written."""
    if not wanted:
        return []
    table = output.with_name(f"{output.stem}-losses.csv")
    check_writable(table, overwrite=overwrite, inputs=inputs)
    return [table]


@contextmanager
def tracked(display: Display, tables: Sequence[Path], log_dir: Path | None, tracker: str | None) -> Iterator[Observer]:
    """The display, joined by the trackers that were asked for while the block lasts.

    Raises:
        UsageError: an unknown tracker, or one whose package is not installed.
    """
    from nst_fast.run.trackers import SERVICES, LossTable, Observers, TensorBoard, Tracker

    if tracker is not None and tracker not in SERVICES:
        raise UsageError(f"`tracker` {tracker!r}: must be one of {', '.join(SERVICES)}", nearest(tracker, SERVICES))
    with ExitStack() as stack:
        trackers: list[Tracker] = [LossTable(path, display.note) for path in tables]
        trackers += [TensorBoard(log_dir, display.note)] if log_dir is not None else []
        trackers += [SERVICES[tracker](display.note)] if tracker is not None else []
        for each in trackers if process_rank().is_main else ():
            stack.enter_context(each)
        yield Observers([display, *trackers]) if trackers and process_rank().is_main else display
