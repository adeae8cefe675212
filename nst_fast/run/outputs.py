"""The result of a run and its files: the picture, the record and the loss curve beside it, numbered snapshots."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from nst_fast.errors import NumericsError, UsageError
from nst_fast.images import check_output_suffix, save_image
from nst_fast.images.plots import save_loss_curve
from nst_fast.run.record import RunRecord
from nst_fast.system.files import check_writable, sha256_of
from nst_fast.system.isolation import own_state


@dataclass(frozen=True)
class OutputFiles:
    """Where the files of one run go; everything is named after the picture."""

    picture: Path

    @classmethod
    def of(cls, output: str | os.PathLike[str]) -> Self:
        """The files of a picture at a path that a program gives. Raises :class:`UsageError` for what is no path."""
        if not isinstance(output, str | os.PathLike):
            raise UsageError(f"`output` is {type(output).__name__}, no path", "Give a path, as out.png")
        return cls(Path(output))

    @property
    def record(self) -> Path:
        return self.picture.with_suffix(".json")

    @property
    def loss_curve(self) -> Path:
        return self.picture.with_name(f"{self.picture.stem}-losses.png")

    def snapshot(self, step: int, kind: str = "same") -> Path:
        """The numbered file of a snapshot; ``kind`` is a suffix without its dot, or ``same`` for the picture's own."""
        suffix = self.picture.suffix if kind == "same" else f".{kind}"
        return self.picture.with_name(f"{self.picture.stem}-{step:06d}{suffix}")

    def checkpoint(self, step: int) -> Path:
        """The numbered file of a checkpoint."""
        return self.picture.with_name(f"{self.picture.stem}-checkpoint-{step:06d}.safetensors")

    def checkpoints(self) -> list[Path]:
        """The checkpoints that there are, the newest first."""
        pattern = re.compile(re.escape(self.picture.stem) + r"-checkpoint-(\d{6,})\.safetensors")
        try:
            paths = list(self.picture.parent.iterdir())
        except OSError:  # no folder, no checkpoints
            return []
        steps = {int(match[1]): path for path in paths if (match := pattern.fullmatch(path.name))}
        return [steps[step] for step in sorted(steps, reverse=True)]

    def check(self, *, overwrite: bool, inputs: Iterable[Path], bit_depth: int = 8, side: int = 0) -> None:
        """Raise, before any work, if the picture could not be written or would destroy something.

        Args:
            overwrite: whether what has the names of our files may be replaced.
            inputs: files that are read.
            bit_depth: of the picture, per channel.
            side: its longest, in pixels.
        """
        check_output_suffix(self.picture, bit_depth, side)
        inputs = list(inputs)
        for path in (self.picture, self.record, self.loss_curve):
            check_writable(path, overwrite=overwrite, inputs=inputs)

    def save_snapshot(self, image: Tensor, step: int, kind: str = "same") -> None:
        save_image(image, self.snapshot(step, kind))

    def save(self, image: Tensor, record: RunRecord) -> None:
        """Write the picture with its record inside, then the record and the curve beside it."""
        self.save_picture(image, record)
        save_loss_curve(record.as_dict(), self.loss_curve)

    def save_picture(self, image: Tensor, record: RunRecord) -> None:
        """Write the picture, then the record, whose hash of the picture says that both are whole."""
        record.output, record.output_sha256 = self.picture.name, ""
        save_image(image, self.picture, text=record.as_text(), bit_depth=bit_depth_of(record))
        record.output_sha256 = sha256_of(self.picture)
        record.save(self.record)


def bit_depth_of(record: RunRecord) -> int:
    """Bits per channel of the picture that a run makes; records from before there was a choice say nothing."""
    return int(record.options.get("bit_depth", 8))


@dataclass(frozen=True, eq=False)
class Pastiche:
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record.

    A run that diverged beyond repair still has a picture, its best; ``failure`` is then what to raise once it is saved.
    """

    image: Tensor
    record: RunRecord
    failure: NumericsError | None = None

    def __eq__(self, other: object) -> bool:
        """Whether pixels and record are the same."""
        return isinstance(other, Pastiche) and torch.equal(self.image, other.image) and self.record == other.record

    __hash__ = None  # type: ignore[assignment]  # its record may be changed

    @own_state()
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the picture with its record inside, and record and loss curve beside it."""
        files = OutputFiles.of(path)
        files.check(overwrite=overwrite, inputs=(), bit_depth=bit_depth_of(self.record), side=max(self.image.shape))
        files.save(self.image, self.record)
