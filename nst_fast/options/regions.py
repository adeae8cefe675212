"""Options that name masks: files, several in one option, written as text. Standard library only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from nst_fast.errors import UsageError
from nst_fast.options.values import Parsed
from nst_fast.system.files import user_path

SEPARATOR = ";"  # between the values of an option that may be repeated


@dataclass(frozen=True)
class Files(Parsed):
    """Files that an option names, in the order of its text, which says what each is for."""

    files: tuple[Path, ...] = ()
    text: str = field(default="", compare=False)

    @property
    def shape(self) -> str:
        """The text without the names of the files: how many, and what each is for."""
        return self.written([""] * len(self.files))

    def renamed(self, names: Iterable[str | Path]) -> Self:
        """The same with other names of the files: hashes, names without folders, or where they are now."""
        return type(self).of(self.written([str(name) for name in names]))

    def written(self, names: Sequence[str]) -> str:
        return SEPARATOR.join(names)


@dataclass(frozen=True)
class Masks(Files):
    """Masks, as ``MASK;MASK``, a path or several."""

    @classmethod
    def of(cls, given: object) -> Self:
        parts = _parts(given)
        files = tuple(_file(part) for part in parts)
        return cls(files, given if isinstance(given, str) else SEPARATOR.join(map(str, files)))


@dataclass(frozen=True)
class MapPair(Files):
    """Two pictures with one colour per region, of the content and of the style: ``CONTENT_MAP=STYLE_MAP``."""

    @classmethod
    def of(cls, given: object) -> Self:
        if given in ("", ()):
            return cls()
        pair = given.split("=") if isinstance(given, str) else given
        if isinstance(pair, os.PathLike) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError("not two maps", "Write CONTENT_MAP=STYLE_MAP, as content_regions.png=style_regions.png")
        made = cls((_file(pair[0]), _file(pair[1])))
        return cls(made.files, made.written([str(name) for name in made.files]))

    def written(self, names: Sequence[str]) -> str:
        return "=".join(names)


@dataclass(frozen=True)
class Regions(Files):
    """Parts of the picture with styles of their own: ``MASK=STYLE[:WEIGHT];...`` or (mask, style[, weight]) each.

    The files are mask and style of each in turn.
    """

    weights: tuple[float, ...] = ()
    FORM: ClassVar = "Write MASK=STYLE or MASK=STYLE:WEIGHT, as sky.png=starry_night.jpg:0.5"

    @classmethod
    def of(cls, given: object) -> Self:
        regions = [cls._region(part) for part in _parts(given)]
        files = tuple(file for mask, style, _ in regions for file in (mask, style))
        made = cls(files, "", tuple(weight for *_, weight in regions))
        return cls(files, made.written([str(file) for file in files]), made.weights)

    @classmethod
    def _region(cls, part: object) -> tuple[Path, Path, float]:
        if isinstance(part, str):
            mask, equals, rest = part.partition("=")
            style, colon, number = rest.rpartition(":")
            weighted = bool(colon and re.fullmatch(r"\s*\d*\.?\d+(?:[eE][+-]?\d+)?\s*", number))
            part = (mask, style, float(number)) if weighted else (mask, rest)
            if not equals or "=" in rest:
                raise UsageError(f"{mask!r} is not one mask and one style", cls.FORM)
        if isinstance(part, os.PathLike) or not isinstance(part, Sequence) or len(part) not in (2, 3):
            raise UsageError("not a mask and a style", cls.FORM)
        weight = part[2] if len(part) == 3 else 1.0
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UsageError(f"the weight {weight!r} must be a finite number above 0")
        return _file(part[0]), _file(part[1]), float(weight)

    @property
    def masks(self) -> tuple[Path, ...]:
        return self.files[::2]

    @property
    def styles(self) -> tuple[Path, ...]:
        return self.files[1::2]

    def written(self, names: Sequence[str]) -> str:
        weights = ("" if weight == 1 else f":{weight!r}" for weight in self.weights)
        each = zip(names[::2], names[1::2], weights, strict=True)
        return SEPARATOR.join(f"{mask}={style}{weight}" for mask, style, weight in each)


def _parts(given: object) -> list[object]:
    if isinstance(given, str):
        return [part for part in given.split(SEPARATOR) if part.strip()]
    if isinstance(given, os.PathLike):
        return [given]
    if isinstance(given, Iterable):
        return list(given)
    raise UsageError("must be text or paths")


def _file(given: object) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{type(given).__name__} is no file: masks are read from files", "Save it and name the file")
    name = os.fspath(given).strip() if isinstance(given, str) else os.fspath(given)
    if not name or name == "-" or not isinstance(name, str) or re.search("[=;]", name):
        raise UsageError(f"{name!r} is no usable name of a mask", "Name a file, without = and ; in its name")
    return user_path(Path(name))


KINDS: dict[str, type[Files]] = {"region": Regions, "map": MapPair, "content_mask": Masks, "style_mask": Masks}
