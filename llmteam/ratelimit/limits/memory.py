"""Limits of one process."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmteam.ids import random_hex
from llmteam.ratelimit.decisions import GRACE_SECONDS, LEASE_SECONDS, Ask, Decision, LimitKey, LimitView
from llmteam.ratelimit.limits import rules
from llmteam.ratelimit.limits.rules import LimitState, Rates, micros

#: Limits from which on unused ones are looked for and forgotten.
_MANY = 1_000


def monotonic_micros() -> int:
    """A clock for one process that is never set back."""
    return time.monotonic_ns() // 1_000


class MemoryLimitBackend:
    """A :class:`~llmteam.ratelimit.decisions.LimitBackend` for the threads of one process.

    Args:
        now: the present moment in whole microseconds.
        workers: processes that share the limits without knowing of each other: this one takes its part of each.
    """

    in_process = True

    def __init__(self, *, now: Callable[[], int] = monotonic_micros, workers: int = 1) -> None:
        self._now = now
        self._workers = workers
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        """At construction, and in a forked child, where the lock may be held and permits are the parent's."""
        self._lock = threading.Lock()
        self._states: dict[tuple[LimitKey, str], LimitState] = {}
        self._look_again = _MANY

    def ask(
        self,
        asks: Sequence[Ask],
        ticket: str,
        *,
        queue: bool,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Decision:
        with self._lock:
            now = self._now()
            limits = self._limits(asks, now)
            known = [found for limit in limits if (found := rules.arrival_of(limit.state, ticket)) is not None]
            arrival = min(known, default=None)
            places = [rules.ahead_of(limit.state, ticket, arrival) for limit in limits]
            turns = [limit.turn(ahead, now) for limit, ahead in zip(limits, places, strict=True)]
            worst = max(range(len(turns)), key=lambda number: turns[number][0])
            latest, limited_by = turns[worst]
            if latest <= now:
                return _admitted(limits, ticket, now, micros(lease_seconds))
            retry_after = rules.wait(latest, now)
            refused = Decision(False, "", retry_after, places[worst], limited_by, limits[worst].key)
            if not queue or latest == math.inf:
                _leave_all(limits, ticket)
                return refused
            state = limits[worst].state
            if arrival is None:
                if limits[worst].is_full:
                    return Decision(False, "", retry_after, len(state.queue), "queue", limits[worst].key)
                arrival = max(now, state.queue[-1][0] + 1 if state.queue else now)
            # Only for the last of its turns: a place anywhere else would keep others from room that it cannot use yet.
            _leave_all([limit for limit in limits if limit is not limits[worst]], ticket)
            rules.enqueue(state, ticket, arrival, rules.place_end(latest, now, micros(grace_seconds)))
            return refused

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        with self._lock:
            now = self._now()
            limits = self._limits(asks, now)
            if not all(permit in limit.state.held for limit in limits):
                return False
            for limit in limits:
                limit.state.held[permit] = now + micros(lease_seconds)
            return True

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        with self._lock:
            for limit in self._limits(asks, self._now()):
                limit.state.held.pop(permit, None)

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        with self._lock:
            _leave_all(self._limits(asks, self._now()), ticket)

    def look(self, asks: Sequence[Ask]) -> list[LimitView]:
        with self._lock:
            now = self._now()
            return [limit.view(now) for limit in self._limits(asks, now)]

    def _limits(self, asks: Sequence[Ask], now: int) -> list[_Limit]:
        """Each limit as of ``now``; made when there is none."""
        if len(self._states) >= self._look_again:
            self._forget_unused(now)
        found = []
        for key, rates in rules.distinct(asks, self._workers):
            state = self._states.setdefault((key, rates.digest), LimitState(rates.longest))
            rules.forget_past(state, now)
            found.append(_Limit(key, state, rates))
        return found

    def _forget_unused(self, now: int) -> None:
        for state in self._states.values():
            rules.forget_past(state, now)
        self._states = {key: state for key, state in self._states.items() if not state.is_idle(now)}
        self._look_again = max(_MANY, 2 * len(self._states))


@dataclass(frozen=True, slots=True, eq=False)
class _Limit:
    key: LimitKey
    state: LimitState
    rates: Rates

    @property
    def is_full(self) -> bool:
        """Whether nobody else may wait."""
        return 0 <= self.rates.queue_size <= len(self.state.queue)

    def turn(self, ahead: int, now: int) -> tuple[float, str]:
        return rules.turn(self.state, self.rates, ahead, now)

    def view(self, now: int) -> LimitView:
        latest, limited_by = self.turn(len(self.state.queue), now)
        wait = rules.wait(latest, now)
        tokens = rules.tokens(self.state, self.rates, now)
        limited_by = limited_by if latest > now else ""
        return LimitView(
            self.key,
            tokens,
            len(self.state.held),
            len(self.state.queue),
            wait,
            limited_by,
            rules.room(self.state, self.rates, now),
        )


def _admitted(limits: Sequence[_Limit], ticket: str, now: int, lease: int) -> Decision:
    permit = random_hex(8)
    for limit in limits:
        rules.admit(limit.state, limit.rates, permit, now, lease)
    _leave_all(limits, ticket)
    return Decision(True, permit)


def _leave_all(limits: Sequence[_Limit], ticket: str) -> None:
    for limit in limits:
        rules.leave(limit.state, ticket)


_instances: weakref.WeakSet[MemoryLimitBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in tuple(_instances):
        instance._begin()


os.register_at_fork(after_in_child=_after_fork)
