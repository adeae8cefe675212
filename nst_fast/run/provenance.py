"""What decides a picture, compared between runs: for resuming, batches, sweeps and ``--from``."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from nst_fast.errors import InputError, OutputError, UsageError
from nst_fast.options.config import StylizeConfig, bare_name
from nst_fast.options.declaration import declared
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.options.regions import Masks
from nst_fast.run.record import current_options, read_record
from nst_fast.system.files import cache_dir, sha256_of, shown, write_atomic
from nst_fast.system.rounding import rounded

PLACES = "places"  # part of the cache: files named by a hash, each with the path of the file that has it
FILE = "(file)"  # the value of `init` where it names a file: its hash counts, not its path


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What decides a picture: options that are not cosmetic, and the sha256 of every file that is read.

    Attributes:
        options: by name; in a comparison, those of the wanted provenance count.
        weights: of the network; None where they are not compared.
        content: None for a texture.
        styles: in their order.
        init: of the file to start from; empty without one.
        size: width and height of the picture; None where content and options decide them.
    """

    options: Mapping[str, Any]
    weights: str | None
    content: str | None
    styles: Sequence[str]
    init: str
    size: Sequence[int] | None = None

    @classmethod
    def of_run(
        cls,
        config: StylizeConfig,
        content: Path | None,
        styles: Sequence[Path],
        weights: str | None,
        size: Sequence[int] | None = None,
    ) -> Self:
        init = config.init_file
        masks = {name: map(readable_sha256, value.files) for name, value in config.mask_files.items()}
        options = deciding_options(rounded(config.recorded())) | ({"init": FILE} if init is not None else {})
        return cls(
            options=with_hashes(options, masks),
            weights=weights,
            content=readable_sha256(content) if content is not None else None,
            styles=[readable_sha256(path) for path in styles],
            init=readable_sha256(init) if init is not None else "",
            size=size,
        )

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """The provenance of a record as :func:`nst_fast.run.record.read_record` gives it, or a checkpoint's."""
        inputs = record["inputs"]
        init = inputs.get("init", {}).get("sha256", "")
        masks = {name: [file["sha256"] for file in files] for name, files in inputs.get("masks", {}).items()}
        return cls(
            options=with_hashes(deciding_options(record["options"]) | ({"init": FILE} if init else {}), masks),
            weights=record["weights"].get("sha256", ""),
            content=(inputs.get("content") or {}).get("sha256"),
            styles=[style["sha256"] for style in inputs.get("styles", [])],
            init=init,
            size=record["size"],
        )

    def differences(self, found: Provenance) -> list[str]:
        """What is otherwise in a provenance that was found, one phrase each; empty for the same picture."""
        same = {
            "other weights": self.weights in (None, found.weights),
            "another content picture": self.content == found.content,
            "other style pictures": list(self.styles) == list(found.styles),
            "another picture to start from": self.init == found.init,
            "another size": self.size is None or list(self.size) == found.size,
        }
        return option_differences(found.options, self.options) + [phrase for phrase in same if not same[phrase]]


def with_hashes(options: Mapping[str, Any], masks: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The options with the hashes of masks in place of their names: those count, not where the files are."""
    found = dict(options)
    for name, hashes in masks.items():
        with suppress(UsageError, KeyError, ValueError):  # of a record that was edited: as it stands it equals none
            found[name] = MASK_KINDS[name].of(options[name]).renamed(hashes).text
    return found


@cache
def deciding_names() -> list[str]:
    """The options that decide a picture."""
    return [name for name, item in declared(StylizeConfig).items() if not item.option.cosmetic]


def deciding_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide a picture, out of all those of a run of any version."""
    known = current_options(options)
    found = {name: known.get(name, "unknown") for name in deciding_names()}
    if os.sep in str(found["weights"]):  # of a record from before files were recorded by name
        found["weights"] = bare_name(Path(found["weights"]))
    return found


def option_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A phrase for each wanted option that was found with another value."""
    return [
        f"`{name}` {_named(found.get(name, 'unknown'))}, not {_named(value)}"
        for name, value in wanted.items()
        if found.get(name, "unknown") != value
    ]


def _named(value: object) -> str:
    return "its default" if value is None else str(value)


def readable_sha256(path: Path) -> str:
    """The sha256 of a file; empty when it cannot be read, which agrees with no record."""
    try:
        return sha256_of(path)
    except InputError:
        return ""


def recorded_options(path: Path, wanted: Collection[str] = ("weights", "init")) -> dict[str, Any]:
    """Every option of a recorded run, to run with again.

    Args:
        wanted: the options whose files are looked for.

    Raises:
        InputError: there is no record, it has an option that this version does not know, or a file of the run is gone.
    """
    record = read_record(path)
    options: dict[str, Any] = record["options"]
    if unknown := sorted(options.keys() - declared(StylizeConfig).keys()):
        raise InputError(
            f"{path}: the run had options that this version does not know ({', '.join(unknown)})",
            "Use the version that `nst-fast info` names",
        )
    hashes = {"weights": record["weights"].get("sha256", ""), "init": record["inputs"].get("init", {}).get("sha256")}
    named = StylizeConfig().replace(**{name: options[name] for name in hashes if name in options}).files
    for name in named.keys() & wanted:
        if hashes[name]:
            options[name] = str(found_file(named[name], hashes[name], path, name))
    for name, files in record["inputs"].get("masks", {}).items():
        value = MASK_KINDS[name].of(options[name]) if name in wanted and name in MASK_KINDS else Masks()
        each = zip(value.files, files, strict=False)
        places = [found_file(file, described["sha256"], path, name) for file, described in each]
        options |= {name: value.renamed(places).text} if places else {}
    return options


def found_file(name: Path, sha256: str, record: Path, option: str) -> Path:
    """The file that a recorded run has read: as named, beside the record, or where this machine read it last."""
    if re.fullmatch(r"[0-9a-f]{64}", sha256):  # a record may have been edited
        known = cache_dir(PLACES) / sha256
        with suppress(ValueError):  # a name that no file can have
            places = [name.absolute(), record.absolute().with_name(name.name)]
            with suppress(OSError):
                places.append(Path(os.fsdecode(known.read_bytes())))
            for place in places:
                # Also false where the path is unusable; a device may not end.
                if os.path.isfile(place) and readable_sha256(place) == sha256:  # noqa: PTH113
                    return place
    raise InputError(
        f"{shown(record)}: the run has read {shown(name.name)}, which is not to be found as it was",
        f"Say where it is with `{option}`",
    )


def remember_file(path: Path, sha256: str) -> None:
    """Keep where a file is, in the cache: records have its name and hash alone. Without a cache it is not kept."""
    known, place = cache_dir(PLACES) / sha256, os.fsencode(path.absolute())
    with suppress(OSError, OutputError):
        if not known.exists() or known.read_bytes() != place:
            write_atomic(known, place)
