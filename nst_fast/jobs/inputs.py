"""The pictures of a batch: where they are, their names, the names of their outputs, and parts of them (shards)."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from nst_fast.errors import InputError, UsageError
from nst_fast.images import READABLE
from nst_fast.images.sources import STANDARD_INPUT, open_source
from nst_fast.jobs.storage import Place, Url, identity
from nst_fast.system.files import shown

STATE = ".nst-fast-batch"  # a batch's own files; it marks a folder as a batch's output


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a batch, by the hash of names: the same on every machine. ``1/1`` is all of it."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """``2/5`` -> the second of five parts."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"`shard` {text!r}: is no part of a whole", "Write it as 2/5: the second of five parts")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1


WHOLE = Shard()


def find_pictures(given: Sequence[Place], folder: Place, passed_over: Counter[str] | None = None) -> dict[str, Place]:
    """Name -> place of every picture, sorted by name.

    A folder gives the files below it with the suffix of a picture, a file itself whatever it is called. Among several
    inputs each folder's pictures keep the folder's name. Hidden files and the outputs of batches, such as ``folder``,
    are left out. ``passed_over`` counts the other files that are left out, by suffix.

    Raises:
        InputError: an input is missing, or a folder cannot be read.
        UsageError: two different pictures have one name; an input is the output's folder, or standard input.
    """
    found: dict[str, Place] = {}
    for place in given:
        if identity(place) is not None and identity(place) == identity(folder):
            raise UsageError(f"{shown(place)} is given for the pictures and for the outputs", "Choose another `output`")
    check_files_named(given)
    for place in dict.fromkeys(given):
        if not place.is_dir():
            if isinstance(place, Path) and not place.exists():
                open_source(place).close()  # raises, with a suggestion
            elif not place.exists():
                raise InputError(f"{shown(place)} does not exist")
            _add(found, place.name, place)
            continue
        name = place.name if isinstance(place, Url) else place.absolute().resolve().name
        prefix = PurePosixPath(name if len(given) > 1 else "")
        for below, picture in pictures_below(place, folder, passed_over if passed_over is not None else Counter()):
            _add(found, str(prefix / below), picture)
    return dict(sorted(found.items()))


def _add(found: dict[str, Place], name: str, place: Place) -> None:
    other = found.setdefault(name, place)
    same = (
        other.absolute() == place.absolute() if isinstance(other, Path) and isinstance(place, Path) else other == place
    )
    if not same:
        message = f"{shown(other)} and {shown(place)} would have one name in the output, {shown(name)}"
        raise UsageError(message, "Give their folders, or rename one of them")


def pictures_below(root: Place, output: Place, passed_over: Counter[str]) -> Iterator[tuple[str, Place]]:
    """Name and place of the pictures in a folder and the folders in it, in order."""
    for name, place in _files_below(root, output) if isinstance(root, Path) else _files_at(root, output):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in READABLE:
            yield name, place
        else:
            passed_over[suffix or "without suffix"] += 1


def _files_below(root: Path, output: Place) -> Iterator[tuple[str, Path]]:
    """Links are followed, but no folder is entered twice."""
    entered = {identity(output)}
    for place, folders, files in os.walk(root, followlinks=True, onerror=_refuse):
        here = Path(place)
        if (this := identity(here)) in entered or STATE in folders:
            folders.clear()
            continue
        entered.add(this)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (here / name).relative_to(root).as_posix(), here / name


def _files_at(root: Url, output: Place) -> Iterator[tuple[str, Url]]:
    every = [(f"/{name}", place) for name, place in root.files()]
    batches = {name.partition(f"/{STATE}/")[0] for name, _ in every if f"/{STATE}/" in name}
    if isinstance(output, Url) and output.text.startswith(f"{root}/"):
        batches.add(output.text.removeprefix(root.text))
    for name, place in every:
        if "/." not in name and not any(name.startswith(f"{batch}/") for batch in batches):
            yield name[1:], place


def check_files_named(paths: Iterable[Place]) -> None:
    """Raise :class:`UsageError` for standard input, which can be read once, and pictures of many runs more often."""
    if Path(STANDARD_INPUT) in paths:
        raise UsageError("standard input cannot be used here: pictures are read more than once", "Save it to a file")


def check_folder(folder: Place) -> None:
    """Raise :class:`UsageError` for the name of a picture where a folder for many is asked for."""
    if PurePosixPath(folder.name).suffix.lower() in READABLE and not folder.is_dir():
        message = f"`output` {shown(folder)}: is the name of a picture, and the results are several files"
        raise UsageError(message, f"Name a folder, as {shown(folder.with_suffix(''))}")


def _refuse(error: OSError) -> None:
    message = f"{shown(error.filename)}: the folder cannot be read: {(error.strerror or str(error)).lower()}"
    raise InputError(message, "Mend its permissions, or name the other folders one by one") from error


def stem_key(name: str) -> str:
    """The same for pictures that compete for one output: a hash of the name without suffix, folded."""
    stem = str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name
    return hashlib.sha256(os.fsencode(folded(stem))).hexdigest()[:32]


def folded(name: str) -> str:
    """The same for names that are equal for some file systems, which ignore case or Unicode composition."""
    return unicodedata.normalize("NFC", name).casefold()


def output_names(names: Sequence[str], suffix: str, known: dict[str, str]) -> dict[str, str]:
    """Input -> output for all names in order; those that are ``known``, made before, stay as they are.

    ``a.jpg`` -> ``a.png``, or else ``a.jpg.png``, ``a.jpg-2.png`` ..., the first that is free.
    """
    chosen = {name: output for name, output in known.items() if PurePosixPath(output).suffix == suffix}
    taken = {folded(output) for output in chosen.values()}
    for name in names:
        if name not in chosen:
            path, number = PurePosixPath(name), 1
            output = str(path.with_suffix(suffix))
            while folded(output) in taken:
                output = f"{path}{suffix}" if number == 1 else f"{path}-{number}{suffix}"
                number += 1
            chosen[name] = output
            taken.add(folded(output))
    return chosen
