"""What decides the pictures of a batch, in a file of its folder, so that two different batches do not mix in one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nst_fast.errors import InputError, OutputError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.run.record import current_options, rounded
from nst_fast.system.files import sha256_bytes, sha256_of, shown, write_atomic

SCHEMA = "nst-fast/batch-plan/1"
# Where a picture is computed may differ between the workers of one batch. Files are known by their hashes, not by
# paths, which differ from machine to machine.
NOT_COMPARED = ("device", "engine_provider", "weights")
FILE = "(file)"


@dataclass(frozen=True)
class Plan:
    """Everything that decides what becomes of an input.

    Attributes:
        options: by name, those that change the picture.
        files: hashes of what is read beside the inputs: ``weights``, ``styles`` in their order, ``init``.
        format: of the outputs, as png.
    """

    options: Mapping[str, Any]
    files: Mapping[str, Any]
    format: str

    @classmethod
    def of(cls, config: StylizeConfig, styles: Sequence[Path], weights_sha256: str, format: str) -> Self:
        init = config.init_file
        files = {
            "weights": weights_sha256,
            "styles": [sha256_of(path) for path in styles],
            "init": sha256_of(init) if init is not None else "",
        }
        return cls(compared(type(config), rounded(config.as_dict()), has_init_file=init is not None), files, format)

    def as_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "format": self.format, "options": dict(self.options), "files": dict(self.files)}

    @property
    def sha256(self) -> str:
        """The options hash of the manifest."""
        return sha256_bytes(json.dumps(self.as_dict(), sort_keys=True).encode())

    def save(self, path: Path) -> None:
        write_atomic(path, (json.dumps(self.as_dict(), indent=1) + "\n").encode())

    def made(self, record: Mapping[str, Any], config_class: type[StylizeConfig], input_sha256: str) -> bool:
        """Whether the run that a record tells of is one of this plan, from the input with this hash, run to its end."""
        return self.began(record, config_class, input_sha256) and record.get("status") != "stopped"

    def began(self, record: Mapping[str, Any], config_class: type[StylizeConfig], input_sha256: str) -> bool:
        """The same, whether or not it came to its end."""
        try:
            inputs = record["inputs"]
            init = inputs["init"]["sha256"] if "init" in inputs else ""
            files = {
                "weights": record["weights"]["sha256"],
                "styles": [style["sha256"] for style in inputs["styles"]],
                "init": init,
            }
            options = compared(config_class, record["options"], has_init_file=bool(init))
            content = inputs["content"]["sha256"]
        except (KeyError, TypeError):  # of another version, or damaged
            return False
        return (options, files, content) == (self.options, self.files, input_sha256)

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What a plan found in the folder says otherwise, one phrase each."""
        options = current_options(stored["options"])
        found = [
            f"--{name.replace('_', '-')} {options.get(name, 'unknown')}, not {value}"
            for name, value in self.options.items()
            if options.get(name, "unknown") != value
        ]
        words = {"weights": "other weights", "styles": "other style pictures", "init": "another picture to start from"}
        found += [words[name] for name, value in self.files.items() if stored["files"].get(name) != value]
        if stored["format"] != self.format:
            found.append(f"--format {stored['format']}, not {self.format}")
        return found

    def check(self, path: Path, *, overwrite: bool) -> None:
        """Raise :class:`OutputError` if the folder holds the pictures of another plan that may not be replaced."""
        stored = read_plan(path)
        if overwrite or stored is None:
            return
        try:
            differences = self.differences(stored)
        except (KeyError, TypeError, AttributeError):
            differences = ["its plan cannot be read"]
        if differences:
            raise OutputError(
                f"{shown(path.parent.parent)} holds a batch that was made otherwise: {'; '.join(differences)}",
                "Choose another folder, use the same options, or --overwrite to make its pictures again",
            )


def compared(config_class: type[StylizeConfig], values: Mapping[str, Any], *, has_init_file: bool) -> dict[str, Any]:
    """The options that decide a picture, out of all."""
    names = [item.name for item in declared(config_class) if not item.option.cosmetic]
    found = {name: values.get(name, "unknown") for name in names if name not in NOT_COMPARED}
    return found | ({"init": FILE} if has_init_file else {})


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan in a folder; None when there is none. What is no plan is an empty one: it differs from all."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) and data.get("schema") == SCHEMA else {}


def hash_or_empty(path: Path) -> str:
    """The hash of a file; empty when it cannot be read."""
    try:
        return sha256_of(path)
    except InputError:
        return ""
