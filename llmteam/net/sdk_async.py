"""Our transport for model SDKs, which bring an HTTP library of their own (httpx2), in its ``async`` form.

Hundreds of answers are awaited on one loop, with no thread each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import httpcore2
import httpx2

from llmteam import tracing
from llmteam.net.addresses import Endpoint
from llmteam.net.defaults import default_guard
from llmteam.net.errors import ConnectError, InvalidResponseError, OutboundRefusedError, ResponseTooLargeError
from llmteam.net.guard import CONNECT_SECONDS, OutboundGuard
from llmteam.net.resources import base_target
from llmteam.net.sockets import Limit
from llmteam.net.transport import tls_context
from llmteam.net.urls import Target, parse_target

#: Bytes of one model answer.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_CONNECTIONS = 1024


def async_sdk_http_client(
    base_url: str, timeout: float, *, guard: OutboundGuard | None = None, max_bytes: int = MAX_ANSWER_BYTES
) -> httpx2.AsyncClient:
    """An ``http_client`` for model SDKs: only the origin of ``base_url``, under the guard's rules.

    The exact host and port of ``base_url`` are trusted for this client. No proxy, netrc or certificate path comes from
    the environment, and no redirect is followed. The client belongs to the loop that first uses it.
    ``timeout`` (seconds) bounds each single wait; the caller bounds the whole request with ``asyncio.timeout``.
    """
    transport = AsyncGuardedTransport(base_target(base_url), guard or default_guard(), max_bytes)
    return httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


class AsyncGuardedTransport(httpx2.AsyncBaseTransport):
    """Connects through the guard to the origin of ``base`` only, and bounds the bytes of an answer."""

    def __init__(self, base: Target, guard: OutboundGuard, max_bytes: int) -> None:
        self._base = base
        self._max_bytes = max_bytes
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls_context(),
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            keepalive_expiry=30.0,
            network_backend=_Backend(guard.trusting(str(Endpoint(base.host, base.port)))),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Called by the client."""
        url = request.url
        if parse_target(str(url)).origin != self._base.origin:
            raise OutboundRefusedError(url.host, f"this client serves {self._base.authority} only")
        facts = {"http.request.method": request.method, "server.address": self._base.host}
        with tracing.call(request.method, {**facts, "server.port": self._base.port, "url.scheme": url.scheme}) as call:
            # SDKs may tell of a trace by themselves; whether the host is told, the settings say.
            carried = [(name.encode(), value.encode()) for name, value in call.headers(self._base.authority).items()]
            response = await self._sent(request, [*tracing.sendable(request.headers.raw), *carried])
            call.set("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                call.failed(str(response.status_code))
            return response

    async def _sent(self, request: httpx2.Request, given: list[tuple[bytes, bytes]]) -> httpx2.Response:
        url = request.url
        # Compressed answers would be inflated outside our limit on bytes.
        headers = [(name, value) for name, value in given if name.lower() != b"accept-encoding"]
        try:
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=[*headers, (b"Accept-Encoding", b"identity")],
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except _FAILURES as exc:
            raise _mapped(exc) from None
        body = _Body(response, self._max_bytes, self._base.where)
        if any(name.lower() == b"content-encoding" and value != b"identity" for name, value in response.headers):
            await body.aclose()
            raise InvalidResponseError(self._base.where, "it is compressed, although that was not accepted")
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Backend(httpcore2.AnyIOBackend):
    """Makes connections to the addresses that the guard has checked."""

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 the base class's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        patience = min(CONNECT_SECONDS, timeout or CONNECT_SECONDS)
        failure: Exception = ConnectError(str(Endpoint(host, port)), "no address")
        for _, sockaddr in await asyncio.to_thread(self._guard.resolve, host, port, Limit(patience)):
            try:
                return await super().connect_tcp(str(sockaddr[0]), port, patience, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 the base class's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise OutboundRefusedError("a unix socket", "only http and https over TCP are served")


class _Body(httpx2.AsyncByteStream):
    """The answer's body, at most ``max_bytes`` of it."""

    def __init__(self, response: httpcore2.Response, max_bytes: int, where: str) -> None:
        self._response = response
        self._max_bytes = max_bytes
        self._where = where

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async with aclosing(self._response.aiter_stream()) as parts:
                async for part in parts:
                    size += len(part)
                    if size > self._max_bytes:
                        raise ResponseTooLargeError(self._where, self._max_bytes)
                    yield part
        except _FAILURES as exc:
            raise _mapped(exc) from None

    async def aclose(self) -> None:
        await self._response.aclose()


_FAILURES = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, OSError)


def _mapped(exc: Exception) -> httpx2.TransportError:
    """A failure of the transport under the name that the SDKs know."""
    if isinstance(exc, httpcore2.TimeoutException | TimeoutError):
        return httpx2.ReadTimeout("the request's time is over")
    return httpx2.ConnectError(f"no answer: {type(exc).__name__}")
