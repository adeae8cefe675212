"""The command line: one file per command, heavy imports inside the commands, errors turned into exit codes here.

May import: api, benchmark, distributed, engines, errors, jobs, jury, network, onnx, options, run, server, system.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer

from nst_fast import __version__
from nst_fast.cli.commands import Commands
from nst_fast.cli.console import emit_error, prepare_streams
from nst_fast.cli.torchrun import check_command, exit_without_waiting
from nst_fast.distributed import error_reporter
from nst_fast.errors import NstFastError, ours
from nst_fast.system.files import cache_dir

EPILOG = "Two commands to a picture: `nst-fast demo`, then `nst-fast stylize CONTENT STYLE -o OUT.png`."

app = typer.Typer(
    name="nst-fast",
    cls=Commands,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(value: bool) -> None:
    if value:
        typer.echo(f"nst-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=show_version, is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.", envvar="NST_FAST_DEBUG"),
) -> None:
    """Neural style transfer by optimisation (Gatys et al. 2016), fast and trustworthy."""
    if debug:
        os.environ["NST_FAST_DEBUG"] = "1"
    check_command(context.invoked_subcommand)


def main() -> NoReturn:
    """Run the command line; every error of ours ends as one line on stderr and its exit code."""
    prepare_streams()
    if "_NST_FAST_COMPLETE" in os.environ:  # set by the shell: Typer would wrap descriptions, each line a value to it
        os.environ["TERMINAL_WIDTH"] = "10000"
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir("matplotlib")))  # else it keeps its cache in the home folder
    try:
        code = app(standalone_mode=False)
    except NstFastError as error:
        code = report(error, error.exit_code)
    except typer.TyperException as error:
        code = report(error, error.exit_code, error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:  # the last line of defence: any fault ends in one line and its code
        cause = ours(error)
        code = report(error, cause.exit_code, str(cause))
    code = code if isinstance(code, int) else 0
    exit_without_waiting(code)
    sys.exit(code)


def report(error: Exception, code: int, message: str | None = None) -> int:
    """Print the error as one line on stderr, and as one JSON object on stdout when --json was asked for."""
    if os.environ.get("NST_FAST_DEBUG"):
        traceback.print_exception(error)
    if not error_reporter.may_report():
        return code
    text = " ".join((message or str(error)).split())
    emit_error(text, code=code, kind=type(error).__name__, as_json="--json" in sys.argv)
    return code
