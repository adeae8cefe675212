"""Fair timing: contenders that are compared take turns, so that whatever else the machine does affects all alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np

from nst_fast.benchmark.rows import FAILED, NOT_AVAILABLE, OK, Row
from nst_fast.errors import DeviceError


class Contender(ABC):
    """One case to be timed. ``turns`` holds, for every turn it took, the milliseconds of each sample in it."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.turns: list[list[float]] = []

    @abstractmethod
    def prepare(self) -> None:
        """Build what will be timed, warm it up, and decide how much work a turn is."""

    @abstractmethod
    def take_turn(self) -> list[float]:
        """Do a turn's work; the milliseconds of one or more samples."""

    @property
    def samples(self) -> tuple[float, ...]:
        return tuple(sample for turn in self.turns for sample in turn)


@contextmanager
def recorded(row: Row) -> Iterator[None]:
    """Turn an exception in one case into its row's status and error: the other cases are still measured."""
    try:
        yield
    except DeviceError as error:
        row.status, row.error = NOT_AVAILABLE, str(error)
    # Broad, because a case may fail by any error of any library, and a benchmark reports that instead of ending.
    except Exception as error:  # of any library, see above
        text = " ".join(str(error).split()) or "no message"
        row.status, row.error = FAILED, f"{type(error).__name__}: {text}"


def compete(contenders: Sequence[Contender], rounds: int, stop: Callable[[], bool]) -> None:
    """Prepare all, then let them take turns. Every other round runs backwards, so that a drift affects all alike.

    ``stop`` is asked before every round; a contender that failed takes no more turns, and those it took do not count.
    """
    for contender in contenders:
        with recorded(contender.row):
            contender.prepare()
    for index in range(rounds):
        if stop():
            break
        take_turns(contenders if index % 2 == 0 else contenders[::-1])
    for contender in contenders:
        if contender.row.status != OK:
            contender.turns.clear()
        contender.row.turns = len(contender.turns)


def take_turns(contenders: Iterable[Contender]) -> None:
    """A turn for each that has not failed."""
    for contender in contenders:
        if contender.row.status == OK:
            with recorded(contender.row):
                contender.turns.append(contender.take_turn())


def median_ratio(numerator: Contender, denominator: Contender) -> float | None:
    """The median over rounds of one contender's time over the other's; None unless both took part in all of them."""
    pairs = list(zip(numerator.turns, denominator.turns, strict=False))
    if not pairs or len(numerator.turns) != len(denominator.turns):
        return None
    return median(median(upper) / median(lower) for upper, lower in pairs)


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """The median, the 10th and the 90th percentile of samples, interpolated linearly."""
    middle, low, high = np.quantile(samples, (0.5, 0.1, 0.9))
    return float(middle), float(low), float(high)


def count_for(seconds: float, each: float, most: int) -> int:
    """How many pieces of work, of ``each`` seconds, fill a turn: at least one, at most ``most``."""
    return max(1, min(most, math.ceil(seconds / each)))
