"""What an option is: a dataclass field that knows its range, its choices and its help. Standard library only.

The config classes in :mod:`nst_fast.options.config` declare options; the command line is generated from them, so a
name, a type, a default or a range is written once.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Self

from nst_fast.errors import UsageError, nearest


@dataclass(frozen=True, kw_only=True)
class Option:
    """The facts about an option beyond its name, type and default."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    # Options that change what is reported but not the picture: a resumed or replayed run may differ in them.
    cosmetic: bool = False

    def allowed(self) -> str:
        """The range or the choices in words, for help texts and error messages."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"from {low:g} to {high:g}"
        if low is not None:
            return f"at least {low:g}"
        return f"at most {high:g}" if high is not None else ""


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field with an :class:`Option` in its metadata."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **facts)})


@dataclass(frozen=True)
class Declared:
    """An option as its config class declares it: what the command line, the presets and the records need."""

    name: str
    kind: type
    optional: bool
    default: Any
    option: Option
    group: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def declared(config_class: type) -> list[Declared]:
    """The options of a config class, its bases' first, each with the group (docstring title) of the class it is in."""
    hints = typing.get_type_hints(config_class)
    found = []
    for field in dataclasses.fields(config_class):
        kind, optional = _kind(hints[field.name])
        owner = next(base for base in reversed(config_class.__mro__) if field.name in inspect.get_annotations(base))
        group = (owner.__doc__ or "").splitlines()[0].rstrip(".")
        found.append(Declared(field.name, kind, optional, field.default, field.metadata["option"], group))
    return found


def _kind(hint: Any) -> tuple[type, bool]:
    if isinstance(hint, types.UnionType):
        (inner,) = [part for part in typing.get_args(hint) if part is not type(None)]
        return inner, True
    return hint, False


class Options:
    """Base of the config classes: frozen, checked as a whole when made, every problem reported at once."""

    def __post_init__(self) -> None:
        problems = [problem for item in declared(type(self)) if (problem := self._problem(item))]
        problems += [] if problems else self.contradictions()
        if problems:
            raise UsageError("; ".join(problems))

    def contradictions(self) -> list[str]:
        """Problems that lie between options, one sentence each; called when every option is fine by itself."""
        return []

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed; an unknown name raises :class:`UsageError` with the nearest names."""
        return dataclasses.replace(self, **known(type(self), changes))  # type: ignore[type-var]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def _problem(self, item: Declared) -> str | None:
        value: Any = getattr(self, item.name)
        if value is None and item.optional:
            return None
        if item.kind is float and type(value) is int:
            value = _as_float(value)
            object.__setattr__(self, item.name, value)  # 1 means 1.0, also in records and comparisons
        if type(value) is not item.kind:
            return f"{item.flag} {value!r}: must be {_article(item.kind)}"
        return _out_of_range(item, value)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def _out_of_range(item: Declared, value: Any) -> str | None:
    if item.kind is float and not math.isfinite(value):
        return f"{item.flag} {value}: must be a finite number"
    facts = item.option
    if facts.choices and value not in facts.choices:
        return f"{item.flag} {value!r}: must be {facts.allowed()}. {nearest(value, facts.choices)}".rstrip(". ")
    too_low = facts.minimum is not None and value < facts.minimum
    too_high = facts.maximum is not None and value > facts.maximum
    return f"{item.flag} {value}: must be {facts.allowed()}" if too_low or too_high else None


def known(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values, unchanged, after a check that each names an option of the class."""
    names = [item.name for item in declared(config_class)]
    for name in values:
        if name not in names:
            raise UsageError(f"unknown option {name!r}", nearest(name, names) or f"Known are {', '.join(names)}")
    return values


def _article(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
