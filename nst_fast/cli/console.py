"""The streams of a command: messages and errors on stderr, results on stdout."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from nst_fast.errors import OutputError, UsageError
from nst_fast.system.files import shown, user_path, write_atomic
from nst_fast.system.rounding import rounded

EVENT_SCHEMA = "nst-fast/progress/1"
PROGRESS = ("auto", "json")

TABLE_WIDTH = 120  # narrower, and figures would be cut; a terminal that is narrower wraps the lines


def with_flags(text: str) -> str:
    """A message of the library for the command line: options that it names as ```image_size``` become flags."""
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: f"--{found[1].replace('_', '-')}", text)


class Stream:
    """Whether stderr gets lines for people, or with ``--progress json`` one object per line (docs/tracking.md)."""

    is_json = False


def emit_event(kind: str, /, **facts: Any) -> None:
    """An object on stderr, of ``--progress json``; ASCII, for any locale."""
    line = {"schema": EVENT_SCHEMA, "event": kind, **rounded(facts)}
    _write_error(json.dumps(line))


class LastingConsole(Console):
    """Rich's console ends the program when its stream is closed; the work must not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(sys.stderr)


class Messages:
    """Writes lines to stderr, unless ``quiet``. File names are printed as they are, never as markup."""

    def __init__(self, *, quiet: bool, verbose: bool = False, progress: str = "auto") -> None:
        if progress not in PROGRESS:
            raise UsageError(f"`progress` {progress!r}: must be one of {', '.join(PROGRESS)}")
        Stream.is_json = progress == "json"
        self.quiet = quiet
        self.verbose = verbose
        self.console = LastingConsole(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        self.say(text, "note")

    def detail(self, text: str) -> None:
        """How a run is computed."""
        if self.verbose:
            self.say(text)

    def say(self, text: str, kind: str = "message") -> None:
        """One line; what a terminal would obey rather than print, as in odd file names, is escaped."""
        if self.quiet:
            return
        text = shown(with_flags(text))
        if Stream.is_json:
            emit_event(kind, text=text)
            return
        try:
            self.console.print(Text(f"note: {text}" if kind == "note" else text), soft_wrap=True)
        except OSError:
            self.console.on_broken_pipe()


def emit(line: str) -> None:
    """A result, on stdout. A reader that has closed the pipe does not end the work."""
    with _writing_output():
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@contextmanager
def _writing_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        message = f"standard output cannot be written: {(error.strerror or str(error)).lower()}"
        raise OutputError(message, "Files that were written are whole") from error


def check_binary_output(refused: Mapping[str, bool]) -> None:
    """Raise :class:`UsageError` where standard output cannot take a picture.

    ``refused``: option -> whether it is given; each would write beside the picture, or to standard output too.
    """
    if given := [f"`{name}`" for name, is_given in refused.items() if is_given]:
        raise UsageError(f"`output` -: standard output takes the picture alone, not {', '.join(given)}", "Name a file")
    if sys.stdout.isatty():
        raise UsageError("`output` -: standard output is a terminal", "Send it on, as ... -o - > out.png")


def emit_bytes(data: bytes) -> None:
    """A picture, on stdout. As for :func:`emit`, a reader may close the pipe."""
    with _writing_output():
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


_objects: list[str] = []  # the schemas of what --json has given


def emit_json(facts: Mapping[str, Any], *, indent: int | None = None) -> None:
    """The one JSON object that --json gives; ``facts`` begin with their ``schema``. ASCII, for any locale."""
    _objects.append(facts["schema"])
    emit(json.dumps(facts, indent=indent))


def emit_result(facts: Mapping[str, Any], *lines: str, as_json: bool) -> None:
    """The result, on stdout: ``facts`` as JSON, or the lines for people."""
    if as_json:
        emit_json(facts)
    else:
        emit("\n".join(lines))


def emit_report(facts: Mapping[str, Any], text: str, json_file: str | None) -> None:
    """The text on stdout, and the facts in the file of ``--json``; or they alone, on stdout, where that is ``-``."""
    if json_file == "-":
        emit_json(facts, indent=1)
        return
    if json_file is not None:
        write_atomic(user_path(json_file), (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    emit(text)


def emit_error(text: str, *, code: int, kind: str, as_json: bool) -> None:
    """The line on stderr that every error ends in; with --json also an object, unless the result was given before."""
    text = with_flags(text)
    if Stream.is_json:
        emit_event("error", code=code, kind=kind, message=shown(text))
    else:
        complain(f"error: {text}")
    if as_json and not _objects:
        emit_json({"schema": "nst-fast/error/1", "status": "error", "code": code, "kind": kind, "message": text})


def complain(text: str) -> None:
    """A line on stderr, with --quiet too."""
    if Stream.is_json:
        emit_event("message", text=shown(text))
    else:
        _write_error(shown(text))


def _write_error(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:  # closed, or full: there is nowhere to say so
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Drop what is still written to a stream; Python would report it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_streams() -> None:
    """Make stdout and stderr take every text: there may be none, or one for ASCII only.

    Names of files that are not UTF-8 come out as the bytes that they are.
    """
    _objects.clear()
    Stream.is_json = False
    sys.stdout = sys.stdout or nowhere()
    sys.stderr = sys.stderr or nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if unicode else "backslashreplace")


def nowhere() -> TextIO:
    """In place of a stream that the parent process has closed."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
