"""The only code that writes a file: atomic writes, the checks before them, locks, hashes and the cache folder.

At every moment and after every failure a file is the old one or the whole new one: :func:`write_atomic` writes a
temporary file in the same folder, forces it to the disk and renames it into place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import platformdirs

from nst_fast.errors import BusyError, InputError, OutputError, UsageError

AnyPath = str | os.PathLike[str]

TEMP_PREFIX = ".nst-fast-"  # of temporary files, which a crash can leave behind
LITTER_SECONDS = 86_400.0  # a temporary file this old belongs to no running write
CACHE_VARIABLE = "NST_FAST_CACHE"
CONFIG_VARIABLE = "NST_FAST_CONFIG_DIR"
PROBE_BYTES = 4096  # one block: enough for a full disk to say so

_REMEDIES = {
    errno.ENOSPC: "Free some space, or write to another disk",
    errno.EDQUOT: "Free some of your quota, or write to another disk",
    errno.EACCES: "Choose a folder that you may write to",
    errno.EPERM: "Choose a folder that you may write to",
    errno.EROFS: "Choose a folder on a disk that is not read-only",
    errno.ENOENT: "Create the folder first",
    errno.ENOTDIR: "Choose another folder: a part of this path is a file",
    errno.EEXIST: "Choose another folder: a part of this path is a file",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EFBIG: "Choose a smaller size, or a disk that holds files this large",
}
# What an OS answers when it has no way to force a folder to the disk; anything else means that it tried and failed.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF}


def shown(path: AnyPath) -> str:
    """A path on one line for a message: what a terminal cannot print (newline, bytes that are not UTF-8) is escaped."""
    text = os.fspath(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def user_path(path: AnyPath) -> Path:
    """The path with ``~`` and ``~user`` at its start replaced by the home folder, as a shell does it.

    The rule of every path that is given. Raises :class:`UsageError` for a user that there is not, of whose name a
    folder would be made.
    """
    text = os.fspath(path)
    # Path.expanduser raises where there is no home folder; this one leaves the tilde.
    found = Path(os.path.expanduser(text))  # noqa: PTH111
    home = found.parts[0] if found.parts else ""
    if home.startswith("~") and text.startswith("."):  # ./~/x, of which a Path takes the beginning away
        return found.absolute()
    if home.startswith("~") and len(found.parts) > 1 and not os.path.lexists(home):
        raise UsageError(f"{shown(text)}: there is no home folder {shown(home)}", "Give the whole path, from / on")
    return found


def check_local(path: AnyPath) -> None:
    """Raise :class:`UsageError` for an address; paths have lost a slash of ``https://``."""
    if found := re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", os.fspath(path), re.IGNORECASE):
        address = f"{found[1]}://{os.fspath(path)[found.end() :]}"
        raise UsageError(
            f"{shown(address)} is an address; only files are read and written", "Download it, give its path"
        )


def sha256_bytes(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: AnyPath) -> str:
    """SHA-256 of a file in lower-case hex, read in pieces. Raises :class:`InputError` if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read: {_reason(error)}") from error


def cache_dir(name: str = "") -> Path:
    """The user's cache folder or a part of it (``weights``); :func:`write_atomic` creates it when it is needed.

    The environment variable ``NST_FAST_CACHE`` overrides the platform's choice.
    """
    if override := os.environ.get(CACHE_VARIABLE):
        return user_path(override).absolute() / name
    return platformdirs.user_cache_path("nst-fast", appauthor=False).absolute() / name


def config_dir(name: str = "") -> Path:
    """The user's folder of settings or a part of it (``presets``), which need not exist.

    The environment variable ``NST_FAST_CONFIG_DIR`` overrides the platform's choice.
    """
    if override := os.environ.get(CONFIG_VARIABLE):
        return user_path(override).absolute() / name
    return platformdirs.user_config_path("nst-fast", appauthor=False).absolute() / name


def read_small_text(path: Path, most_bytes: int, remedy: str) -> str:
    """The text of a file. Raises :class:`InputError` if it cannot be read, is larger, or is no text in UTF-8."""
    name = shown(path)
    try:
        if path.is_file() and path.stat().st_size <= most_bytes:
            return path.read_text(encoding="utf-8")
        path.stat()  # says what is wrong with a path that leads nowhere
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text file") from None
    except ValueError:  # a NUL in the name
        raise InputError(f"{name} is not a usable path") from None
    raise InputError(f"{name} is no file, or larger than {most_bytes >> 20} MiB", remedy)


def make_folder(folder: AnyPath) -> Path:
    """Create a folder and those above it unless they exist. Raises :class:`OutputError`."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return Path(folder)


def write_atomic(path: AnyPath, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that a failure or a crash at any moment leaves the old file or the new one, never a mix.

    The file behind a symbolic link is replaced, the link stays. An existing file's permissions are kept. The folder
    must exist, except in the cache, where it is made.

    Args:
        path: the file to write.
        data: its content, or a function that writes it to a stream; an ``OSError`` of it is a failure to write.

    Raises:
        OutputError: no space, no permission, no folder, not a regular file. The old file is intact.
    """
    target = _target(path)
    with _temporary(target, path) as temp:
        _write_synced(temp, data)
        _put_in_place(temp, target)


@contextmanager
def _temporary(target: Path, path: AnyPath) -> Iterator[Path]:
    """The name of a file beside ``target``, removed in the end; an ``OSError`` is one of ``path``."""
    temp = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}.tmp")
    try:
        yield temp
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        remove(temp)


def _write_synced(temp: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    with temp.open("xb") as stream:
        if callable(data):
            data(stream)
        else:
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _put_in_place(temp: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.copymode(target, temp)
    os.replace(temp, target)  # noqa: PTH105 - the tests make this very call fail
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Force the rename to the disk. Windows opens no folders, and some network disks refuse."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


@contextmanager
def continued(path: AnyPath) -> Iterator[BinaryIO]:
    """A stream to a file that may take several runs to fill (a download): it reads what is there, and appends.

    The file appears when the block ends. When an error ends the block, what is there stays as ``NAME.part`` for the
    next call, unless the disk is at fault. The caller holds the file's :func:`lock`. Raises :class:`OutputError`.
    """
    target = _target(path)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("a+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _put_in_place(part, target)
    except OSError as error:
        remove(part)
        raise _unwritable(path, error) from error
    finally:
        if part.exists() and not part.stat().st_size:
            remove(part)


def move_into_place(source: Path, path: Path) -> None:
    """Rename a file that :func:`write_atomic` wrote; from another disk it is copied. Raises :class:`OutputError`."""
    target = _target(path)
    try:
        if source.stat().st_dev != target.parent.stat().st_dev:
            write_atomic(target, source.read_bytes())
            remove(source)
        else:
            _put_in_place(source, target)
    except OSError as error:
        raise _unwritable(path, error) from error


def move_aside(path: Path) -> Path:
    """Rename a damaged file to ``NAME.bad``, in place of an earlier one. Raises :class:`OutputError`."""
    aside = path.with_name(path.name + ".bad")
    try:
        os.replace(path, aside)  # noqa: PTH105 - as above
    except OSError as error:
        raise _unwritable(path, error) from error
    return aside


def remove(path: Path) -> None:
    """Delete a file that is no longer needed, if it can be deleted."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _target(path: AnyPath) -> Path:
    """The real path of a file that may be written; its folder is made if it is in the cache."""
    target = _real(path)
    _refuse_special(target)
    if target.is_relative_to(_real(cache_dir())):
        make_folder(target.parent)
        _sweep(target.parent)
    return target


@cache
def _sweep(folder: Path) -> None:
    """Delete the temporary files of killed runs in a folder, once per process."""
    with suppress(OSError):
        for entry in folder.glob(f"{TEMP_PREFIX}*.tmp"):
            if time.time() - entry.lstat().st_mtime > LITTER_SECONDS:
                remove(entry)


def check_writable(path: AnyPath, overwrite: bool, inputs: Iterable[AnyPath] = ()) -> None:
    """Refuse an output before any work is done for it. Creates its folder if that is missing.

    Args:
        path: the file that will be written.
        overwrite: whether an existing file may be replaced.
        inputs: files that are read and are never replaced, under whatever name.

    Raises:
        OutputError: it is an input, special, exists, or cannot be written.
    """
    refuse_inputs([path], inputs)
    target = _real(path)
    _refuse_special(target)
    if target.exists() and not overwrite:
        raise OutputError(f"{shown(path)} exists", "Use `overwrite` to replace it, or choose another name")
    make_folder(target.parent)
    _sweep(target.parent)
    # Permission bits say little (root, network disks, full disks): write and remove a small file.
    with _temporary(target, target) as probe:
        _write_synced(probe, bytes(PROBE_BYTES))
        probe.unlink()


def check_all_writable(paths: Iterable[AnyPath], overwrite: bool, inputs: Iterable[AnyPath] = ()) -> None:
    """:func:`check_writable` for the outputs of one command, of which no two may be one file."""
    paths, inputs = list(paths), list(inputs)
    if len({_real(path) for path in paths}) != len(paths):
        raise UsageError("two outputs have one name", "Give each a name of its own")
    for path in paths:
        check_writable(path, overwrite, inputs)


def refuse_inputs(paths: Iterable[AnyPath], inputs: Iterable[AnyPath]) -> None:
    """Raise :class:`OutputError` if an output, to be replaced or removed, is a file that is read, of whatever name."""
    inputs = list(inputs)
    for path in paths:
        for given in inputs:
            if _same_file(_real(path), given):
                raise OutputError(f"{shown(path)} is the input {shown(given)}", "Choose another name for the output")


@contextmanager
def lock(path: AnyPath, *, wait: float = 0.0, title: str = "", folder: Path | None = None) -> Iterator[None]:
    """Lock an output against other runs of this user on this machine, which fail at once or after ``wait`` seconds.

    The operating system frees the lock when its owner dies. The lock file is in the cache, keyed by the real path.

    Args:
        folder: for the lock file, which then has the path's name: others see it, if the disk has locks.
        title: what the message says is being written, by default the path.

    Raises:
        BusyError: another process holds it; the message names process and host.
        OutputError: the cache folder cannot be written.
    """
    from filelock import FileLock, Timeout  # with asyncio and logging

    key = Path(path).name if folder else sha256_bytes(os.fsencode(os.path.normcase(_real(path))))[:32]
    locks = folder or cache_dir("locks")
    owner = locks / f"{key}.owner"
    guard = FileLock(locks / f"{key}.lock")
    try:
        locks.mkdir(parents=True, exist_ok=True)
        guard.acquire(timeout=wait)
    except Timeout as error:
        raise BusyError(
            f"{shown(title or path)} is being written by {_read_owner(owner)}",
            "Wait for it to end, or choose another output",
        ) from error
    except OSError as error:
        remedy = f"Set {CACHE_VARIABLE} to a folder that you may write to" if folder is None else ""
        raise OutputError(f"{shown(locks)}: cannot lock: {_reason(error)}", remedy) from error
    try:
        write_atomic(owner, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        remove(owner)
        guard.release()


def _read_owner(owner: Path) -> str:
    """The holder of a lock; the file is missing for the instant between locking and naming."""
    try:
        return owner.read_text("utf-8", errors="replace")
    except OSError:
        return "another run"


def _real(path: AnyPath) -> Path:
    check_local(path)
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:  # a loop of links; a NUL in the name
        raise OutputError(f"{shown(path)} is not a usable path", "Choose another name for the output") from error


def _refuse_special(target: Path) -> None:
    """A rename would replace a device or a pipe (``-o /dev/null`` as root) by a regular file."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(target, error) from error
    if stat.S_ISDIR(mode):
        raise OutputError(f"{shown(target)} is a folder", "Give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{shown(target)} is not a regular file", "Choose another name for the output")


def _same_file(target: Path, given: AnyPath) -> bool:
    try:
        return target.samefile(given)
    except (OSError, ValueError):  # one of the two does not exist; reading it will say so
        return False


def _unwritable(path: AnyPath, error: OSError) -> OutputError:
    return OutputError(f"{shown(path)}: cannot be written: {_reason(error)}", _REMEDIES.get(error.errno or 0, ""))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
