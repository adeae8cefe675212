"""The processes that share a picture, joined: sums, rows and words between them, and an error when one is gone."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from nst_fast.distributed import Place, voice
from nst_fast.distributed.watch import PATIENCE, Store, Watch, end_process
from nst_fast.errors import DeviceError, NstFastError

SPEAK_SECONDS = 1.0  # how long a rank that fails waits to hear whether another has reported an error
JOIN_SECONDS = 120.0  # how long the processes wait for one another at the start
STEP_SECONDS = 1800.0  # how long one may compute while the others wait; one that is gone is noticed by the watch


class Ranks(Protocol):
    """The processes that share a picture, as one of them sees the others. Every rank has to make the same calls."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor, of the same shape on all ranks, by the sum over the ranks: the same bits on each."""
        ...

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        """Send a contiguous tensor to each rank named, and fill those that are named as coming from others."""
        ...

    def highest(self, values: Sequence[float]) -> list[float]:
        """The largest of all ranks' values, position by position. Never waits for a GPU."""
        ...

    def word_of_first(self, text: str) -> str:
        """What rank 0 says; the others' texts do not count."""
        ...


class JoinedRanks:
    """The ranks of a ``torch.distributed`` process group: gloo between CPUs, NCCL between GPUs.

    Raises:
        DeviceError: from every method, when another rank is gone.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.rank, self.size = place.rank, place.size
        self._store = store
        self._words = 0

    def add_up(self, tensor: Tensor) -> None:
        with self._in_company():
            distributed.all_reduce(tensor)

    def exchange(self, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]) -> None:
        operations = [distributed.P2POp(distributed.isend, tensor, rank) for rank, tensor in sent.items()]
        operations += [distributed.P2POp(distributed.irecv, tensor, rank) for rank, tensor in received.items()]
        with self._in_company():
            for work in distributed.batch_isend_irecv(operations) if operations else ():
                work.wait()

    def highest(self, values: Sequence[float]) -> list[float]:
        found = torch.tensor(values, dtype=torch.float64)
        with self._in_company():
            distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return found.tolist()

    def word_of_first(self, text: str) -> str:
        self._words += 1
        key = f"nst-fast/word/{self._words}"
        with self._in_company():
            if self.rank == 0:
                self._store.set(key, text)
            return self._store.get(key).decode()

    @contextmanager
    def _in_company(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the base of all that torch.distributed raises, gloo's own being no more
            others = f"rank {1 - self.rank}" if self.size == 2 else f"one of the other {self.size - 1} ranks"
            raise lost(others, reason_of(error)) from error


def device_of(name: str, place: Place) -> str:
    """The device of one rank: a GPU of its own, or the CPU.

    Raises:
        DeviceError: there are more ranks than GPUs, or the device is one for a single process.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise DeviceError(
            f"device {name!r}: {place.size} ranks cannot share it", "Use --device cuda, a GPU for each, or --device cpu"
        )
    if place.local_size > count:
        raise DeviceError(
            f"{place.local_size} ranks on a machine with {count} GPUs", "Start one for each GPU, or use --device cpu"
        )
    return f"cuda:{place.local_rank}"


def reason_of(error: Exception) -> str:
    """What a library says, without the line of its source and the advice that follows."""
    said = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip())
    return re.split(r"\. |\n", said)[0]


def lost(who: str, why: str) -> DeviceError:
    remedy = "`nst-fast resume OUT` goes on from the last checkpoint, in one process"
    return DeviceError(f"{who} is gone ({why})", remedy)


@contextmanager
def joined(
    place: Place,
    device: str,
    *,
    patience: float = PATIENCE,
    end: Callable[[NstFastError], None] = end_process,
) -> Iterator[JoinedRanks]:
    """Join the processes that ``place`` counts, for as long as the block lasts.

    Args:
        place: who this process is.
        device: ``cpu``, or ``cuda:N``, a GPU of its own for every rank.
        patience: seconds without a sign of life after which a rank counts as gone.
        end: ends this process from the watch's thread, when it may be waiting for a rank that is gone.

    Raises:
        DeviceError: the others cannot be reached; later, from every exchange, one of them is gone.
    """
    store = _meet(place, device)
    speaking = store.clone()
    watch = Watch(place, store.clone(), lambda who, why: end(lost(who, why)), patience)
    ranks = JoinedRanks(place, store)
    voice.claim = lambda: _first_to_speak(speaking)  # stays after an error, which is reported further out
    try:
        ranks.highest([0.0])  # everybody is there, and has begun to show signs of life
        with watch:
            yield ranks
            ranks.highest([0.0])  # nobody leaves before the others are done, lest they miss him
        voice.claim = None
    finally:
        with contextlib.suppress(RuntimeError):  # what joined us may be gone already
            distributed.destroy_process_group()


def _meet(place: Place, device: str) -> Store:
    """Find the others through the address in the environment, and form the process group."""
    limit = timedelta(seconds=JOIN_SECONDS)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    store: Any  # PyTorch's own class, which is no name of its public modules
    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=limit))
        store.set_timeout(limit)
        distributed.init_process_group(
            backend,
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=STEP_SECONDS),
        )
        store.set_timeout(timedelta(seconds=STEP_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"rank {place.rank} of {place.size} cannot join the others ({reason_of(error)})", "Start with torchrun"
        ) from error
    return cast(Store, store)


def _first_to_speak(store: Store) -> bool:
    """Whether no other rank has reported an error yet; without a store nobody can tell, and silence would be worse."""
    found: list[int] = []

    def ask() -> None:
        with contextlib.suppress(RuntimeError):
            found.append(store.add("nst-fast/spoken", 1))

    asking = threading.Thread(target=ask, name="nst-fast voice", daemon=True)  # a store may never answer
    asking.start()
    asking.join(SPEAK_SECONDS)
    return found in ([], [1])
