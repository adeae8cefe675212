"""Every call by which a file gets to the disk, with an action before and after it: a failure, or the process's end."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WATCHED = ("open", "fsync", "replace", "close", "unlink", "chmod", "mkdir")  # of os; io.open and write() are added
Act = Callable[[str, str], None]  # a call's name, "before" or "after"; may raise, or end the process


class WatchedStream:
    """A file whose writes are points of their own, each reaching the system at once."""

    def __init__(self, stream: Any, act: Act) -> None:
        self._stream = stream
        self._act = act

    def write(self, data: Any) -> int:
        self._act("write", "before")
        half = len(data) // 2
        self._stream.write(data[:half])
        self._stream.flush()
        self._act("write", "after")  # half of it is there
        self._stream.write(data[half:])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> WatchedStream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class FullDisk:
    """A file on a disk that has room for so many more bytes."""

    def __init__(self, stream: Any, room: int) -> None:
        self._stream, self._room = stream, room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def watched(act: Act) -> Iterator[None]:
    """Call ``act`` before and after each call that changes the disk."""
    originals = {name: getattr(os, name) for name in WATCHED}
    opened = io.open

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            act(name, "before")
            result = originals[name](*arguments, **options)
            act(name, "after")
            return result

        return call

    def open_stream(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return opened(file, mode, *arguments, **options)
        act("open", "before")
        stream = opened(file, mode, *arguments, **options)
        act("open", "after")
        return WatchedStream(stream, act) if "b" in mode else stream

    for name in WATCHED:
        setattr(os, name, wrapped(name))
    io.open = open_stream
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        io.open = opened


def points(work: Callable[[], object]) -> list[str]:
    """The points that a piece of work passes, in order: ``fsync before``, ``fsync after``, ..."""
    passed: list[str] = []
    with watched(lambda name, when: passed.append(f"{name} {when}")):
        work()
    return passed
