"""Where else a run's losses go: a table, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def followers(
    output: Path, csv: bool, film: str | None, overwrite: bool, inputs: Sequence[Path]
) -> list[tuple[str, Path]]:
    """The trackers that write a file beside the picture, by name, each with its file.

    Raises:
        UsageError: a film that cannot be written, or one of several processes, each of which has a part of the picture.
        OutputError: a file cannot be written.
    """
    found = [("LossTable", output.with_name(f"{output.stem}-losses.csv"))] if csv else []
    found += [("Film", output.with_name(f"{output.stem}-film{FILMS[film]}"))] if film in FILMS else []
    for _, path in found:
        check_writable(path, overwrite=overwrite, inputs=inputs)
    if film is None:
        return found
    if not process_rank().alone:
        raise UsageError("`film`: the processes of torchrun have parts of the picture each", "Leave it out")
    if film in FILMS:
        return found
    if not Path(film).suffix:
        message = f"`film` {film!r}: must be one of {', '.join(FILMS)}, or a file as out.mp4"
        raise UsageError(message, nearest(film, FILMS))
    return [*found, ("TimeLapse", checked_film(user_path(film), output, overwrite, inputs))]


def checked_film(film: Path, output: Path, overwrite: bool, inputs: Sequence[Path]) -> Path:
    """The file of a film of the run. Raises what :func:`followers` raises."""
    from nst_fast.run.films import TimeLapse
    from nst_fast.run.outputs import OutputFiles

    if film.absolute() in {path.absolute() for path in OutputFiles(output).ends_with}:
        raise UsageError(f"`film` {shown(film)} is the name of another output", "Give it a name of its own")
    TimeLapse.check(film, overwrite=overwrite, inputs=inputs)
    return film


@contextmanager
def tracked(
    display: Display, files: Sequence[tuple[str, Path]], log_dir: Path | None, tracker: str | None
) -> Iterator[Observer]:
    """The display, joined by the trackers that were asked for while the block lasts.

    Raises:
        UsageError: an unknown tracker, or one whose package is not installed.
    """
    from nst_fast.run.films import Film, TimeLapse
    from nst_fast.run.trackers import SERVICES, LossTable, Observers, TensorBoard, Tracker

    if tracker is not None and tracker not in SERVICES:
        raise UsageError(f"`tracker` {tracker!r}: must be one of {', '.join(SERVICES)}", nearest(tracker, SERVICES))
    with ExitStack() as stack:
        kinds: dict[str, type[LossTable | Film | TimeLapse]]
        kinds = {"LossTable": LossTable, "Film": Film, "TimeLapse": TimeLapse}
        trackers: list[Tracker] = [kinds[name](path, display.note) for name, path in files]
        trackers += [TensorBoard(log_dir, display.note)] if log_dir is not None else []
        trackers += [SERVICES[tracker](display.note)] if tracker is not None else []
        for each in trackers if process_rank().is_main else ():
            stack.enter_context(each)
        yield Observers([display, *trackers]) if trackers and process_rank().is_main else display
