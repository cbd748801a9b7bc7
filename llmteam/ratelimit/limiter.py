"""A rate limit as callers see it: ask for room, call, give it back."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from llmteam.ids import new_id
from llmteam.ratelimit.apart import apart, to_the_end
from llmteam.ratelimit.decisions import LEASE_SECONDS, Ask, Decision, LimitBackend, LimitKey
from llmteam.ratelimit.exceptions import QueueFullError, RateLimitExceeded
from llmteam.ratelimit.leases import Leases, Permit
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.models import RateLimitConfig, RateLimiterStats, RateLimitStrategy
from llmteam.tenancy.context import get_current_tenant

#: What has no moment at which it ends: who waits for it asks now and then.
_UNFORESEEABLE = frozenset({"in_flight", "backend"})
#: A lease that needs no renewal, since it ends with the process that counts.
_FOR_GOOD = 1e9


class RateLimiter:
    """Keeps the calls of one resource within its limits, in the order in which they ask.

    ``async with limiter:`` does all of it; :meth:`acquire` and :meth:`release` are its parts. Properties ask the
    backend, so that they tell what all processes do; statistics are of this object. One object may serve several
    threads, tasks and loops.

    Args:
        name: the resource.
        backend: where the limit is counted; by default with this object alone.
        total: a limit that all tenants share; both have to admit a call.
        tenant_id: whose limit it is, empty for one of all tenants; by default the current tenant's at each call.
        part: divides the resource further.
        lease_seconds: how long the permit of a process that is gone counts as a call under way.
    """

    def __init__(
        self,
        name: str,
        config: RateLimitConfig | None = None,
        *,
        backend: LimitBackend | None = None,
        total: RateLimitConfig | None = None,
        tenant_id: str | None = None,
        part: str = "",
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.name = name
        self.config = config or RateLimitConfig()
        self._backend: LimitBackend = backend or MemoryLimitBackend()
        self._total = total
        self._tenant_id = tenant_id
        self._part = part
        self._lease = _FOR_GOOD if self._backend.in_process else lease_seconds
        self._leases = Leases(self._backend, lease_seconds)
        self._lock = threading.Lock()
        self._stats = RateLimiterStats()
        self._taken: list[tuple[Permit, weakref.ref[asyncio.Task[object]] | None]] = []

    @property
    def asks(self) -> list[Ask]:
        """The limits that a call of the running code needs room in."""
        tenant_id = get_current_tenant() if self._tenant_id is None else self._tenant_id
        own = Ask(LimitKey(self.name, tenant_id, self._part), self.config)
        return [own] if self._total is None else [own, Ask(LimitKey(self.name, "", self._part), self._total)]

    @property
    def available_tokens(self) -> float:
        """What is in the bucket now; of two levels, in the emptier one."""
        return min(view.tokens for view in self._backend.look(self.asks))

    @property
    def is_limited(self) -> bool:
        """Whether a call would have to wait now, or be refused."""
        return any(view.retry_after > 0 for view in self._backend.look(self.asks))

    async def acquire(self) -> bool:
        """Room for one call, which :meth:`release` gives back; False over the limit with FALLBACK.

        Raises RateLimitExceeded (with ``retry_after``) and QueueFullError.
        """
        permit = await self.take()
        if permit is None:
            return False
        task = asyncio.current_task()
        with self._lock:
            self._taken.append((permit, None if task is None else weakref.ref(task)))
        return True

    def release(self) -> None:
        """Give back what this task acquired last, or what a task did that has ended; else nothing happens.

        For one task to release what another one holds, hand over the permit of :meth:`take`.
        """
        permit = self._newest()
        if permit is not None:
            permit.release()

    async def take(self, *, max_wait_seconds: float | None = None) -> Permit | None:
        """:meth:`acquire` with the permit as an object; None instead of False.

        Args:
            max_wait_seconds: less patience than the configuration has.
        """
        patience = min(self.config.max_wait_seconds, math.inf if max_wait_seconds is None else max_wait_seconds)
        begun = time.monotonic()
        with self._lock:
            self._stats.total_requests += 1
        try:
            permit = await self._admitted(self.asks, begun + patience)
        except (RateLimitExceeded, QueueFullError):
            self._count_rejection()
            raise
        if permit is None:
            self._count_rejection()
            return None
        with self._lock:
            self._stats.successful_requests += 1
            self._stats.total_wait_time += time.monotonic() - begun
        return permit

    def get_stats(self) -> RateLimiterStats:
        """What this object saw since it was made, or since :meth:`reset_stats`."""
        with self._lock:
            return replace(self._stats)

    def reset_stats(self) -> None:
        with self._lock:
            self._stats = RateLimiterStats(current_queue_size=self._stats.current_queue_size)

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise RateLimitExceeded(self.name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit = self._newest()
        if permit is not None:
            await permit.give_back()

    async def _admitted(self, asks: Sequence[Ask], until: float) -> Permit | None:
        """A permit, None for a fallback, or the refusal."""
        ticket = new_id()
        decision = await self._ask(asks, ticket)
        if decision.admitted:
            return self._held(asks, decision)
        if self.config.strategy is RateLimitStrategy.FALLBACK:
            return None
        if self.config.strategy is RateLimitStrategy.REJECT:
            raise self._refusal(decision)
        if decision.limited_by == "queue":
            raise QueueFullError(self.name, self.config.queue_size)
        with self._lock:
            self._stats.queued_requests += 1
            self._stats.current_queue_size += 1
        try:
            while not decision.admitted:
                await asyncio.sleep(self._pause(decision, until))
                decision = await self._ask(asks, ticket)
        except BaseException:
            await to_the_end(lambda: self._backend.withdraw(asks, ticket), here=self._backend.in_process)
            raise
        finally:
            with self._lock:
                self._stats.current_queue_size -= 1
        return self._held(asks, decision)

    async def _ask(self, asks: Sequence[Ask], ticket: str) -> Decision:
        waits = self.config.strategy in {RateLimitStrategy.WAIT, RateLimitStrategy.QUEUE}

        def undo(decision: Decision) -> None:
            if decision.admitted:
                self._backend.release(asks, decision.permit)
            else:
                self._backend.withdraw(asks, ticket)

        return await apart(
            lambda: self._backend.ask(asks, ticket, queue=waits, lease_seconds=self._lease),
            here=self._backend.in_process,
            undo=undo,
        )

    def _pause(self, decision: Decision, until: float) -> float:
        """Seconds to wait before asking again. Raises RateLimitExceeded when the turn would come too late."""
        left = until - time.monotonic()
        if decision.limited_by in _UNFORESEEABLE and left > 0:
            return min(decision.retry_after, left)
        if decision.retry_after > left:
            raise self._refusal(decision)
        return decision.retry_after

    def _refusal(self, decision: Decision) -> RateLimitExceeded:
        return RateLimitExceeded(self.name, None if decision.retry_after == math.inf else decision.retry_after)

    def _held(self, asks: Sequence[Ask], decision: Decision) -> Permit:
        permit = Permit(self._backend, asks, decision.permit, self._leases)
        self._leases.hold(permit)
        return permit

    def _newest(self) -> Permit | None:
        """The permit that the running task may give back, taken out of the list."""
        task = _current_task()
        with self._lock:
            for number in reversed(range(len(self._taken))):
                holder = self._taken[number][1]
                if holder is not None and holder() is task:
                    return self._taken.pop(number)[0]
            for number, (_, holder) in enumerate(self._taken):
                owner = None if holder is None else holder()
                if owner is None or owner.done():
                    return self._taken.pop(number)[0]
        return None

    def _count_rejection(self) -> None:
        with self._lock:
            self._stats.rejected_requests += 1


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None
