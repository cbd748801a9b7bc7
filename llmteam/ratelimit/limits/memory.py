"""Limits of one process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from llmteam.ids import random_hex
from llmteam.ratelimit.decisions import GRACE_SECONDS, LEASE_SECONDS, Ask, Decision, LimitKey, LimitView
from llmteam.ratelimit.limits import rules
from llmteam.ratelimit.limits.rules import LimitState, Rates, micros, rates_of

#: Limits from which on unused ones are looked for and forgotten.
_MANY = 1_000


def monotonic_micros() -> int:
    """A clock for one process that is never set back."""
    return time.monotonic_ns() // 1_000


class MemoryLimitBackend:
    """A :class:`~llmteam.ratelimit.decisions.LimitBackend` for the threads of one process.

    Args:
        now: the present moment in whole microseconds.
    """

    in_process = True

    def __init__(self, *, now: Callable[[], int] = monotonic_micros) -> None:
        self._now = now
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
        rules.check_one_resource(asks)
        with self._lock:
            now = self._now()
            limits = self._limits(asks, now)
            known = [found for state, _ in limits if (found := rules.arrival_of(state, ticket)) is not None]
            arrival = min(known, default=None)
            places = [rules.ahead_of(state, ticket, arrival) for state, _ in limits]
            turns = [rules.turn(*limit, ahead, now) for limit, ahead in zip(limits, places, strict=True)]
            worst = max(range(len(turns)), key=lambda number: turns[number][0])
            latest, limited_by = turns[worst]
            if latest <= now:
                return _admitted(limits, ticket, now, micros(lease_seconds))
            retry_after = math.inf if latest == math.inf else math.ceil(latest - now) / rules.SECOND
            refused = Decision(False, "", retry_after, places[worst], limited_by, asks[worst].key)
            if not queue or latest == math.inf:
                _leave_all(limits, ticket)
                return refused
            blocked = [found > now for found, _ in turns]
            full = _full(limits, blocked) if arrival is None else None
            if full is not None:
                waiting = len(limits[full][0].queue)
                return Decision(False, "", retry_after, waiting, "queue", asks[full].key)
            _enqueue(limits, blocked, ticket, arrival, now, math.ceil(latest - now) + now + micros(grace_seconds))
            return refused

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        with self._lock:
            now = self._now()
            limits = self._limits(asks, now)
            if not all(permit in state.held for state, _ in limits):
                return False
            for state, _ in limits:
                state.held[permit] = now + micros(lease_seconds)
            return True

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        with self._lock:
            for state, _ in self._limits(asks, self._now()):
                state.held.pop(permit, None)

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        with self._lock:
            _leave_all(self._limits(asks, self._now()), ticket)

    def look(self, asks: Sequence[Ask]) -> list[LimitView]:
        with self._lock:
            now = self._now()
            return [_view(ask.key, limit, now) for ask, limit in zip(asks, self._limits(asks, now), strict=True)]

    def _limits(self, asks: Sequence[Ask], now: int) -> list[tuple[LimitState, Rates]]:
        """The state of each limit as of ``now``; made when there is none."""
        if len(self._states) >= self._look_again:
            self._forget_unused(now)
        found = []
        for ask in asks:
            rates = rates_of(ask.config)
            state = self._states.setdefault((ask.key, rates.digest), LimitState(longest=rates.longest))
            rules.forget_past(state, now)
            found.append((state, rates))
        return found

    def _forget_unused(self, now: int) -> None:
        for state in self._states.values():
            rules.forget_past(state, now)
        self._states = {key: state for key, state in self._states.items() if not state.is_idle(now)}
        self._look_again = max(_MANY, 2 * len(self._states))


def _admitted(limits: Sequence[tuple[LimitState, Rates]], ticket: str, now: int, lease: int) -> Decision:
    permit = random_hex(8)
    for state, rates in limits:
        rules.admit(state, rates, permit, now, lease)
        rules.leave(state, ticket)
    return Decision(True, permit)


def _full(limits: Sequence[tuple[LimitState, Rates]], blocked: Sequence[bool]) -> int | None:
    """The number of the first limit that would have to queue another call and may not."""
    for number, (state, rates) in enumerate(limits):
        if blocked[number] and 0 <= rates.queue_size <= len(state.queue):
            return number
    return None


def _enqueue(
    limits: Sequence[tuple[LimitState, Rates]],
    blocked: Sequence[bool],
    ticket: str,
    arrival: int | None,
    now: int,
    end: int,
) -> None:
    """Wait where there is no room. A place where there is would only keep others from it."""
    waits = [state for (state, _), wait in zip(limits, blocked, strict=True) if wait]
    if arrival is None:
        arrival = max(now, *(state.queue[-1][0] + 1 if state.queue else now for state in waits))
    for (state, _), wait in zip(limits, blocked, strict=True):
        if wait:
            rules.enqueue(state, ticket, arrival, end)
        else:
            rules.leave(state, ticket)


def _leave_all(limits: Sequence[tuple[LimitState, Rates]], ticket: str) -> None:
    for state, _ in limits:
        rules.leave(state, ticket)


def _view(key: LimitKey, limit: tuple[LimitState, Rates], now: int) -> LimitView:
    state, rates = limit
    latest, limited_by = rules.turn(state, rates, len(state.queue), now)
    wait = math.inf if latest == math.inf else max(math.ceil(latest - now), 0) / rules.SECOND
    tokens = rules.tokens(state, rates, now)
    return LimitView(key, tokens, len(state.held), len(state.queue), wait, limited_by if wait > 0 else "")
