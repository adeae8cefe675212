"""Where the files of a batch are: in folders, or at addresses as ``s3://bucket/photos``, reached by fsspec.

An object store has no rename: there a picture is committed by creating its record, which fails if it exists, and then
copying the picture into its place. Whatever happens in between, the record's hash says whether the picture is its own.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from nst_fast.errors import InputError, NstFastError, OutputError, UsageError
from nst_fast.run.provenance import readable_sha256
from nst_fast.system.files import make_folder, move_into_place, remove, sha256_bytes, shown, user_path, write_atomic


@dataclass(frozen=True, order=True)
class Url:
    """A file or folder at an address, with those methods of a path that a batch needs."""

    text: str  # without a slash at its end

    def __fspath__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        return type(self)(self.text.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> Self:
        folder, slash, name = self.text.rpartition("/")
        return type(self)(f"{folder}{slash}{PurePosixPath(name).with_suffix(suffix)}")

    def exists(self) -> bool:
        return bool(self.call("exists"))

    def is_dir(self) -> bool:
        return bool(self.call("isdir"))

    def read_bytes(self) -> bytes:
        data: bytes = self.call("cat_file")
        return data

    def files(self) -> Iterator[tuple[str, Self]]:
        """Name below this folder and address of every file in it, in order."""
        root = self.call("_strip_protocol", self.text).rstrip("/")
        for path in self.call("find"):
            # A folder that another process has just begun is found as if it were a file in itself.
            if name := path[len(root) :].strip("/"):
                yield name, self / name

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of fsspec's file system for this path.

        Raises:
            FileNotFoundError, FileExistsError: as the method does.
            OutputError: the store cannot be reached, or refuses.
            UsageError: an address of an unknown kind, or one whose package is missing.
        """
        from fsspec.core import url_to_fs

        try:
            # Others write there too: a listing that was kept would be wrong.
            system, path = url_to_fs(self.text, use_listings_cache=False)
            if method == "_strip_protocol":
                return path
            return getattr(system, method)(path, *arguments, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except (ImportError, ValueError) as error:
            raise UsageError(f"{shown(self)}: {error}", "s3:// needs s3fs, gs:// needs gcsfs") from error
        except Exception as error:  # the stores' clients have errors of their own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OutputError(f"{shown(self)}: {reason}", "Check the address and your rights to it") from error


Place = Path | Url


def place_of(given: str | os.PathLike[str]) -> Place:
    """The path or address that a user gives."""
    text = os.fspath(given)
    return Url(text.rstrip("/")) if re.match(r"[a-z][a-z0-9+.-]+://", text) else user_path(text)


def sha256_at(place: Place) -> str:
    """The sha256 of a file; empty when it cannot be read, which agrees with no record."""
    if isinstance(place, Path):
        return readable_sha256(place)
    try:
        return sha256_bytes(place.read_bytes())
    except FileNotFoundError:
        return ""


def stamp(place: Place) -> object:
    """What changes when a file does; None when it is not there."""
    try:
        if isinstance(place, Url):
            return place.call("ukey")
        status = place.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def identity(place: Place) -> object:
    """The same for all names of a file or folder; None when it is not there."""
    if isinstance(place, Url):
        return place
    try:
        status = place.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write(place: Place, data: bytes) -> None:
    """Write a whole file. Raises :class:`OutputError`."""
    if isinstance(place, Path):
        make_folder(place.parent)
        write_atomic(place, data)
    else:
        place.call("pipe_file", data)


def commit(attempt: Place, picture: Place, record: bytes) -> None:
    """Put what a worker has written, and its record, into their places.

    Raises:
        OutputError: it cannot be written; or, on an object store, another batch has just written it.
    """
    beside = picture.with_suffix(".json")
    if isinstance(attempt, Path) and isinstance(picture, Path):
        make_folder(picture.parent)
        move_into_place(attempt, picture)
        write_atomic(beside, record)
        return
    assert isinstance(attempt, Url) and isinstance(picture, Url) and isinstance(beside, Url)  # both below one folder
    delete(beside)
    try:
        beside.call("pipe_file", record, mode="create")
    except FileExistsError as error:
        message = f"{shown(beside)} was written in this moment: another batch works there"
        raise OutputError(message, "Stop one of them; the same command continues") from error
    attempt.call("cp_file", picture.call("_strip_protocol"))
    delete(attempt)


def delete(place: Place) -> None:
    """Remove a file that is no longer needed, if it is there."""
    if isinstance(place, Path):
        remove(place)
    else:
        with suppress(FileNotFoundError):
            place.call("rm_file")


def delete_folder(place: Place) -> None:
    """Remove a folder of what is no longer needed, if it is there."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
    elif place.is_dir():
        place.call("rm", recursive=True)


class Fetched:
    """Copies of files at addresses, as long as this object lives."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="nst-fast-"))
        weakref.finalize(self, shutil.rmtree, self.path, True)
        self._copies: dict[Place, Path] = {}

    def local(self, place: Place) -> Path:
        """A path itself, or a copy under the same name. Raises :class:`InputError` if there is nothing to copy."""
        if isinstance(place, Path):
            return place
        if place not in self._copies:
            copy = Path(tempfile.mkdtemp(dir=self.path)) / place.name
            try:
                write_atomic(copy, place.read_bytes())
            except FileNotFoundError as error:
                raise InputError(f"{shown(place)} does not exist") from error
            self._copies[place] = copy
        return self._copies[place]

    def forget(self, place: Place) -> None:
        """Delete the copy, if there is one."""
        if copy := self._copies.pop(place, None):
            delete_folder(copy.parent)

    def renamed(self, error: NstFastError | None, place: Place) -> NstFastError | None:
        """The error with the address in place of the copy's path."""
        if error is None or place not in self._copies:
            return error
        return type(error)(error.message.replace(str(self._copies[place]), str(place)), error.remedy)
