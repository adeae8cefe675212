"""Claims: which of several workers, on one machine or many, works on which picture of a shared folder.

A claim is a file created only if it does not exist, which every file system supports; it holds its worker's token. A
worker holds an OS lock as long as it lives, and touches a file of its own (its beat). A dead worker's claims are taken
over: on its machine at once, since its lock is free; elsewhere, where a network disk may not show the lock, when its
beat is old. These files are locks and not results, so :mod:`nst_fast.system.files` does not write them.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nst_fast.errors import OutputError
from nst_fast.system.files import make_folder, remove, shown, write_atomic

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
TAKE_OVER = "take-over.lock"
NEWBORN_SECONDS = 5.0  # a claim without a token is being made, or its maker died in between


class Worker:
    """A worker of a shared folder, and its claims. Use :func:`at_work`."""

    def __init__(self, state: Path) -> None:
        self.token = secrets.token_hex(8)
        self.workers, self.claims, self._deaths = (make_folder(state / n) for n in ("workers", "claims", "deaths"))
        self.beat = self.workers / f"{self.token}.beat"
        self.lock = FileLock(self.workers / f"{self.token}.lock")

    @property
    def title(self) -> str:
        """Host and process, for people."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Whether the claim to this key is ours for the block. Raises :class:`OutputError` if nobody could claim it."""
        with _claiming(self.claims, "nothing can be claimed"):
            ours = self._create(key) or self._take_over(key)
        try:
            yield ours
        finally:
            if ours and self.holds(key):
                remove(self.claims / key)

    def holds(self, key: str) -> bool:
        """Whether the claim is still ours; a machine that slept for long may have lost it."""
        return self._owner(key) == self.token

    def deaths(self, key: str) -> int:
        """How many workers died at this key since it was forgotten: the bytes of a file."""
        try:
            return (self._deaths / key).stat().st_size
        except FileNotFoundError:
            return 0

    def forget_deaths(self, key: str) -> None:
        remove(self._deaths / key)

    def sweep(self) -> None:
        """Remove what dead workers have left, also claims to pictures that they had finished."""
        for claim in self.claims.iterdir():
            if claim.name != TAKE_OVER:
                with self.claimed(claim.name):
                    pass
        for beat in self.workers.glob("*.beat"):
            self._is_dead(beat.stem)

    def _create(self, key: str) -> bool:
        try:
            with (self.claims / key).open("x", encoding="ascii") as stream:
                stream.write(self.token)
        except FileExistsError:
            return False
        return True

    def _take_over(self, key: str) -> bool:
        """Claim what a dead worker has left; one at a time, so that no live claim is removed."""
        with suppress(Timeout), FileLock(self.claims / TAKE_OVER, timeout=0):
            if self._is_abandoned(key):
                if self._owner(key):
                    with (self._deaths / key).open("ab") as stream:
                        stream.write(b".")
                remove(self.claims / key)
                return self._create(key)
        return False

    def _owner(self, key: str) -> str:
        try:
            return (self.claims / key).read_text("ascii")
        except (OSError, ValueError):
            return ""

    def _is_abandoned(self, key: str) -> bool:
        owner = self._owner(key)
        try:
            return self._is_dead(owner) if owner else self._age(self.claims / key) > NEWBORN_SECONDS
        except FileNotFoundError:  # given back at this moment
            return True

    def _is_dead(self, token: str) -> bool:
        """Whether a worker has ended or died; what a dead one has left of itself is removed."""
        beat, lock = self.workers / f"{token}.beat", self.workers / f"{token}.lock"
        try:
            machine, age = beat.read_text("utf-8"), self._age(beat)
            with FileLock(lock, timeout=0):
                dead = machine == machine_name() or age > STALE_SECONDS
        except FileNotFoundError:
            return True
        except Timeout:
            return False
        if dead:
            remove(beat)
            remove(lock)
        return dead

    def _age(self, path: Path) -> float:
        """Seconds since a file was touched, by the clock of the disk it is on: those of machines differ."""
        self.beat.touch()
        return self.beat.stat().st_mtime - path.stat().st_mtime


def machine_name() -> str:
    """Host name and network address: machines can share a name, as containers do, but hardly ever both."""
    node = uuid.getnode()
    made_up = node >> 40 & 1  # drawn anew in every process where there is no address to be found
    return socket.gethostname() if made_up else f"{socket.gethostname()}-{node:x}"


@contextmanager
def _claiming(folder: Path, problem: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{shown(folder)}: {problem}: {(error.strerror or str(error)).lower()}") from error


@contextmanager
def at_work(state: Path) -> Iterator[Worker]:
    """A worker that others can see is alive, for the block. Raises :class:`OutputError`."""
    worker = Worker(state)
    ended = threading.Event()

    def keep_touching() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a network disk may be away for a while
                worker.beat.touch()

    heart = threading.Thread(target=keep_touching, daemon=True)
    with _claiming(worker.workers, "cannot lock"):
        worker.lock.acquire()
    try:
        write_atomic(worker.beat, machine_name().encode())
        heart.start()
        worker.sweep()
        yield worker
    finally:
        ended.set()
        if heart.is_alive():
            heart.join()
        remove(worker.beat)
        worker.lock.release()
        remove(Path(worker.lock.lock_file))
