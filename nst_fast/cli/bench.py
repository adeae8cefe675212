"""``nst-fast bench``: how fast, how much memory, and whether it is still the same picture; ``compare``: since when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nst_fast.benchmark.compare import CompareConfig
from nst_fast.benchmark.scenarios import BenchConfig
from nst_fast.cli.commands import Command, Group
from nst_fast.cli.console import TABLE_WIDTH, Messages, emit, emit_json, emit_report
from nst_fast.cli.options import JsonFile, Quiet, expanding, overwrites, path_of, takes
from nst_fast.cli.signals import graceful_stop
from nst_fast.errors import PartialError, UsageError

app = typer.Typer(cls=Group, invoke_without_command=True, add_completion=False)  # bare, it measures


@app.callback()
@expanding
@takes(BenchConfig)
def bench(
    context: typer.Context,
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
    if context.invoked_subcommand is not None:
        refuse_options_before(context)
        return
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


def refuse_options_before(context: typer.Context) -> None:
    """Options of the measurement in front of another command would be lost without a word."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        named = ", ".join(f"`{name}`" for name in given)
        raise UsageError(f"{named} before {context.invoked_subcommand}", "Options of a command come after its name")


@app.command(cls=Command)
@expanding
@takes(CompareConfig)
def compare(
    config: CompareConfig,
    before: Annotated[Path, typer.Argument(metavar="A", help="What `bench --json` wrote before.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="And after.")],
    json_file: JsonFile = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the report as Markdown too.", metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, overwrites("files that exist")] = False,
) -> None:
    """Compare two results: both environments with what differs, and how many times as much every figure costs in B.

    Example: nst-fast bench compare before.json after.json --fail-over 5%

    Results of different machines, or with other options than those that choose the rows, are refused. "Beside eager" is
    a step's time relative to eager's in the same two results, which noise hits alike.
    """
    from nst_fast.benchmark import compare as comparing
    from nst_fast.system.files import check_all_writable, write_atomic

    check_all_writable(filter(None, (path_of(json_file), markdown)), overwrite, (before, after))
    results = [comparing.read_results(path) for path in (before, after)]
    comparing.refuse(*results)
    comparison = comparing.compare(*results)
    report = comparing.to_markdown(comparison, ("A", "B"), config.fail_over)
    if markdown is not None:
        write_atomic(markdown, report.encode())
    emit_report(comparison.as_dict(), report.rstrip("\n"), json_file)
    if config.fail_over is not None:
        comparison.check(config.fail_over)


def show(data: Mapping[str, Any], messages: Messages) -> None:
    """The tables on stderr, and below them why a row is missing."""
    from nst_fast.benchmark.report import machine_name, remarks, tables

    messages.say(f"{data['status']}: {machine_name(data)}, {data['seconds']:.0f} s")
    messages.console.width = max(messages.console.width, TABLE_WIDTH)
    for table in () if messages.quiet else tables(data):
        messages.console.print(table)
    for remark in remarks(data):
        messages.note(remark)
