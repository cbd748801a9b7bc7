"""When a limit has room: values in, values out. ``script`` says the same in Lua; tests compare the two.

Moments and lengths of time are whole microseconds here. Every constraint of a limit (bucket, windows, calls under way)
says *when* it is the turn of a call that has ``ahead`` others before it; a call is admitted when the latest of these
moments is not after now. So one rule decides on admission, order and the time to wait.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from llmteam.ratelimit.decisions import Ask, LimitKey
from llmteam.ratelimit.models import RateLimitConfig, RateLimitStrategy

SECOND = 1_000_000
#: When to ask again for a place among the calls under way: nobody knows when one ends. Per place, and at most.
POLL, POLL_MOST = SECOND // 20, SECOND
#: Who waits for long may be late for as long, up to this: a parked step is woken by a sweep.
GRACE_MOST = 15 * SECOND
#: Name of a window, with its span.
SPANS = (("second", SECOND), ("minute", 60 * SECOND), ("hour", 3600 * SECOND))


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``capacity`` calls in any ``span``."""

    name: str
    capacity: int
    span: int


@dataclass(frozen=True, slots=True)
class Rates:
    """A configuration in numbers that the rules compute with.

    ``interval`` is the time in which the bucket gets one token, 0.0 for a bucket that is always full; ``queue_size``
    is -1 where any number may wait. ``digest`` tells configurations apart that count differently.
    """

    interval: float
    burst: int
    in_flight: int
    queue_size: int
    windows: tuple[Window, ...]
    digest: str

    @property
    def longest(self) -> int:
        """The longest span; 0 without a window."""
        return max((window.span for window in self.windows), default=0)


def rates_of(config: RateLimitConfig) -> Rates:
    """The numbers of a configuration."""
    return _rates(
        (config.requests_per_second, config.requests_per_minute, config.requests_per_hour),
        config.burst_size,
        config.burst_size if config.max_concurrent is None else config.max_concurrent,
        config.queue_size if config.strategy is RateLimitStrategy.QUEUE else -1,
    )


@lru_cache(maxsize=1024)
def _rates(limits: tuple[float | None, float | None, float | None], burst: int, in_flight: int, queue: int) -> Rates:
    windows = tuple(
        _window(name, limit, span)
        for (name, span), limit in zip(SPANS, limits, strict=True)
        # Below one call in a second, that window would leave the burst unused; the bucket holds the rate.
        if limit is not None and not (name == "second" and limit < 1)
    )
    digest = hashlib.sha256(repr((limits, burst, in_flight)).encode()).hexdigest()[:12]
    interval = 0.0 if limits[0] is None else SECOND / limits[0]
    return Rates(interval, burst, in_flight, queue, windows, digest)


def _window(name: str, limit: float, span: int) -> Window:
    """A limit that is no whole number counts the next whole number, in a span that is as much longer."""
    capacity = math.ceil(limit)
    return Window(name, capacity, math.ceil(span * capacity / limit))


@dataclass(slots=True)
class LimitState:
    """All there is to know of a limit.

    Attributes:
        full: when the bucket is full, if nothing is taken.
        log: when calls were admitted, oldest first.
        held: when the lease of each permit ends.
        queue: arrival of each ticket and its name, in order.
        ends: when each ticket loses its place.
        longest: for how long an admitted call counts.
    """

    longest: int = 0
    full: float = 0.0
    log: deque[int] = field(default_factory=deque)
    held: dict[str, int] = field(default_factory=dict)
    queue: list[tuple[int, str]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)

    def is_idle(self, now: int) -> bool:
        """Whether forgetting it changes nothing."""
        return self.full <= now and not self.log and not self.held and not self.queue


def forget_past(state: LimitState, now: int) -> None:
    """Let go of what no longer counts: old calls, leases that ended, tickets that did not come back."""
    while state.log and state.log[0] <= now - state.longest:
        state.log.popleft()
    if any(end <= now for end in state.held.values()):
        state.held = {permit: end for permit, end in state.held.items() if end > now}
    if any(end <= now for end in state.ends.values()):
        state.ends = {ticket: end for ticket, end in state.ends.items() if end > now}
        state.queue = [entry for entry in state.queue if entry[1] in state.ends]
    state.full = max(state.full, now)


def arrival_of(state: LimitState, ticket: str) -> int | None:
    """When ``ticket`` took its place in this queue; None when it has none."""
    if ticket not in state.ends:
        return None
    return next(arrival for arrival, name in state.queue if name == ticket)


def ahead_of(state: LimitState, ticket: str, arrival: int | None) -> int:
    """How many tickets are before ``ticket``, which came at ``arrival``, or comes now (None)."""
    if arrival is None:
        return len(state.queue)
    if ticket in state.ends:
        return next(place for place, entry in enumerate(state.queue) if entry[1] == ticket)
    return bisect_right(state.queue, arrival, key=lambda entry: entry[0])


def turn(state: LimitState, rates: Rates, ahead: int, now: int) -> tuple[float, str]:
    """When it is the turn of a call with ``ahead`` others before it, and by what it is limited until then."""
    if rates.burst == 0:
        return math.inf, "bucket"
    turns: list[tuple[float, str]] = [(0.0, "")]
    if rates.interval > 0:
        turns.append((state.full - (rates.burst - 1 - ahead) * rates.interval, "bucket"))
    for window in rates.windows:
        rounds, place = divmod(ahead, window.capacity)
        newest = window.capacity - place
        free = state.log[-newest] + window.span if len(state.log) >= newest else 0
        turns.append((free if rounds == 0 else max(free, now) + rounds * window.span, window.name))
    room = rates.in_flight - len(state.held) - ahead
    if room < 1:
        turns.append((now + min(POLL_MOST, POLL * (1 - room)), "in_flight"))
    return max(turns, key=lambda found: found[0])


def admit(state: LimitState, rates: Rates, permit: str, now: int, lease: int) -> None:
    """Count one call from now on."""
    state.full += rates.interval
    if rates.windows:
        state.log.append(now)
    state.held[permit] = now + lease


def enqueue(state: LimitState, ticket: str, arrival: int, end: int) -> None:
    """Give ``ticket`` a place until ``end``, or let it keep the one that it has."""
    if ticket not in state.ends:
        insort(state.queue, (arrival, ticket))
    state.ends[ticket] = end


def place_end(latest: float, now: int, grace: int) -> int:
    """Until when a ticket keeps its place whose turn comes at ``latest``."""
    wait = math.ceil(latest - now)
    return now + wait + max(grace, min(wait, GRACE_MOST))


def leave(state: LimitState, ticket: str) -> None:
    """Take ``ticket`` out of the queue."""
    if state.ends.pop(ticket, None) is not None:
        state.queue = [entry for entry in state.queue if entry[1] != ticket]


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


def room(state: LimitState, rates: Rates, now: int) -> tuple[tuple[str, int], ...]:
    """How many calls there is room for in each window."""
    return tuple(
        (window.name, max(window.capacity - sum(moment > now - window.span for moment in state.log), 0))
        for window in rates.windows
    )


def tokens(state: LimitState, rates: Rates, now: int) -> float:
    """What is in the bucket."""
    taken = max(state.full - now, 0.0) / rates.interval if rates.interval > 0 else 0.0
    return max(rates.burst - taken, 0.0)


def wait(moment: float, now: int) -> float:
    """Seconds from ``now`` until ``moment``, infinite when it never comes."""
    return math.inf if moment == math.inf else max(math.ceil(moment - now), 0) / SECOND


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * SECOND)


def distinct(asks: Sequence[Ask], workers: int = 1) -> list[tuple[LimitKey, Rates]]:
    """The limits of one call, each once: named twice, a limit still counts the call once.

    Of several ``workers``, one's part of each.
    """
    found: dict[tuple[LimitKey, str], tuple[LimitKey, Rates]] = {}
    for ask in asks:
        rates = rates_of(share_of(ask.config, workers))
        found.setdefault((ask.key, rates.digest), (ask.key, rates))
    return list(found.values())
