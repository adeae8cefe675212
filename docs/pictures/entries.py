"""What pictures there are: the list in pictures.toml, and the nst-fast commands that its entries stand for."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nst_fast.errors import InputError, UsageError, nearest

SHOWN = ("beside", "pairs", "looks", "sheet.png", "comparison.png")


@dataclass(frozen=True)
class Run:
    """One command of an entry.

    Attributes:
        name: of its folder and of its picture, without suffix.
        command: arguments of nst-fast; file names of pictures stand behind ``{images}/``.
        pair: file names of content and style, where the entry has pairs.
        look: the preset, where the entry has several.
    """

    name: str
    command: tuple[str, ...]
    pair: tuple[str, str] | None = None
    look: str = ""


@dataclass(frozen=True)
class Entry:
    """A picture of the docs, see README.md beside this for what each field means."""

    name: str
    show: str
    command: Sequence[str]
    width: int
    short: Sequence[str] = ()
    pairs: Sequence[Sequence[str]] = ()
    looks: Sequence[str] = ()

    def runs(self, *, long: bool, changes: Sequence[str]) -> list[Run]:
        """The commands, one for each pair and look.

        Args:
            long: leave out what the entry adds to be done sooner.
            changes: options for every command, as ``steps=3``.
        """
        command = [*self.command, *(() if long else self.short), *flags(changes)]
        if not self.pairs:
            return [Run(self.name, tuple(command))]
        found = []
        for look, (content, style) in itertools.product(self.looks or [""], self.pairs):
            name = "-".join(filter(None, [self.name, Path(content).stem, Path(style).stem, look]))
            pictures = ["stylize", f"{{images}}/{content}", f"{{images}}/{style}"]
            preset = ["--preset", look] if look else []
            found.append(Run(name, (*pictures, *command, *preset), (content, style), look))
        return found


def flags(changes: Sequence[str]) -> list[str]:
    """``steps=3`` -> ``--steps 3``."""
    found = []
    for change in changes:
        name, equals, value = change.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {change!r} is no option", "Write NAME=VALUE, as steps=3")
        found += [f"--{name.replace('_', '-')}", value]
    return found


def read_entries(path: Path) -> list[Entry]:
    """The entries of a TOML file, in its order.

    Raises:
        InputError: it cannot be read, or an entry has a field that there is not, or lacks one.
    """
    try:
        entries = [Entry(**fields) for fields in tomllib.loads(path.read_text("utf-8"))["entry"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path.name}: cannot be read as a list of entries: {error}", "See README.md") from None
    for entry in entries:
        if entry.show not in SHOWN:
            raise InputError(f"{path.name}: {entry.name}: show {entry.show!r}: must be one of {', '.join(SHOWN)}")
    return entries


def chosen(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The entries of these names, or all; an unknown name raises :class:`UsageError`."""
    known = [entry.name for entry in entries]
    for name in names:
        if name not in known:
            raise UsageError(f"no entry {name!r}", nearest(name, known) or f"There are {', '.join(known)}")
    return [entry for entry in entries if not names or entry.name in names]
