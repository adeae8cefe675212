"""Where else a run's losses go: a table, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nst_fast.cli.completion import words
from nst_fast.cli.options import PANEL
from nst_fast.distributed import process_rank
from nst_fast.errors import UsageError, nearest
from nst_fast.system.files import check_writable, shown, user_path

if TYPE_CHECKING:
    from nst_fast.cli.display import Display
    from nst_fast.run.observer import Observer
    from nst_fast.run.trackers import Tracker

LogDir = Annotated[
    Path | None,
    typer.Option(
        "--log-dir", help="Write TensorBoard's files to this folder.", metavar="FOLDER", rich_help_panel=PANEL
    ),
]
TrackerName = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        help="Report the run to Weights & Biases or MLflow.",
        metavar="wandb|mlflow",
        rich_help_panel=PANEL,
        autocompletion=words("wandb", "mlflow"),
    ),
]
Table = Annotated[
    bool,
    typer.Option("--csv", help="Also write OUT-losses.csv, the losses of every step.", rich_help_panel=PANEL),
]

FILMS = {"gif": ".gif", "sheet": ".png"}
FilmKind = Annotated[
    str | None,
    typer.Option(
        "--film",
        help="Also write how the picture came about: OUT-film.gif, a contact sheet, OUT-film.png, or a film, out.mp4.",
        metavar="gif|sheet|FILE",
        rich_help_panel=PANEL,
        autocompletion=words(*FILMS),
    ),
]


def file_trackers(
    note: Callable[[str], None], output: Path, csv: bool, film: str | None, overwrite: bool, inputs: Sequence[Path]
) -> list[Tracker]:
    """The trackers that write a file beside the picture.

    Raises:
        UsageError: a film that cannot be written, or one of several processes, each of which has a part of the picture.
        OutputError: a file cannot be written.
    """
    from nst_fast.run.films import Film, TimeLapse
    from nst_fast.run.outputs import OutputFiles
    from nst_fast.run.trackers import LossTable

    kinds: list[tuple[type[LossTable | Film], str]] = [(LossTable, "losses.csv")] if csv else []
    kinds += [(Film, f"film{FILMS[film]}")] if film in FILMS else []
    found: list[Tracker] = []
    for kind, ending in kinds:
        path = output.with_name(f"{output.stem}-{ending}")
        check_writable(path, overwrite=overwrite, inputs=inputs)
        found.append(kind(path, note))
    if film is None:
        return found
    if not process_rank().alone:
        raise UsageError("`film`: the processes of torchrun have parts of the picture each", "Leave it out")
    if film in FILMS:
        return found
    if not Path(film).suffix:
        message = f"`film` {film!r}: must be one of {', '.join(FILMS)}, or a file as out.mp4"
        raise UsageError(message, nearest(film, FILMS))
    path = user_path(film)
    if path.absolute() in {each.absolute() for each in OutputFiles(output).ends_with}:
        raise UsageError(f"`film` {shown(path)} is the name of another output", "Give it a name of its own")
    TimeLapse.check(path, overwrite=overwrite, inputs=inputs)
    return [*found, TimeLapse(path, note)]


@contextmanager
def tracked(
    display: Display, trackers: Sequence[Tracker], log_dir: Path | None, service: str | None
) -> Iterator[Observer]:
    """The display, joined while the block lasts by the trackers, those of TensorBoard and of a service too.

    Raises :class:`UsageError` for an unknown service, or one whose package is not installed.
    """
    from nst_fast.run.trackers import SERVICES, Observers, TensorBoard

    if service is not None and service not in SERVICES:
        raise UsageError(f"`tracker` {service!r}: must be one of {', '.join(SERVICES)}", nearest(service, SERVICES))
    trackers = [*trackers, *([TensorBoard(log_dir, display.note)] if log_dir is not None else [])]
    trackers += [SERVICES[service](display.note)] if service is not None else []
    if not trackers or not process_rank().is_main:
        yield display
        return
    with ExitStack() as stack:
        for each in trackers:
            stack.enter_context(each)
        yield Observers([display, *trackers])
