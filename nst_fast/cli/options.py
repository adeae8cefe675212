"""Command-line options generated from the config classes: names, types, defaults, ranges and help live there alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from nst_fast.options import Declared, Options, declared


def takes(config_class: type[Options], *, without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Expand a command's parameter ``config`` into one option per field of the config class.

    An option that is not given stays at the config's default, so that presets and records can slip in between. Fields
    named by ``without`` get no option: the command decides them itself.
    """
    items = [item for item in declared(config_class) if item.name not in without]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "config"]

        def call(**arguments: Any) -> Any:
            given = {item.name: arguments.pop(item.name) for item in items}
            config = config_class().replace(**{name: value for name, value in given.items() if value is not None})
            return command(config=config, **arguments)

        generated = [parameter_of(item) for item in items]
        call.__doc__ = command.__doc__
        call.__name__ = command.__name__
        call.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *generated]}
        return call

    return decorate


def parameter_of(item: Declared) -> inspect.Parameter:
    """The Typer parameter of one config field."""
    facts = item.option
    limits = facts.allowed()
    flag = f"{item.flag}/--no-{item.flag[2:]}" if item.kind is bool else item.flag
    described = typer.Option(
        flag,
        help=f"{facts.help} [{limits}]" if limits and limits not in facts.help else facts.help,
        show_default=False if item.default is None else str(item.default),
        metavar=facts.metavar,
        rich_help_panel=item.group,
    )
    annotation = Annotated[item.kind | None, described]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
