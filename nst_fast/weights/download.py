"""torchvision's pretrained VGG: from the cache, torch hub's folder or the network; its hash checked before any parse.

The published file is 550 MB, of which the features are 80. They are kept as a safetensors copy in the cache, beside a
note that holds the copy's SHA-256; both are checked at every start. Environment: ``NST_FAST_WEIGHTS_URL`` replaces the
address of the folder the file is fetched from, ``NST_FAST_OFFLINE=1`` forbids the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from urllib.response import addinfourl

from torch import Tensor

from nst_fast.errors import InputError, OutputError, WeightsError
from nst_fast.files import CACHE_VARIABLE, cache_dir, sha256_bytes, sha256_of, shown, write_atomic
from nst_fast.weights.checkpoints import read_features, what_text_is_it

BASE_ADDRESS = "https://download.pytorch.org/models/"
TIMEOUT_SECONDS = 10.0
_CHUNK = 1 << 18

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFile:
    """A checkpoint as torchvision publishes it: ``vgg19-dcbb9e9d.pth``, where dcbb9e9d begins its SHA-256."""

    name: str
    hash_prefix: str

    @property
    def address(self) -> str:
        return os.environ.get("NST_FAST_WEIGHTS_URL", BASE_ADDRESS).rstrip("/") + "/" + self.name

    @property
    def target(self) -> Path:
        return cache_dir("weights") / self.name

    def refusal(self, why: str) -> WeightsError:
        """No pretrained weights: what went wrong, how to supply the file by hand, and the choices that remain."""
        return WeightsError(
            f"cannot get the pretrained weights: {why}",
            f"Fetch {self.address} (its sha256 begins with {self.hash_prefix}) and put it at {shown(self.target)}, "
            "or give --weights FILE or --weights random",
        )


def hub_file(network: str) -> HubFile:
    """The name and hash of a network's ImageNet checkpoint, from torchvision's own table."""
    from torchvision.models import VGG16_Weights, VGG19_Weights

    weights = {"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[network].IMAGENET1K_V1
    name = str(weights.url).rsplit("/", 1)[-1]
    return HubFile(name, re.findall(r"-([0-9a-f]{8,})\.", name)[0])


def pretrained_features(network: str) -> tuple[dict[str, Tensor], str, Path]:
    """ImageNet features of ``vgg16`` or ``vgg19``, the SHA-256 of their features-only copy, and the file read.

    Raises:
        WeightsError: nothing is cached, and the file cannot be fetched or is not what torchvision published.
    """
    copy = cache_dir("weights") / f"{network}-imagenet-features.safetensors"
    digest = _sha256_of_intact(copy)
    if digest is not None:
        return read_features(copy), digest, copy
    file = hub_file(network)
    whole, source_digest = _whole_file(file)
    features = read_features(whole)
    return features, _keep(copy, features, file, whole, source_digest), whole


def _note_of(copy: Path) -> Path:
    return copy.with_name(copy.name + ".json")


def _sha256_of_intact(copy: Path) -> str | None:
    """The hash of the cached copy if it is the one its note names; a damaged copy is moved aside."""
    if not copy.is_file():
        return None
    try:
        expected = json.loads(_note_of(copy).read_text(encoding="utf-8"))["sha256"]
        actual = sha256_of(copy)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        expected = actual = None
    if actual is not None and actual == expected:
        return str(actual)
    _move_aside(copy)
    return None


def _move_aside(path: Path) -> None:
    aside = path.with_name(path.name + ".bad")
    with contextlib.suppress(OSError):  # a read-only cache: the file is passed over all the same
        path.replace(aside)
        _log.warning("%s is damaged; moved to %s", path, aside.name)


def _keep(copy: Path, features: dict[str, Tensor], file: HubFile, whole: Path, source_digest: str) -> str:
    """Write the features-only copy, drop the whole file if it lies in our cache; the hash of the copy.

    The note is written first: a crash between the two then leaves no copy, rather than one that cannot be checked.
    """
    from safetensors.torch import save

    plain = {name: tensor.contiguous() for name, tensor in features.items()}
    data = save(plain, metadata={"source": file.name})
    digest = sha256_bytes(data)
    note = {"sha256": digest, "source": file.address, "source_sha256": source_digest}
    try:
        write_atomic(_note_of(copy), json.dumps(note, indent=2).encode())
        write_atomic(copy, data)
    except OutputError as error:
        _log.warning("cannot keep a copy of the weights (%s); the next start reads %s again", error, whole)
        return digest
    if whole == file.target:
        whole.unlink(missing_ok=True)
    return digest


def _whole_file(file: HubFile) -> tuple[Path, str]:
    """The published file and its SHA-256: put in our cache by hand, in torch hub's folder, or downloaded."""
    import torch

    ours, shared = file.target, Path(torch.hub.get_dir()) / "checkpoints" / file.name
    for path in (ours, shared):
        if path.is_file():
            digest = sha256_of(path)
            if digest.startswith(file.hash_prefix):
                return path, digest
            if path == ours:
                _move_aside(path)
            else:
                _log.warning("%s is passed over: its sha256 does not begin with %s", path, file.hash_prefix)
    return ours, download(file, ours)


def download(file: HubFile, target: Path) -> str:
    """Fetch a published file and return its SHA-256; the target appears only when it is whole and its hash is right.

    Raises:
        WeightsError: no network, no such file, a body that is cut, stalls or is something else. Within 10 seconds
            if nothing answers at all.
    """
    if os.environ.get("NST_FAST_OFFLINE", "0") not in ("", "0"):
        raise file.refusal("they are not in the cache and NST_FAST_OFFLINE forbids the network")
    if not file.address.lower().startswith(("https://", "http://", "file://")):
        raise file.refusal(f"NST_FAST_WEIGHTS_URL gives {file.address!r}, which is no http, https or file address")
    try:
        response = _open(file.address)
    except HTTPError as error:
        error.close()
        raise file.refusal(f"the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise file.refusal(_reason(error)) from error
    digest = ""

    def fill(sink: BinaryIO) -> None:
        nonlocal digest
        digest = _receive(response, sink, file)

    with response:
        try:
            write_atomic(target, fill)
        except OutputError as error:
            raise file.refusal(f"{error.message} ({CACHE_VARIABLE} can name another folder)") from error
    return digest


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {TIMEOUT_SECONDS:g} seconds"
    words = cause.strerror if isinstance(cause, OSError) else str(cause)
    return words or str(cause) or type(cause).__name__


def _open(address: str) -> addinfourl:
    """``urlopen`` with one deadline for all of it: a name look-up has none of its own, a host has many addresses."""
    answers: queue.SimpleQueue[addinfourl | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            answers.put(urlopen(address, timeout=TIMEOUT_SECONDS))
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


def _receive(response: addinfourl, sink: BinaryIO, file: HubFile) -> str:
    """Copy the body to the sink, with a progress bar on a terminal; its SHA-256. Refuses all but the published file."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    stated = response.headers.get("Content-Length") or ""
    length = int(stated) if stated.isdecimal() else 0
    digest, received = hashlib.sha256(), 0
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(file.name, total=length or None)
        for chunk in _chunks(response, file):
            if not received and (kind := what_text_is_it(chunk)):
                raise file.refusal(f"{file.address} gave {kind} instead of the file")
            sink.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(task, advance=len(chunk))
    if received < length:
        raise file.refusal(f"the download was cut after {received} of {length} bytes")
    if not digest.hexdigest().startswith(file.hash_prefix):
        raise file.refusal(f"{file.address} gave {received} bytes whose sha256 is {digest.hexdigest()}")
    return digest.hexdigest()


def _chunks(response: addinfourl, file: HubFile) -> Iterator[bytes]:
    """The body piece by piece; a connection that breaks is told apart here from a disk that does."""
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, HTTPException, ValueError) as error:
        raise file.refusal(f"the download broke off: {_reason(error)}") from error
