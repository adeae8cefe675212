"""``nst-fast info``: the record that a picture carries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.cli.console import emit, emit_result
from nst_fast.cli.options import Json
from nst_fast.system.files import shown


def info(
    picture: Annotated[Path, typer.Argument(help="A picture made by nst-fast, or the .json beside it.")],
    toml: Annotated[bool, typer.Option("--toml", help="Its options as a file for `stylize --config`.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a picture was made: options, inputs, machine, speed, losses."""
    from nst_fast.run.record import read_record

    if toml:
        from nst_fast.options.layers import as_toml
        from nst_fast.run.provenance import recorded_options

        emit(as_toml(recorded_options(picture, ()), f"as {shown(picture.name)}"))
        return
    record = read_record(picture)
    emit_result(record, *describe(record), as_json=as_json)


def describe(record: dict[str, Any]) -> list[str]:
    """The record for people: a few lines of facts, then every option."""
    inputs = record["inputs"]
    pictures = [("content", inputs.get("content")), *(("style", style) for style in inputs.get("styles", []))]
    lines = [
        f"{record['output']}: {record['status']}, made {record['created']} by nst-fast {record['nst_fast']}",
        *(
            f"{kind:<12} {p['name']} {p['size'][0]}x{p['size'][1]} sha256 {p['sha256'][:16]}"
            for kind, p in pictures
            if p
        ),
        f"{'weights':<12} {record['weights'].get('source')} sha256 {record['weights'].get('sha256', '')[:16]}",
        f"{'ran on':<12} {record['device']}, engine {record['engine']}, {record['precision']}",
        f"{'speed':<12} {record['steps']} steps in {number(record['seconds'])} s, "
        f"{number(record['steps_per_second'])} steps/s",
        f"{'peak memory':<12} {number(record['peak_memory_mib'])} MiB",
        f"{'losses':<12} " + ", ".join(f"{name} {number(value)}" for name, value in record["losses"].items()),
    ]
    lines += [f"{'finish':<12} {phrase}" for phrase in record["finish"]]
    lines += [f"{'warning':<12} {warning}" for warning in record["warnings"]]
    lines.append("options")
    return lines + [f"  --{name.replace('_', '-')} {value}" for name, value in record["options"].items()]


def number(value: float | None) -> str:
    """Four digits; JSON has no word for a number that is not finite, so a record holds none."""
    return "not finite" if value is None else f"{value:.4g}"
