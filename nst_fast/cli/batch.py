"""``nst-fast batch``: many pictures in one style."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nst_fast.cli.console import PLAIN_SECONDS, Messages, PlainProgress, complain, emit, emit_json, progress
from nst_fast.cli.options import takes
from nst_fast.cli.signals import Stop, graceful_stop
from nst_fast.errors import InputError, PartialError
from nst_fast.options.commands import BATCH_FIXED, BatchConfig

if TYPE_CHECKING:
    from nst_fast.jobs.batch import BatchRequest, BatchResult
    from nst_fast.jobs.runner import JobObserver
    from nst_fast.run.observer import Observer, StepEvent


@takes(BatchConfig, without=BATCH_FIXED, recipes=True)
def batch(
    config: BatchConfig,
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Pictures, and folders of pictures.", show_default=False),
    ],
    style: Annotated[
        list[Path], typer.Option("--style", help="A picture to paint like; given again, both are blended.")
    ],
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.", show_default=False)],
    kind: Annotated[str, typer.Option("--format", help="Of the outputs: png, jpg, webp, tif or bmp.")] = "png",
    shard: Annotated[
        str, typer.Option("--shard", help="Do only this part, as 2/5: the second of five parts.", metavar="I/N")
    ] = "1/1",
    together: Annotated[
        int,
        typer.Option("--together", help="How many pictures of one size share a loop: faster on a GPU.", metavar="N"),
    ] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking for new pictures until stopped.")] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Do not try again what failed in an earlier call.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace pictures of other options, or that no batch made.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout at the end.")] = False,
) -> None:
    """Paint every picture of INPUT in the style of --style, into a tree like INPUT's.

    Example: nst-fast batch photos --style painting.jpg -o painted --image-size 512

    Folders are searched with all folders in them; hidden files are left. OUTPUT/manifest.jsonl says of every picture
    what was made of it, or why it could not be. Interrupted in whatever way, the same command goes on where it was: a
    picture counts as made when the manifest says so and its file is whole. Pictures that cannot be used are named and
    passed over; the command then ends with 10.

    Several such commands may work in one folder, also from several machines: each takes what no other is at.
    """
    messages = Messages(quiet=quiet)
    messages.say("loading")
    from nst_fast.jobs.batch import BatchRequest, run_batch
    from nst_fast.jobs.inputs import Shard

    job = BatchRequest(
        inputs=inputs,
        styles=style,
        folder=folder,
        config=config,
        format=kind.removeprefix(".").lower(),
        overwrite=overwrite,
        retry_failed=not skip_failed,
        shard=Shard.parse(shard),
        keep_watching=watch,
        together=together,
    )
    with graceful_stop(messages.say) as stop:
        outcome = run_batch(job, watching(messages, stop, config))
    conclude(outcome, job, messages, stop, as_json=as_json)


class SlowProgress(PlainProgress):
    """A line every ten seconds: many pictures take less, and have a line of their own when they are finished."""

    def __init__(self, messages: Messages) -> None:
        super().__init__(messages)
        self.said_at = time.monotonic()

    def __call__(self, event: StepEvent) -> None:
        if time.monotonic() - self.said_at >= PLAIN_SECONDS and event.step < event.steps:
            super().__call__(event)


def watching(messages: Messages, stop: Stop, config: BatchConfig) -> JobObserver:
    """Shows a bar with the picture's name on a terminal, lines elsewhere; a note that all runs have is shown once."""
    from nst_fast.api import Listeners
    from nst_fast.jobs.runner import JobObserver

    noted: set[str] = set()

    class Display(JobObserver):
        @contextmanager
        def begin(self, title: str) -> Iterator[Observer]:
            picture = f"{PurePosixPath(title).name}:"

            def note(text: str) -> None:
                # Free memory and the like differ from run to run: what differs in figures alone is not said again.
                kind = text if text.startswith(picture) else re.sub(r"\d+", "#", text)
                if kind not in noted:
                    noted.add(kind)
                    messages.note(text)

            if messages.console.is_terminal or config.log_every:
                messages.say(title)
                with progress(messages, config) as display:
                    yield Listeners(event=display, note=note, detail=note, stop=stop)
            else:
                yield Listeners(event=SlowProgress(messages), note=note, detail=note, stop=stop)

        def note(self, text: str) -> None:
            messages.note(text)

        def made(self, text: str) -> None:
            messages.say(text)

        def failed(self, text: str) -> None:
            complain(f"failed: {text}")  # with --quiet too

        def stop(self) -> bool:
            return stop()

    return Display()


def conclude(outcome: BatchResult, batch: BatchRequest, messages: Messages, stop: Stop, *, as_json: bool) -> None:
    """The summary, the result on stdout, and the exit code.

    Raises:
        InputError: none of the pictures could be used.
        PartialError: some could not be made.
    """
    done, failed = len(outcome.done), len(outcome.failed)
    status = "stopped" if stop() else "partial" if failed else "complete"
    summary = f"{done} of {outcome.count} done"
    summary += f", {failed} failed" if failed else ""
    summary += f", {len(outcome.left)} left" if outcome.left else ""
    summary += f"; {outcome.made} made now in {outcome.seconds:.1f} s"
    if stop() or not failed:  # else the error says it
        messages.say(f"{status}: {summary}")
    if as_json:
        emit_json(facts_of(outcome, batch, status))
    else:
        emit(str(batch.folder))
    if stop():
        messages.say("the same command goes on where this one was")
        raise typer.Exit(stop.exit_code)
    if failed:
        unusable = all(entry.error and entry.error["exit_code"] == InputError.exit_code for entry in outcome.failed)
        kind = InputError if unusable and failed == outcome.count else PartialError
        raise kind(summary, "The lines above and manifest.jsonl say why; the same command tries them again")


def facts_of(outcome: BatchResult, batch: BatchRequest, status: str) -> dict[str, Any]:
    """What --json gives: ``made`` counts the pictures that this call made, ``done`` those that there are."""
    from nst_fast.jobs.batch import MANIFEST

    return {
        "schema": "nst-fast/batch-result/1",
        "status": status,
        "output": str(batch.folder),
        "manifest": str(batch.folder / MANIFEST),
        "inputs": outcome.count,
        "done": len(outcome.done),
        "made": outcome.made,
        "failed": [{"input": entry.input, **(entry.error or {})} for entry in outcome.failed],
        "left": list(outcome.left),
        "seconds": round(outcome.seconds, 3),
    }
