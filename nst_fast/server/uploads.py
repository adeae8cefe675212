"""Uploaded pictures in a folder: checked by decoding, named by their hash, never by what a client calls them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field

from nst_fast.errors import InputError, UsageError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.server.answers import RequestError
from nst_fast.server.models import UploadFacts
from nst_fast.system.files import make_folder, remove, sha256_of, shown, write_atomic

MEGAPIXELS = 179.0  # the most that a picture may have
LONGEST_NAME = 120
ID_DIGITS = 24
ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
KEPT = 500  # uploads that no run uses, the newest
SAMPLES = {"sample-content.png": "content", "sample-style.png": "style"}
SAMPLE_SIDE = 512  # drawing takes 4 s
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}  # the others are called as their formats are


class Upload(UploadFacts):
    """A picture that is here, and its file."""

    file: str
    created: float = Field(default_factory=time.time)

    def facts(self) -> dict[str, Any]:
        return self.model_dump(include=set(UploadFacts.model_fields))


class Uploads:
    """The uploads in a folder. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._decoding = threading.Lock()  # one picture at a time: together they would take all memory
        self._drawing = threading.Lock()
        self._known: dict[str, Upload] = {}
        for path in folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError):  # one that is damaged is uploaded again
                upload = Upload(**json.loads(path.read_text("utf-8")))
                self._known[upload.id] = upload

    def all(self) -> list[Upload]:
        """The newest first."""
        return sorted(self._known.values(), key=lambda upload: upload.created, reverse=True)

    def get(self, id: str, option: str | None = None) -> Upload:
        """The upload of that id. Raises :class:`RequestError`."""
        if id not in self._known:
            raise RequestError(
                404 if option is None else 422, f"there is no upload {shown(id[:40])!r}", "Upload it", option
            )
        return self._known[id]

    def path(self, id: str, option: str | None = None) -> Path:
        return self.folder / self.get(id, option).file

    def display(self, id: str) -> Path:
        return self.folder / f"{self.get(id).id}-display.webp"

    def thumbnail(self, id: str) -> Path:
        return self.folder / f"{self.get(id).id}-thumbnail.webp"

    def add(self, path: Path, name: str) -> Upload:
        """Take a picture file in, under the name that the client gave it; the file is moved or removed.

        Raises :class:`RequestError` for what is no picture that can be read.
        """
        name = shown(re.split(r"[/\\]", name)[-1])[:LONGEST_NAME] or "picture"
        id = sha256_of(path)[:ID_DIGITS]
        try:
            with self._decoding:
                upload = self._known.get(id)
                if upload is None or not self._is_whole(upload):
                    upload = self._known[id] = self._checked(path, id, name)
        except InputError as error:
            raise RequestError(422, error.message, error.remedy, "file", error.exit_code) from error
        finally:
            remove(path)
        return upload

    def _is_whole(self, upload: Upload) -> bool:
        path = self.folder / upload.file
        return path.is_file() and sha256_of(path)[:ID_DIGITS] == upload.id

    def _checked(self, path: Path, id: str, name: str) -> Upload:
        from nst_fast.images.color import parse_color
        from nst_fast.images.decoding import Limits, decode
        from nst_fast.images.sources import check_signature
        from nst_fast.server.pictures import DISPLAY, THUMBNAIL, webp

        with path.open("rb") as stream:
            check_signature(stream.read(16), name)
            stream.seek(0)
            limits = Limits(min(DISPLAY, longest_side(stream, name)), MEGAPIXELS)
            decoded = decode(stream, name, limits, parse_color("white"))
        file = id + SUFFIXES.get(decoded.format, f".{decoded.format.lower()}")
        write_atomic(self.folder / f"{id}-display.webp", webp(decoded.tensor, DISPLAY))
        write_atomic(self.folder / f"{id}-thumbnail.webp", webp(decoded.tensor, THUMBNAIL))
        path.replace(self.folder / file)
        (width, height), record = decoded.size, options_of(self.folder / file)
        upload = Upload(id=id, name=name, width=width, height=height, file=file, record=record)
        write_atomic(self.folder / f"{id}.json", json.dumps(upload.model_dump()).encode())
        return upload

    def samples(self) -> list[dict[str, Any]]:
        """The pictures of ``nst-fast demo``, drawn once."""
        with self._drawing:
            found = {upload.name: upload for upload in self.all() if upload.name in SAMPLES}
            for name in SAMPLES:
                found[name] = found.get(name) or self._drawn(name)
        return [found[name].facts() | {"kind": kind} for name, kind in SAMPLES.items()]

    def _drawn(self, name: str) -> Upload:
        from nst_fast.images import encode_image, from_uint8
        from nst_fast.jobs.sample_art import draw_content, draw_style

        draw = draw_content if SAMPLES[name] == "content" else draw_style
        path = self.temporary()
        write_atomic(path, encode_image(from_uint8(draw(SAMPLE_SIDE)), ".png"))
        return self.add(path, name)

    def temporary(self) -> Path:
        """The name of a new file that :meth:`add` will take."""
        return self.folder / f"{os.urandom(8).hex()}.part"

    def forget(self, used: Collection[str]) -> None:
        """Remove the oldest uploads that are not used, beyond :data:`KEPT`, and what broken uploads have left."""
        for upload in [each for each in self.all() if each.id not in used][KEPT:]:
            self._known.pop(upload.id, None)  # as another request may do at this moment
            for path in self.folder.glob(f"{upload.id}*"):
                remove(path)
        for path in self.folder.glob("*.part"):
            with suppress(FileNotFoundError):  # another client's, which has just become an upload
                if time.time() - path.stat().st_mtime > 3600:
                    remove(path)


def longest_side(stream: BinaryIO, name: str) -> int:
    """Of the picture as its header has it, or else the display's."""
    from PIL import Image

    from nst_fast.images.decoding import FORMATS, pillow_guarded
    from nst_fast.server.pictures import DISPLAY

    try:
        with pillow_guarded(name, MEGAPIXELS):
            return max(Image.open(stream, formats=FORMATS).size)
    except InputError:  # decoding says what is wrong, if anything is
        return DISPLAY


def options_of(path: Path) -> dict[str, Any] | None:
    """The options in a picture's record, without those that name files; None where it has none that can be used."""
    from nst_fast.api import read_record

    try:
        options = read_record(path)["options"]
        config = StylizeConfig().replace(**options)
    except (InputError, UsageError):
        return None
    unusable = {*MASK_KINDS, *config.files}
    return {name: value for name, value in options.items() if name not in unusable}
