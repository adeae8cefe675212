"""``nst-fast batch``: many pictures in one style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nst_fast.cli.completion import words
from nst_fast.cli.console import Messages, emit_result
from nst_fast.cli.options import Json, at_least_one, overwrites, takes
from nst_fast.cli.signals import Stop, graceful_stop
from nst_fast.cli.startup import loading
from nst_fast.errors import InputError, PartialError
from nst_fast.options.commands import BATCH_FIXED, BatchConfig

if TYPE_CHECKING:
    from nst_fast.jobs.batch import BatchRequest, BatchResult

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Pictures, and folders of pictures; or addresses."),
]
Styles = Annotated[
    list[str],
    typer.Option("--style", metavar="FILE", help="A picture to paint like; given again, both are blended."),
]
Folder = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write to.")]
FORMATS = ("png", "jpg", "webp", "avif", "tif", "bmp")
Format = Annotated[
    str,
    typer.Option(
        "--format",
        help=f"Of the outputs: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
        autocompletion=words(*FORMATS),
    ),
]
Part = Annotated[
    str, typer.Option("--shard", help="Do only this part, as 2/5: the second of five parts.", metavar="I/N")
]
Together = Annotated[
    int, typer.Option("--together", parser=at_least_one("together"), help="Pictures per loop, for a GPU.", metavar="N")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", parser=at_least_one("workers"), help="Processes that make pictures.", metavar="N"),
]
Place = Annotated[
    str,
    typer.Option(
        "--on", help="Where pictures are made: local, or ray (a cluster).", autocompletion=words("local", "ray")
    ),
]
Gpus = Annotated[
    float | None, typer.Option("--gpus-per-worker", min=0.0, help="Of a Ray worker; by default 1, if there are any.")
]


@takes(BatchConfig, without=BATCH_FIXED, recipes=True)
def batch(
    config: BatchConfig,
    messages: Messages,
    inputs: Inputs,
    style: Styles,
    folder: Folder,
    kind: Format = "png",
    shard: Part = "1/1",
    together: Together = 1,
    workers: Workers = None,
    on: Place = "local",
    address: Annotated[str, typer.Option("--address", help="Of the Ray cluster's head.")] = "",
    gpus_per_worker: Gpus = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking for new pictures until stopped.")] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Do not try again what failed in an earlier call.")
    ] = False,
    overwrite: Annotated[bool, overwrites("pictures of other options, or that no batch made")] = False,
    as_json: Json = False,
) -> None:
    """Paint every picture of INPUT in the style of --style, into a tree like INPUT's.

    Example: nst-fast batch photos --style painting.jpg -o painted --image-size 512

    Folders are searched with all folders in them, without hidden files. OUTPUT/manifest.jsonl says of every picture
    what was made of it, or why it could not be. Interrupted in whatever way, the same command continues: a picture is
    made when the manifest says so and its file is whole. Pictures that cannot be used are named and skipped; the
    command then ends with 10.

    INPUT, --style and OUTPUT may be addresses as s3://bucket/photos. With --workers 4 four processes make pictures,
    each on a GPU of its own; with --on ray those of a Ray cluster do.
    """
    with loading(messages):
        from nst_fast.cli.display import ManyDisplay
        from nst_fast.jobs.batch import BatchRequest, run_batch
        from nst_fast.jobs.inputs import Shard
        from nst_fast.jobs.storage import place_of

    job = BatchRequest(
        inputs=[place_of(given) for given in inputs],
        styles=[place_of(given) for given in style],
        folder=place_of(folder),
        config=config,
        format=kind.removeprefix(".").lower(),
        overwrite=overwrite,
        retry_failed=not skip_failed,
        shard=Shard.parse(shard),
        keep_watching=watch,
        together=together,
        on=on,
        workers=workers,
        address=address,
        gpus_per_worker=gpus_per_worker,
    )
    with graceful_stop(messages.say) as stop:
        outcome = run_batch(job, ManyDisplay(messages, stop, config))
    conclude(outcome, job, messages, stop, as_json=as_json)


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
    emit_result(facts_of(outcome, batch, status), str(batch.folder), as_json=as_json)
    if stop():
        messages.say("the same command continues")
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
