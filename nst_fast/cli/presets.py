"""``nst-fast presets``: the recipes, and every value of one with its source."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nst_fast.cli import completion
from nst_fast.cli.console import emit_result
from nst_fast.cli.options import Json
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.layers import find_preset, own_preset, own_preset_files
from nst_fast.options.presets import OURS, PRESETS, Preset

SCHEMA = "nst-fast/presets/1"


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Show every value of this preset.", autocompletion=completion.presets),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that --preset takes, or every value of one and where it comes from.

    Files NAME.toml in the folder `presets` of your settings are recipes too, see docs/settings.md.
    """
    if name is None:
        known = [*PRESETS.values(), *map(own_preset, own_preset_files().values())]
        listed = [{"name": preset.name, "system": preset.system, "summary": preset.summary} for preset in known]
        width = max(len(preset.name) for preset in known)
        lines = [f"{preset.name:<{width}}  {preset.summary}" for preset in known]
        emit_result({"schema": SCHEMA, "presets": listed}, *lines, as_json=as_json)
        return
    preset = find_preset(name)
    options = explained(preset)
    facts = {"name": preset.name, "system": preset.system, "summary": preset.summary, "options": options}
    settings = [
        f"  --{name.replace('_', '-')} {setting['value']}  ({setting['source']})" for name, setting in options.items()
    ]
    emit_result({"schema": SCHEMA, **facts}, f"{preset.name}: {preset.summary}", *settings, as_json=as_json)


def explained(preset: Preset) -> dict[str, dict[str, Any]]:
    """Option -> its value and source, for every option of ``stylize``, in the order of its help."""
    values = StylizeConfig().replace(**preset.values).as_dict()
    default = f"{OURS}: the program's default"
    found = {}
    for name in declared(StylizeConfig):
        setting = preset.settings.get(name)
        found[name] = {"value": values[name], "source": setting.source if setting else default}
    return found
