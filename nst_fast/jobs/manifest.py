"""The manifest of a batch: a line of JSON for every picture that was made or could not be made.

In a folder it is the one kind of file that is not replaced whole: the drivers of several shards append to it. In an
object store, where nothing can be appended to, lines are kept back for some seconds and it is written anew.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from filelock import FileLock

from nst_fast.errors import InputError, OutputError
from nst_fast.jobs.storage import Place, Url, write
from nst_fast.system.files import shown

SCHEMA = "nst-fast/batch/1"
DONE, FAILED = "done", "failed"
KEPT_BACK_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the manifest.

    Attributes:
        input: the picture's name within the batch: its path below INPUT, with slashes.
        input_sha256: of its bytes when it was read; empty if it could not be.
        options_sha256: of everything that decides its picture, see :class:`nst_fast.jobs.batch.BatchFolder`.
        status: ``done`` or ``failed``.
        output: path below the batch's folder, with slashes.
        output_sha256: of the picture's bytes; empty for a failed one.
        seconds: that it took; of pictures in one loop, an equal share.
        error: ``kind``, ``message`` and ``exit_code`` of what went wrong; None for a picture that was made.
        worker: host and process that did it.
        finished: when, in UTC.
    """

    input: str
    input_sha256: str
    options_sha256: str
    status: str
    output: str
    output_sha256: str
    seconds: float
    error: dict[str, Any] | None
    worker: str
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema: str = SCHEMA


class Manifest:
    """The content of the file, read as it grows: other workers add to it all the time.

    Attributes:
        entries: the last line about each input.
        lines: how many lines have been read; ``place`` says at which of them each of ``entries`` stands.
        made: every input with an output that was ever made of it.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.place: dict[str, int] = {}
        self.made: set[tuple[str, str]] = set()
        self.lines = 0
        self._read_to = 0
        self._kept_back = b""
        self._written_at = time.monotonic()

    def refresh(self) -> None:
        """Read what was added. A last line without its end is left: it is being written, or its writer has died."""
        try:
            added = self._added()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{shown(self.path)}: cannot be read: {(error.strerror or str(error)).lower()}") from error
        whole = added[: added.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            self.lines += 1
            entry = parse_line(line, f"{shown(self.path)}: line {self.lines}")
            if entry is not None:
                self.entries[entry.input] = entry
                self.place[entry.input] = self.lines
                if entry.status == DONE:
                    self.made.add((entry.input, entry.output))

    def _added(self) -> bytes:
        if isinstance(self.path, Url):
            return self.path.read_bytes()[self._read_to :]
        with self.path.open("rb") as stream:
            stream.seek(self._read_to)
            return stream.read()

    def append(self, entry: Entry) -> None:
        """Add a line and force it to the disk. Raises :class:`OutputError`."""
        # ASCII, so that a name which is not UTF-8 survives as well.
        line = json.dumps({"schema": entry.schema, **asdict(entry)})
        if isinstance(self.path, Path):
            append_line(self.path, line)
            self.refresh()
            return
        self._kept_back += line.encode() + b"\n"
        if time.monotonic() - self._written_at > KEPT_BACK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the lines that are kept back; a driver that dies before finds their pictures by their records."""
        if self._kept_back:
            before = self.path.read_bytes() if self.path.exists() else b""
            write(self.path, before[: before.rfind(b"\n") + 1] + self._kept_back)
            self._kept_back, self._written_at = b"", time.monotonic()
            self.refresh()


def parse_line(line: bytes, name: str) -> Entry | None:
    """A line of a manifest; None for one that is damaged, which makes its picture count as not made.

    Raises:
        OutputError: the line is sound, but of a version that this one must not add to.
    """
    try:
        data = json.loads(line)
        schema = data["schema"]
        if schema == SCHEMA:
            return msgspec.convert(data, Entry)
    except (ValueError, KeyError, TypeError, RecursionError):  # ValueError: no JSON, or of another shape
        return None
    raise OutputError(f"{name} is of another version ({schema!r}, expected {SCHEMA!r})", "Choose another folder")


def append_line(path: Path, line: str) -> None:
    """Append a line and force it to the disk; processes take turns by an OS lock, which a crash releases.

    A crash in here leaves at most one line without its end, which no reader counts, and which the next call removes.

    Raises:
        OutputError: it cannot be written; the file is as it was.
    """
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            if stream.read(1) not in (b"", b"\n"):  # a crash has cut the last line
                stream.seek(0)
                end = stream.read().rfind(b"\n") + 1
                stream.truncate(end)
            try:
                _write_all(stream, line.encode() + b"\n")
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "Mend that and run the same command again: what is finished is kept"
        raise OutputError(f"{shown(path)}: no line could be added: {reason}", remedy) from error


def _write_all(stream: BinaryIO, data: bytes) -> None:
    """Unbuffered, a write may take less than it is given: a full disk shows itself only at the next one."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
