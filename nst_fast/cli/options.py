"""Command-line options: those of the config classes, generated from them, and those that many commands have."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.cli import completion
from nst_fast.cli.console import PROGRESS, Messages, with_flags
from nst_fast.errors import UsageError
from nst_fast.options.declaration import Declared, Options, declared
from nst_fast.options.layers import Layer, environment_layer, file_layer, find_preset, laid_over
from nst_fast.options.presets import FIRST, QUALITIES
from nst_fast.options.regions import SEPARATOR
from nst_fast.system.files import user_path

PANEL = "Files and messages"
KEYWORD = inspect.Parameter.KEYWORD_ONLY

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.", rich_help_panel=PANEL)]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print engine, precision and memory plan too.", rich_help_panel=PANEL)
]
ShownProgress = Annotated[
    str,
    typer.Option(
        "--progress",
        help="'json' writes what happens to standard error as JSON, one object per line (docs/tracking.md).",
        metavar="auto|json",
        autocompletion=completion.words(*PROGRESS),
        rich_help_panel=PANEL,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout at the end.", rich_help_panel=PANEL)]
MESSAGE_FLAGS = {"quiet": (Quiet, False), "verbose": (Verbose, False), "progress": (ShownProgress, "auto")}
JsonFile = Annotated[
    str | None,
    typer.Option("--json", help="Write everything as JSON; '-' is stdout.", metavar="FILE", rich_help_panel=PANEL),
]


def overwrites(what: str) -> Any:
    """The option ``--overwrite`` of a command."""
    return typer.Option("--overwrite", help=f"Replace {what}.", rich_help_panel=PANEL)


def path_of(json_file: str | None) -> Path | None:
    """The file of :data:`JsonFile`; None for standard output, and without one."""
    return user_path(json_file) if json_file not in (None, "-") else None


def expanding(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the home folder in place of the tilde in every path, as in ``--output=~/x.png``."""

    @functools.wraps(command)
    def call(**arguments: Any) -> Any:
        return command(**{name: _expanded(value) for name, value in arguments.items()})

    return call


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return user_path(value) if isinstance(value, Path) else value


def at_least_one(name: str) -> Callable[[object], int]:
    """The reader of a whole number of at least 1 that is no option of a config."""

    def parse(given: object) -> int:
        text = str(given)
        if re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII) is None:
            raise UsageError(f"`{name}` {text!r}: must be a whole number, at least 1")
        return int(text)

    return parse


def takes(
    config_class: type[Options], *, without: Sequence[str] = (), recipes: bool = False, as_given: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Expand a command's parameter ``config`` into one option per field of the config class.

    A parameter ``messages`` becomes ``--quiet``, ``--verbose`` and ``--progress``. An option that is not given stays at
    the config's default, unless a file, a variable, a preset or a record says otherwise.

    Args:
        config_class: declares the options.
        without: fields without an option; the command sets them itself.
        recipes: add ``--preset``, ``--from``, ``--quality`` and ``--config``, and read the environment.
        as_given: pass the options that are given and no others, as a dictionary.
    """
    items = {name: item for name, item in declared(config_class).items() if name not in without}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in ("config", "messages")]
        talks = "messages" in signature.parameters

        def call(**arguments: Any) -> Any:
            if talks:
                arguments["messages"] = Messages(**{name: arguments.pop(name) for name in MESSAGE_FLAGS})
            given = {name: arguments.pop(name) for name in items}
            given = {name: value for name, value in given.items() if value not in (None, [])}
            given |= {name: SEPARATOR.join(value) for name, value in given.items() if isinstance(value, list)}
            if recipes:
                named = {name: arguments.pop(name) for name in ("preset", "quality", "replayed", "config_file")}
                environment = environment_layer(os.environ)
                if talks and environment:
                    arguments["messages"].note(
                        "set by the environment: " + ", ".join(f"`{name}`" for name in environment)
                    )
                found = values_of(environment, given, items, **named)
                given = {name: value for name, value in found.items() if name in items}
            return command(config=given if as_given else config_class().replace(**given), **arguments)

        generated = [*(recipe_parameters() if recipes else ()), *map(parameter_of, items.values())]
        if talks:
            own += [
                inspect.Parameter(name, KEYWORD, default=default, annotation=kind)
                for name, (kind, default) in MESSAGE_FLAGS.items()
            ]
        order = {name: place for place, name in enumerate(FIRST)}
        generated.sort(key=lambda parameter: order.get(parameter.name, len(order)))
        # Rich keeps the ends of lines, which are not those of a terminal.
        paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
        call.__doc__ = "\n\n".join(" ".join(text.split()) for text in paragraphs)
        call.__name__ = command.__name__
        call.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]  # Typer reads it
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *generated]}
        return call

    return decorate


def values_of(
    environment: Layer,
    flags: Layer,
    own: Collection[str],
    *,
    preset: str | None,
    quality: str | None,
    replayed: Path | None,
    config_file: Path | None,
) -> dict[str, Any]:
    """The values of options: flags before the environment, that before the file, that before a preset or a record.

    No file is looked for of an option that is not among the command's ``own``.
    """
    if preset is not None and replayed is not None:
        raise UsageError("--preset and --from both say how to run", "Name one, and change it by further options")
    given = {"preset": preset, "quality": quality}
    layers = [
        file_layer(config_file) if config_file is not None else {},
        environment,
        {**flags, **{name: value for name, value in given.items() if value is not None}},
    ]
    values = laid_over(*layers)
    if replayed is not None:
        from nst_fast.run.provenance import recorded_options

        return recorded_options(replayed, set(own) - values.keys()) | values
    named = [layer["preset"] for layer in layers if "preset" in layer]
    return (dict(find_preset(named[-1]).values) if named else {}) | values


def recipe_parameters() -> list[inspect.Parameter]:
    preset = typer.Option(
        "--preset",
        help="A recipe by name, see `nst-fast presets`; other options override its values.",
        metavar="NAME",
        autocompletion=completion.presets,
    )
    replayed = typer.Option(
        "--from",
        help="A picture made by nst-fast, or its .json: run with the same options, but for those given.",
        metavar="RECORD",
        rich_help_panel=PANEL,
    )
    config_file = typer.Option(
        "--config",
        help="A TOML file of options, see docs/settings.md; flags and variables NST_FAST_... override it.",
        metavar="FILE",
        rich_help_panel=PANEL,
    )
    steps = ", ".join(f"{name} {values['steps']}" for name, values in QUALITIES.items())
    quality = typer.Option(
        "--quality",
        help=f"Speed or finish, by steps: {steps}.",
        metavar="NAME",
        autocompletion=completion.words(*QUALITIES),
    )
    return [
        inspect.Parameter("quality", KEYWORD, default=None, annotation=Annotated[str | None, quality]),
        inspect.Parameter("preset", KEYWORD, default=None, annotation=Annotated[str | None, preset]),
        inspect.Parameter("replayed", KEYWORD, default=None, annotation=Annotated[Path | None, replayed]),
        inspect.Parameter("config_file", KEYWORD, default=None, annotation=Annotated[Path | None, config_file]),
    ]


def parameter_of(item: Declared) -> inspect.Parameter:
    """The Typer parameter of one config field."""
    flag = f"{item.flag}/--no-{item.flag[2:]}" if item.kind is bool else item.flag
    is_number = item.kind in (int, float)
    described = typer.Option(
        flag,
        parser=item.number if is_number else None,
        help=help_of(item),
        metavar=item.option.metavar or ({int: "INTEGER", float: "FLOAT"}.get(item.kind)),
        rich_help_panel=None if item.name in FIRST else item.group,
        autocompletion=completion.completion_of(item),
    )
    kind: Any = list[str] if item.option.repeatable else item.kind
    annotation: Any = Annotated[kind | None, described]
    return inspect.Parameter(item.name, KEYWORD, default=None, annotation=annotation)


def help_of(item: Declared) -> str:
    """Help text, allowed values and default, in round brackets: Rich would take square ones for markup."""
    given = "" if item.default is None or item.default is False else str(item.default)
    default = f"default {given.replace(',', ', ')}" if given else ""  # spaces let a list of taps be broken
    facts = "; ".join(filter(None, [item.option.allowed(), default]))
    return with_flags(f"{item.option.help} ({facts})" if facts else item.option.help)
