"""Limits that all processes share, in Redis or Valkey."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from llmteam.ids import random_hex
from llmteam.ratelimit.decisions import GRACE_SECONDS, LEASE_SECONDS, Ask, Decision, LimitKey, LimitView
from llmteam.ratelimit.limits import rules
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.rules import Rates, micros
from llmteam.ratelimit.limits.script import ASK, TEND
from llmteam.ratelimit.models import OnBackendError, RateLimitConfig
from llmteam.wakeup.redis import redis_url

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

#: What every key begins with. One decision is about the limits of a tenant, of all tenants and of several resources, so
#: that in a cluster all of them have to stand in one slot, which the braces name.
PREFIX = "{llmteam:limit}:"
#: Seconds for connecting, for one command, and for a free connection.
SOCKET_SECONDS = 1.0
#: Seconds for which a server that was away is not asked again.
RETRY_SECONDS = 1.0
#: Connections that one process opens at most.
MAX_CONNECTIONS = 32
#: What permits begin with that the server knows nothing of.
_LOCAL, _FREE = "local:", "free:"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackendState:
    """Whether limits are shared right now, and what the server said when it was last asked in vain."""

    shared: bool
    place: str
    error: str = ""


class RedisLimitBackend:
    """A :class:`~llmteam.ratelimit.decisions.LimitBackend` for every process that knows the same server.

    Each decision is one atomic script on the server's clock. While the server is away, ``on_backend_error`` of each
    limit holds, the log says so once, and the server is asked once in :data:`RETRY_SECONDS`. A server that lost its
    data begins to count anew. One object may serve several threads and loops, and goes on in a forked child.

    Args:
        url: of Redis or Valkey; may be Celery's way to write it.
        workers: processes that share the limits: while the server is away, each takes this part of a rate.
        now: a clock in whole microseconds instead of the server's, for simulations.
    """

    in_process = False

    def __init__(
        self, url: str, *, workers: int = 1, prefix: str = PREFIX, now: Callable[[], int] | None = None
    ) -> None:
        self._url = redis_url(url)
        self._workers = workers
        self._prefix = prefix
        self._now = now
        self._local = MemoryLimitBackend()
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        """At construction, and in a forked child, where locks may be held and connections are the parent's."""
        self._lock = threading.Lock()
        self._scripts: _Scripts | None = None
        self._away_until: float | None = None
        self._error = ""

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        with self._lock:
            scripts, self._scripts = self._scripts, None
        if scripts is not None:
            scripts.client.close()
            scripts.client.connection_pool.disconnect()

    def backend_state(self) -> BackendState:
        """What the last use found."""
        place = urlsplit(self._url)
        return BackendState(self._away_until is None, place.hostname or place.path, self._error)

    def ask(
        self,
        asks: Sequence[Ask],
        ticket: str,
        *,
        queue: bool,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Decision:
        limits, permit = rules.distinct(asks), random_hex(8)
        keys, numbers = self._arguments(limits)
        mode = "queue" if queue else "refuse"
        head = [self._moment(), ticket, permit, mode, micros(lease_seconds), micros(grace_seconds)]
        answer = self._try(lambda scripts: scripts.ask(keys=keys, args=[*head, *numbers]))
        if answer is None:
            return self._alone(asks, ticket, queue=queue, grace_seconds=grace_seconds)
        admitted, wait, position, limited_by, number = answer
        if admitted:
            return Decision(True, permit)
        return Decision(False, "", _seconds(wait), int(position), limited_by.decode(), limits[number - 1][0])

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Hold a permit longer; False when its lease has ended. While the server is away, it may have."""
        if permit.startswith(_LOCAL):
            return self._local.renew(self._shares(asks), permit.removeprefix(_LOCAL), lease_seconds=_FOR_GOOD)
        if permit.startswith(_FREE):
            return True
        keys, numbers = self._arguments(rules.distinct(asks))
        head = [self._moment(), "", permit, "renew", micros(lease_seconds), 0]
        return bool(self._try(lambda scripts: scripts.tend(keys=keys, args=[*head, *numbers])))

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        """Give a permit back. While the server is away, its lease has to end."""
        if permit.startswith(_LOCAL):
            self._local.release(self._shares(asks), permit.removeprefix(_LOCAL))
        elif not permit.startswith(_FREE):
            held = [self._names(*limit)[2] for limit in rules.distinct(asks)]
            self._try(lambda scripts: _remove(scripts.client, held, permit))

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        self._local.withdraw(self._shares(asks), ticket)
        queues = [name for limit in rules.distinct(asks) for name in self._names(*limit)[3:]]
        self._try(lambda scripts: _remove(scripts.client, queues, ticket))

    def look(self, asks: Sequence[Ask]) -> list[LimitView]:
        limits = rules.distinct(asks)
        keys, numbers = self._arguments(limits)
        head = [self._moment(), "", "", "look", 0, 0]
        answer = self._try(lambda scripts: scripts.tend(keys=keys, args=[*head, *numbers]))
        if answer is None:
            return self._local.look(self._shares(asks))
        return [
            LimitView(key, float(tokens), under_way, waiting, _seconds(wait), limited_by.decode())
            for (key, _), (tokens, under_way, waiting, wait, limited_by) in zip(limits, answer, strict=True)
        ]

    def check(self) -> None:
        """Ask the server something that counts for nobody, so that :meth:`backend_state` tells how it is now."""
        self.look([Ask(LimitKey("probe"), RateLimitConfig())])

    def _names(self, key: LimitKey, rates: Rates) -> list[str]:
        """The keys of one limit, in the scripts' order."""
        parts = (quote(part, safe="") for part in (key.resource, key.tenant_id, key.part))
        place = f"{self._prefix}{':'.join(parts)}:{rates.digest}:"
        return [place + name for name in ("bucket", "log", "held", "queue", "ends")]

    def _arguments(self, limits: Sequence[tuple[LimitKey, Rates]]) -> tuple[list[str], list[str]]:
        keys = [name for key, rates in limits for name in self._names(key, rates)]
        return keys, [number for _, rates in limits for number in _numbers(rates)]

    def _moment(self) -> str:
        """Empty for the server's own clock."""
        return "" if self._now is None else str(self._now())

    def _alone(self, asks: Sequence[Ask], ticket: str, *, queue: bool, grace_seconds: float) -> Decision:
        """What holds while the server is away. One limit that fails closed refuses, whatever the others say."""
        closed = [ask for ask in asks if ask.config.on_backend_error is OnBackendError.CLOSED]
        if closed:
            return Decision(False, "", RETRY_SECONDS, 0, "backend", closed[0].key)
        shares = self._shares(asks)
        if not shares:
            return Decision(True, _FREE + random_hex(8))
        decision = self._local.ask(shares, ticket, queue=queue, lease_seconds=_FOR_GOOD, grace_seconds=grace_seconds)
        return replace(decision, permit=_LOCAL + decision.permit) if decision.admitted else decision

    def _shares(self, asks: Sequence[Ask]) -> list[Ask]:
        """This process's part of the limits that it has to hold itself."""
        local = [ask for ask in asks if ask.config.on_backend_error is OnBackendError.LOCAL]
        return [replace(ask, config=share_of(ask.config, self._workers)) for ask in local]

    def _try(self, function: Callable[[_Scripts], T]) -> T | None:
        """The server's answer; None while it is away."""
        if not self._worth_asking():
            return None
        try:
            answer = function(self._connected())
        except Exception as exc:
            if not _is_outage(exc):
                raise
            self._lost(exc)
            return None
        self._back()
        return answer

    def _connected(self) -> _Scripts:
        with self._lock:
            if self._scripts is None:
                client = _connect(self._url)
                self._scripts = _Scripts(client, client.register_script(ASK), client.register_script(TEND))
            return self._scripts

    def _worth_asking(self) -> bool:
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
            place = self.backend_state().place
            _log.warning(
                "limits: %s does not answer (%s); until it does, each limit's on_backend_error holds",
                place,
                self._error,
            )

    def _back(self) -> None:
        if self._away_until is not None:
            with self._lock:
                self._away_until, self._error = None, ""
            _log.info("limits: shared again")


@dataclass(frozen=True, slots=True)
class _Scripts:
    client: Redis
    ask: Callable[..., Any]
    tend: Callable[..., Any]


#: A lease that outlives the process, in which a permit cannot be lost.
_FOR_GOOD = 1e9


def share_of(config: RateLimitConfig, workers: int) -> RateLimitConfig:
    """One process's part of a limit that ``workers`` share; a burst of one call is left to each."""
    if workers == 1:
        return config
    rates = (config.requests_per_second, config.requests_per_minute, config.requests_per_hour)
    second, minute, hour = (None if rate is None else max(rate / workers, 0.001) for rate in rates)
    together = config.max_concurrent
    return replace(
        config,
        requests_per_second=second,
        requests_per_minute=minute,
        requests_per_hour=hour,
        burst_size=min(config.burst_size, max(config.burst_size // workers, 1)),
        max_concurrent=None if together is None else max(together // workers, 1),
    )


def _numbers(rates: Rates) -> list[str]:
    windows = {window.name: window for window in rates.windows}
    numbers: list[object] = [repr(rates.interval), rates.burst, rates.in_flight, rates.queue_size]
    for name, _ in rules.SPANS:
        window = windows.get(name)
        numbers += [0, 0] if window is None else [window.capacity, window.span]
    return [str(number) for number in numbers]


def _seconds(wait: bytes) -> float:
    return math.inf if wait == b"-1" else int(wait) / rules.SECOND


def _remove(client: Redis, names: Sequence[str], member: str) -> bool:
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.zrem(name, member)
        pipeline.execute()
    return True


def _connect(url: str) -> Redis:
    from redis import BlockingConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Unreachable
    from redis.retry import Retry

    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=SOCKET_SECONDS,
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
        socket_keepalive=True,
        # Once, for connections that a restarted server has closed. A script that ran unheard counts one call too many.
        retry=Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),
        protocol=2,
    )
    return Redis(connection_pool=pool)


def _is_outage(exc: Exception) -> bool:
    from redis import RedisError

    return isinstance(exc, RedisError | OSError)


_instances: weakref.WeakSet[RedisLimitBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in tuple(_instances):
        instance._begin()


os.register_at_fork(after_in_child=_after_fork)
