"""Values of options from a TOML file, from the environment and from presets, laid over one another.

A layer is a mapping of options of :class:`StylizeConfig`, and of ``preset``, ``quality`` and ``summary`` (one line
about a file, for lists of presets). The last layer that gives an option wins.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nst_fast.errors import UsageError, nearest
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.presets import PRESETS, Preset, Setting, find_quality
from nst_fast.system.files import config_dir, read_small_text, shown

Layer = Mapping[str, Any]

OPTIONS = declared(StylizeConfig)
NAMED = ("summary", "preset", "quality")  # what a layer holds beside options
PREFIX = "NST_FAST_"
MOST_BYTES = 2**20  # of a file of options
TYPO = 0.8  # a variable this close to one of ours (difflib) is refused
YOURS = "yours"  # the source of the values of a user's preset
REMEDY = "Give a TOML file with a line for each option, as image_size = 768; `nst-fast info --toml` writes one"


def find_preset(name: str) -> Preset:
    """The preset of that name, the program's or the user's; an unknown one raises :class:`UsageError`."""
    own = own_preset_files()
    if isinstance(name, str) and name in own:
        return own_preset(own[name])
    return _built_in(name, {*PRESETS, *own})


def _built_in(name: str, known: Collection[str] = PRESETS.keys()) -> Preset:
    if not isinstance(name, str) or name not in PRESETS:
        hint = nearest(str(name), sorted(known)) or f"Known are {', '.join(sorted(known))}."
        raise UsageError(f"unknown preset {name!r}", f"{hint} `nst-fast presets` says what each is")
    return PRESETS[name]


def own_preset_files() -> dict[str, Path]:
    """Name -> file of each preset in the user's folder. Raises :class:`UsageError` for one with a name of ours."""
    found = {path.stem: path for path in sorted(config_dir("presets").glob("*.toml"))}
    if taken := sorted(found.keys() & PRESETS.keys()):
        raise UsageError(
            f"{shown(found[taken[0]])}: {taken[0]} is a preset of the program", "Give the file another name"
        )
    return found


def own_preset(path: Path) -> Preset:
    """The preset that a file of the user holds; it may build on one of the program's."""
    layer = file_layer(path, find=_built_in)
    base = PRESETS[layer["preset"]].settings if "preset" in layer else {}
    values = {name: Setting(value, f"{YOURS}: {shown(path.name)}") for name, value in laid_over(layer).items()}
    return Preset(path.stem, layer.get("summary", shown(path)), {**base, **values})


def file_layer(path: Path, find: Callable[[str], object] = find_preset) -> dict[str, Any]:
    """The layer that a TOML file holds.

    Args:
        path: of the file. Files that it names are looked for from the current folder on, as on the command line.
        find: raises :class:`UsageError` for a preset that the file may not name.

    Raises:
        InputError: the file cannot be read.
        UsageError: it is no TOML; or has unknown names or values that are not allowed, all of which are named with
            their lines.
    """
    text = read_small_text(path, MOST_BYTES, REMEDY)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of a date that there is not, or of nested lists
        raise UsageError(f"{shown(path)} is no TOML: {str(error)[:200]}", REMEDY) from None
    problems = []
    for name, given in values.items():
        try:
            _check(name, given, find)
        except UsageError as error:
            problems.append(f"{shown(path)}, line {line_of(name, text)}: {error}")
    if problems:
        raise UsageError("; ".join(problems))
    return values


def _check(name: str, given: Any, find: Callable[[str], object]) -> None:
    if name == "preset":
        find(given)
    elif name in ("summary", "quality") and not isinstance(given, str):
        raise UsageError(f"{name} {given!r}: must be text")
    elif name == "quality":
        find_quality(given)
    elif name in OPTIONS:
        OPTIONS[name].checked(given)
    elif name != "summary":
        raise UsageError(f"unknown option {shown(name)}", nearest(name, [*NAMED, *OPTIONS]))


def line_of(name: str, text: str) -> int:
    """The line, from 1, at which a top-level name of a TOML text is given a value."""
    found = re.search(rf"^[ \t]*\[*[ \t]*([\"']?){re.escape(name)}\1[ \t]*[=.\]]", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def environment_layer(environment: Mapping[str, str]) -> dict[str, Any]:
    """The layer that variables hold: ``NST_FAST_IMAGE_SIZE`` has the option ``image_size``. Empty ones hold nothing.

    Raises :class:`UsageError` for a value that is not allowed, and for a variable that is nearly an option's.
    """
    names = {name.upper(): name for name in (*NAMED[1:], *OPTIONS)}
    layer: dict[str, Any] = {}
    for variable, text in environment.items():
        key = variable.removeprefix(PREFIX)
        if not variable.startswith(PREFIX) or not text:
            continue
        if key not in names:
            if close := difflib.get_close_matches(key, names, n=1, cutoff=TYPO):
                message = f"the variable {shown(variable)} is of no option"
                raise UsageError(message, f"Did you mean {PREFIX}{close[0]}? Otherwise unset it")
            continue
        name = names[key]
        try:
            layer[name] = OPTIONS[name].read(text) if name in OPTIONS else text
            _check(name, layer[name], find_preset)
        except UsageError as error:
            raise UsageError(f"the variable {variable}: {error}") from None
    return layer


def laid_over(*layers: Layer) -> dict[str, Any]:
    """The options of layers, without their presets: those of the last layer that gives them.

    The quality of a layer changes the layers before it, and is changed by the layer's own options.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values |= find_quality(layer["quality"]) if "quality" in layer else {}
        values |= {name: value for name, value in layer.items() if name not in NAMED}
    return values


def as_toml(options: Mapping[str, Any], title: str) -> str:
    """A file of options, by groups; None, which TOML has no word for, is left out. ``title`` is its summary."""
    lines = [f"summary = {_quoted(title)}"]
    group = ""
    for name, item in OPTIONS.items():
        if options.get(name) is None:
            continue
        if item.group != group:
            group = item.group
            lines += ["", f"# {group}"]
        value = options[name]
        lines.append(f"{name} = {_quoted(value) if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A basic string of TOML, whose escapes are JSON's, but that it escapes DEL too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
