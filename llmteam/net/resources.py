"""Clients for services that the operator registers: what ``client_ref`` names in a segment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from llmteam.errors import ConfigurationError
from llmteam.net.addresses import Endpoint
from llmteam.net.client import MAX_RESPONSE_BYTES, TIMEOUT_SECONDS, HttpClient
from llmteam.net.defaults import default_guard
from llmteam.net.errors import OutboundRefusedError
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


class BaseUrlClient:
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
        self._base = base_target(base_url)
        self._headers = checked_headers(headers)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._guard = guard
        self._lock = threading.Lock()
        self._client: HttpClient | None = None

    def __repr__(self) -> str:
        return f"BaseUrlClient({self._base.where!r})"

    async def request(self, method: str, path: str, **kwargs: Any) -> HttpResponse:
        """:meth:`send` in a thread."""
        return await asyncio.to_thread(self.send, method, path, **kwargs)

    def send(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **kwargs: Any) -> HttpResponse:
        """Send one request; keywords as in :meth:`HttpClient.request`. Own headers win over the registered ones."""
        target = join_path(self._base, path)
        options = {"timeout": self._timeout, "max_bytes": self._max_bytes, **kwargs}
        merged = {**self._headers, **checked_headers(headers)}
        return self._own_client().request(method, target.url, headers=merged, **options)

    def close(self) -> None:
        """Close the idle connections."""
        if self._client is not None:
            self._client.close()

    def _own_client(self) -> HttpClient:
        """A client of its own: connections to a trusted address must not serve other requests."""
        with self._lock:
            if self._client is None:
                guard = self._guard or default_guard()
                self._client = HttpClient(guard.trusting(str(Endpoint(self._base.host, self._base.port))))
            return self._client
