"""What every request passes first: host, origin, token, the size of its body; and the headers of every answer."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import secrets
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nst_fast.errors import NstFastError, UsageError, ours
from nst_fast.server.answers import RequestError, refusal

TOKEN_VARIABLE = "NST_FAST_TOKEN"
SHORTEST_TOKEN = 16
COOKIE = "nst_fast"
MOST_BYTES = 2**20  # of a body that is no upload
UPLOAD_BYTES = 128 * 2**20
UPLOADS = "/api/uploads"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def token_for(host: str, environment: Mapping[str, str] = os.environ) -> str:
    """The secret that clients show: the environment's, or a new one where others than this machine may come.

    Empty where none is needed. Raises :class:`UsageError` for one that can be guessed.
    """
    given = environment.get(TOKEN_VARIABLE, "")
    if given and (len(given) < SHORTEST_TOKEN or not given.isascii()):
        raise UsageError(f"{TOKEN_VARIABLE} has {len(given)} characters", f"Use at least {SHORTEST_TOKEN} of ASCII")
    return given or ("" if is_loopback(host) else secrets.token_urlsafe(32))


@dataclass(frozen=True)
class Doors:
    """Who may come in.

    Attributes:
        host: the address that is listened on.
        token: the secret; empty for none.
        names: other names of this server, as behind a proxy.
    """

    host: str = "127.0.0.1"
    token: str = ""
    names: Sequence[str] = ()

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server: a page elsewhere whose name leads here is refused by it."""
        name = urlsplit(f"//{host}").hostname or ""
        own = {"localhost", self.host.lower(), *map(str.lower, self.names)}
        if is_loopback(self.host):
            return name in own or is_loopback(name)
        return name in own or name == socket.gethostname().lower() or _address(name) is not None

    @property
    def cookie(self) -> str:
        return hashlib.sha256(b"cookie of nst-fast" + self.token.encode()).hexdigest()

    def shown(self, headers: Headers) -> bool:
        """Whether a request shows the token, or the cookie that was given for it."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.fits(given.strip()):
            return True
        cookies = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookies and secrets.compare_digest(cookies[COOKIE].value.encode(), self.cookie.encode())

    def fits(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Gate:
    """ASGI middleware around the whole application. Nothing that is raised within leaves it."""

    def __init__(self, app: ASGIApp, doors: Doors, say: Callable[[str], None]) -> None:
        self.app, self.doors, self.say = app, doors, say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.passed(scope, receive, answer)
            return
        except asyncio.CancelledError:  # the server ends, and has waited for this answer long enough
            fault: NstFastError = RequestError(503, "the server is ending", "Ask again when it runs")
        except RequestError as error:
            fault = error
        except Exception as error:
            if os.environ.get("NST_FAST_DEBUG"):
                traceback.print_exception(error)
            fault = ours(error)
            self.say(f"error: {fault}")
        if not begun:
            await refusal(fault)(scope, receive, answer)

    async def passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        entered = self.check(scope, headers)
        if entered is not None:
            await entered(scope, receive, send)
            return
        most = UPLOAD_BYTES if scope["path"] == UPLOADS else MOST_BYTES
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise too_large(most)
        await self.app(scope, limited(receive, most), send)

    def check(self, scope: Scope, headers: Headers) -> Any:
        """Raise :class:`RequestError` for who may not come in; an answer to who has brought the token just now."""
        host = headers.get("host", "")
        try:
            known = self.doors.knows(host)
            foreign = "origin" in headers and urlsplit(headers["origin"]).netloc.lower() != host.lower()
        except ValueError:
            known = foreign = False
        if not known:
            raise RequestError(403, "this server has another name", "Open it by the address that it has printed")
        if foreign or (headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET"):
            raise RequestError(403, "another site's page may not use this server")
        if not self.doors.token or self.doors.shown(headers):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] != "GET" or not self.doors.fits(given):
            remedy = "Open the address with ?token= that it has printed, or send Authorization: Bearer"
            raise RequestError(401, "this server wants a token", remedy)
        entered = RedirectResponse(scope["path"], 303)
        entered.set_cookie(COOKIE, self.doors.cookie, httponly=True, samesite="strict", max_age=30 * 86400)
        return entered


def too_large(most: int) -> RequestError:
    return RequestError(
        413, f"a body of more than {most >> 20} MiB", "Send less", "file" if most == UPLOAD_BYTES else None
    )


def limited(receive: Receive, most: int) -> Receive:
    """The body of a request, which ends with an error when it is longer than it may be."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise HTTPException(413)
        return message

    return counted
