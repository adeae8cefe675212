"""``nst-fast stylize``: content and style in, pastiche out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nst_fast.cli.console import Messages, emit, emit_json, progress
from nst_fast.cli.options import takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.cli.torchrun import company
from nst_fast.distributed import process_rank
from nst_fast.options.config import StylizeConfig

if TYPE_CHECKING:
    from nst_fast.run.record import RunRecord

SCHEMA = "nst-fast/stylize/1"  # of what --json gives, here and in the commands that end like this one
JSON_FIELDS = (
    *("status", "output", "steps", "seconds", "steps_per_second", "losses", "device", "engine", "precision"),
    *("weights", "provider", "peak_memory_mib", "warnings"),
)


@takes(StylizeConfig, recipes=True)
def stylize(
    config: StylizeConfig,
    content: Annotated[Path, typer.Argument(help="The picture whose scene is kept.", show_default=False)],
    style: Annotated[list[Path], typer.Argument(help="The picture, or pictures, to paint like.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout at the end.")] = False,
) -> None:
    """Paint CONTENT in the style of STYLE.

    Example: nst-fast stylize photo.jpg painting.jpg -o out.png --image-size 512

    Beside OUT.png it writes OUT.json (the record of the run, which is also inside the picture) and OUT-losses.png.
    Ctrl-C ends the step, writes the picture as it is, and exits with 130; nst-fast resume OUT.png then goes on.
    Under torchrun --nproc-per-node N the copies share the picture.
    """
    messages = Messages(quiet=quiet or not process_rank().is_main)
    messages.say("loading")
    from nst_fast import api

    with (
        graceful_stop(messages.say) as stop,
        company(config) as (config, ranks),
        resumable(output, messages),
        progress(messages, config) as display,
    ):
        listeners = api.Listeners(event=display, note=messages.note, detail=messages.note, stop=stop)
        pastiche = api.stylize(
            content, style, config, output=output, overwrite=overwrite, listeners=listeners, ranks=ranks
        )
    if process_rank().is_main:
        conclude(pastiche.record, output, messages, as_json=as_json)
    if stop():
        raise typer.Exit(stop.exit_code)


def conclude(record: RunRecord, output: Path, messages: Messages, *, as_json: bool) -> None:
    """The last word of a run: the picture's path on stdout, or one JSON object; the summary on stderr."""
    rate = f"{record.steps_per_second:.2f} steps/s on {record.device}"
    memory = f"peak memory {record.peak_memory_mib:.0f} MiB"
    messages.say(f"{record.status}: {record.steps} steps in {record.seconds:.1f} s ({rate}, {memory})")
    messages.say(f"weights: {record.weights['source']}")
    if as_json:
        facts = record.as_dict()
        emit_json({"schema": SCHEMA} | {name: facts[name] for name in JSON_FIELDS} | {"output": str(output)})
    else:
        emit(str(output))


@contextmanager
def resumable(output: Path, messages: Messages) -> Iterator[None]:
    """Say how a run can be gone on with when it has left a new checkpoint, for whatever reason it ended."""
    from nst_fast.run.outputs import OutputFiles

    def newest() -> list[tuple[Path, int]]:
        return [(path, path.stat().st_mtime_ns) for path in OutputFiles(output).checkpoints()[:1]]

    before = newest()
    try:
        yield
    finally:
        if (after := newest()) and after != before:
            messages.say(f"Resume with: nst-fast resume {shlex.quote(str(output))}")
