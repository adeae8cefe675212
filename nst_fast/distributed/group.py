"""The processes that share a picture, joined: sums, rows and texts between them, and an error when one is lost."""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed import Store  # type: ignore[attr-defined]  # lacks in its stubs
from torch.distributed.rendezvous import rendezvous

from nst_fast.distributed import ProcessRank, error_reporter
from nst_fast.distributed.watch import PATIENCE, Watch, end_process
from nst_fast.errors import DeviceError, NstFastError

CLAIM_SECONDS = 1.0  # how long a rank that fails waits to learn whether another has reported an error
JOIN_SECONDS = 120.0  # how long the processes wait for one another at the start
STEP_SECONDS = 1800.0  # how long one may compute while the others wait; a lost one is noticed by the watch


class Ranks:
    """The processes that share a picture, as one of them sees the others; here the only one, without others.

    Every rank has to make the same calls. ``local_size`` of them are on this machine.
    """

    rank, size, local_size = 0, 1, 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor, of the same shape on all ranks, by the sum over the ranks: the same bits on each."""

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        """Send a contiguous tensor to each rank named, and fill those that are named as coming from others."""

    def maximum(self, values: Sequence[float]) -> list[float]:
        """The largest of all ranks' values, position by position. Never waits for a GPU."""
        return list(values)

    def broadcast(self, text: str) -> str:
        """The text of rank 0."""
        return text


class JoinedRanks(Ranks):
    """The ranks of a ``torch.distributed`` process group: gloo between CPUs, NCCL between GPUs.

    Raises:
        DeviceError: from every method, when another rank is lost.
    """

    def __init__(self, process: ProcessRank, store: Store) -> None:
        self.rank, self.size, self.local_size = process.rank, process.world_size, process.local_world_size
        self._store = store
        self._texts = 0

    def all_reduce(self, tensor: Tensor) -> None:
        with self._lost_rank_as_error():
            distributed.all_reduce(tensor)

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        operations = [distributed.P2POp(distributed.isend, tensor, rank) for rank, tensor in sent.items()]
        operations += [distributed.P2POp(distributed.irecv, tensor, rank) for rank, tensor in received.items()]
        with self._lost_rank_as_error():
            for work in distributed.batch_isend_irecv(operations) if operations else ():
                work.wait()

    def maximum(self, values: Sequence[float]) -> list[float]:
        found = torch.tensor(values, dtype=torch.float64)
        with self._lost_rank_as_error():
            distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return found.tolist()

    def broadcast(self, text: str) -> str:
        self._texts += 1
        key = f"nst-fast/text/{self._texts}"
        with self._lost_rank_as_error():
            if self.rank == 0:
                self._store.set(key, text)
            return self._store.get(key).decode()

    @contextmanager
    def _lost_rank_as_error(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the base of all that torch.distributed raises
            others = f"rank {1 - self.rank}" if self.size == 2 else f"one of the other {self.size - 1} ranks"
            raise lost(others, reason_of(error)) from error


def device_of(name: str, process: ProcessRank) -> str:
    """The device of one rank: a GPU of its own, or the CPU.

    Raises:
        DeviceError: there are more ranks than GPUs, or the device is one for a single process.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise DeviceError(
            f"`device` {name!r}: {process.world_size} ranks cannot share it",
            "Set `device` to cuda, a GPU for each, or to cpu",
        )
    if process.local_world_size > count:
        raise DeviceError(
            f"{process.local_world_size} ranks on a machine with {count} GPUs",
            "Start one for each GPU, or set `device` to cpu",
        )
    return f"cuda:{process.local_rank}"


def reason_of(error: Exception) -> str:
    """A library's message without the line of its source and the advice that follows."""
    said = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip())
    return re.split(r"\. |\n", said)[0]


def lost(who: str, why: str) -> DeviceError:
    remedy = "`nst-fast resume OUT` continues from the last checkpoint, in one process"
    return DeviceError(f"{who} was lost ({why})", remedy)


@contextmanager
def joined(
    process: ProcessRank, device: str, *, end: Callable[[NstFastError], None] = end_process
) -> Iterator[JoinedRanks]:
    """Join the processes for as long as the block lasts.

    Args:
        device: ``cpu``, or ``cuda:N``, a GPU of its own for every rank.
        end: ends this process from the watch's thread, while the main thread may wait for the lost rank.

    Raises:
        DeviceError: the others cannot be reached; later, from every exchange, one of them is lost.
    """
    store = _join(process, device)
    claims = store.clone()
    watch = Watch(process, store.clone(), lambda who, why: end(lost(who, why)), PATIENCE)
    ranks = JoinedRanks(process, store)
    error_reporter.claim = lambda: _first_to_claim(claims)  # stays after an error, which is reported further out
    try:
        ranks.maximum([0.0])  # all have joined and sent a heartbeat
        with watch:
            yield ranks
            ranks.maximum([0.0])  # a rank that left early would count as lost
        error_reporter.claim = None
    finally:
        with contextlib.suppress(RuntimeError):  # the group may be broken already
            distributed.destroy_process_group()


def _join(process: ProcessRank, device: str) -> Store:
    """Find the others through the address in the environment, and form the process group."""
    # Its functions' defaults would hold a group that exists when it is imported, as by an optimizer: for ever, and the
    # group's threads, which run at the end of the interpreter, would abort the process.
    importlib.import_module("torch.distributed.nn.functional")
    limit = timedelta(seconds=JOIN_SECONDS)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    rank, size = process.rank, process.world_size
    store: Store
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=limit))
        store.set_timeout(limit)
        step_limit = timedelta(seconds=STEP_SECONDS)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=step_limit)
        store.set_timeout(step_limit)
    except (RuntimeError, ValueError) as error:
        message = f"rank {rank} of {size} cannot join the others ({reason_of(error)})"
        raise DeviceError(message, "Start with torchrun") from error
    return store


def _first_to_claim(store: Store) -> bool:
    """Whether no other rank has reported an error yet; True also when the store does not answer."""
    found: list[int] = []

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            found.append(store.add("nst-fast/reported", 1))

    asking = threading.Thread(target=ask, name="nst-fast error report", daemon=True)  # a store may never answer
    asking.start()
    asking.join(CLAIM_SECONDS)
    return found in ([], [1])
