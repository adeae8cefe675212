"""When a checkpoint is due, and which checkpoints are kept: the two newest, until the picture is written."""

from __future__ import annotations

import time
from collections.abc import Callable

from nst_fast.errors import OutputError
from nst_fast.options.values import Interval
from nst_fast.run.checkpoint import Checkpoint, write_checkpoint
from nst_fast.run.outputs import OutputFiles
from nst_fast.system.files import remove

KEPT = 2  # should the newest turn out to be damaged, there is another
# A checkpoint of a large picture with a long L-BFGS history takes seconds: at least so many times as long lies between
# two that come by time.
LEAST_PAUSE = 20


class Keeper:
    """Keeps the state of a run in files beside its picture.

    Args:
        files: of the run.
        interval: between two checkpoints.
        note: hears that a checkpoint cannot be written; the run goes on, and none is due any more.
    """

    def __init__(self, files: OutputFiles, interval: Interval, note: Callable[[str], None]) -> None:
        self.files = files
        self.interval = interval
        self.note = note
        self.failed = False
        self._last = time.monotonic()
        self._pause = interval.seconds

    def due(self, step: int) -> bool:
        """Whether the state is to be kept before this step. Looks at nothing but the step and the clock."""
        if self.failed:
            return False
        if self.interval.steps:
            return step > 0 and step % self.interval.steps == 0
        return time.monotonic() - self._last >= self._pause

    def keep(self, checkpoint: Checkpoint) -> str:
        """Write the checkpoint and remove those before the last two; or say why it could not be written."""
        started = time.monotonic()
        try:
            write_checkpoint(self.files.checkpoint(checkpoint.step), checkpoint)
        except OutputError as error:
            self.failed = True
            problem = f"no checkpoint at step {checkpoint.step}, nor after it: {error}"
            self.note(problem)
            return problem
        for path in self.files.checkpoints()[KEPT:]:
            remove(path)
        self._last = time.monotonic()
        self._pause = max(self.interval.seconds, LEAST_PAUSE * (self._last - started))
        return ""


def keeper_of(files: OutputFiles | None, interval: Interval | None, note: Callable[[str], None]) -> Keeper | None:
    """The keeper of a run, if it writes files and is to keep its state."""
    return Keeper(files, interval, note) if files is not None and interval is not None else None


def remove_checkpoints(files: OutputFiles) -> None:
    """Remove all checkpoints of a run: it is complete, or begun anew."""
    for path in files.checkpoints():
        remove(path)
