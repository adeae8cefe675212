"""The commands by name. A command's module is imported when the command is called for; the list has its help here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from nst_fast.cli.startup import open_libraries, wait_briefly

# The first paragraph of each command's docstring: importing them all takes longer than help may.
COMMANDS = {
    "stylize": "Paint CONTENT in the style of STYLE.",
    "resume": "Continue an interrupted run, from its newest checkpoint to the picture that it would have made.",
    "batch": "Paint every picture of INPUT in the style of --style, into a tree like INPUT's.",
    "video": "Paint FILM in the style of --style, each frame consistent with the ones before it.",
    "sweep": "Paint every CONTENT like every --style with every combination of the varied options.",
    "reconstruct": "Find a picture with the same features as CONTENT, from noise, for one tap at a time.",
    "texture": "Make a texture with the look of STYLE and no scene, from noise.",
    "plan": "Say how much memory a picture of SIZE takes, and whether it would be computed whole or in tiles.",
    "plot": "Draw the loss curves of RUNS in one plot, named by the options in which the runs differ.",
    "export": "Export to ONNX, check the file, and prove that ONNX Runtime computes what PyTorch computes.",
    "bench": "Measure the loop, ONNX Runtime's evaluation and the monitor: speed, memory and quality in every row.",
    "evaluate": "Score PICTURES, made by any program, against CONTENT and STYLE: the same measures for all, in fp32.",
    "demo": "Draw a scene and a painting by code, export the network, and paint the one like the other.",
    "ui": "Open a page to paint with: pictures in, sliders, the pastiche as it grows. Wants the extra ui.",
    "serve": "Serve the HTTP API of the page without the page, as for containers. Wants the extra ui.",
    "presets": "List the recipes that --preset takes, or every value of one and where it comes from.",
    "info": "Show how a picture was made: options, inputs, machine, speed, losses.",
    "taps": "List the taps of a network: conv (before the ReLU), relu (after it) and pool, block by block.",
    "doctor": "Show versions, devices, and which ONNX Runtime providers really work; say how to get those that do not.",
    "weights": "List, fetch, verify or import the network's weights.",
}
COMPUTING = frozenset(
    {"stylize", "resume", "batch", "video", "sweep", "reconstruct", "texture", "demo", "evaluate", "ui", "serve"}
)


def value_of(parameter: Any, context: Any, value: Any) -> Any:
    """What the text given for a parameter becomes; what is not given stays None, and text where a shell completes.

    Typer would make a validator of pydantic for each of them, which takes 0.2 s for the 90 options of stylize.
    """
    absent = value is None and not parameter.required
    return value if absent or context.resilient_parsing else type(parameter).process_value(parameter, context, value)


class OnlyWhatIsGiven:
    """A command that converts the options that are given alone."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the click class it is mixed into
        for parameter in parameters:
            parameter.process_value = functools.partial(value_of, parameter)
        return parameters


class Command(OnlyWhatIsGiven, TyperCommand):
    """A command with options."""


class Group(OnlyWhatIsGiven, TyperGroup):
    """A command with commands."""


class Commands(Group):
    """All commands of :data:`COMMANDS`; of those that were not called for, name and help alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            wait_briefly()
            if args[0] in COMPUTING and not ctx.resilient_parsing and not {"--help", "-h"} & set(args):
                open_libraries()
            self.commands[args[0]] = made(args[0])
        return super().resolve_command(ctx, args)


def made(name: str) -> Any:
    """The command with its options; ``module.app`` where it has commands of its own, else the function of its name."""
    from nst_fast.cli.options import expanding  # and with it the declarations of all options

    module = importlib.import_module(f"nst_fast.cli.{name}")
    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        command: Callable[..., Any] = getattr(module, name)
        app.command(name, cls=Command)(expanding(command))
    made = typer.main.get_command(app)
    made.name = name
    return made
