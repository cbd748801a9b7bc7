"""The process-wide guard and client, made from the settings on first use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from llmteam.net.addresses import Endpoint, normal_host
from llmteam.net.guard import OutboundGuard

if TYPE_CHECKING:
    from llmteam.net.client import HttpClient
    from llmteam.settings import Settings

#: Where Flower listens unless told otherwise.
FLOWER = "127.0.0.1:5555"

_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "valkey": 6379, "sentinel": 26379}
_PORTS |= {"amqp": 5672, "amqps": 5671, "pyamqp": 5672}


class _Process:
    """What this process shares, guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.guard: OutboundGuard | None = None
        self.client: HttpClient | None = None
        self.own: tuple[str, ...] = ()


_process = _Process()


def default_guard() -> OutboundGuard:
    """The guard of this process: the settings' allowances, and our own servers refused."""
    with _process.lock:
        if _process.guard is None:
            from llmteam.settings import Settings

            _process.guard = guard_from(Settings.load()).refusing(*_process.own)
        return _process.guard


def default_client() -> HttpClient:
    """The client of this process, on :func:`default_guard`."""
    guard = default_guard()
    with _process.lock:
        if _process.client is None or _process.client.guard is not guard:
            from llmteam.net.client import HttpClient

            # urllib3 writes whole URLs, queries included, at DEBUG.
            if logging.getLogger("urllib3").level == logging.NOTSET:
                logging.getLogger("urllib3").setLevel(logging.INFO)
            _process.client = HttpClient(guard)
        return _process.client


def use_guard(guard: OutboundGuard | None) -> None:
    """Make ``guard`` the process-wide one; None goes back to the settings, read anew on next use."""
    with _process.lock:
        _process.guard, _process.client = guard, None


def refuse_endpoints(*endpoints: str) -> None:
    """Refuse ``host:port`` of servers that were started after the settings were read (embedded ones, Flower)."""
    with _process.lock:
        _process.own = (*_process.own, *endpoints)
        if _process.guard is not None:
            _process.guard, _process.client = _process.guard.refusing(*endpoints), None


def guard_from(settings: Settings) -> OutboundGuard:
    """A guard with the allowances of ``settings`` that refuses the servers which they name, and Flower."""
    urls = (settings.database_url, settings.broker_url, settings.result_backend, settings.redis_url)
    own = {endpoint for url in urls if url for endpoint in server_endpoints(url)}
    return OutboundGuard(allow_private=settings.allow_private_networks, refuse_always=[FLOWER, *sorted(own)])


def server_endpoints(url: str) -> Sequence[str]:
    """``host:port`` of each server that a database or broker URL names; none for unix sockets.

    Understands several hosts separated by commas or semicolons, and libpq's ``host`` and ``port`` in the query.
    """
    found: list[str] = []
    for one in url.split(";"):
        parts = urlsplit(one.strip())
        scheme, _, driver = parts.scheme.partition("+")
        default = _PORTS.get(scheme)
        if default is None or driver == "socket":
            continue
        query = parse_qs(parts.query)
        hosts = parts.netloc.rpartition("@")[2]
        if query.get("host"):
            hosts = query["host"][0]
            default = int(query["port"][0]) if query.get("port", [""])[0].isdigit() else default
        tcp = [host for host in (hosts or "localhost").split(",") if not host.startswith(("/", "%2F", "%2f"))]
        found.extend(str(_endpoint(host, default)) for host in tcp)
    return found


def _endpoint(text: str, default: int) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or not port.isdigit():
        return Endpoint(normal_host(text), default)
    return Endpoint(normal_host(host or "localhost"), int(port))
