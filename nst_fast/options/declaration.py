"""An option is a dataclass field with its range, choices and help; the command line is generated from them."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nst_fast.errors import UsageError, nearest
from nst_fast.options.values import Parsed, plain
from nst_fast.system.files import user_path

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}  # in variables of the environment
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """The facts about an option beyond its name, type and default."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    also: re.Pattern[str] | None = None  # values that are accepted beside the choices
    metavar: str | None = None
    names_file: bool = False  # text that may name a file: a Path is accepted
    repeatable: bool = False  # on the command line; the values are joined by semicolons
    # Options that change what is reported but not the picture: a resumed or replayed run may differ in them.
    cosmetic: bool = False

    def takes(self, value: str) -> bool:
        """Whether a value is one of the choices, or of those beside them."""
        return value in self.choices or (self.also is not None and self.also.fullmatch(value) is not None)

    def allowed(self) -> str:
        """The range or the choices in words, for help texts and error messages."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.minimum is None:
            return ""
        low, high = (f"{number:g}" if isinstance(number, float) else number for number in (self.minimum, self.maximum))
        return f"at least {low}" if high is None else f"from {low} to {high}"


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field with an :class:`Option` in its metadata."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **facts)})


@dataclass(frozen=True)
class Declared:
    """An option as its config class declares it: what the command line, the presets and the records need.

    Attributes:
        kind: the type that is written: text for an option with a type of :mod:`nst_fast.options.values`.
        parsed: that type, or None.
        optional: whether None is a value.
        group: title of the class that declares it.
    """

    name: str
    kind: type
    parsed: type[Parsed] | None
    optional: bool
    default: Any
    option: Option
    group: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def number(self, text: str) -> int | float:
        """The number that is written. Raises :class:`UsageError` with value and range."""
        try:
            return int(text) if self.kind is int else float(text)
        except ValueError:
            given = text if len(text) < 40 else f"{text[:40]}..."
            wanted = ", ".join(filter(None, [_KINDS[self.kind], self.option.allowed()]))
            raise UsageError(f"`{self.name}` {given!r}: must be {wanted}") from None

    def read(self, text: str) -> Any:
        """The value that text holds, unchecked where it is text itself. Raises :class:`UsageError`."""
        if self.kind is bool:
            if text.lower() not in _BOOLEANS:
                raise UsageError(f"`{self.name}` {text!r}: must be {', '.join(_BOOLEANS)}")
            return _BOOLEANS[text.lower()]
        return self.number(text) if self.kind in (int, float) else text

    def checked(self, given: Any) -> Any:
        """A value in the option's type. Raises :class:`UsageError` with name, value and what is allowed."""
        if given is None and self.optional:
            return None
        try:
            value = _converted(self, given)
        except UsageError as error:
            raise UsageError(f"`{self.name}` {given!r}: {error}") from error
        if problem := _out_of_range(self, value):
            raise UsageError(problem)
        return value


_DECLARED: dict[type, Mapping[str, Declared]] = {}


def declared(config_class: type) -> Mapping[str, Declared]:
    """Name -> option of a config class, its bases' first; the group is the docstring title of the class it is in."""
    if config_class not in _DECLARED:
        _DECLARED[config_class] = {item.name: item for item in _declarations(config_class)}
    return _DECLARED[config_class]


def _declarations(config_class: type) -> Iterator[Declared]:
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        optional = isinstance(hint, types.UnionType)
        kind = next(part for part in typing.get_args(hint) if part is not type(None)) if optional else hint
        parsed = kind if issubclass(kind, Parsed) else None
        owner = next(base for base in reversed(config_class.__mro__) if field.name in inspect.get_annotations(base))
        group = (owner.__doc__ or "").splitlines()[0].rstrip(".")
        facts = field.metadata["option"]
        yield Declared(field.name, str if parsed else kind, parsed, optional, field.default, facts, group)


class Options:
    """Base of the config classes: frozen, checked as a whole when made, every problem reported at once."""

    def __post_init__(self) -> None:
        problems = []
        for name, item in declared(type(self)).items():
            try:
                object.__setattr__(self, name, item.checked(getattr(self, name)))
            except UsageError as error:
                problems.append(str(error))
        problems += [] if problems else self.contradictions()
        if problems:
            raise UsageError("; ".join(problems))

    def contradictions(self) -> list[str]:
        """Problems that lie between options, one sentence each; called when every option is fine by itself."""
        return []

    @classmethod
    def of(cls, given: Any) -> Self:
        """A config as a program gives it: one of this class, a mapping of options, or None for the defaults."""
        if isinstance(given, cls):
            return given
        if given is None or isinstance(given, Mapping):
            return cls(**known(cls, dict(given or {})))
        raise UsageError(f"`config` is {type(given).__name__}", f"Give a {cls.__name__} or a dict of its options")

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed; an unknown name raises :class:`UsageError` with the nearest names."""
        return dataclasses.replace(self, **known(type(self), changes))  # type: ignore[type-var]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for records: option -> value, as text where the option has a type of its own."""
        values = {name: getattr(self, name) for name in declared(type(self))}
        return {name: value.text if isinstance(value, Parsed) else value for name, value in values.items()}


def _converted(item: Declared, given: Any) -> Any:
    """The value in the option's type. Raises :class:`UsageError` for what is not of it."""
    given = plain(given)
    if item.parsed is not None:
        return given if isinstance(given, item.parsed) else item.parsed.of(given)
    if item.kind is float and type(given) is int:  # 1 means 1.0, also in records and comparisons
        return float(given) if abs(given) <= sys.float_info.max else math.inf
    if item.option.names_file and isinstance(given, os.PathLike):
        path = Path(given)
        given = str(path) if len(path.parts) > 1 else f".{os.sep}{path}"  # no word, as noise or auto
    if item.option.names_file and isinstance(given, str) and given.startswith("~"):
        return str(user_path(given))
    if type(given) is not item.kind:
        raise UsageError(f"must be {_KINDS.get(item.kind, 'text')}")
    return given


def _out_of_range(item: Declared, value: Any) -> str | None:
    facts = item.option
    if item.kind is float and not math.isfinite(value):
        return f"`{item.name}` {value}: must be a finite number"
    if facts.choices and not facts.takes(value):
        return f"`{item.name}` {value!r}: must be {facts.allowed()}. {nearest(value, facts.choices)}".rstrip(". ")
    too_low = facts.minimum is not None and value < facts.minimum
    too_high = facts.maximum is not None and value > facts.maximum
    return f"`{item.name}` {value}: must be {facts.allowed()}" if too_low or too_high else None


def known(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values, unchanged, after a check that each names an option of the class."""
    names = declared(config_class)
    for name in values:
        if name not in names:
            raise UsageError(f"unknown option {name!r}", nearest(str(name), names) or f"Known are {', '.join(names)}")
    return values
