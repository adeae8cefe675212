"""A command that ``torchrun`` started several times: the copies join and share the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nst_fast.cli.console import emit_error
from nst_fast.distributed import error_reporter, process_rank
from nst_fast.errors import NstFastError, UsageError

if TYPE_CHECKING:
    from nst_fast.distributed.group import Ranks
    from nst_fast.options.config import StylizeConfig

SHARED = ("stylize",)


def check_command(command: str | None) -> None:
    """Raise :class:`UsageError` when several copies of a command run that would all do the same."""
    if process_rank().alone:
        return
    # PyTorch reads this when it is imported. Its warnings about lost connections come with pages of stack.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if command not in SHARED:
        raise UsageError(
            f"torchrun started {process_rank().world_size} copies of {command}, which share nothing",
            f"What can be shared is {', '.join(SHARED)}",
        )


@contextmanager
def joined_ranks(config: StylizeConfig) -> Iterator[tuple[StylizeConfig, Ranks | None]]:
    """The config with the device of this rank, and the ranks for as long as the block lasts; None for one process."""
    process = process_rank()
    if process.alone:
        yield config, None
        return
    from nst_fast.distributed.group import device_of, joined
    from nst_fast.run.layout import check_shareable

    check_shareable(config)
    config = config.replace(device=device_of(config.device, process))
    with joined(process, config.device, end=end_now) as ranks:
        yield config, ranks


def exit_without_waiting(code: int) -> None:
    """Exit at once after an error while ranks are joined: a thread may still wait for one of them."""
    if error_reporter.claim is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_now(error: NstFastError) -> None:
    """End this process from another thread: the main one may wait for a lost rank for ever."""
    if error_reporter.may_report():
        emit_error(str(error), code=error.exit_code, kind=type(error).__name__, as_json="--json" in sys.argv)
    os._exit(error.exit_code)
