"""Clients for services that the operator registers: what ``client_ref`` names in a segment, and single addresses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.net.addresses import Endpoint
from llmteam.net.client import MAX_RESPONSE_BYTES, TIMEOUT_SECONDS, HttpClient
from llmteam.net.defaults import default_client, default_guard
from llmteam.net.errors import (
    ConnectError,
    HTTPStatusError,
    InvalidResponseError,
    OutboundRefusedError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseTooLargeError,
)
from llmteam.net.guard import OutboundGuard
from llmteam.net.headers import checked_headers
from llmteam.net.response import HttpResponse
from llmteam.net.urls import Target, join_path, parse_target


def base_target(base_url: str) -> Target:
    """A registered base URL, checked. Raises :class:`ConfigurationError`."""
    try:
        target = parse_target(base_url)
    except OutboundRefusedError as exc:
        raise ConfigurationError(f"the base URL is not usable: {exc.reason}; write https://host[:port]/path") from None
    if target.query:
        raise ConfigurationError(f"the base URL {target.where} has a query: leave it out")
    return target


class _RegisteredClient:
    """A client of one address that the operator registered: exactly its host and port are trusted, and for it alone."""

    def __init__(self, target: Target, timeout: float, guard: OutboundGuard | None) -> None:
        self._target = target
        self.timeout = timeout
        self._guard = guard
        self._lock = threading.Lock()
        self._client: HttpClient | None = None

    def close(self) -> None:
        """Close the idle connections."""
        if self._client is not None:
            self._client.close()

    def _own_client(self) -> HttpClient:
        """A client of its own: connections to a trusted address must not serve other requests."""
        with self._lock:
            if self._client is None:
                self._client = HttpClient(self._trusting(self._guard or default_guard()))
            return self._client

    def _trusting(self, guard: OutboundGuard) -> OutboundGuard:
        return guard.trusting(str(Endpoint(self._target.host, self._target.port)))


class BaseUrlClient(_RegisteredClient):
    """An HTTP service under one base URL, with headers of its own; satisfies the runtime's ``Client`` protocol.

    Registering it makes its exact host and port trusted for this client, on a private network too; other requests of
    the process gain nothing by that. A path given to it cannot leave the host or the base URL's folder.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        max_bytes: int = MAX_RESPONSE_BYTES,
        guard: OutboundGuard | None = None,
    ) -> None:
        super().__init__(base_target(base_url), timeout, guard)
        self._headers = checked_headers(headers)
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"BaseUrlClient({self._target.where!r})"

    async def request(self, method: str, path: str, **kwargs: Any) -> HttpResponse:
        """:meth:`send` in a thread."""
        return await asyncio.to_thread(self.send, method, path, **kwargs)

    def send(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **kwargs: Any) -> HttpResponse:
        """Send one request; keywords as in :meth:`HttpClient.request`. Own headers win over the registered ones."""
        target = join_path(self._target, path)
        options = {"timeout": self.timeout, "max_bytes": self._max_bytes, **kwargs}
        merged = {**self._headers, **checked_headers(headers)}
        return self._own_client().request(method, target.url, headers=merged, **options)


class UrlClient(_RegisteredClient):
    """One address that the operator registered; redirects are not followed unless a request says so.

    Its exact host and port are trusted for this client, on a private network too; with ``trusted=False`` only what
    every request may reach. Its path and query may be secret: no error of this class has them. Raises
    :class:`ConfigurationError` for what is no http or https URL.
    """

    def __init__(self, url: str, *, timeout: float, guard: OutboundGuard | None = None, trusted: bool = True) -> None:
        try:
            target = parse_target(url)
        except OutboundRefusedError as exc:
            raise ConfigurationError(f"the address is not usable: {exc.reason}") from None
        super().__init__(target, timeout, guard)
        self._trusted = trusted

    def __repr__(self) -> str:
        return f"UrlClient({self.where!r})"

    @property
    def where(self) -> str:
        """Host and port, for error texts."""
        return self._target.authority

    def request(self, method: str, query: str = "", **options: Any) -> HttpResponse:
        """The answer to one request, ``query`` (encoded) added to that of the address.

        ``options`` are those of :meth:`HttpClient.request`. Raises the errors of :mod:`llmteam.net.errors`.
        """
        given = {"timeout": self.timeout, "max_redirects": 0, **options}
        target = replace(self._target, query="&".join(part for part in (self._target.query, query) if part))
        client = default_client() if not self._trusted and self._guard is None else self._own_client()
        failure: LLMTeamError
        try:
            return replace(client.request(method, target.url, **given), where=self.where)
        except LLMTeamError as exc:
            failure = self._without_path(exc)
        # Out here, so that the error it replaces, whose text has the path, is not its context.
        raise failure

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Post ``body``; returns when the answer's status is of 2xx. Raises the errors of :mod:`llmteam.net.errors`."""
        try:
            answer = self.request("POST", headers=headers, data=body, raise_for_status=True)
        except (ResponseTooLargeError, InvalidResponseError):
            # It was taken; what was said about it does not matter.
            return
        if not 200 <= answer.status < 300:
            raise HTTPStatusError(answer.status, self.where)

    def _trusting(self, guard: OutboundGuard) -> OutboundGuard:
        return super()._trusting(guard) if self._trusted else guard

    def _without_path(self, exc: LLMTeamError) -> LLMTeamError:
        if isinstance(exc, HTTPStatusError):
            return HTTPStatusError(exc.status, self.where, exc.retry_after)
        if isinstance(exc, RequestTimeoutError):
            return RequestTimeoutError(self.where, exc.seconds)
        if isinstance(exc, ConnectError):
            return type(exc)(self.where, exc.reason)
        if isinstance(exc, OutboundRefusedError):
            return OutboundRefusedError(self.where, exc.reason, exc.remedy)
        if isinstance(exc, ResponseTooLargeError):
            return ResponseTooLargeError(self.where, exc.limit)
        if isinstance(exc, InvalidResponseError):
            return InvalidResponseError(self.where, exc.reason)
        return RequestCancelledError(self.where) if isinstance(exc, RequestCancelledError) else exc
