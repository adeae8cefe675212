"""torchvision's published weight files: names, hashes, addresses, and the download of one.

Environment: ``NST_FAST_WEIGHTS_URL`` replaces torchvision's folder by others, separated by spaces and tried in order;
``NST_FAST_OFFLINE=1`` forbids the network.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from urllib.response import addinfourl

from nst_fast.errors import OutputError, WeightsError
from nst_fast.network.weights.checkpoints import what_text_is_it
from nst_fast.system.files import CACHE_VARIABLE, cache_dir, continued, shown

BASE_ADDRESS = "https://download.pytorch.org/models/"
MIRRORS_VARIABLE = "NST_FAST_WEIGHTS_URL"
TIMEOUT_SECONDS = 10.0
PAUSES = (1.0, 4.0)  # seconds before the second and the third try of an address
LARGEST_BYTES = 2**30  # twice what torchvision publishes; an endless body must not fill the disk
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
_CHUNK = 1 << 18
_HEAD = 512  # bytes by which an HTML page or a text is recognised

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A checkpoint as torchvision publishes it: ``vgg19-dcbb9e9d.pth``, where dcbb9e9d begins its SHA-256.

    ``mirrors`` are folders to fetch it from in place of those that the environment names, and of torchvision's.
    """

    name: str
    hash_prefix: str
    mirrors: tuple[str, ...] = ()

    @property
    def addresses(self) -> list[str]:
        folders = self.mirrors or os.environ.get(MIRRORS_VARIABLE, BASE_ADDRESS).split() or (BASE_ADDRESS,)
        return [folder.rstrip("/") + "/" + self.name for folder in folders]

    @property
    def target(self) -> Path:
        return cache_dir("weights") / self.name

    def is_content(self, sha256: str) -> bool:
        return sha256.startswith(self.hash_prefix)

    def refusal(self, why: str) -> WeightsError:
        """The error for weights that cannot be had, with the ways to supply the file by hand."""
        return WeightsError(
            f"cannot get the pretrained weights: {why}",
            f"Fetch {self.addresses[0]} (its sha256 begins with {self.hash_prefix}) on any machine, then `nst-fast "
            f"weights import FILE` or put it at {shown(self.target)}; or give a file for `weights`, or for vgg19 "
            "`weights` original",
        )


def hub_file(network: str, mirrors: tuple[str, ...] = ()) -> HubFile:
    """The name and hash of a network's ImageNet checkpoint, from torchvision's own table."""
    from torchvision.models import VGG16_Weights, VGG19_Weights

    weights = {"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[network].IMAGENET1K_V1
    name = str(weights.url).rsplit("/", 1)[-1]
    return HubFile(name, re.findall(r"-([0-9a-f]{8,})\.", name)[0], mirrors)


class _FailedError(Exception):
    """An address did not give the file."""


class _TemporaryError(_FailedError):
    """The same address may give it later."""


def download(file: HubFile) -> str:
    """Fetch a file to its target and return its SHA-256; the target appears only when it is whole and the hash right.

    Each address gets three tries if it answers at all. A try continues the last one, also one of an earlier process:
    what has come is kept as ``TARGET.part``.

    Raises:
        WeightsError: no network, no such file, a body that is cut, stalls or is something else. Within 10 seconds
            for each address if nothing answers at all.
    """
    if os.environ.get("NST_FAST_OFFLINE", "0") not in ("", "0"):
        raise file.refusal("they are not in the cache and NST_FAST_OFFLINE forbids the network")
    reasons: list[str] = []
    try:
        with continued(file.target) as sink:
            for address in file.addresses:
                try:
                    return _with_tries(address, sink, file)
                except _FailedError as error:
                    reasons.append(str(error))
            raise file.refusal("; ".join(dict.fromkeys(reasons)))
    except OutputError as error:
        raise file.refusal(f"{error.message} ({CACHE_VARIABLE} can name another folder)") from error


def _with_tries(address: str, sink: BinaryIO, file: HubFile) -> str:
    for pause in PAUSES:
        try:
            return _fetch(address, sink, file)
        except _TemporaryError as error:
            _log.warning("%s; trying again in %g seconds", error, pause)
            time.sleep(pause)
    return _fetch(address, sink, file)


def _fetch(address: str, sink: BinaryIO, file: HubFile) -> str:
    """One try: append to the sink what it lacks; the SHA-256 of the whole."""
    present = sink.seek(0, os.SEEK_END)
    if present and file.is_content(digest := _sha256(sink)):
        return digest
    with _answer(address, present) as response:
        if present and not _continues(response, present):
            sink.truncate(0)
            present = 0
        length = _receive(response, sink, present, address)
    received = sink.seek(0, os.SEEK_END)
    digest = _sha256(sink)
    if file.is_content(digest):  # the stated length may be wrong
        return digest
    if received < length:
        raise _TemporaryError(f"{address}: the download was cut after {received} of {length} bytes")
    sink.truncate(0)
    failure = _TemporaryError if present else _FailedError  # the fault may lie in what an earlier try left
    raise failure(f"{address} gave {received} bytes whose sha256 is {digest}")


def _sha256(sink: BinaryIO) -> str:
    sink.seek(0)
    return hashlib.file_digest(sink, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable file will do


def _answer(address: str, present: int) -> addinfourl:
    """The response to a request for the bytes after those that are present."""
    if not address.lower().startswith(("https://", "http://", "file://")):
        raise _FailedError(f"{address!r} is no http, https or file address")
    try:
        return _open(Request(address, headers={"Range": f"bytes={present}-"} if present else {}))
    except HTTPError as error:
        error.close()
        if error.code == 416:  # more is present than the file has
            return _answer(address, 0)
        failure = _TemporaryError if error.code in _TEMPORARY else _FailedError
        raise failure(f"{address}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _FailedError(f"{address}: {_reason(error)}") from error


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
        except Exception as error:  # raised again by the waiting thread
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT_SECONDS)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(response: addinfourl, sink: BinaryIO, present: int, address: str) -> int:
    """Append the body to the sink, with a progress bar on a terminal; the length that the server states, 0 if none."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    stated = response.headers.get("Content-Length") or ""
    length = present + int(stated) if stated.isdecimal() else 0
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(address.rsplit("/", 1)[-1], total=length or None, completed=present)
        for chunk in _chunks(response, address):
            if not present and (kind := what_text_is_it(chunk)):
                raise _FailedError(f"{address} gave {kind} instead of the file")
            present += len(chunk)
            if present > LARGEST_BYTES:
                sink.truncate(0)
                raise _FailedError(f"{address} gives more than {LARGEST_BYTES >> 20} MiB")
            sink.write(chunk)
            progress.update(task, advance=len(chunk))
    return length


def _chunks(response: addinfourl, address: str) -> Iterator[bytes]:
    """The body in pieces, the first at least the head. Errors are of the connection, not of the disk."""
    try:
        piece = response.read1(_CHUNK)
        while 0 < len(piece) < _HEAD and (more := response.read1(_CHUNK)):
            piece += more
        while piece:
            yield piece
            piece = response.read1(_CHUNK)
    except (OSError, HTTPException, ValueError) as error:
        raise _TemporaryError(f"{address}: the download broke off: {_reason(error)}") from error
