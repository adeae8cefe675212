"""A multipart body to a file in a folder, piece by piece as it comes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from nst_fast.server.answers import RequestError

PART = "file"
MOST_SECONDS = 600.0  # that a client may take to send a picture
IN_MEMORY = 2**16
REMEDY = "Send multipart/form-data with one part `file`"


async def received(request: Request, path: Path) -> str:
    """Write the part ``file`` of a body to a path, whose folder also has it while it comes; the client's name of it.

    Raises:
        RequestError: there is no such part, the body is damaged, or it does not end.
    """
    parts: list[File] = []
    try:
        parser = _parser(request, path.parent, parts)
        async with asyncio.timeout(MOST_SECONDS):
            async for piece in request.stream():
                await run_in_threadpool(parser.write, piece)
        parser.finalize()
        if [part.field_name for part in parts] != [PART.encode()]:
            raise RequestError(422, "there is no picture in the body", REMEDY, PART)
        await run_in_threadpool(_copy, parts[0], path)
        return (parts[0].file_name or b"").decode("utf-8", "replace")
    except FormParserError as error:
        raise RequestError(422, f"the body is damaged ({error})", REMEDY, PART) from None
    except TimeoutError:
        raise RequestError(408, f"the picture did not come within {MOST_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise RequestError(400, "the client has gone") from None
    finally:
        for part in parts:
            part.close()


def _parser(request: Request, folder: Path, parts: list[File]) -> FormParser:
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestError(422, "the body is no form with a file", REMEDY, PART)

    def ignore(field: Field) -> None:
        """Fields beside the file."""

    # What does not end is deleted with its parser.
    config = {"UPLOAD_DIR": str(folder), "MAX_MEMORY_FILE_SIZE": IN_MEMORY, "MAX_FIELDS": 4, "MAX_FIELD_SIZE": 4096}
    return FormParser("multipart/form-data", ignore, parts.append, boundary=boundary, config=config)


def _copy(part: File, path: Path) -> None:
    part.file_object.seek(0)
    with path.open("xb") as stream:
        shutil.copyfileobj(part.file_object, stream)
