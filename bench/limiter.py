"""Decisions on limits per second, beside those of the ``limits`` library on the same server."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from bench.scale import Finding, Measure, Scale
from bench.servers import Site
from llmteam.ids import new_id
from llmteam.ratelimit import RateLimitConfig, RedisLimitBackend
from llmteam.ratelimit.decisions import Ask, LimitKey

#: So many calls a minute that every one of them is admitted, by everybody.
_PER_MINUTE = 1_000_000
_ROUNDS = 5
_THREADS = 8
#: What one window costs, and what everything costs.
_WINDOW = RateLimitConfig(None, _PER_MINUTE, None, burst_size=_PER_MINUTE)
_EVERYTHING = RateLimitConfig(_PER_MINUTE, _PER_MINUTE, _PER_MINUTE, burst_size=_PER_MINUTE)

Decide = Callable[[], bool]


def limiter(place: Site, size: Scale) -> list[Finding]:
    """Rates of one thread and of several, medians of interleaved rounds."""
    found = []
    with _sides(place) as sides:
        for threads in (1, _THREADS):
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(_ROUNDS):
                for name, decide in sides.items():
                    rates[name].append(_rate(decide, size.decisions, threads))
            median = {name: statistics.median(values) for name, values in rates.items()}
            found += _findings(median, "1 thread" if threads == 1 else f"{threads} threads")
    return found


def _findings(rates: Mapping[str, float], who: str) -> list[Finding]:
    moving, fixed = "limits: moving", "limits: fixed"
    return [
        Finding(f"limit: {name}, {who}", "/s", rates[name], rates[beside], beside, None)
        for name, beside in (
            ("one window", moving),
            ("all limits", moving),
            ("two levels", fixed),
            ("take, give", moving),
        )
    ]


@contextmanager
def _sides(place: Site) -> Iterator[Mapping[str, Decide]]:
    url = place.settings.redis_url or ""
    storage = RedisStorage(url)
    item = RateLimitItemPerMinute(_PER_MINUTE)
    moving, fixed = MovingWindowRateLimiter(storage), FixedWindowRateLimiter(storage)
    with closing(RedisLimitBackend(url)) as backend:
        yield {
            "limits: moving": lambda: moving.hit(item, "bench", "moving"),
            "one window": _ours(backend, Ask(LimitKey("bench"), _WINDOW)),
            "limits: fixed": lambda: fixed.hit(item, "bench", "fixed"),
            "all limits": _ours(backend, Ask(LimitKey("bench"), _EVERYTHING)),
            "two levels": _ours(
                backend, Ask(LimitKey("bench", "acme"), _EVERYTHING), Ask(LimitKey("levels"), _EVERYTHING)
            ),
            "take, give": _ours(backend, Ask(LimitKey("calls"), _EVERYTHING), release=True),
        }
        if not backend.backend_state().shared:
            raise AssertionError(f"the limits were not shared: {backend.backend_state().error}")


def _ours(backend: RedisLimitBackend, *asks: Ask, release: bool = False) -> Decide:
    def decide() -> bool:
        # The library keeps no account of calls under way: a short lease keeps ours small.
        decision = backend.ask(asks, new_id(), queue=True, lease_seconds=1.0)
        if release:
            backend.release(asks, decision.permit)
        return decision.admitted

    return decide


def _rate(decide: Decide, count: int, threads: int) -> float:
    admitted: list[int] = []

    def use() -> None:
        admitted.append(sum(decide() for _ in range(count // threads)))

    workers = [threading.Thread(target=use) for _ in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - begun
    if sum(admitted) != count // threads * threads:
        raise AssertionError(f"{sum(admitted)} of {count} calls were admitted, which all should be")
    return count / took


MEASURES: Mapping[str, Measure] = {"limiter": limiter}
