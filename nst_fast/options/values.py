"""Types of options that can be written as text. The text is read once, when a config is made.

Each class takes text or the Python value in ``of`` and keeps the text: ``str`` gives it, and records hold it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from nst_fast.errors import UsageError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
LEAST_KEPT = 0.1  # of a style image's width and height, whatever its borders


def plain(given: Any) -> Any:
    """A scalar of NumPy or PyTorch as the Python value that it holds, text as plain text; anything else unchanged."""
    if isinstance(given, str):
        return str.__str__(given)
    return given.item() if getattr(given, "shape", None) == () and hasattr(given, "item") else given


class Parsed:
    """A value with the text that it was, or can be, written as."""

    text: str

    @classmethod
    def of(cls, given: object) -> Self:
        """The value from text or from a Python value. Raises :class:`UsageError` without the option's name."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.text


class Taps(Parsed, Mapping[str, float]):
    """Taps and their weights within a term, in order: ``TAP[:WEIGHT[:LOSS]],...``, a mapping, or a sequence of taps.

    A mapping gives a weight, or a weight and a loss. ``losses`` are of the taps that name one, and not checked here.
    """

    def __init__(
        self, weights: Mapping[str, float], text: str | None = None, losses: Mapping[str, str] | None = None
    ) -> None:
        self._weights, self.losses = dict(weights), dict(losses or {})
        written = [self._written(tap) for tap in self._weights]
        self.text = ",".join(written) if text is None else text

    @classmethod
    def of(cls, given: object) -> Self:
        losses: dict[str, str] = {}
        if isinstance(given, str):
            parts = [[each.strip() for each in part.split(":", 2)] for part in given.split(",") if part.strip()]
            weights = {tap: _tap_weight(tap, rest[0]) if rest else 1.0 for tap, *rest in parts}
            losses = {tap: rest[1] for tap, *rest in parts if len(rest) == 2}
        elif isinstance(given, Mapping):
            pairs = {tap: each if isinstance(each, list | tuple) else (each,) for tap, each in given.items()}
            weights = {tap: _tap_weight(tap, number) for tap, (number, *_) in pairs.items()}
            losses = {tap: str(rest[0]) for tap, (_, *rest) in pairs.items() if rest}
        elif isinstance(given, Iterable):
            weights = dict.fromkeys(given, 1.0)
        else:
            raise UsageError("must be text, taps, or taps with their weights")
        if not all(isinstance(tap, str) for tap in weights):
            raise UsageError("a tap is named by text", "Write it as relu2_1")
        return cls(weights, given if isinstance(given, str) else None, losses)

    def _written(self, tap: str) -> str:
        weight, loss = self._weights[tap], self.losses.get(tap)
        if loss is not None:
            return f"{tap}:{weight!r}:{loss}"
        return tap if weight == 1 else f"{tap}:{weight!r}"

    def __getitem__(self, tap: str) -> float:
        return self._weights[tap]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __eq__(self, other: object) -> bool:
        """Equal taps, weights and losses in the same order: terms are added in that order."""
        return isinstance(other, Taps) and list(self.items()) == list(other.items()) and self.losses == other.losses

    def __hash__(self) -> int:
        return hash((*self.items(), *sorted(self.losses.items())))


def _tap_weight(tap: str, given: object) -> float:
    try:
        weight = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UsageError(f"tap {tap!r}: {given!r} is not a weight", "Write TAP or TAP:WEIGHT, as relu2_1:0.8") from None
    if not 0 <= weight < math.inf:
        raise UsageError(f"tap {tap!r}: the weight {given} must be a finite number of at least 0")
    return weight


class Shares(Parsed, tuple[float, ...]):
    """Weights of several style images, in their order: ``NUMBER,...`` or a sequence of numbers; none for equal."""

    @classmethod
    def of(cls, given: object) -> Self:
        parts = [part for part in given.split(",") if part.strip()] if isinstance(given, str) else given
        try:
            shares = cls(float(part) for part in parts)  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            raise UsageError("not numbers", "Write 0.7,0.3") from None
        if shares and (not all(0 <= share < math.inf for share in shares) or not sum(shares)):
            raise UsageError("must be at least 0 and not all 0")
        shares.text = given if isinstance(given, str) else ",".join(map(repr, shares))
        return shares


class Bytes(Parsed, int):
    """An amount of memory in bytes: a whole number, or ``4GiB``, ``1500MB``."""

    @classmethod
    def of(cls, given: object) -> Self:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(given))
        if isinstance(given, bool | float) or match is None or match[2].upper() not in UNITS:
            raise UsageError("not an amount of memory", "Write it as 4GiB, 1500MB or in bytes")
        amount = cls(round(float(match[1]) * UNITS[match[2].upper()]))
        if amount == 0:
            raise UsageError("nothing fits into that")
        amount.text = str(given)
        return amount


class Seconds(Parsed, float):
    """A duration in seconds: a number, or ``90``, ``60s``, ``5m``, ``1h``; 0 or empty text for none."""

    @classmethod
    def of(cls, given: object) -> Self:
        if given == "" or (given == 0 and not isinstance(given, bool)):
            seconds, text = cls(0), ""
        elif isinstance(given, str):
            seconds, text = cls(_seconds(given)), given
        else:
            text = format(Decimal(repr(given)), "f") if type(given) in (int, float) else repr(given)
            seconds = cls(_seconds(text))
        seconds.text = text
        return seconds


def seconds_of(text: str) -> float | None:
    """``90``, ``2.5s``, ``1m`` or ``1h`` in seconds; None for any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else None


def _seconds(text: str) -> float:
    seconds = seconds_of(text)
    if not seconds or seconds == math.inf:
        raise UsageError("is no duration", "Write seconds, or 60s, 5m, 1h")
    return seconds


class Percent(Parsed, float):
    """A share, written in per cent: ``5%`` is 0.05. A bare number is refused, because it could mean either."""

    @classmethod
    def of(cls, given: object) -> Self:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", given.strip()) if isinstance(given, str) else None
        if match is None:
            raise UsageError("is no percentage", "Write it as 5% or 2.5%")
        share = cls(float(match[1]) / 100)
        share.text = match[0]
        return share


@dataclass(frozen=True)
class Interval(Parsed):
    """A number of steps, or of seconds; the other is 0, and both are for never: ``200``, ``30s``, or a whole number."""

    steps: int = 0
    seconds: float = 0.0
    text: str = field(default="", compare=False)

    def __bool__(self) -> bool:
        return self.steps > 0 or self.seconds > 0

    def __post_init__(self) -> None:
        written = f"{Seconds.of(self.seconds)}s" if self.seconds else str(self.steps)
        object.__setattr__(self, "text", self.text or written)

    @classmethod
    def of(cls, given: object) -> Self:
        if type(given) is int and given >= 0:
            return cls(steps=given)
        text = given.strip() if isinstance(given, str) else ""
        return cls(steps=int(text), text=str(given)) if text.isdecimal() else cls(seconds=_seconds(text), text=text)


@dataclass(frozen=True)
class StyleCrop(Parsed):
    """What is left out of a style image at its sides: ``auto``, ``none``, or LEFT,TOP,RIGHT,BOTTOM in per cent.

    ``borders`` are shares of the sides in that order; None where they are to be looked for.
    """

    borders: tuple[float, float, float, float] | None
    text: str = field(compare=False)

    @classmethod
    def of(cls, given: object) -> Self:
        if isinstance(given, str) and given == "auto":
            return cls(None, "auto")
        if isinstance(given, str) and given == "none":
            return cls((0.0, 0.0, 0.0, 0.0), "none")
        try:
            parts = given.split(",") if isinstance(given, str) else list(map(plain, given))  # type: ignore[call-overload]
            left, top, right, bottom = (float(part) / 100 for part in parts)
        except (TypeError, ValueError):
            remedy = "Write LEFT,TOP,RIGHT,BOTTOM in per cent, as 0,3,0,0"
            raise UsageError("not auto, none or four numbers", remedy) from None
        most = 1 - LEAST_KEPT
        if not (min(left, top, right, bottom) >= 0 and left + right <= most and top + bottom <= most):  # NaN is not
            rule = f"each at least 0, left and right, or top and bottom, at most {100 * most:g} together"
            raise UsageError(f"must be {rule}")
        text = given if isinstance(given, str) else ",".join(map(repr, parts))
        return cls((left, top, right, bottom), text)
