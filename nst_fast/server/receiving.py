"""A multipart body to a file, piece by piece as it comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from nst_fast.server.answers import RequestError
from nst_fast.system.files import remove

PART = "file"
MOST_SECONDS = 600.0  # that a client may take to send a picture
REMEDY = "Send multipart/form-data with one part `file`"


class Form:
    """Writes the part ``file`` of a multipart body to a stream.

    Attributes:
        name: the client's name of the file; None until it has come.
        whole: whether the end of the body has come.
    """

    def __init__(self, boundary: bytes, stream: BinaryIO) -> None:
        self.stream = stream
        self.name: str | None = None
        self.whole = self._takes = False
        self._header = self._value = self._disposition = b""
        self.parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Raises :class:`FormParserError` for what is no form."""
        self.parser.write(piece)

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        self._disposition = b""
        self._takes = parameters.get(b"name") == PART.encode() and b"filename" in parameters
        if self._takes and self.name is not None:
            raise FormParserError("two pictures")
        if self._takes:
            self.name = parameters[b"filename"].decode("utf-8", "replace")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._takes:
            self.stream.write(data[start:end])

    def _on_end(self) -> None:
        self.whole = True


async def received(request: Request, path: Path) -> str:
    """Write the part ``file`` of a body to a new file; the client's name of it.

    Raises :class:`RequestError` for a body without such a part, or damaged, or that does not end; it leaves nothing.
    """
    try:
        with path.open("xb") as stream:
            return await _written(request, stream)
    except BaseException as error:  # also where the server ends
        remove(path)
        if isinstance(error, FormParserError):
            raise RequestError(422, f"the body is damaged ({error})", REMEDY, PART) from None
        if isinstance(error, TimeoutError):
            raise RequestError(408, f"the picture did not come within {MOST_SECONDS:.0f} s") from None
        if isinstance(error, ClientDisconnect):
            raise RequestError(400, "the client has gone") from None
        raise


async def _written(request: Request, stream: BinaryIO) -> str:
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not parameters.get(b"boundary"):
        raise RequestError(422, "the body is no form with a file", REMEDY, PART)
    form = Form(parameters[b"boundary"], stream)
    async with asyncio.timeout(MOST_SECONDS):
        async for piece in request.stream():
            await run_in_threadpool(form.write, piece)
    if form.name is None or not form.whole:
        raise RequestError(422, "there is no whole picture in the body", REMEDY, PART)
    return form.name
