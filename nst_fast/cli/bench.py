"""``nst-fast bench``: how fast, how much memory, and whether it is still the same picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.cli.console import TABLE_WIDTH, Messages, emit, emit_json
from nst_fast.cli.options import JsonFile, Quiet, overwrites, path_of, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.errors import PartialError


@takes(BenchConfig)
def bench(
    config: BenchConfig,
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows as CSV.", metavar="FILE")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw speed over size.", metavar="FILE")] = None,
    overwrite: Annotated[bool, overwrites("files that exist")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure the loop, ONNX Runtime's evaluation and the monitor: speed, memory and quality in every row.

    Example: nst-fast bench --sizes 128,256 --json r.json --plot r.png

    What is compared takes turns in one process, so that noise hits all alike. A case that fails, or a provider that is
    not there, is a row that says so; failures also end the command with 10. Ctrl-C ends it with the rows so far.
    """
    from nst_fast.system.files import check_all_writable

    messages = Messages(quiet=quiet)
    json_path = path_of(json_file)
    check_all_writable(filter(None, (json_path, csv_file, plot_file)), overwrite, config.inputs)
    from nst_fast.benchmark.report import write_results
    from nst_fast.benchmark.suite import run_benchmark
    from nst_fast.run.observer import Listeners

    with graceful_stop(messages.say) as stop:
        report = run_benchmark(config, Listeners(note=messages.say, stop=stop))
    data = report.as_dict()
    show(data, messages)
    written = write_results(data, json_path, csv_file, plot_file)
    if json_file == "-":
        emit_json(data, indent=1)
    else:
        for path in written:
            emit(str(path))
    if stop():
        raise typer.Exit(stop.exit_code)
    if report.failed:
        raise PartialError(f"{len(report.failed)} of {len(report.rows)} rows failed", "The rows say why")


def show(data: Mapping[str, Any], messages: Messages) -> None:
    """The tables on stderr, and below them why a row is missing."""
    from nst_fast.benchmark.report import machine_name, remarks, tables

    messages.say(f"{data['status']}: {machine_name(data)}, {data['seconds']:.0f} s")
    messages.console.width = max(messages.console.width, TABLE_WIDTH)
    for table in () if messages.quiet else tables(data):
        messages.console.print(table)
    for remark in remarks(data):
        messages.note(remark)
