"""Command-line options generated from the config classes: names, types, defaults, ranges and help live there alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.errors import UsageError
from nst_fast.options.declaration import Declared, Options, declared
from nst_fast.options.presets import QUALITIES, find_preset, find_quality


def takes(
    config_class: type[Options], *, without: Sequence[str] = (), recipes: bool = False, as_given: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Expand a command's parameter ``config`` into one option per field of the config class.

    An option that is not given stays at the config's default, unless a preset or a record says otherwise. Fields named
    by ``without`` get no option: the command decides them itself. ``recipes`` adds ``--preset``, ``--from`` and
    ``--quality``. ``as_given`` hands over the options that are given and no others, as a dictionary.
    """
    items = [item for item in declared(config_class) if item.name not in without]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "config"]

        def call(**arguments: Any) -> Any:
            given = {item.name: arguments.pop(item.name) for item in items}
            given = {name: value for name, value in given.items() if value is not None}
            if recipes:
                recipe = recipe_values(arguments.pop("preset"), arguments.pop("replayed"), arguments.pop("quality"))
                given = {item.name: recipe[item.name] for item in items if item.name in recipe} | given
            return command(config=given if as_given else config_class().replace(**given), **arguments)

        generated = [*(recipe_parameters() if recipes else ()), *(parameter_of(item) for item in items)]
        call.__doc__ = command.__doc__
        call.__name__ = command.__name__
        call.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *generated]}
        return call

    return decorate


def recipe_values(preset: str | None, replayed: Path | None, quality: str | None) -> dict[str, Any]:
    """The values of a preset or of a run record, changed by those of a quality; empty when none is named.

    Raises:
        UsageError: both are named, or the preset is unknown.
        InputError: there is no record, or it has an option that this version does not know.
    """
    if preset is not None and replayed is not None:
        raise UsageError("--preset and --from both say how to run", "Name one, and change it by further options")
    dial = dict(find_quality(quality)) if quality is not None else {}
    if preset is not None:
        return dict(find_preset(preset).values) | dial
    if replayed is None:
        return dial
    from nst_fast.run.provenance import recorded_options

    return recorded_options(replayed) | dial


def recipe_parameters() -> list[inspect.Parameter]:
    """``--preset``, ``--from`` and ``--quality``."""
    preset = typer.Option(
        "--preset",
        help="A recipe by name, see `nst-fast presets`; other options override its values.",
        metavar="NAME",
        show_default=False,
    )
    replayed = typer.Option(
        "--from",
        help="A picture made by nst-fast, or its .json: run with the same options, but for those given.",
        metavar="RECORD",
        show_default=False,
    )
    steps = ", ".join(f"{name} {values['steps']}" for name, values in QUALITIES.items())
    quality = typer.Option(
        "--quality", help=f"One dial between speed and finish, by steps: {steps}.", metavar="NAME", show_default=False
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter("quality", kind, default=None, annotation=Annotated[str | None, quality]),
        inspect.Parameter("preset", kind, default=None, annotation=Annotated[str | None, preset]),
        inspect.Parameter("replayed", kind, default=None, annotation=Annotated[Path | None, replayed]),
    ]


def parameter_of(item: Declared) -> inspect.Parameter:
    """The Typer parameter of one config field."""
    flag = f"{item.flag}/--no-{item.flag[2:]}" if item.kind is bool else item.flag
    described = typer.Option(
        flag,
        help=help_of(item),
        show_default=False,  # Typer would show None: what is not given must stay apart from what is
        metavar=item.option.metavar,
        rich_help_panel=item.group,
    )
    annotation: Any = Annotated[item.kind | None, described]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def help_of(item: Declared) -> str:
    """Help text, allowed values and default, in round brackets: Rich would take square ones for markup."""
    default = "" if item.default is None or item.default is False or item.default == "" else f"default {item.default}"
    facts = "; ".join(filter(None, [item.option.allowed(), default]))
    return f"{item.option.help} ({facts})" if facts else item.option.help
