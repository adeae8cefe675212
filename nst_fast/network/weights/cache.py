"""The weight files of this machine: the original's, features-only copies of torchvision's, files imported by hand.

torchvision's file has 550 MB, its features 80. They are kept as a safetensors copy beside a note (JSON) that holds the
copy's SHA-256; both are checked at every start.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nst_fast.errors import BusyError, InputError, OutputError, WeightsError
from nst_fast.network.taps import CONVS_PER_BLOCK
from nst_fast.network.weights import hub, original
from nst_fast.network.weights.checkpoints import check_whole, fitting_networks, read_features
from nst_fast.network.weights.hub import HubFile
from nst_fast.system.files import cache_dir, lock, move_aside, remove, sha256_bytes, sha256_of, shown, write_atomic

LONGEST_WAIT = 3600.0  # seconds for another process that fetches the same file
IMPORTED = "imported"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFile:
    """A weight file of this machine."""

    network: str  # ``vgg16`` or ``vgg19``; empty for a file that fits several, or is not known
    path: Path
    state: str  # ``intact``, ``damaged`` or ``unknown`` (there is no hash to compare with)
    sha256: str  # of its bytes; empty when it could not be read
    expected: str  # its SHA-256 or the first digits of it; empty when nothing is known
    source: str  # ``original`` or ``imagenet``, as the option ``weights`` names them; empty for any other file


def copy_of(network: str) -> Path:
    """Where the features-only copy of a network's pretrained weights is kept."""
    return cache_dir("weights") / f"{network}-imagenet-features.safetensors"


def note_of(copy: Path) -> Path:
    return copy.with_name(copy.name + ".json")


def pretrained_features(network: str, mirrors: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], str, Path]:
    """ImageNet features of ``vgg16`` or ``vgg19``, the SHA-256 of their features-only copy, and the file read.

    Raises:
        WeightsError: nothing is cached, and the file cannot be fetched or is not what torchvision published.
        BusyError: another process has been fetching it for an hour.
    """
    copy = copy_of(network)
    if not is_intact(copy):
        with _alone(copy):
            if not is_intact(copy):  # the process that held the lock may have kept it
                return _fill(copy, hub.hub_file(network, mirrors))
    return read_features(copy), _noted(copy), copy


@contextlib.contextmanager
def _alone(copy: Path) -> Iterator[None]:
    """One process at a time fills the cache. One that cannot be written needs no lock: nothing will be kept."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(copy))
        except BusyError as error:
            _log.warning("%s; waiting for it", error.message)
            stack.enter_context(lock(copy, wait=LONGEST_WAIT))
        except OutputError as error:
            _log.debug("no lock: %s", error)
        yield


def _noted(copy: Path) -> str:
    """The SHA-256 that the note beside a copy holds; empty when there is no sound note."""
    try:
        return str(json.loads(note_of(copy).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def is_intact(copy: Path) -> bool:
    """Whether a copy has the SHA-256 of its note."""
    return copy.is_file() and _state(_digest(copy), _noted(copy)) == "intact"


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OutputError):  # a read-only cache: the file is passed over all the same
        _log.warning("%s is damaged; moved to %s", path, move_aside(path).name)


def _fill(copy: Path, file: HubFile) -> tuple[dict[str, Tensor], str, Path]:
    """Get the whole file and keep its features as the copy; a whole file in our cache is deleted."""
    if copy.is_file():
        _set_aside(copy)
    whole, source_digest = _whole_file(file)
    features = read_features(whole)
    try:
        digest = write_copy(copy, features, file.name, source_digest)
    except OutputError as error:
        _log.warning("cannot keep a copy of the weights (%s); the next start reads %s again", error, whole)
        return features, sha256_bytes(_serialised(features, file.name)), whole
    if whole == file.target:
        remove(whole)
    return features, digest, whole


def _serialised(features: dict[str, Tensor], source: str) -> bytes:
    from safetensors.torch import save

    plain = {name: tensor.contiguous() for name, tensor in features.items()}
    return bytes(save(plain, metadata={"source": source}))


def write_copy(copy: Path, features: dict[str, Tensor], source: str, source_digest: str) -> str:
    """Write a features-only copy and its note; the SHA-256 of the copy.

    Note first: a crash between the two then leaves no copy, rather than one that cannot be checked.
    """
    data = _serialised(features, source)
    digest = sha256_bytes(data)
    note = {"sha256": digest, "source": source, "source_sha256": source_digest}
    write_atomic(note_of(copy), json.dumps(note, indent=2).encode())
    write_atomic(copy, data)
    return digest


def _shared(file: HubFile) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / file.name


def _whole_file(file: HubFile) -> tuple[Path, str]:
    """The published file and its SHA-256: put in our cache by hand, in torch hub's folder, or downloaded."""
    for path in (file.target, _shared(file)):
        if path.is_file():
            digest = sha256_of(path)
            if file.is_content(digest):
                return path, digest
            if path == file.target:
                _set_aside(path)
            else:
                _log.warning("%s is passed over: its sha256 does not begin with %s", path, file.hash_prefix)
    return file.target, hub.download(file)


def holdings() -> list[WeightFile]:
    """Every weight file: the original's, those in the cache and in torch hub's folder, with their hashes."""
    known: list[tuple[str, Path | None, str, str]] = [
        (original.NETWORK, original.file_path(), original.SHA256, "original")
    ]
    for network in CONVS_PER_BLOCK:
        copy, file = copy_of(network), hub.hub_file(network)
        known.append((network, copy, _noted(copy), "imagenet"))
        known += [(network, path, file.hash_prefix, "imagenet") for path in (file.target, _shared(file))]
    imported = sorted((cache_dir("weights") / IMPORTED).glob("*.safetensors"))
    known += [("", path, _noted(path), "") for path in imported]
    found = []
    for network, path, expected, source in known:
        if path is not None and path.is_file():
            digest = _digest(path)
            found.append(WeightFile(network, path, _state(digest, expected), digest, expected, source))
    return found


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except InputError:
        return ""


def _state(digest: str, expected: str) -> str:
    """A copy without a note is damaged, as it is when it is loaded."""
    return "intact" if expected and digest.startswith(expected) else "damaged"


def examine(path: Path, sha256: str | None = None) -> WeightFile:
    """Compare a file with the hash that is given, that its note holds, or that the original's or torchvision's has.

    Raises :class:`InputError` where it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe or a device may have no end
        raise InputError(f"{shown(path)} is no file", "Give a .safetensors, .pth or .pt file")
    digest = sha256_of(path)
    network, expected, source = ("", sha256, "") if sha256 else _identity(path, digest)
    state = _state(digest, expected) if expected else "unknown"
    return WeightFile(network, path, state, digest, expected, source)


def _identity(path: Path, digest: str) -> tuple[str, str, str]:
    """The network, the expected SHA-256 and the source of a file, by its hash or its name, or by the note beside it."""
    if path.name == original.FILE:
        return original.NETWORK, original.SHA256, "original"
    for network in CONVS_PER_BLOCK:
        file = hub.hub_file(network)
        if file.is_content(digest) or path.name == file.name:
            return network, file.hash_prefix, "imagenet"
    return "", _noted(path), ""


def import_file(path: Path, sha256: str | None = None) -> WeightFile:
    """Take a weight file into the cache as a safetensors copy; its hash is checked before anything is parsed.

    A file that torchvision publishes becomes what ``imagenet`` loads. Any other needs the SHA-256 that its supplier
    states; it is kept under ``imported`` in the cache. The given file is only read.

    Raises:
        InputError: it cannot be read.
        WeightsError: its hash is not the one expected or is not known; it holds no VGG's features, or not only numbers.
        OutputError: the cache cannot be written.
        BusyError: another process writes the same copy.
    """
    given = examine(path, sha256)
    if given.state == "damaged":
        wrong = f"{shown(path)} has the sha256 {given.sha256}, not {given.expected}"
        raise WeightsError(wrong, "It is damaged or another file: fetch it again from its source")
    if given.state == "unknown":
        raise WeightsError(
            f"{shown(path)} is no file that torchvision publishes (sha256 {given.sha256})",
            "If that is the hash that its supplier states, add `sha256` with it",
        )
    features = read_features(path)
    check_whole(features, path)
    copy, networks = copy_of(given.network), [given.network]
    if not given.network:
        copy = cache_dir("weights") / IMPORTED / f"{path.stem}-{given.sha256[:8]}.safetensors"
        networks = fitting_networks(features)
    with lock(copy):
        digest = write_copy(copy, features, path.name, given.sha256)
    return WeightFile(networks[0] if len(networks) == 1 else "", copy, "intact", digest, digest, given.source)
