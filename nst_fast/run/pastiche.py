"""The result of a run: a picture and its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nst_fast.errors import NumericsError
from nst_fast.run.outputs import OutputFiles, bit_depth_of
from nst_fast.run.record import RunRecord


@dataclass(frozen=True)
class Pastiche:
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record.

    A run that diverged beyond repair still has a picture, its best; ``failure`` is then what to raise once it is saved.
    """

    image: Tensor
    record: RunRecord
    failure: NumericsError | None = None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the picture with its record inside, and record and loss curve beside it."""
        files = OutputFiles(Path(path))
        files.check(overwrite=overwrite, inputs=(), bit_depth=bit_depth_of(self.record), side=max(self.image.shape))
        files.save(self.image, self.record)
