"""The generated pages: options from their declarations, commands from their parsers, Python from its docstrings."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import nst_fast
from nst_fast.cli.commands import COMMANDS, made
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import Declared, declared

MENTION = re.compile(r"\bdocs/([\w-]+)\.md")
ROLE = re.compile(r":\w+:`[~.]?([^`]+)`")


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page(lines: list[str]) -> str:
    """The lines as a page, with links where they mention others."""
    return MENTION.sub(r"[\1](../\1.md)", "\n".join(lines)) + "\n"


def options_page() -> str:
    """Every option of ``stylize``, a table for each group."""
    lines = [
        "# Options",
        "",
        "Every option of `nst-fast stylize`, generated from the declarations. In Python and in [files](../settings.md)"
        " the names have underscores, `style_weight` for `--style-weight`.",
    ]
    defaults = StylizeConfig().as_dict()
    for group, items in itertools.groupby(declared(StylizeConfig).values(), key=lambda item: item.group):
        lines += ["", f"## {group}", "", row("option", "", "default"), row("---", "---", "---")]
        lines += [row(f"`{item.flag}`", described(item), default_of(defaults[item.name])) for item in items]
    return page(lines)


def described(item: Declared) -> str:
    """The help of an option, with its range or choices."""
    option = item.option
    allowed = f"One of {', '.join(f'`{name}`' for name in option.choices)}." if option.choices else option.allowed()
    return " ".join(filter(None, [option.help, allowed[:1].upper() + allowed[1:].rstrip(".") + "." if allowed else ""]))


def default_of(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "" if value is None or not text else f"`{text}`"


def commands_page() -> str:
    """Every command with the options that are its own, and the names of those that it shares with ``stylize``."""
    lines = [
        "# Commands",
        "",
        "Generated from the command line's own help. Shared options are in [options](options.md).",
    ]
    names = {item.flag for item in declared(StylizeConfig).values()}
    shared = {each.opts[0]: each.help for each in made("stylize").params if each.opts[0] in names}
    for name in COMMANDS:
        lines += ["", f"## {name}", "", *section(made(name), name, shared)]
        for key, command in getattr(made(name), "commands", {}).items():
            lines += ["", f"### {name} {key}", "", *section(command, f"{name} {key}", shared)]
    return page(lines)


def section(command: Any, path: str, shared: dict[str, str]) -> Iterator[str]:
    """What a command does, its usage and its options.

    Args:
        shared: options of ``stylize`` with their help; where it is the same, the name is enough.
    """
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    own = [each for each in options if shared.get(each.opts[0]) != each.help]
    if not hasattr(command, "commands"):
        written = "".join(f" {each.name.upper()}{'...' * (each.nargs != 1)}" for each in arguments)
        yield f"    nst-fast {path}{written}{' [OPTIONS]' * bool(options)}\n"
    yield re.sub(r"^Example: (.*)", r"Example: `\1`", command.help or "", flags=re.MULTILINE)
    if arguments or own:
        yield "\n" + "\n".join([row("", "", ""), row("---", "---", "---")])
        yield from (row(f"`{each.name.upper()}`", "", each.help or "") for each in arguments)
        yield from (row(f"`{each.opts[0]}`", f"`{each.metavar}`" * bool(each.metavar), each.help or "") for each in own)
    if len(own) < len(options):
        yield "\nAlso " + also(
            [each.opts[0] for each in options if each not in own],
            sorted(shared.keys() - {each.opts[0] for each in options}),
        )


def also(same: list[str], missing: list[str]) -> str:
    """These options of ``stylize``, or all but the missing, whichever is shorter."""
    if len(missing) > len(same):
        return ", ".join(f"`{name}`" for name in same) + "."
    return "the [options](options.md)" + " but " * bool(missing) + ", ".join(f"`{name}`" for name in missing) + "."


def python_page() -> str:
    """The public names with their docstrings."""
    lines = ["# Python", "", (nst_fast.__doc__ or "").partition("\n")[2].strip()]
    for name in sorted(set(nst_fast.__all__) - {"__version__"}, key=lambda name: (name[0].isupper(), name)):
        value = getattr(nst_fast, name)
        lines += ["", f"## {name}", "", *documented(value)]
        members = {key: each for key, each in vars(value).items() if inspect.isfunction(each) and key[0] != "_"}
        for key, each in members.items() if isinstance(value, type) and value is not StylizeConfig else ():
            lines += ["", f"### {name}.{key}", "", *documented(each)]
    return page(lines)


def documented(value: Any) -> Iterator[str]:
    """The signature of a function, and its docstring or a class's."""
    if not isinstance(value, type):
        parameters = inspect.signature(value).parameters.values()
        written = [re.sub(r": '([^']*)'", r": \1", str(each)) for each in parameters if each.name != "self"]
        if keyword_only := [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]:
            written.insert([each.partition(":")[0] for each in written].index(keyword_only[0]), "*")
        listed = "".join(f"\n    {each}," for each in written) + "\n" * bool(written)
        yield f"```python\n{value.__name__}({listed})\n```\n"
    for block in ROLE.sub(r"`\1`", (inspect.getdoc(value) or "").replace("``", "`")).split("\n\n"):
        title, _, rest = block.partition("\n")
        if re.fullmatch(r"(Args|Attributes|Returns|Raises):", title):
            yield f"**{title[:-1]}**\n"
            yield from bullets(rest) if title != "Returns:" else [inspect.cleandoc(rest)]
            yield ""
        else:
            yield block + "\n"


def bullets(text: str) -> Iterator[str]:
    """A list of ``name: what it is``, whose further lines are indented."""
    for item in re.split(r"\n(?! )", inspect.cleandoc(text)):
        names, colon, what = " ".join(item.split()).partition(": ")
        yield f"- `{names}`: {what}" if colon else f"- {names}"


PAGES = {
    "docs/reference/options.md": options_page,
    "docs/reference/commands.md": commands_page,
    "docs/reference/python.md": python_page,
}
