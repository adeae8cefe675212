"""The result of a run and its files: the picture, the record and the loss curve beside it, numbered snapshots."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from nst_fast.errors import NumericsError, UsageError
from nst_fast.images import check_output_suffix, encode_image, save_image
from nst_fast.images.color import parse_color
from nst_fast.images.encoding import QUALITY, TRANSPARENT, WRITABLE
from nst_fast.images.plots import save_loss_curve
from nst_fast.images.transparency import on_background
from nst_fast.options.config import StylizeConfig
from nst_fast.run.record import RunRecord
from nst_fast.system.files import check_local, check_writable, refuse_inputs, sha256_of, user_path
from nst_fast.system.isolation import own_state


@dataclass(frozen=True)
class OutputFiles:
    """Where the files of one run go; everything is named after the picture, by its name without suffix.

    Attributes:
        keeps_snapshots: those that there are stay: the resumed run has made them, and would make the same.
    """

    picture: Path
    keeps_snapshots: bool = False

    def __post_init__(self) -> None:
        check_local(self.picture)
        object.__setattr__(self, "picture", user_path(self.picture))

    @property
    def ends_with(self) -> tuple[Path, Path, Path]:
        """The files that are there at the end."""
        return self.picture, self.record, self.loss_curve

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

    def snapshots(self, config: StylizeConfig) -> Iterator[Path]:
        """All that a run may write."""
        for step in range(config.save_every, config.steps + 1, config.save_every) if config.save_every else ():
            yield self.snapshot(step, config.save_format)

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

    def check(
        self,
        *,
        overwrite: bool,
        inputs: Iterable[Path],
        bit_depth: int = 8,
        side: int = 0,
        snapshots: Iterable[Path] = (),
    ) -> None:
        """Raise, before any work, if the files could not be written or would destroy something.

        Args:
            overwrite: whether what has the names of our files may be replaced.
            inputs: files that are read.
            side: the longest of the picture, in pixels.
        """
        check_output_suffix(self.picture, bit_depth, side)
        inputs = list(inputs)
        refuse_inputs(self.checkpoints(), inputs)  # they are removed in the end
        snapshots = list(snapshots) if not self.keeps_snapshots else []
        there = [path for path in snapshots if os.path.exists(path)]  # noqa: PTH110 - false where the path is unusable
        refuse_inputs(there, inputs)
        for path in (*self.ends_with, *there[:1], *snapshots[-1:]):
            check_writable(path, overwrite=overwrite, inputs=inputs)

    def save_snapshot(self, image: Tensor, step: int, config: StylizeConfig, alpha: Tensor | None) -> None:
        path = self.snapshot(step, config.save_format)
        if not (self.keeps_snapshots and path.exists()):
            save_image(with_alpha(image, alpha, path, config.background), path, quality=config.file_quality)

    def save(self, image: Tensor, record: RunRecord, alpha: Tensor | None = None) -> None:
        """Write the picture with its record inside (option ``metadata``), then the record and the curve beside it.

        ``alpha`` is part of the picture where the format holds any; elsewhere it is put on ``background``.
        """
        self.save_picture(image, record, alpha)
        save_loss_curve(record.as_dict(), self.loss_curve)

    def save_picture(self, image: Tensor, record: RunRecord, alpha: Tensor | None = None) -> None:
        """Write the picture, then the record, whose hash of the picture says that both are whole."""
        record.output, record.output_sha256 = self.picture.name, ""
        text = record.as_text()
        image = with_alpha(image, alpha, self.picture, record.options.get("background", "white"))
        quality = int(record.options.get("file_quality", QUALITY))
        save_image(image, self.picture, text=text, bit_depth=bit_depth_of(record), quality=quality)
        record.output_sha256 = sha256_of(self.picture)
        record.save(self.record)


def bit_depth_of(record: RunRecord) -> int:
    """Bits per channel of the picture that a run makes; records from before there was a choice say nothing."""
    return int(record.options.get("bit_depth", 8))


def with_alpha(image: Tensor, alpha: Tensor | None, path: Path, background: str) -> Tensor:
    """An image [1, 3, H, W] and its alpha [1, 1, H, W] as the format of a file holds them."""
    if alpha is None:
        return image
    if WRITABLE[path.suffix.lower()] in TRANSPARENT:
        return torch.cat([image, alpha], 1)
    return on_background(image, alpha, parse_color(background))


@dataclass(frozen=True, eq=False)
class Pastiche:
    """The result of a run: ``image`` [1, 3, H, W], RGB float32 in [0, 1] on the CPU, and the run's record.

    ``alpha`` [1, 1, H, W] is the content's, None where all of it is opaque.
    A run that diverged beyond repair still has a picture, its best; ``failure`` is then what to raise once it is saved.
    ``inputs`` are the files that the run has read.
    """

    image: Tensor
    record: RunRecord
    failure: NumericsError | None = None
    inputs: tuple[Path, ...] = ()
    alpha: Tensor | None = None

    def __eq__(self, other: object) -> bool:
        """Whether pixels and record are the same."""
        return isinstance(other, Pastiche) and torch.equal(self.image, other.image) and self.record == other.record

    __hash__ = None  # type: ignore[assignment]  # its record may be changed

    @own_state()
    def png(self) -> bytes:
        """The picture as the bytes of a PNG file, with its record inside (option ``metadata``)."""
        image = self.image if self.alpha is None else torch.cat([self.image, self.alpha], 1)
        return encode_image(image, ".png", text=self.record.as_text(), bit_depth=bit_depth_of(self.record))

    def _repr_png_(self) -> bytes:
        """What a notebook shows of it."""
        return self.png()

    @own_state()
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the picture with its record inside, and record and loss curve beside it."""
        files, side = OutputFiles.of(path), max(self.image.shape)
        files.check(overwrite=overwrite, inputs=self.inputs, bit_depth=bit_depth_of(self.record), side=side)
        files.save(self.image, self.record, self.alpha)
