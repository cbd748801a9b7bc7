"""Our transport for the model SDKs, which bring an HTTP library of their own (httpx2)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2

from llmteam.net.addresses import Endpoint
from llmteam.net.defaults import default_guard
from llmteam.net.errors import InvalidResponseError, OutboundRefusedError, ResponseTooLargeError
from llmteam.net.guard import CONNECT_SECONDS, OutboundGuard
from llmteam.net.resources import base_target
from llmteam.net.sockets import Limit, current_limit
from llmteam.net.transport import tls_context
from llmteam.net.urls import Target, parse_target

#: Bytes of one model answer.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_CONNECTIONS = 1024


def sdk_http_client(
    base_url: str, timeout: float, *, guard: OutboundGuard | None = None, max_bytes: int = MAX_ANSWER_BYTES
) -> httpx2.Client:
    """An ``http_client`` for the OpenAI and Anthropic SDKs: only the origin of ``base_url``, under the guard's rules.

    The exact host and port of ``base_url`` are trusted for this client. ``timeout`` (seconds) covers a whole request,
    its answer included. No proxy, netrc or certificate path comes from the environment, and no redirect is followed.
    The guard's errors pass the OpenAI SDK as they are; Anthropic's raises its own with ours as ``__cause__``.
    """
    transport = GuardedTransport(base_target(base_url), timeout, guard, max_bytes)
    return httpx2.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


class GuardedTransport(httpx2.BaseTransport):
    """Connects through the guard, and bounds time and bytes of each exchange. Safe for many threads."""

    def __init__(self, base: Target, timeout: float, guard: OutboundGuard | None, max_bytes: int) -> None:
        self._base = base
        self._timeout = timeout
        self._guard = guard
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pool: httpcore2.ConnectionPool | None = None
        self._pid = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Called by the client."""
        if parse_target(str(request.url)).origin != self._base.origin:
            raise OutboundRefusedError(request.url.host, f"this client serves {self._base.authority} only")
        limit = Limit(self._timeout)
        url = request.url
        # Compressed answers would be inflated outside our limit on bytes.
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
        with limit.active(), _mapped():
            response = self._current_pool().handle_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=[*headers, (b"Accept-Encoding", b"identity")],
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        if any(name.lower() == b"content-encoding" and value != b"identity" for name, value in response.headers):
            response.close()
            raise InvalidResponseError(self._base.where, "it is compressed, although that was not accepted")
        body = _Body(response, limit, self._max_bytes, self._base.where)
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    def close(self) -> None:
        """Close the connections. The transport stays usable."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()

    def _current_pool(self) -> httpcore2.ConnectionPool:
        """This process's pool: a forked child must not talk on its parent's connections."""
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                endpoint = str(Endpoint(self._base.host, self._base.port))
                guard = (self._guard or default_guard()).trusting(endpoint)
                self._pool = httpcore2.ConnectionPool(
                    ssl_context=tls_context(),
                    max_connections=_CONNECTIONS,
                    max_keepalive_connections=_CONNECTIONS,
                    keepalive_expiry=30.0,
                    network_backend=_Backend(guard),
                )
                self._pid = os.getpid()
            return self._pool


class _Backend(httpcore2.SyncBackend):
    """Makes connections to the addresses that the guard has checked."""

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        limit = current_limit() or Limit(CONNECT_SECONDS)
        failure: Exception = httpcore2.ConnectError("no address")
        for _, sockaddr in self._guard.resolve(host, port, limit):
            patience = min(limit.remaining(), CONNECT_SECONDS, timeout or CONNECT_SECONDS)
            try:
                return _Stream(super().connect_tcp(str(sockaddr[0]), port, patience, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise OutboundRefusedError("a unix socket", "only http and https over TCP are served")


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes end with the active limit."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        limit = current_limit()
        if limit is None:
            return self._stream.read(max_bytes, timeout)
        while True:
            try:
                return self._stream.read(max_bytes, limit.pause())
            except httpcore2.ReadTimeout:
                limit.remaining()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        limit = current_limit()
        self._stream.write(buffer, timeout if limit is None else limit.remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        limit = current_limit()
        left = timeout if limit is None else limit.remaining()
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Body(httpx2.SyncByteStream):
    """The answer's body, read under the limit of its exchange."""

    def __init__(self, response: httpcore2.Response, limit: Limit, max_bytes: int, where: str) -> None:
        self._response = response
        self._limit = limit
        self._max_bytes = max_bytes
        self._where = where

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        parts = self._response.iter_stream()
        while True:
            with self._limit.active(), _mapped():
                part = next(parts, None)
            if part is None:
                return
            size += len(part)
            if size > self._max_bytes:
                raise ResponseTooLargeError(self._where, self._max_bytes)
            yield part

    def close(self) -> None:
        self._response.close()


@contextmanager
def _mapped() -> Iterator[None]:
    """The transport's failures under the names that the SDKs know and retry."""
    try:
        yield
    except (httpcore2.TimeoutException, TimeoutError):
        raise httpx2.ReadTimeout("the request's time is over") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as exc:
        raise httpx2.ConnectError(f"no answer: {type(exc).__name__}") from None
