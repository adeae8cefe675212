"""Where the pictures of a batch are made: here, by processes of this machine, or in a Ray cluster (:mod:`.cluster`).

A worker has one picture in flight, or one group that shares a loop. When it dies, that is the picture's fault, unless
its machine was taken away: the picture is tried again, alone, and the third death counts as its failure.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from nst_fast.errors import DeviceError, NstFastError, OutOfMemoryError, OutputError
from nst_fast.jobs.inputs import STATE
from nst_fast.jobs.painter import Made, Painter, Picture, Spec
from nst_fast.jobs.runner import JobObserver
from nst_fast.run.problem import Networks
from nst_fast.system.files import shown
from nst_fast.system.machine import resolve_device

MOST_DEATHS = 3  # of workers at one picture, or of workers that are not even ready
WAIT_SECONDS = 0.2  # between two looks whether the user stops
STOP_SECONDS = 60.0  # that a worker has to keep what it can

Group = Sequence[Picture]
Worker = TypeVar("Worker")


class InProcess:
    """Makes pictures in this process, one group after the other."""

    def __init__(self, spec: Spec, observer: JobObserver, networks: Networks) -> None:
        self._painter, self._observer = Painter(spec, networks), observer

    def run(self, groups: Iterable[Group]) -> Iterator[Made]:
        """What came of every picture, as they end; those of a group share a loop. After a stop it ends soon.

        Raises:
            NstFastError: what concerns not one picture alone.
        """
        for group in groups:
            if self._observer.stop():
                return
            yield from self._painter.make([picture.attempted() for picture in group], self._observer)

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True)
class Answer:
    """A worker's, to a group of pictures or, with nothing made, to its start.

    Attributes:
        said: ``note`` or ``detail``, and the text.
        error: what concerns not one picture alone.
    """

    made: Sequence[Made] = ()
    said: Sequence[tuple[str, str]] = ()
    error: NstFastError | None = None


@dataclass(frozen=True)
class Death:
    """A worker's; ``counted``: its picture may be the reason."""

    reason: str
    counted: bool = True


class Backend(Protocol[Worker]):
    """Starts workers and talks to them."""

    def room(self) -> int:
        """How many workers there may be."""

    def start(self) -> Worker:
        """Start one, which answers when it is ready."""

    def give(self, worker: Worker, group: Group) -> None:
        """Give it pictures, which it answers."""

    def stop(self, worker: Worker) -> None:
        """Ask it to answer soon, with what it has."""

    def wait(self, seconds: float) -> Iterator[tuple[Worker, Answer | Death]]:
        """Answers and deaths, of which there may be none in this time."""

    def close(self) -> None:
        """End all workers."""


class Dispatcher(Generic[Worker]):
    """Makes pictures as :class:`InProcess` does, by workers."""

    def __init__(self, backend: Backend[Worker], observer: JobObserver) -> None:
        self._backend, self._observer = backend, observer
        self._groups: dict[Worker, Group | None] = {}  # None: it has not answered yet; empty: it has nothing to do
        self._waiting: deque[Group] = deque()
        self._deaths: Counter[str] = Counter()  # by picture; of workers that were not ready: ""

    def run(self, groups: Iterable[Group]) -> Iterator[Made]:
        coming, stopping = iter(groups), False
        while self._dispatch(coming if not stopping else iter(())):
            if self._observer.stop() and not stopping:
                stopping = True
                for worker in [worker for worker, group in self._groups.items() if group]:
                    self._backend.stop(worker)
            for worker, answer in self._backend.wait(WAIT_SECONDS):
                if isinstance(answer, Death):
                    yield from self._retry(worker, answer)
                else:
                    yield from self._receive(worker, answer)
            if stopping:
                self._waiting.clear()

    def close(self) -> None:
        self._backend.close()

    def _dispatch(self, coming: Iterator[Group]) -> bool:
        """Start the workers that are wanted, and give work to the idle; whether there is anything to wait for."""
        room, waiting = self._backend.room(), self._waiting
        waiting.extend(islice(coming, max(1, room) - len(waiting)) if len(waiting) < max(1, room) else ())
        for worker, group in self._groups.items():
            if group is not None and not group and waiting:
                given = [picture.attempted() for picture in waiting.popleft()]
                self._groups[worker] = given
                self._backend.give(worker, given)
        busy = sum(bool(group) for group in self._groups.values())
        while len(self._groups) < min(room, len(waiting) + busy):
            self._groups[self._backend.start()] = None
        return bool(waiting or busy)

    def _receive(self, worker: Worker, answer: Answer) -> Iterator[Made]:
        if self._groups[worker] is None:
            self._deaths[""] = 0
        self._groups[worker] = ()
        for kind, text in answer.said:
            getattr(self._observer, kind)(text)
        yield from answer.made
        if answer.error is not None:
            raise answer.error

    def _retry(self, worker: Worker, death: Death) -> Iterator[Made]:
        """Queue the pictures of a worker that died, each alone; those given up are failures."""
        group = self._groups.pop(worker)
        if group is None:
            self._deaths[""] += death.counted
            if self._deaths[""] >= MOST_DEATHS:
                raise DeviceError(f"workers die before they are ready: {death.reason}", "Look into their logs")
        for picture in group or ():
            self._deaths[picture.name] += death.counted
            if self._deaths[picture.name] < MOST_DEATHS:
                self._observer.note(f"{picture.title}: its worker died ({death.reason}); it is tried again")
                self._waiting.append([picture])
                continue
            error = OutOfMemoryError(
                f"{MOST_DEATHS} workers died while they made it, as they do when memory runs out ({death.reason})",
                "Use `max_memory` or a smaller `image_size`",
            )
            yield Made(picture, error=error)


Executor = InProcess | Dispatcher[Any]


class Listener(JobObserver):
    """Keeps what a run says until its worker answers."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self.said: list[tuple[str, str]] = []
        self._stopped = stopped

    def note(self, text: str) -> None:
        self.said.append(("note", text))

    def detail(self, text: str) -> None:
        self.said.append(("detail", text))

    def stop(self) -> bool:
        return self._stopped()


class WorkerSide:
    """What a worker does, wherever it is."""

    def ready(self, spec: Spec) -> Answer:
        """Do what can go wrong with every picture."""
        try:
            if spec.home.is_dir():
                os.chdir(spec.home)
            if isinstance(spec.folder, Path) and not (spec.folder / STATE).is_dir():
                message = f"{shown(spec.folder)}, the folder of the batch, is not there"
                raise OutputError(message, "Use a disk that all machines share, or addresses as s3://bucket/out")
            self.painter = Painter(spec)
            config = spec.config
            self.painter.networks.encoder(config, config.taps, resolve_device(config.device))
        except NstFastError as error:
            return Answer(error=_from_here(error))
        return Answer()

    def make(self, group: Group, stopped: Callable[[], bool]) -> Answer:
        listener, made = Listener(stopped), []
        try:
            for each in self.painter.make(group, listener):
                made.append(each)
        except NstFastError as error:
            return Answer(made, listener.said, _from_here(error))
        return Answer(made, listener.said)


def _from_here(error: NstFastError) -> NstFastError:
    return type(error)(f"worker on {socket.gethostname()}: {error.message}", error.remedy)


class ProcessBackend:
    """Worker processes of this machine: one GPU each, in turn, or a part of its cores."""

    def __init__(self, spec: Spec, count: int) -> None:
        self._spec, self._count = spec, count
        self._processes: dict[Connection, BaseProcess] = {}
        self._started = 0
        device = resolve_device(spec.config.device)
        self._gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0

    def room(self) -> int:
        return self._count

    def start(self) -> Connection:
        spec = self._spec
        if self._gpus:
            spec = replace(spec, config=spec.config.replace(device=f"cuda:{self._started % self._gpus}"))
        self._started += 1
        context = multiprocessing.get_context("spawn")  # a fork would have PyTorch's threads without their locks
        ours, theirs = context.Pipe()
        threads = max(1, torch.get_num_threads() // self._count)
        process = context.Process(target=serve, args=(theirs, spec, threads), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def give(self, worker: Connection, group: Group) -> None:
        with suppress(OSError):  # it has died in the meantime, which :meth:`wait` finds out
            worker.send(group)

    def stop(self, worker: Connection) -> None:
        self.give(worker, ())

    def wait(self, seconds: float) -> Iterator[tuple[Connection, Answer | Death]]:
        for worker in wait(list(self._processes), seconds):
            assert isinstance(worker, Connection)
            try:
                yield worker, worker.recv()
            except (EOFError, OSError):
                process = self._processes.pop(worker)
                process.join()
                yield worker, Death(_ending(process.exitcode or 0))

    def close(self) -> None:
        for worker in self._processes:
            worker.close()  # which they see, and keep what they can
        for process in self._processes.values():
            process.join(STOP_SECONDS)
            process.kill()


def serve(pipe: Connection, spec: Spec, threads: int) -> None:
    """The life of a worker process: an answer to every group, until an empty one or the end of its driver."""
    for name in {"SIGINT", "SIGTERM", "SIGHUP"} & signal.Signals.__members__.keys():
        signal.signal(signal.Signals[name], signal.SIG_IGN)  # a terminal signals all; the driver decides
    torch.set_num_threads(threads)
    worker = WorkerSide()
    with suppress(EOFError, OSError):  # the driver has died: nobody waits for an answer
        pipe.send(worker.ready(spec))
        while group := pipe.recv():
            pipe.send(worker.make(group, pipe.poll))  # whatever comes while it works, also the driver's end, is a stop


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
