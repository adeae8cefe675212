"""A published file over the network: mirrors, tries, what is half done is continued, the hash before anything else.

Environment: ``NST_FAST_OFFLINE=1`` forbids the network.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from urllib.response import addinfourl

from nst_fast.errors import OutputError
from nst_fast.network.weights.checkpoints import what_text_is_it
from nst_fast.network.weights.hub import HubFile
from nst_fast.system.files import CACHE_VARIABLE, continued

TIMEOUT_SECONDS = 10.0
PAUSES = (1.0, 4.0)  # seconds before the second and the third try of an address
LARGEST_BYTES = 2**30  # twice what torchvision publishes; a server that does not end must not fill the disk
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 1 << 18
_HEAD = 512  # bytes by which a page or a text is known

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """This address does not have the file."""


class _BrokenError(_RefusedError):
    """The answer broke off, or the server is busy: what the same address gives next may be better."""


def download(file: HubFile, target: Path) -> str:
    """Fetch a published file and return its SHA-256; the target appears only when it is whole and its hash is right.

    Each address is given three tries if it answers at all, and each try continues where the last one broke off, also
    one of an earlier process: what has come is kept as ``TARGET.part``.

    Raises:
        WeightsError: no network, no such file, a body that is cut, stalls or is something else. Within 10 seconds
            for each address if nothing answers at all.
    """
    if os.environ.get("NST_FAST_OFFLINE", "0") not in ("", "0"):
        raise file.refusal("they are not in the cache and NST_FAST_OFFLINE forbids the network")
    reasons: list[str] = []
    try:
        with continued(target) as sink:
            for address in file.addresses:
                try:
                    return _with_tries(address, sink, file)
                except _RefusedError as error:
                    reasons.append(str(error))
            raise file.refusal("; ".join(dict.fromkeys(reasons)))
    except OutputError as error:
        raise file.refusal(f"{error.message} ({CACHE_VARIABLE} can name another folder)") from error


def _with_tries(address: str, sink: BinaryIO, file: HubFile) -> str:
    for pause in PAUSES:
        try:
            return _fetch(address, sink, file)
        except _BrokenError as error:
            _log.warning("%s; trying again in %g seconds", error, pause)
            time.sleep(pause)
    return _fetch(address, sink, file)


def _fetch(address: str, sink: BinaryIO, file: HubFile) -> str:
    """One try: append to the sink what it lacks; the SHA-256 of the whole."""
    digest, present = _hash_of(sink)
    if present and file.is_content(digest.hexdigest()):
        return digest.hexdigest()
    with _answer(address, present) as response:
        if present and not _continues(response, present):
            sink.truncate(0)
            digest, present = hashlib.sha256(), 0
        received, length = _receive(response, sink, digest, present, address)
    if file.is_content(digest.hexdigest()):  # whatever the server said about its length
        return digest.hexdigest()
    if received < length:
        raise _BrokenError(f"{address}: the download was cut after {received} of {length} bytes")
    sink.truncate(0)
    problem = f"{address} gave {received} bytes whose sha256 is {digest.hexdigest()}"
    raise _BrokenError(problem) if present else _RefusedError(problem)  # an earlier try may have left the fault


def _hash_of(sink: BinaryIO) -> tuple[hashlib._Hash, int]:
    """The running hash of what an earlier try left, and its length."""
    digest, length = hashlib.sha256(), 0
    sink.seek(0)
    while piece := sink.read(_CHUNK):
        digest.update(piece)
        length += len(piece)
    return digest, length


def _answer(address: str, present: int) -> addinfourl:
    """The server's answer to a request for what lies behind the bytes that are present."""
    if not address.lower().startswith(("https://", "http://", "file://")):
        raise _RefusedError(f"{address!r} is no http, https or file address")
    headers = {"Range": f"bytes={present}-"} if present else {}
    try:
        return _open(Request(address, headers=headers))
    except HTTPError as error:
        error.close()
        if error.code == 416:  # what is present is more than the file; a request without a range gets it whole
            return _answer(address, 0)
        kind = _BrokenError if error.code in _WORTH_ANOTHER_TRY else _RefusedError
        raise kind(f"{address}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _RefusedError(f"{address}: {_reason(error)}") from error


def _continues(response: addinfourl, present: int) -> bool:
    """Whether the answer is the rest of the file; a server may ignore the range and send all of it."""
    begins = f"bytes {present}-"
    return response.status == 206 and (response.headers.get("Content-Range") or "").startswith(begins)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT_SECONDS:g} seconds"
    words = cause.strerror if isinstance(cause, OSError) else str(cause)
    return words or str(cause) or type(cause).__name__


def _open(request: Request) -> addinfourl:
    """``urlopen`` with one deadline for all of it: a name look-up has none of its own, a host has many addresses."""
    answers: queue.SimpleQueue[addinfourl | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urlopen(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:  # whatever it is, the waiting thread raises it
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT_SECONDS)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(
    response: addinfourl, sink: BinaryIO, digest: hashlib._Hash, present: int, address: str
) -> tuple[int, int]:
    """Append the body to the sink, with a progress bar on a terminal; the length of what is then there, and stated."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    stated = response.headers.get("Content-Length") or ""
    length = present + int(stated) if stated.isdecimal() else 0
    received = present
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(address.rsplit("/", 1)[-1], total=length or None, completed=present)
        for chunk in _chunks(response, address):
            if not received and (kind := what_text_is_it(chunk)):
                raise _RefusedError(f"{address} gave {kind} instead of the file")
            received += len(chunk)
            if received > LARGEST_BYTES:
                sink.truncate(0)
                raise _RefusedError(f"{address} gives more than {LARGEST_BYTES >> 20} MiB")
            sink.write(chunk)
            digest.update(chunk)
            progress.update(task, advance=len(chunk))
    return received, length


def _chunks(response: addinfourl, address: str) -> Iterator[bytes]:
    """The body piece by piece as it comes; a connection that breaks is told apart here from a disk that does."""
    try:
        head = b""
        while len(head) < _HEAD and (piece := response.read1(_CHUNK)):
            head += piece
        if head:
            yield head
        while piece := response.read1(_CHUNK):
            yield piece
    except (OSError, HTTPException, ValueError) as error:
        raise _BrokenError(f"{address}: the download broke off: {_reason(error)}") from error
