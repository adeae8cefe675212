"""The weights that this machine has: the original's, features-only copies of torchvision's, files imported by hand.

torchvision's file is 550 MB, of which the features are 80. They are kept as a safetensors copy in the cache, beside a
note that holds the copy's SHA-256; both are checked at every start.
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
from nst_fast.network.weights.download import download
from nst_fast.network.weights.hub import HubFile
from nst_fast.system.files import cache_dir, lock, move_aside, remove, sha256_bytes, sha256_of, shown, write_atomic

LONGEST_WAIT = 3600.0  # seconds for another process that fetches the same file
IMPORTED = "imported"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A weight file that this machine has, or could have.

    Attributes:
        network: ``vgg16`` or ``vgg19``; empty for a file that fits several, or is not known.
        path: where it lies.
        state: ``intact``, ``damaged``, ``unknown`` (there is no hash to compare with) or ``unread`` (not looked at).
        sha256: of its bytes; empty when it was not read.
        expected: its SHA-256 or the first digits of it; empty when nothing is known.
        source: ``original`` or ``imagenet``, as in ``--weights``; empty for any other file.
    """

    network: str
    path: Path
    state: str
    sha256: str = ""
    expected: str = ""
    source: str = ""


def copy_of(network: str) -> Path:
    """Where the features-only copy of a network's pretrained weights is kept."""
    return cache_dir("weights") / f"{network}-imagenet-features.safetensors"


def pretrained_features(network: str, mirrors: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], str, Path]:
    """ImageNet features of ``vgg16`` or ``vgg19``, the SHA-256 of their features-only copy, and the file read.

    Raises:
        WeightsError: nothing is cached, and the file cannot be fetched or is not what torchvision published.
        BusyError: another process has been fetching it for an hour.
    """
    copy = copy_of(network)
    if (digest := _sha256_of_intact(copy)) is not None:
        return read_features(copy), digest, copy
    with _alone(copy):
        if (digest := _sha256_of_intact(copy)) is not None:  # the process that we waited for has kept it
            return read_features(copy), digest, copy
        if copy.is_file():
            _set_aside(copy)
        file = hub.hub_file(network, mirrors)
        whole, source_digest = _whole_file(file)
        features = read_features(whole)
        return features, _keep(copy, features, file, whole, source_digest), whole


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


def note_of(copy: Path) -> Path:
    return copy.with_name(copy.name + ".json")


def _noted(copy: Path) -> str:
    """The SHA-256 that the note beside a copy holds; empty when there is no sound note."""
    try:
        return str(json.loads(note_of(copy).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _sha256_of_intact(copy: Path) -> str | None:
    """The hash of a cached copy if it is the one that its note names."""
    if not copy.is_file():
        return None
    try:
        actual = sha256_of(copy)
    except InputError:
        return None
    return actual if actual == _noted(copy) else None


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OutputError):  # a read-only cache: the file is passed over all the same
        _log.warning("%s is damaged; moved to %s", path, move_aside(path).name)


def _keep(copy: Path, features: dict[str, Tensor], file: HubFile, whole: Path, source_digest: str) -> str:
    """Write the features-only copy, drop the whole file if it lies in our cache; the hash of the copy."""
    try:
        digest = _write_copy(copy, features, file.name, source_digest)
    except OutputError as error:
        _log.warning("cannot keep a copy of the weights (%s); the next start reads %s again", error, whole)
        return sha256_bytes(_serialised(features, file.name))
    if whole == file.target:
        remove(whole)
    return digest


def _serialised(features: dict[str, Tensor], source: str) -> bytes:
    from safetensors.torch import save

    plain = {name: tensor.contiguous() for name, tensor in features.items()}
    return bytes(save(plain, metadata={"source": source}))


def _write_copy(copy: Path, features: dict[str, Tensor], source: str, source_digest: str) -> str:
    """Note first: a crash between the two then leaves no copy, rather than one that cannot be checked."""
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
    return file.target, download(file, file.target)


def holdings(*, read: bool) -> list[Held]:
    """Every weight file: the original's, those in the cache and in torch hub's folder. ``read`` hashes them; nothing
    is changed.
    """
    whole = original.file_path()
    found = [_held(original.NETWORK, whole, original.SHA256, read, "original")] if whole else []
    for network in CONVS_PER_BLOCK:
        copy, file = copy_of(network), hub.hub_file(network)
        if copy.is_file():
            found.append(_held(network, copy, _noted(copy), read, "imagenet"))
        found += [
            _held(network, path, file.hash_prefix, read, "imagenet")
            for path in (file.target, _shared(file))
            if path.is_file()
        ]
    folder = cache_dir("weights") / IMPORTED
    return found + [_held("", path, _noted(path), read) for path in sorted(folder.glob("*.safetensors"))]


def _held(network: str, path: Path, expected: str, read: bool, source: str = "") -> Held:
    if not read:
        return Held(network, path, "unread", expected=expected, source=source)
    try:
        digest = sha256_of(path)
    except InputError:
        return Held(network, path, "damaged", expected=expected, source=source)
    # A copy without its note is taken for damaged when it is loaded, so it is one here.
    state = "intact" if expected and digest.startswith(expected) else "damaged"
    return Held(network, path, state, digest, expected, source)


def examine(path: Path, sha256: str | None = None) -> Held:
    """Compare a file with the hash that is given, that its note holds, or that the original's or torchvision's has.

    Raises:
        InputError: it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe or a device may have no end
        raise InputError(f"{shown(path)} is no file", "Give a .safetensors, .pth or .pt file")
    if path.name == original.FILE and sha256 is None:
        return _held(original.NETWORK, path, original.SHA256, True, "original")
    digest = sha256_of(path)
    for network in CONVS_PER_BLOCK:
        file = hub.hub_file(network)
        if file.is_content(digest) and sha256 is None:
            return Held(network, path, "intact", digest, file.hash_prefix, "imagenet")
        if path.name == file.name and sha256 is None:
            return Held(network, path, "damaged", digest, file.hash_prefix, "imagenet")
    expected = sha256 or _noted(path)
    if not expected:
        return Held("", path, "unknown", digest)
    return Held("", path, "intact" if digest == expected else "damaged", digest, expected)


def import_file(path: Path, sha256: str | None = None) -> Held:
    """Take a weight file into the cache as a safetensors copy; its hash is checked before anything is parsed.

    A file that torchvision publishes becomes what ``--weights imagenet`` loads. Any other needs the SHA-256 that its
    supplier states; it is kept under ``imported`` in the cache. The given file is only read.

    Raises:
        InputError: it cannot be read.
        WeightsError: its hash is not the one expected or is not known; it holds no VGG's features, or not only numbers.
        OutputError: the cache cannot be written.
        BusyError: another process writes the same copy.
    """
    held = examine(path, sha256)
    if held.state == "damaged":
        wrong = f"{shown(path)} has the sha256 {held.sha256}, not {held.expected}"
        raise WeightsError(wrong, "It is damaged or another file: fetch it again from its source")
    if held.state == "unknown":
        raise WeightsError(
            f"{shown(path)} is no file that torchvision publishes (sha256 {held.sha256})",
            "If that is the hash that its supplier states, add --sha256 with it",
        )
    features = read_features(path)
    check_whole(features, path)
    if held.network:
        copy, networks = copy_of(held.network), [held.network]
    else:
        copy = cache_dir("weights") / IMPORTED / f"{path.stem}-{held.sha256[:8]}.safetensors"
        networks = fitting_networks(features)
    with lock(copy):
        digest = _write_copy(copy, features, path.name, held.sha256)
    return Held(networks[0] if len(networks) == 1 else "", copy, "intact", digest, digest, held.source)
