"""The server that all processes share, and what is done while it does not answer."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from llmteam.errors import InfrastructureError
from llmteam.wakeup.clients import client_of, redis_url

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

#: Seconds for connecting, and for one command.
SOCKET_SECONDS = 1.0
#: Seconds for a free connection: that many threads of this process ask at once says nothing of the server.
FREE_SECONDS = 10.0
#: Seconds for which a server that was away is not asked again.
RETRY_SECONDS = 1.0
#: Connections that one object opens at most.
MAX_CONNECTIONS = 32

#: Keys that one SCAN looks at.
SCAN = 1_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackendState:
    """Whether a server answered when it was last asked, and what happened if not. ``place`` has nothing secret."""

    shared: bool
    place: str
    error: str = ""


class SharedServer:
    """Redis or Valkey, asked while it is there: after an outage once in :data:`RETRY_SECONDS`, by one caller.

    The log says once that it is away, and once that it is back. One object may serve several threads, and goes on in a
    forked child.

    Args:
        url: may be Celery's way to write it.
        what: is kept there, for the log.
        meanwhile: what holds while it is away, for the log.
        afresh: called when the server is back and in a forked child: what the process decided alone is over.
    """

    def __init__(
        self,
        url: str,
        what: str,
        *,
        meanwhile: str = "the on_backend_error of each holds",
        afresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = redis_url(url)
        self._what = what
        self._meanwhile = meanwhile
        self._afresh = afresh
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        """At construction, and in a forked child, where locks may be held and connections are the parent's."""
        self._lock = threading.Lock()
        self._connected: _Connected | None = None
        self._away_until: float | None = None
        self._error = ""

    @property
    def place(self) -> str:
        """Where it is, without what opens it."""
        parts = urlsplit(self._url)
        return parts.hostname or parts.path

    @property
    def state(self) -> BackendState:
        """What the last use found."""
        return BackendState(self._away_until is None, self.place, self._error)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        with self._lock:
            connected, self._connected = self._connected, None
        if connected is not None:
            connected.client.close()
            connected.client.connection_pool.disconnect()

    @property
    def client(self) -> Redis:
        """The client, connected on first use."""
        return self._connection().client

    @contextmanager
    def required(self) -> Iterator[Redis]:
        """The client, for what cannot be done while the server is away. Raises :class:`InfrastructureError` then."""
        try:
            yield self.client
        except Exception as exc:
            if not _is_outage(exc):
                raise
            raise InfrastructureError(f"{self._what} cannot be reached: {self.place} does not answer ({exc})") from exc

    def run(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """What an atomic script answers; None while the server is away."""
        return self.ask(lambda: self._connection().run(script, keys, args))

    def ask(self, question: Callable[[], T]) -> T | None:
        """The answer to a question that uses :attr:`client`; None while the server is away."""
        if not self._is_worth_asking():
            return None
        try:
            answer = question()
        except Exception as exc:
            if not _is_outage(exc):
                raise
            self._lost(exc)
            return None
        self._back()
        return answer

    def _connection(self) -> _Connected:
        with self._lock:
            if self._connected is None:
                self._connected = _Connected(_connect(self._url))
            return self._connected

    def _is_worth_asking(self) -> bool:
        """False while the server is away, but for one caller in :data:`RETRY_SECONDS`."""
        if self._away_until is None:
            return True
        with self._lock:
            now = time.monotonic()
            if self._away_until is not None and now < self._away_until:
                return False
            self._away_until = now + SOCKET_SECONDS + RETRY_SECONDS
            return True

    def _lost(self, exc: Exception) -> None:
        with self._lock:
            known, self._away_until = self._away_until is not None, time.monotonic() + RETRY_SECONDS
            self._error = f"{type(exc).__name__}: {exc}"[:200]
        if not known:
            _log.warning(
                "%s: %s does not answer (%s); until it does, %s",
                self._what,
                self.place,
                self._error,
                self._meanwhile,
            )

    def _back(self) -> None:
        if self._away_until is None:
            return
        with self._lock:
            was_away, self._away_until, self._error = self._away_until is not None, None, ""
        if was_away:
            self._afresh()
            _log.info("%s: shared again", self._what)


@dataclass(frozen=True, slots=True)
class _Connected:
    client: Redis
    scripts: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def run(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        known = self.scripts.get(script) or self.scripts.setdefault(script, self.client.register_script(script))
        return known(keys=keys, args=args)


def _is_outage(exc: Exception) -> bool:
    from redis import RedisError

    return isinstance(exc, RedisError | OSError)


def _connect(url: str) -> Redis:
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Unreachable
    from redis.retry import Retry

    return client_of(
        url,
        most=MAX_CONNECTIONS,
        wait=FREE_SECONDS,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        socket_keepalive=True,
        # Once, for connections that a restarted server has closed. A script that ran unheard counts one call too many.
        retry=Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),
        protocol=2,
    )


_instances: weakref.WeakSet[SharedServer] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in tuple(_instances):
        instance._begin()
        instance._afresh()


os.register_at_fork(after_in_child=_after_fork)
