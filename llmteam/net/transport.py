"""``requests`` made to connect through the guard and to end in time."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import certifi
from requests import PreparedRequest, Request, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from llmteam.net.guard import CONNECT_SECONDS, OutboundGuard
from llmteam.net.sockets import Limit, LimitedTLSSocket, bind, current_limit

#: Idle connections kept per host, and hosts kept: enough for a worker with hundreds of threads.
_CONNECTIONS_PER_HOST = 1024
_HOSTS = 128


def tls_context(ca_file: str | os.PathLike[str] | None = None) -> ssl.SSLContext:
    """A verifying context: the system's authorities (``SSL_CERT_FILE`` counts), certifi's, and those in ``ca_file``."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _pool_classes(guard: OutboundGuard) -> dict[str, type[HTTPConnectionPool]]:
    """Connection pools whose connections are made by ``guard`` and bound to the active limit."""

    def connect(connection: HTTPConnection) -> socket.socket:
        limit = current_limit() or Limit(CONNECT_SECONDS)
        return guard.connect(connection.host, connection.port or connection.default_port, limit)

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

        def connect(self) -> None:
            super().connect()
            bind(self.sock, current_limit())

        def request(self, *args: Any, **kwargs: Any) -> None:
            bind(self.sock, current_limit())
            super().request(*args, **kwargs)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

        def connect(self) -> None:
            super().connect()
            bind(self.sock, current_limit())

        def request(self, *args: Any, **kwargs: Any) -> None:
            bind(self.sock, current_limit())
            super().request(*args, **kwargs)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


class GuardedAdapter(HTTPAdapter):
    """Connections that only ``guard`` makes. Without a session there is no proxy, netrc, cookie or redirect."""

    def __init__(self, guard: OutboundGuard, context: ssl.SSLContext) -> None:
        context.sslsocket_class = LimitedTLSSocket
        self._guard = guard
        self._context = context
        super().__init__(pool_connections=_HOSTS, pool_maxsize=_CONNECTIONS_PER_HOST)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Called by the base class."""
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._guard)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Called by the base class, which would load the authorities anew for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"

    def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limit: Limit) -> Response:
        """Send one request; the answer's body is still to be read. ``limit`` has to be active."""
        prepared: PreparedRequest = Request(method, url, headers=dict(headers), data=body).prepare()
        left = limit.remaining()
        return self.send(prepared, stream=True, timeout=(left, left), verify=True, proxies={})
