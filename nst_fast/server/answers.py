"""Answers: plain data as JSON, and errors in the words of the command line with their status."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.responses import Response

from nst_fast.errors import BusyError, NstFastError, OutputError, ResumeError, UsageError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.system.rounding import rounded

STATUS = {BusyError: 409, ResumeError: 409, OutputError: 507}  # of our errors; all others are the client's to mend
FAULT = 500
# What a request has beside options.
PARTS = ("content", "styles", "preset", "quality", "options", "file")


class RequestError(UsageError):
    """A request that is refused for what it is, with its status; ``option``: the part of the request at fault."""

    def __init__(
        self, status: int, message: str, remedy: str = "", option: str | None = None, code: int = UsageError.exit_code
    ) -> None:
        super().__init__(message, remedy)
        self.status, self.option, self.exit_code = status, option, code


class Answer(Response):
    """JSON in ASCII, which any text of a user's fits into; numbers that are not finite become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(rounded(content)).encode()


def facts_of(error: NstFastError) -> dict[str, Any]:
    """An error as the API describes it: message, remedy, the option at fault, exit code of the command line, kind."""
    return {
        "message": " ".join(error.message.split()),
        "remedy": error.remedy,
        "option": getattr(error, "option", None) or option_in(error.message) or option_in(error.remedy),
        "exit_code": error.exit_code,
        "kind": type(error).__name__,
    }


def option_in(message: str) -> str | None:
    """The first option that a message names."""
    if named := re.match(r"unknown (?:option '(\w+)'|(preset))|(device) '", message):
        return named[1] or named[2] or named[3]
    names = {*declared(StylizeConfig), *PARTS}
    return next((name for name in re.findall(r"`([a-z][a-z0-9_]*)`", message) if name in names), None)


def refusal(error: NstFastError) -> Answer:
    status = getattr(error, "status", None) or next(
        (status for kind, status in STATUS.items() if isinstance(error, kind)),
        FAULT if type(error) is NstFastError else 422,
    )
    return Answer({"error": facts_of(error)}, status)
