"""What a gate holds for a call that runs longer than its leases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from llmteam.ratelimit import CircuitBreakerConfig, CircuitState, RateLimitConfig
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.decisions import LimitKey, Outcome
from llmteam.ratelimit.gate import Gate, Hold, Pass, Use
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.registry import Limit, LimitRegistry

CIRCUIT = CircuitBreakerConfig(
    failure_threshold=1, open_timeout=timedelta(seconds=5), open_jitter=0, half_open_max_requests=1, trial_seconds=10
)
KEY, USES = LimitKey("vendor", "acme"), [Use("vendor")]


@dataclass
class Place:
    seconds: float = 1_000.0

    def __post_init__(self) -> None:
        self.circuits = MemoryCircuitBackend(now=lambda: round(self.seconds * 1000))
        registry = LimitRegistry()
        registry.register(Limit("vendor", RateLimitConfig(max_concurrent=5), circuit=CIRCUIT))
        limits = MemoryLimitBackend(now=lambda: round(self.seconds * 1_000_000))
        self.gate = Gate(limits, self.circuits, registry, lease_seconds=10, monotonic=lambda: self.seconds)

    def trial(self) -> Pass:
        """A call that tries an open circuit."""
        self.circuits.force(KEY, CIRCUIT, CircuitState.OPEN)
        self.seconds += 5
        passed = self.gate.enter("acme", USES, "trial")
        assert isinstance(passed, Pass)
        return passed


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_trial_that_runs_on_keeps_its_place(place: Place) -> None:
    passed = place.trial()

    for _ in range(5):
        place.seconds += 8
        place.gate.renew(passed)
    other = place.gate.enter("acme", USES, "other")
    place.gate.leave(passed)

    assert isinstance(other, Hold)
    assert isinstance(place.gate.enter("acme", USES, "other"), Pass)


def test_a_trial_that_is_not_renewed_is_somebody_elses_turn(place: Place) -> None:
    place.trial()

    place.seconds += 11

    assert isinstance(place.gate.enter("acme", USES, "other"), Pass)


def test_a_call_of_an_earlier_period_takes_no_trial_from_a_later_one(place: Place) -> None:
    passed = place.trial()
    place.circuits.force(KEY, CIRCUIT, CircuitState.OPEN)
    place.seconds += 5

    place.gate.renew(passed)

    assert isinstance(place.gate.enter("acme", USES, "other"), Pass)


def test_a_call_that_is_over_is_not_renewed(place: Place) -> None:
    passed = place.trial()
    place.gate.leave(passed, ignored=True)

    place.gate.renew(passed)

    assert isinstance(place.gate.enter("acme", USES, "other"), Pass)


def test_a_call_that_ends_while_it_is_renewed_leaves_no_trial_behind(place: Place) -> None:
    passed = place.trial()
    allow = place.circuits.allow

    def late(*args: object) -> object:
        place.gate.leave(passed, ignored=True)
        return allow(*args)  # type: ignore[arg-type]

    place.circuits.allow = late  # type: ignore[method-assign, assignment]
    place.gate.renew(passed)
    place.circuits.allow = allow  # type: ignore[method-assign]

    assert isinstance(place.gate.enter("acme", USES, "other"), Pass)
    assert place.circuits.record(KEY, CIRCUIT, passed.circuits[0][2], Outcome.IGNORED) is CircuitState.HALF_OPEN
