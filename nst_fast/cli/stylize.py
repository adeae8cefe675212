"""``nst-fast stylize``: content and style in, pastiche out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nst_fast.cli.console import Messages, Stream, check_binary_output, emit_bytes, emit_event, emit_result
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.cli.startup import loading
from nst_fast.cli.torchrun import joined_ranks
from nst_fast.cli.tracking import FilmKind, LogDir, Table, TrackerName, file_trackers, tracked
from nst_fast.distributed import process_rank
from nst_fast.options.config import StylizeConfig
from nst_fast.system.files import shown

if TYPE_CHECKING:
    from nst_fast.run.record import RunRecord

PIPE = "-"  # as OUT: standard output
SCHEMA = "nst-fast/stylize/1"  # of what --json gives here, and in demo and resume
END_FIELDS = ("status", "steps", "seconds", "losses")  # of the last event of --progress json
JSON_FIELDS = (
    *("status", "output", "steps", "seconds", "steps_per_second", "losses", "device", "engine", "precision"),
    *("weights", "provider", "peak_memory_mib", "warnings"),
)


@takes(StylizeConfig, recipes=True)
def stylize(
    config: StylizeConfig,
    messages: Messages,
    content: Annotated[Path, typer.Argument(help="The picture whose scene is kept.")],
    style: Annotated[list[Path], typer.Argument(help="The picture, or pictures, to paint like.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write; - is standard output.")],
    overwrite: Annotated[bool, overwrites("OUTPUT and the files beside it that are named after it")] = False,
    log_dir: LogDir = None,
    tracker: TrackerName = None,
    csv: Table = False,
    film: FilmKind = None,
    as_json: Json = False,
) -> None:
    """Paint CONTENT in the style of STYLE.

    Example: nst-fast stylize photo.jpg painting.jpg -o out.png --image-size 512

    Beside OUT.png it writes OUT.json (the record of the run, which is also inside the picture) and OUT-losses.png.
    Ctrl-C ends the step, writes the picture as it is, and exits with 130; nst-fast resume OUT.png continues it.
    CONTENT or STYLE may be -, standard input; with OUT - a PNG with its record inside goes to standard output.
    Under torchrun --nproc-per-node N the copies share the picture.
    """
    messages.quiet |= not process_rank().is_main
    if piped := str(output) == PIPE:
        check_binary_output(
            {"json": as_json, "csv": csv, "film": film is not None, "save_every": config.save_every > 0}
        )
    with loading(messages):
        from nst_fast import api
        from nst_fast.cli.display import Display

    with (
        graceful_stop(messages.say) as stop,
        joined_ranks(config) as (config, ranks),
        resumable(output, messages),
        Display(messages, stop, config).begin() as display,
        tracked(
            display, file_trackers(display.note, output, csv, film, overwrite, [content, *style]), log_dir, tracker
        ) as observer,
    ):
        pastiche = api.stylize(
            content,
            style,
            config,
            output=None if piped else output,
            overwrite=overwrite,
            listeners=observer,
            ranks=ranks,
        )
    if process_rank().is_main:
        if piped:
            emit_bytes(pastiche.png())
        conclude(pastiche.record, output, messages, as_json=as_json)
    if stop():
        raise typer.Exit(stop.exit_code)


def conclude(record: RunRecord, output: Path, messages: Messages, *, as_json: bool) -> None:
    """The end of a run: a summary on stderr; the picture's path, or one JSON object, on stdout."""
    rate = f"{record.steps_per_second:.2f} steps/s on {record.device}"
    messages.say(f"{record.status}: {record.steps} steps in {record.seconds:.1f} s ({rate}, {peak_memory(record)})")
    messages.say(f"weights: {record.weights['source']}")
    if Stream.is_json:
        emit_event("end", **{name: getattr(record, name) for name in END_FIELDS}, output=shown(output))
    messages.detail("seconds: " + ", ".join(f"{phase} {taken:.2f}" for phase, taken in record.phases.items()))
    if str(output) == PIPE:
        return
    recorded = record.as_dict()
    facts = {"schema": SCHEMA} | {name: recorded[name] for name in JSON_FIELDS} | {"output": str(output)}
    emit_result(facts, str(output), as_json=as_json)


def peak_memory(record: RunRecord) -> str:
    """The peak, and how much of it the program took before the run, which is no part of the plan."""
    peak = f"peak memory {record.peak_memory_mib:.0f} MiB"
    program = record.plan.get("program_memory_mib")
    return peak if program is None else f"{peak}, of which {program:.0f} MiB the program itself"


@contextmanager
def resumable(output: Path, messages: Messages) -> Iterator[None]:
    """Print the command that resumes the run, if it has left a new checkpoint, for whatever reason it ended."""
    from nst_fast.run.outputs import OutputFiles

    def newest() -> list[tuple[Path, int]]:
        return [(path, path.stat().st_mtime_ns) for path in OutputFiles(output).checkpoints()[:1]]

    before = newest()
    try:
        yield
    finally:
        if (after := newest()) and after != before:
            messages.say(f"Resume with: nst-fast resume {shlex.quote(str(output))}")
