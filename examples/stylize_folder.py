"""Paint every picture of a folder in one style, and watch each run.

    python examples/stylize_folder.py                        # the demo's scene in the style of the demo's painting
    python examples/stylize_folder.py photos painting.jpg -o painted

Shows three things of the Python API: an ``Observer`` gets progress and notes and can stop a run; ``Networks`` loads
the network once for all pictures; a picture that cannot be used is named, and the others are made. For real work there
is ``nst-fast batch``, which does the same and can be resumed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from demo_pair import demo_pair

from nst_fast import Networks, NstFastError, Observer, stylize

if TYPE_CHECKING:
    from nst_fast.run.observer import StepEvent

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}
SOME_FAILED, INTERRUPTED = 10, 130  # exit codes, as those of nst-fast


class Watch(Observer):
    """Prints what happens to one picture after another; Ctrl-C ends the run in good order, with its picture so far."""

    def __init__(self) -> None:
        self.name = ""
        self.stopped = False
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_: object) -> None:
        self.stopped = True

    def event(self, event: StepEvent) -> None:
        rate = f"{event.steps_per_second:.2f} steps/s"
        print(f"{self.name}: step {event.step} of {event.steps}, loss {event.terms['total']:.4g}, {rate}", flush=True)

    def note(self, text: str) -> None:
        print(f"{self.name}: {text}", flush=True)

    def stop(self) -> bool:
        return self.stopped


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="the pictures to paint; by default the demo's scene")
    parser.add_argument("style", nargs="?", type=Path, help="the picture whose manner is taken")
    parser.add_argument("-o", "--output", type=Path, default=Path("nst-fast-examples"), help="the folder to write to")
    parser.add_argument("--image-size", type=int, default=256, help="longest side in pixels (default 256)")
    parser.add_argument("--steps", type=int, default=60, help="optimiser updates (default 60)")
    parser.add_argument("--weights", default="auto", help="as of nst-fast stylize (default auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that exist")
    given = parser.parse_args()
    if given.folder and not given.style:
        parser.error("a folder needs a style picture after it")
    if given.folder and not pictures_in(given.folder):
        parser.error(f"{given.folder}: no folder with pictures in it")
    return given


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)


def main() -> int:
    given = arguments()
    if given.folder:
        contents, style = pictures_in(given.folder), given.style
    else:
        content, style = demo_pair(given.output / "demo", given.image_size)
        contents = [content]
    watch, networks, failed = Watch(), Networks(), []
    options = {name: getattr(given, name) for name in ("image_size", "steps", "weights", "overwrite")}
    options["monitor_every"] = 0  # no second opinion from ONNX Runtime, so nothing to export first
    for content in contents:
        watch.name = content.name
        output = given.output / f"{content.stem}-painted.png"
        try:
            pastiche = stylize(content, style, output=output, listeners=watch, networks=networks, **options)
        except NstFastError as error:
            print(f"{content.name}: error: {error}", file=sys.stderr)
            failed.append(content)
            continue
        print(f"{output}: {pastiche.record.status}, {pastiche.record.steps} steps")
        if watch.stopped:
            return INTERRUPTED
    return SOME_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
