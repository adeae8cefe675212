"""What a batch is asked to make, who hears of it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.jobs.batch.manifest import DONE, FAILED, Entry
from nst_fast.jobs.batch.shards import WHOLE, Shard
from nst_fast.jobs.series.run import Watch
from nst_fast.options.config import StylizeConfig


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What to make.

    Attributes:
        inputs: pictures and folders.
        styles: all blended in every picture, as ``stylize`` does.
        folder: where the outputs go, in a tree like that of the inputs.
        config: every option.
        format: of the outputs: png, jpg, webp, tif or bmp.
        overwrite: replace pictures that this batch did not make, or made with other options.
        retry_failed: try again what failed before this call.
        shard: the part to do.
        keep_watching: look for new pictures until stopped.
        together: how many pictures of one size may share a loop, see :mod:`nst_fast.run.together`.
    """

    inputs: Sequence[Path]
    styles: Sequence[Path]
    folder: Path
    config: StylizeConfig
    format: str = "png"
    overwrite: bool = False
    retry_failed: bool = True
    shard: Shard = WHOLE
    keep_watching: bool = False
    together: int = 1


@dataclass(frozen=True)
class Hooks:
    """Who hears of a batch while it goes on.

    Attributes:
        watch: announces a picture, and gives the listeners of its run.
        note: one sentence about something the user should know.
        made: one sentence about a picture that is finished.
        failed: one sentence about a picture that cannot be made.
        stop: asked between pictures, and while waiting.
    """

    watch: Watch
    note: Callable[[str], None] = lambda text: None
    made: Callable[[str], None] = lambda text: None
    failed: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Outcome:
    """What came of a batch, or of a shard of it.

    Attributes:
        entries: what the manifest says of each input, whichever worker did it.
        left: inputs of which it says nothing yet.
        made: pictures that this worker made.
        seconds: that this worker took.
    """

    entries: Mapping[str, Entry]
    left: Sequence[str]
    made: int
    seconds: float

    @property
    def done(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == DONE]

    @property
    def failed(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == FAILED]

    @property
    def count(self) -> int:
        return len(self.entries) + len(self.left)
