"""The HTTP client for everything that leaves this process on behalf of a segment."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3

from llmteam import codec, metrics, tracing
from llmteam.errors import LLMTeamError
from llmteam.net.errors import (
    CertificateError,
    ConnectError,
    HTTPStatusError,
    InvalidResponseError,
    OutboundRefusedError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseTooLargeError,
)
from llmteam.net.guard import OutboundGuard
from llmteam.net.headers import across_origins, checked_headers
from llmteam.net.response import HttpResponse
from llmteam.net.sockets import Limit
from llmteam.net.transport import GuardedAdapter, tls_context
from llmteam.net.urls import Target, parse_target

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Bytes of an answer after decompression.
MAX_RESPONSE_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 30.0
MAX_REDIRECTS = 5

_CHUNK = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class _Unset:
    pass


_UNSET = _Unset()


class HttpClient:
    """Sends requests through ``guard`` and reuses connections. One per process and guard; safe for many threads."""

    def __init__(
        self, guard: OutboundGuard, *, user_agent: str = "llmteam", context: ssl.SSLContext | None = None
    ) -> None:
        self.guard = guard
        self._user_agent = user_agent
        self._context = context
        self._lock = threading.Lock()
        self._adapter: GuardedAdapter | None = None
        self._pid = 0

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = _UNSET,
        data: bytes | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_bytes: int = MAX_RESPONSE_BYTES,
        max_redirects: int = MAX_REDIRECTS,
        cancelled: threading.Event | None = None,
        raise_for_status: bool = False,
    ) -> HttpResponse:
        """The answer to one request, redirects followed, body read.

        ``timeout`` (seconds) covers all of it. ``json`` is sent as a JSON body, ``data`` as it is. With
        ``max_redirects=0`` a redirect is the answer. With ``raise_for_status`` a status of 400 or above raises
        :class:`HTTPStatusError` and its body is not read. Raises the errors of :mod:`llmteam.net.errors`.
        """
        if method not in METHODS:
            raise OutboundRefusedError("a URL", f"the method is none of {', '.join(sorted(METHODS))}")
        sent = {"user-agent": self._user_agent, "accept": "*/*", **checked_headers(headers)}
        if not isinstance(json, _Unset):
            data = codec.dumps(json).encode()
            sent.setdefault("content-type", "application/json")
        exchange = _Exchange(method, parse_target(url), sent, data)
        with tracing.call(method, _facts(exchange.target, method)) as call:
            exchange.headers = call.headers(exchange.target.authority) | exchange.headers
            try:
                answer = self._exchange(exchange, Limit(timeout, cancelled), max_redirects, max_bytes, raise_for_status)
            except HTTPStatusError as exc:
                call.set("http.response.status_code", exc.status)
                raise
            call.set("http.response.status_code", answer.status)
            if not answer.ok:
                call.failed(str(answer.status))
            return answer

    def _exchange(
        self, exchange: _Exchange, limit: Limit, max_redirects: int, max_bytes: int, raise_for_status: bool
    ) -> HttpResponse:
        failure: LLMTeamError
        try:
            with limit.active():
                return self._answer(exchange, limit, max_redirects, max_bytes, raise_for_status)
        except RequestCancelledError:
            failure = RequestCancelledError(exchange.target.where)
        except LLMTeamError:
            raise
        except _FAILURES as exc:
            failure = _translate(exc, exchange.target, limit)
        # Raised out here, so that the library's error, whose text holds the whole URL, is not kept as its context.
        raise failure

    def close(self) -> None:
        """Close the idle connections. The client stays usable."""
        with self._lock:
            adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def _answer(
        self, exchange: _Exchange, limit: Limit, max_redirects: int, max_bytes: int, raise_for_status: bool
    ) -> HttpResponse:
        try:
            response = self._follow(exchange, limit, max_redirects)
        except BaseException as exc:
            metrics.HTTP_REQUESTS.add("refused" if isinstance(exc, OutboundRefusedError) else "error")
            raise
        metrics.HTTP_REQUESTS.add(f"{response.status_code // 100}xx")
        try:
            headers = {name.lower(): value for name, value in response.headers.items()}
            answer = HttpResponse(response.status_code, headers, b"", exchange.target.where)
            if raise_for_status:
                answer.raise_for_status()
            return replace(answer, body=_read(response, max_bytes, exchange))
        finally:
            response.close()

    def _follow(self, exchange: _Exchange, limit: Limit, max_redirects: int) -> requests.Response:
        for hop in range(max_redirects + 1):
            response = self._pool().exchange(
                exchange.method, exchange.target.url, exchange.headers, exchange.body, limit
            )
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or not location or max_redirects == 0:
                return response
            response.close()
            if hop < max_redirects:
                exchange.redirect(response.status_code, location)
        raise OutboundRefusedError(exchange.target.where, f"more than {max_redirects} redirects")

    def _pool(self) -> GuardedAdapter:
        """This process's pool: a forked child must not talk on its parent's connections."""
        with self._lock:
            if self._adapter is None or self._pid != os.getpid():
                self._adapter = GuardedAdapter(self.guard, self._context or tls_context())
                self._pid = os.getpid()
            return self._adapter


def _facts(target: Target, method: str) -> dict[str, str | int]:
    """What may be said of a request where others see it: no path and no query, for these may be secret."""
    return {
        "http.request.method": method,
        "server.address": target.host,
        "server.port": target.port,
        "url.scheme": target.scheme,
    }


class _Exchange:
    """What is sent next; redirects change it."""

    def __init__(self, method: str, target: Target, headers: dict[str, str], body: bytes | None) -> None:
        self.method = method
        self.target = target
        # Only what urllib3 decompresses with a bound on the memory it takes.
        self.headers = {**headers, "accept-encoding": "gzip, deflate"}
        self.body = body

    def redirect(self, status: int, location: str) -> None:
        """Turn to ``location`` as RFC 9110, section 15.4, and browsers do."""
        try:
            url = urljoin(self.target.url, location.encode("latin-1").decode("utf-8", "replace"))
        except ValueError:
            url = ""
        target = parse_target(url)
        if self.target.scheme == "https" and target.scheme == "http":
            raise OutboundRefusedError(self.target.where, "it redirects from https to http")
        if target.origin != self.target.origin:
            self.headers = {**across_origins(self.headers), "accept-encoding": self.headers["accept-encoding"]}
        if (status == 303 and self.method not in ("GET", "HEAD")) or (status in (301, 302) and self.method == "POST"):
            self.method, self.body = "GET", None
            self.headers.pop("content-type", None)
            self.headers.pop("idempotency-key", None)
        self.target = target


def _read(response: requests.Response, max_bytes: int, exchange: _Exchange) -> bytes:
    """The decompressed body; reading stops at the first byte over ``max_bytes``."""
    where = exchange.target.where
    length = response.headers.get("content-length", "")
    plain = "content-encoding" not in response.headers and exchange.method != "HEAD"
    if plain and length.isdigit() and int(length[:18]) > max_bytes:
        raise ResponseTooLargeError(where, max_bytes)
    chunks: list[bytes] = []
    size = 0
    while chunk := response.raw.read(min(_CHUNK, max_bytes - size + 1), decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise ResponseTooLargeError(where, max_bytes)
    return b"".join(chunks)


def _translate(exc: BaseException, target: Target, limit: Limit) -> LLMTeamError:
    if limit.expired:
        return RequestTimeoutError(target.where, limit.seconds)
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateError(target.authority, f"its certificate is refused: {cause.verify_message}")
    if any(isinstance(cause, urllib3.exceptions.DecodeError) for cause in causes):
        return InvalidResponseError(target.where, "its compression is broken")
    if any(isinstance(cause, requests.exceptions.InvalidURL) for cause in causes):
        return OutboundRefusedError(target.authority, "the URL cannot be read")
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return ConnectError(target.authority, "TLS failed")
    if any(isinstance(cause, urllib3.exceptions.TimeoutError | TimeoutError) for cause in causes):
        return RequestTimeoutError(target.where, limit.seconds)
    return ConnectError(target.where, "the connection broke")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """``exc`` and the errors that the libraries wrapped in it, wherever they keep them."""
    seen: set[int] = set()
    stack: list[object] = [exc]
    while stack:
        item = stack.pop()
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            stack.extend([*item.args, getattr(item, "reason", None), item.__cause__, item.__context__])
