"""The frames of a film that is being made, on disk: a process that is killed loses the one it was making."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nst_fast.errors import InputError, OutputError
from nst_fast.images import encode_image, load_image
from nst_fast.images.film import FilmInfo, Frame
from nst_fast.jobs.storage import delete_folder
from nst_fast.run.outputs import Pastiche
from nst_fast.run.provenance import Provenance
from nst_fast.system.files import TEMP_PREFIX, make_folder, remove, shown, write_atomic
from nst_fast.system.rounding import rounded

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class VideoFolder:
    """Beside OUT.mp4 the folder OUT-frames: ``plan.json``, and of every pass the frames with their facts.

    A frame is there when its facts are, which are written last. What follows a frame starts from the picture on disk,
    so that it makes no difference whether the process is still the same.
    """

    path: Path

    def continues(self, wanted: Provenance, *, overwrite: bool) -> bool:
        """Whether the folder has frames of this film.

        Raises:
            OutputError: it has those of another, which only ``overwrite`` removes; or is none of ours.
        """
        if not self.path.exists() or all(path.name.startswith(TEMP_PREFIX) for path in self.path.iterdir()):
            return False
        try:
            found = Provenance(**json.loads(self.plan.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            raise OutputError(f"{shown(self.path)} is in the way of the frames", "Choose another output") from None
        difference = next(iter(wanted.differences(found)), "")
        if difference and not overwrite:
            message = f"{shown(self.path)} holds frames that were made otherwise: {difference}"
            raise OutputError(message, "Use `overwrite` to remove them, or choose another output")
        return not difference

    def begin(self, wanted: Provenance) -> None:
        """Make the folder, empty but for the plan."""
        self.remove()
        make_folder(self.path)
        write_atomic(self.plan, json.dumps(asdict(wanted)).encode())

    def remove(self) -> None:
        """Remove what is ours, the plan last: without it a folder would not be known as ours."""
        for folder in self.path.glob("pass-*"):
            delete_folder(folder)
        for path in (self.path / "scenes.json", self.plan):
            remove(path)
        if self.path.is_dir() and not any(self.path.iterdir()):  # else there is something of the user's
            delete_folder(self.path)

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    def scenes(self, find: Callable[[], list[range]]) -> list[range]:
        """The frames of each scene, found once."""
        path = self.path / "scenes.json"
        with suppress(OSError):
            return [range(start, stop) for start, stop in json.loads(path.read_text("utf-8"))]
        found = find()
        write_atomic(path, json.dumps([[scene.start, scene.stop] for scene in found]).encode())
        return found

    def facts(self, number: int, index: int) -> Facts | None:
        """The facts of a frame of a pass; None while it is not made."""
        with suppress(OSError):
            found: Facts = json.loads(self._file(number, index, ".json").read_text("utf-8"))
            return found
        return None

    def save(self, number: int, index: int, pastiche: Pastiche, state: Tensor, facts: Facts) -> None:
        """Write a frame, its state if that is another picture, and at last its facts."""
        make_folder(self._file(number, index, "").parent)
        image = pastiche.image if pastiche.alpha is None else torch.cat([pastiche.image, pastiche.alpha], 1)
        write_atomic(self._file(number, index, ".png"), encode_image(image, ".png"))
        if state is not pastiche.image or pastiche.alpha is not None:
            write_atomic(self._file(number, index, "-state.png"), encode_image(state, ".png"))
        write_atomic(self._file(number, index, ".json"), json.dumps(rounded(facts)).encode())

    def state(self, number: int, index: int) -> Tensor:
        """What the optimisation of a frame ended with [1, 3, H, W], rounded to 8 bits."""
        path = self._file(number, index, "-state.png")
        return load_image(path if path.exists() else self._file(number, index, ".png")).tensor

    def frames(self, number: int, info: FilmInfo) -> Iterator[Frame]:
        """The frames of a pass, for the film."""
        for index, time in enumerate(info.times):
            path = self._file(number, index, ".png")
            try:
                with Image.open(path) as image:
                    yield Frame(index, time, np.array(image.convert("RGBA" if info.alpha else "RGB")))
            except OSError as error:
                raise InputError(
                    f"{shown(path)} cannot be read: {error}", "Remove its .json: it is made again"
                ) from None

    def _file(self, number: int, index: int, suffix: str) -> Path:
        return self.path / f"pass-{number}" / f"{index:06d}{suffix}"
