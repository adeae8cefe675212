"""``nst-fast video``: a film painted frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nst_fast.cli.console import Messages, emit, emit_json
from nst_fast.cli.options import Json, overwrites, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.cli.startup import loading
from nst_fast.options.video import VIDEO_FIXED, VideoConfig


@takes(VideoConfig, without=VIDEO_FIXED, recipes=True)
def video(
    config: VideoConfig,
    messages: Messages,
    film: Annotated[Path, typer.Argument(help="The film to be painted.")],
    style: Annotated[
        list[Path],
        typer.Option("--style", metavar="FILE", help="A picture to paint like; given again, both are blended."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The film to write.")],
    preview: Annotated[
        bool, typer.Option("--preview", help="Paint three frames onto OUTPUT-preview.png, and say how long all take.")
    ] = False,
    keep_frames: Annotated[
        bool, typer.Option("--keep-frames", help="Leave the frames in the folder OUTPUT-frames at the end.")
    ] = False,
    shard: Annotated[
        str,
        typer.Option("--shard", help="Paint only these scenes, as 2/5: from the second on every fifth.", metavar="I/N"),
    ] = "1/1",
    overwrite: Annotated[bool, overwrites("OUTPUT, and frames that were made otherwise")] = False,
    as_json: Json = False,
) -> None:
    """Paint FILM in the style of --style, each frame consistent with the ones before it.

    Example: nst-fast video holiday.mp4 --style painting.jpg -o painted.mp4 --preview

    Each frame starts from the one before, moved along the motion of the scene, and is held to it where the motion is
    certain; a cut begins anew. Frames are kept in OUTPUT-frames until the film is whole: interrupted in whatever way,
    the same command continues. Several processes share a film with --shard; the same command without it then puts it
    together. Sound is copied. Wants the extra video.
    """
    with loading(messages):
        from nst_fast.cli.display import ManyDisplay
        from nst_fast.jobs.inputs import Shard
        from nst_fast.jobs.video import VideoRequest, preview_video, run_video

    request = VideoRequest(
        film=film,
        styles=style,
        output=output,
        config=config,
        overwrite=overwrite,
        keep_frames=keep_frames,
        shard=Shard.parse(shard),
    )
    with graceful_stop(messages.say) as stop:
        result = (preview_video if preview else run_video)(request, ManyDisplay(messages, stop, config))
    status = "complete" if result.complete else "stopped"
    written = request.sheet if preview else output if request.whole else request.folder.path
    messages.say(f"{status}: {result.done} of {result.count} frames, {result.made} made now in {result.seconds:.1f} s")
    if result.estimate:
        messages.say(f"the whole film: {result.estimate}")
    if as_json:
        facts = {"frames": result.count, "done": result.done, "made": result.made, "seconds": result.seconds}
        emit_json({"schema": "nst-fast/video-result/1", "status": status, "output": str(written), **facts})
    elif result.complete:
        emit(str(written))
    if not result.complete:
        messages.say("the same command continues")
        raise typer.Exit(stop.exit_code)
