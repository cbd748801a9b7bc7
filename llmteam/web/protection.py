"""What holds for every request and response: headers that keep browsers careful, and a bound on what is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a request's body that are read at most.
MAX_BODY = 1_000_000
_YEAR = 365 * 24 * 3600

#: Answers a request whose body is too large.
Refusal = Callable[[Scope, Receive, Send], Awaitable[None]]


def security_headers(*, secure: bool) -> dict[str, str]:
    """The headers of every response. With ``secure``, browsers are told to stay with https."""
    sources = "default-src 'none'; style-src 'self'; img-src 'self'"
    policy = f"{sources}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
    return {**headers, "Strict-Transport-Security": f"max-age={_YEAR}"} if secure else headers


class SecurityHeaders:
    """Adds the headers to every response; nothing is stored by browsers and proxies unless the response says so."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                secure_response(MutableHeaders(scope=message), self._headers)
            await send(message)

        await self._app(scope, receive, with_headers)


def secure_response(response: MutableHeaders, headers: Mapping[str, str]) -> None:
    """Put ``headers`` into a response's."""
    for name, value in headers.items():
        response[name] = value
    response.setdefault("Cache-Control", "no-store")


class BodyLimit:
    """Refuses bodies over ``limit`` bytes: by their announced length before a byte is read, else while reading."""

    def __init__(self, app: ASGIApp, limit: int, refuse: Refusal) -> None:
        self._app = app
        self._limit = limit
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > 12 or int(announced) > self._limit):
            await self._refuse(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise HTTPException(413)
            return message

        await self._app(scope, counted, send)
