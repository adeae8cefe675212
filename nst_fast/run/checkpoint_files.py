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


class CheckpointWriter:
    """Writes checkpoints beside the picture of a run.

    Args:
        files: of the run.
        interval: between two checkpoints.
        note: called when a checkpoint cannot be written; the run continues, and none is due any more.
    """

    def __init__(self, files: OutputFiles, interval: Interval, note: Callable[[str], None]) -> None:
        self.files = files
        self.interval = interval
        self.note = note
        self.failed = False
        self._last = time.monotonic()
        self._pause = interval.seconds

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due before this step. Reads the step and the clock only."""
        if self.failed:
            return False
        if self.interval.steps:
            return step > 0 and step % self.interval.steps == 0
        return time.monotonic() - self._last >= self._pause

    def write(self, checkpoint: Checkpoint) -> str:
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


def checkpoint_writer(
    files: OutputFiles | None, interval: Interval | None, note: Callable[[str], None]
) -> CheckpointWriter | None:
    """The writer of a run's checkpoints, if it writes files and checkpoints are wanted."""
    return CheckpointWriter(files, interval, note) if files is not None and interval is not None else None


def remove_checkpoints(files: OutputFiles) -> None:
    """Remove all checkpoints of a run that is complete or started anew."""
    for path in files.checkpoints():
        remove(path)
