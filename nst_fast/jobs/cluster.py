"""Workers of a batch as actors of a Ray cluster, by Ray Core; Ray Data would retry a deadly picture for ever."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, TaskCancelledError

from nst_fast import __version__
from nst_fast.errors import DeviceError, UsageError
from nst_fast.jobs.executors import Answer, Death, Group, WorkerSide
from nst_fast.jobs.painter import Spec
from nst_fast.jobs.runner import JobObserver
from nst_fast.system.files import shown

CONNECT_SECONDS = 10.0


class Actor(WorkerSide):
    """A worker in an actor. Its methods are called one after the other."""

    def begin(self, spec: Spec, version: str) -> tuple[str, Answer]:
        """The node that it is on, and its answer."""
        if version != __version__:
            message = f"nst-fast is {__version__} on a node of the cluster and {version} here"
            return "", Answer(error=UsageError(message, "Install one version everywhere"))
        return ray.get_runtime_context().get_node_id(), self.ready(spec)

    def answer(self, group: Group) -> Answer:
        return self.make(group, ray.get_runtime_context().is_canceled)

    def settle(self) -> Answer:
        """Comes back once what was called before is done."""
        return Answer()


@dataclass(eq=False)
class ActorWorker:
    """An actor, the node that it is on once it is ready, and whether it could not be reached for a while."""

    actor: Any
    node: str = ""
    lost: bool = False


class RayBackend:
    """Workers as actors of a Ray cluster.

    Args:
        address: of its head; empty for the one that this machine or ``RAY_ADDRESS`` names, or else a new one here.
        workers: how many there shall be; None for as many as the cluster has room for.
        gpus: of each worker; by default 1, or 0 where the cluster has none.
    """

    def __init__(
        self, spec: Spec, observer: JobObserver, address: str, workers: int | None, gpus: float | None
    ) -> None:
        check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        self._streams = ExitStack()
        self._streams.enter_context(redirect_stdout(sys.stderr))  # Ray prints its errors where results go
        try:
            ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            self._streams.close()
            message = f"the Ray cluster cannot be joined: {' '.join(str(error).split())}"
            raise DeviceError(message, "Start it with `ray start --head`") from error
        on_cpu = spec.config.device == "cpu" or not ray.cluster_resources().get("GPU")
        self._gpus = gpus if gpus is not None else 0 if on_cpu else 1
        self._spec = ray.put(spec)
        self._workers, self._observer, self._told = workers, observer, False
        self._flying: dict[Any, ActorWorker] = {}
        self._class: Any = ray.remote(Actor).options(
            num_cpus=cores_of(workers), num_gpus=self._gpus, max_restarts=0, max_task_retries=0
        )

    def room(self) -> int:
        """As many as were asked for, placed or not, which lets an autoscaler see what is wanted; else what fits now."""
        if self._workers is not None:
            return self._workers
        found = ray.cluster_resources()
        fit = found.get("GPU", 0.0) / self._gpus if self._gpus else found.get("CPU", 0.0)
        if fit < 1 and not self._told:
            self._told = True
            kind = "GPU" if self._gpus else "CPU"
            self._observer.note(f"the cluster has no {kind} for a worker; waiting for a node that has one")
        return int(fit)

    def start(self) -> ActorWorker:
        worker = ActorWorker(self._class.remote())
        self._flying[worker.actor.begin.remote(self._spec, __version__)] = worker
        return worker

    def give(self, worker: ActorWorker, group: Group) -> None:
        self._flying[worker.actor.answer.remote(group)] = worker

    def stop(self, worker: ActorWorker) -> None:
        for ref in [ref for ref, each in self._flying.items() if each is worker]:
            ray.cancel(ref)

    def wait(self, seconds: float) -> Iterator[tuple[ActorWorker, Answer | Death]]:
        if not self._flying:
            time.sleep(seconds)
            return
        for ref in ray.wait(list(self._flying), timeout=seconds)[0]:
            worker = self._flying.pop(ref)
            if (answer := self._answer(ref, worker)) is not None:
                yield worker, answer

    def _answer(self, ref: Any, worker: ActorWorker) -> Answer | Death | None:
        """What has come of a call; None where that is not known yet."""
        try:
            answer: Answer | tuple[str, Answer] = ray.get(ref)
        except TaskCancelledError:
            self._flying[worker.actor.settle.remote()] = worker  # comes back when the picture is kept
            return None
        except ActorUnavailableError:  # it may be dead, or cut off and writing; only Ray's head can say
            worker.lost = True
            self._flying[worker.actor.settle.remote()] = worker
            return None
        except RayActorError as error:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            counted = not error.preempted and (not worker.node or worker.node in alive)
            return Death("its machine is gone" if not counted else _reason(error), counted)
        except RayTaskError as error:
            ray.kill(worker.actor)
            return Death(_reason(error))
        except RayError as error:
            raise DeviceError(f"the Ray cluster: {_reason(error)}", "The same command continues") from error
        if worker.lost:
            ray.kill(worker.actor)
            return Death("it could not be reached for a while", counted=False)
        if isinstance(answer, Answer):
            return answer
        worker.node, found = answer
        return found

    def close(self) -> None:
        ray.shutdown()
        self._streams.close()


def check_reachable(address: str) -> None:
    """Raise :class:`DeviceError` where nothing answers at ``host:port``; Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        message = f"no Ray cluster answers at {shown(address)}: {(error.strerror or str(error)).lower()}"
        raise DeviceError(message, "Check `address`; `ray start --head` starts one") from error


def _reason(error: Exception) -> str:
    """The first sentence of the last line: those before it name the actor, those after it guess."""
    return str(error).strip().splitlines()[-1].strip().partition(". ")[0]


def cores_of(workers: int | None) -> int:
    """The cores of each of so many workers, which Ray makes the number of its threads: as many as fit on any node."""
    if workers is None:
        return 1
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(sum(nodes) // workers, min((cores for cores in nodes if cores), default=1))))
