"""Lines appended to a file that several processes write to: the one kind of file that is not replaced whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from nst_fast.errors import OutputError
from nst_fast.system.files import shown

BLOCK = 4096  # bytes read at a time, from the end, in search of the last line's end


def append_line(path: Path, line: str) -> None:
    """Append a line and force it to the disk; processes take turns by an OS lock, which a crash releases.

    A crash in here leaves at most one line without its end. No reader may count it, and the next call removes it.

    Args:
        path: the file, made if it is missing; its folder exists.
        line: without its end, and without line breaks.

    Raises:
        OutputError: it cannot be written; the file is as it was.
    """
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b", buffering=0) as stream:
            end = end_of_lines(stream)
            stream.truncate(end)
            try:
                write_all(stream, line.encode() + b"\n")
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "Mend that and run the same command again: what is finished is kept"
        raise OutputError(f"{shown(path)}: no line could be added: {reason}", remedy) from error


def end_of_lines(stream: BinaryIO) -> int:
    """Where the last whole line ends, in bytes from the start; 0 when there is none."""
    at = stream.seek(0, os.SEEK_END)
    while at > 0:
        start = max(0, at - BLOCK)
        stream.seek(start)
        found = stream.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Unbuffered, a write may take less than it is given: a full disk shows itself only at the next one."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
