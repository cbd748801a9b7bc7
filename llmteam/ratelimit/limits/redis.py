"""Limits that all processes share, in Redis or Valkey."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from llmteam.ids import random_hex
from llmteam.ratelimit.decisions import GRACE_SECONDS, LEASE_SECONDS, Ask, Decision, LimitKey, LimitView
from llmteam.ratelimit.limits import rules
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.rules import Rates, micros
from llmteam.ratelimit.limits.script import ASK, KEYS, TEND
from llmteam.ratelimit.models import OnBackendError, RateLimitConfig
from llmteam.ratelimit.redis import RETRY_SECONDS, SCAN, BackendState, SharedServer

if TYPE_CHECKING:
    from redis import Redis

#: What every key begins with. One decision is about the limits of a tenant, of all tenants and of several resources, so
#: that in a cluster all of them have to stand in one slot, which the braces name.
PREFIX = "{llmteam:limit}:"
#: What permits begin with that the server knows nothing of.
_LOCAL, _FREE = "local:", "free:"


class RedisLimitBackend:
    """A :class:`~llmteam.ratelimit.decisions.LimitBackend` for every process that knows the same server.

    Each decision is one atomic script on the server's clock. While the server is away (see :class:`SharedServer`),
    ``on_backend_error`` of each limit holds. A server that lost its data begins to count anew. One object may serve
    several threads and loops, and goes on in a forked child.

    Args:
        url: of Redis or Valkey; may be Celery's way to write it.
        workers: processes that share the limits: while the server is away, each takes this part of a rate.
        now: a clock in whole microseconds instead of the server's, for simulations.
    """

    in_process = False

    def __init__(
        self, url: str, *, workers: int = 1, prefix: str = PREFIX, now: Callable[[], int] | None = None
    ) -> None:
        self._prefix = prefix
        self._now = now
        self._server = SharedServer(url, "limits")
        # Kept after an outage: permits that this process gave alone come back to it.
        self._local = MemoryLimitBackend(workers=workers)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self._server.close()

    def backend_state(self) -> BackendState:
        """What the last use found."""
        return self._server.state

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
        head: list[str | int] = [self._moment(), ticket, permit, mode, micros(lease_seconds), micros(grace_seconds)]
        answer = self._server.run(ASK, keys, [*head, *numbers])
        if answer is None:
            return self._alone(asks, ticket, queue=queue, grace_seconds=grace_seconds)
        admitted, wait, position, limited_by, number = answer
        if admitted:
            return Decision(True, permit)
        return Decision(False, "", _seconds(wait), int(position), limited_by.decode(), limits[number - 1][0])

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Hold a permit longer; False when its lease has ended. While the server is away, it may have."""
        if permit.startswith(_LOCAL):
            return self._local.renew(_local(asks), permit.removeprefix(_LOCAL), lease_seconds=_FOR_GOOD)
        if permit.startswith(_FREE):
            return True
        keys, numbers = self._arguments(rules.distinct(asks))
        head: list[str | int] = [self._moment(), "", permit, "renew", micros(lease_seconds), 0]
        return bool(self._server.run(TEND, keys, [*head, *numbers]))

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        """Give a permit back. While the server is away, its lease has to end."""
        if permit.startswith(_LOCAL):
            self._local.release(_local(asks), permit.removeprefix(_LOCAL))
        elif not permit.startswith(_FREE):
            held = [self._names(*limit)[2] for limit in rules.distinct(asks)]
            self._server.ask(lambda: _remove(self._server.client, held, permit))

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        self._local.withdraw(_local(asks), ticket)
        queues = [name for limit in rules.distinct(asks) for name in self._names(*limit)[3:]]
        self._server.ask(lambda: _remove(self._server.client, queues, ticket))

    def look(self, asks: Sequence[Ask]) -> list[LimitView]:
        limits = rules.distinct(asks)
        keys, numbers = self._arguments(limits)
        head: list[str | int] = [self._moment(), "", "", "look", 0, 0]
        answer = self._server.run(TEND, keys, [*head, *numbers])
        if answer is None:
            return self._local.look(_local(asks))
        return [
            LimitView(key, float(tokens), under_way, waiting, _seconds(wait), limited_by.decode(), _room(rates, room))
            for (key, rates), (tokens, under_way, waiting, wait, limited_by, room) in zip(limits, answer, strict=True)
        ]

    def used(self) -> list[tuple[LimitKey, str]]:
        """The limits that something is counted of, each with the digest of its settings.

        Found by SCAN, which lets others through. Raises :class:`InfrastructureError`.
        """
        with self._server.required() as client:
            names = [name.decode() for name in client.scan_iter(match=f"{self._prefix}*", count=SCAN)]
        places = {tuple(name.removeprefix(self._prefix).split(":")[:4]) for name in names}
        found = [([unquote(part) for part in parts], digest) for *parts, digest in places]
        return [(LimitKey(*parts), digest) for parts, digest in sorted(found)]

    def forget(self, key: LimitKey) -> bool:
        """Count a limit anew, whatever its settings; calls under way and who waits stay. False when it was not used.

        Raises :class:`InfrastructureError`.
        """
        with self._server.required() as client:
            names = list(client.scan_iter(match=f"{_place(self._prefix, key)}*", count=SCAN))
            counted = [name for name in names if name.endswith((b":state", b":log"))]
            return bool(counted) and client.delete(*counted) > 0

    def check(self) -> None:
        """Ask the server something that counts for nobody, so that :meth:`backend_state` tells how it is now."""
        self.look([Ask(LimitKey("probe"), RateLimitConfig())])

    def _names(self, key: LimitKey, rates: Rates) -> tuple[str, ...]:
        return _names(self._prefix, key, rates.digest)

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
        shares = _local(asks)
        if not shares:
            return Decision(True, _FREE + random_hex(8))
        decision = self._local.ask(shares, ticket, queue=queue, lease_seconds=_FOR_GOOD, grace_seconds=grace_seconds)
        return replace(decision, permit=_LOCAL + decision.permit) if decision.admitted else decision


#: A lease that outlives the process, in which a permit cannot be lost.
_FOR_GOOD = 1e9


def _local(asks: Sequence[Ask]) -> list[Ask]:
    """Those limits that a process holds itself while the server is away."""
    return [ask for ask in asks if ask.config.on_backend_error is OnBackendError.LOCAL]


@lru_cache(maxsize=4096)
def _names(prefix: str, key: LimitKey, digest: str) -> tuple[str, ...]:
    """The keys of one limit, in the scripts' order."""
    place = f"{_place(prefix, key)}{digest}:"
    return tuple(place + name for name in KEYS)


def _place(prefix: str, key: LimitKey) -> str:
    """What the keys of a limit begin with, whatever its settings."""
    return prefix + "".join(f"{quote(part, safe='')}:" for part in (key.resource, key.tenant_id, key.part))


@lru_cache(maxsize=1024)
def _numbers(rates: Rates) -> tuple[str, ...]:
    windows = {window.name: window for window in rates.windows}
    numbers: list[object] = [repr(rates.interval), rates.burst, rates.in_flight, rates.queue_size]
    for name, _ in rules.SPANS:
        window = windows.get(name)
        numbers += [0, 0] if window is None else [window.capacity, window.span]
    return tuple(str(number) for number in numbers)


def _room(rates: Rates, room: Sequence[int]) -> tuple[tuple[str, int], ...]:
    return tuple((window.name, left) for window, left in zip(rates.windows, room, strict=True))


def _seconds(wait: bytes) -> float:
    return math.inf if wait == b"-1" else int(wait) / rules.SECOND


def _remove(client: Redis, names: Sequence[str], member: str) -> bool:
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.zrem(name, member)
        pipeline.execute()
    return True
