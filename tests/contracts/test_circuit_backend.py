"""Circuits: the same in memory and in Redis, at every moment of any history."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.ids import new_id
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.redis import PREFIX, RedisCircuitBackend
from llmteam.ratelimit.decisions import (
    ANY_GENERATION,
    CircuitBackend,
    CircuitChange,
    CircuitPermit,
    LimitKey,
    Outcome,
)
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState

KEY = LimitKey("vendor", "acme")
#: Opens after three failures in a row or half of ten outcomes, for 30 s; two trials at once, two of them close.
CONFIG = CircuitBreakerConfig(failure_threshold=3, half_open_max_requests=2, trial_seconds=20, open_jitter=0)
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
BEGINNING = 1_700_000_000_000


@dataclass
class Bench:
    """A backend, the moment it believes in, and what it told."""

    make: Callable[[Bench], CircuitBackend]
    moment: int = BEGINNING
    chance: float = 0.0
    changes: list[CircuitChange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = self.make(self)

    def pass_time(self, seconds: float) -> None:
        self.moment += round(seconds * 1000)

    def told(self, change: CircuitChange) -> None:
        self.changes.append(change)

    def allow(self, caller: str = "", config: CircuitBreakerConfig = CONFIG, key: LimitKey = KEY) -> CircuitPermit:
        return self.backend.allow(key, config, caller or new_id())

    def record(self, permit: CircuitPermit, outcome: Outcome, config: CircuitBreakerConfig = CONFIG) -> CircuitState:
        return self.backend.record(KEY, config, permit, outcome)

    def calls(self, outcomes: str, config: CircuitBreakerConfig = CONFIG) -> None:
        """One call after the other: f failed, s succeeded, i ended otherwise."""
        kinds = {"f": Outcome.FAILURE, "s": Outcome.SUCCESS, "i": Outcome.IGNORED}
        for outcome in outcomes:
            permit = self.allow(config=config)
            assert permit.admitted
            self.record(permit, kinds[outcome], config)

    @property
    def state(self) -> CircuitState:
        return self.backend.look(KEY, CONFIG).state


def in_memory(bench: Bench) -> CircuitBackend:
    return MemoryCircuitBackend(now=lambda: bench.moment, draw=lambda: bench.chance, on_change=bench.told)


def in_redis(url: str) -> Callable[[Bench], RedisCircuitBackend]:
    return lambda bench: RedisCircuitBackend(
        url,
        prefix=f"{PREFIX}{new_id()}:",
        now=lambda: bench.moment,
        draw=lambda: bench.chance,
        on_change=bench.told,
    )


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield Bench(in_memory)
        return
    bench = Bench(in_redis(request.getfixturevalue("valkey")))
    yield bench
    assert isinstance(bench.backend, RedisCircuitBackend)
    assert bench.backend.backend_state().shared
    bench.backend.close()


@pytest.fixture
def half_open(bench: Bench) -> Bench:
    """A bench whose circuit is due for trials."""
    bench.calls("fff")
    bench.pass_time(30)
    return bench


def test_a_circuit_begins_closed(bench: Bench) -> None:
    seen = bench.backend.look(KEY, CONFIG)

    assert (seen.state, seen.generation, seen.state_seconds) == (CLOSED, 0, None)
    assert bench.allow().admitted


def test_failures_in_a_row_open_a_circuit_and_refusals_say_how_long(bench: Bench) -> None:
    bench.calls("fff")
    bench.pass_time(10)

    refused = bench.allow()

    assert (refused.admitted, refused.state, refused.retry_after, refused.state_seconds) == (False, OPEN, 20.0, 10.0)


@pytest.mark.parametrize("outcomes", ["ffsff", "ffiisff", "fsfsfsff", "ssssssssff"])
def test_a_success_ends_a_row_of_failures(bench: Bench, outcomes: str) -> None:
    bench.calls(outcomes)

    assert bench.state is CLOSED


def test_calls_that_say_nothing_end_no_row(bench: Bench) -> None:
    bench.calls("ffiif")

    assert bench.state is OPEN


def test_half_of_the_last_outcomes_open_a_circuit_though_successes_stand_between(bench: Bench) -> None:
    bench.calls("sfsfsfsfs")
    before = bench.state

    bench.calls("f")

    assert (before, bench.state) == (CLOSED, OPEN)


def test_only_the_last_outcomes_are_shared(bench: Bench) -> None:
    bench.calls("ffsffs" + "s" * 7 + "fsff")

    assert bench.state is CLOSED


def test_a_count_above_the_sample_is_reached_too(bench: Bench) -> None:
    config = replace(CONFIG, failure_threshold=15, failure_rate_threshold=1.0, sample_size=15)
    smaller = replace(config, sample_size=10, failure_rate_threshold=1.0)

    bench.calls("s" + "f" * 14, config)
    before = bench.state
    bench.calls("f", config)

    assert (before, bench.state) == (CLOSED, OPEN)
    assert smaller.failure_threshold > smaller.sample_size


def test_failures_older_than_the_window_do_not_count(bench: Bench) -> None:
    bench.calls("ff")
    bench.pass_time(60)

    bench.calls("ff")

    assert bench.state is CLOSED


def test_the_first_call_after_the_timeout_is_the_first_trial(bench: Bench) -> None:
    bench.calls("fff")
    bench.pass_time(29.999)
    early = bench.allow()

    bench.pass_time(0.001)
    first = bench.allow("one")

    assert not early.admitted
    assert (first.admitted, first.state, first.trial) == (True, HALF_OPEN, "one")


def test_no_more_trials_are_under_way_than_allowed(half_open: Bench) -> None:
    admitted = [half_open.allow() for _ in range(5)]

    assert [permit.admitted for permit in admitted] == [True, True, False, False, False]
    assert admitted[-1].retry_after == 1.0


def test_who_asks_again_goes_on_with_the_same_trial(half_open: Bench) -> None:
    half_open.allow("one")
    half_open.pass_time(15)
    half_open.allow("one")
    half_open.pass_time(15)

    admitted = [half_open.allow(caller).admitted for caller in ("two", "three")]

    assert admitted == [True, False]


def test_successful_trials_close_a_circuit_with_nothing_remembered(half_open: Bench) -> None:
    half_open.calls("ss")
    closed = half_open.state

    half_open.calls("ff")

    assert (closed, half_open.state) == (CLOSED, CLOSED)


def test_fewer_trials_at_once_than_successes_needed_still_close_a_circuit(half_open: Bench) -> None:
    one_by_one = replace(CONFIG, half_open_max_requests=1, success_threshold=3)

    half_open.calls("sss", one_by_one)

    assert half_open.state is CLOSED


def test_a_failed_trial_opens_again_for_the_whole_time(half_open: Bench) -> None:
    half_open.calls("sf")

    refused = half_open.allow()

    assert (refused.state, refused.retry_after) == (OPEN, 30.0)


def test_a_trial_that_says_nothing_gives_its_place_back(half_open: Bench) -> None:
    half_open.calls("iiiii")

    assert half_open.allow().admitted
    assert half_open.state is HALF_OPEN


def test_the_place_of_a_lost_trial_comes_back(half_open: Bench) -> None:
    half_open.allow("lost")
    half_open.allow("lost too")
    half_open.pass_time(19.999)
    refused = half_open.allow()

    half_open.pass_time(0.001)
    admitted = [half_open.allow(caller).admitted for caller in ("three", "four", "lost")]

    assert not refused.admitted
    assert admitted == [True, True, False]


def test_slow_trials_close_a_circuit_too_each_counted_once(half_open: Bench) -> None:
    slow = [half_open.allow(), half_open.allow()]
    half_open.pass_time(199.999)
    half_open.allow()

    for permit in (slow[0], slow[0]):
        half_open.record(permit, Outcome.SUCCESS)
    once = half_open.state
    half_open.record(slow[1], Outcome.SUCCESS)

    assert (once, half_open.state) == (HALF_OPEN, CLOSED)


@pytest.mark.parametrize("meanwhile", [0, 1])
def test_a_success_long_after_its_lease_is_not_known_any_more(half_open: Bench, meanwhile: int) -> None:
    late = half_open.allow()
    half_open.pass_time(200)

    half_open.calls("i" * meanwhile)
    half_open.record(late, Outcome.SUCCESS)
    half_open.calls("s")

    assert half_open.state is HALF_OPEN


def test_a_trial_that_fails_after_its_lease_still_opens(half_open: Bench) -> None:
    late = half_open.allow()
    half_open.pass_time(20)

    half_open.record(late, Outcome.FAILURE)

    assert half_open.state is OPEN


def test_telling_a_success_twice_counts_once(half_open: Bench) -> None:
    permit = half_open.allow()

    half_open.record(permit, Outcome.SUCCESS)
    half_open.record(permit, Outcome.SUCCESS)

    assert half_open.state is HALF_OPEN


def test_late_outcomes_of_an_older_state_change_nothing(bench: Bench) -> None:
    before = [bench.allow() for _ in range(6)]
    bench.calls("fff")
    bench.pass_time(30)
    trial = bench.allow()

    bench.record(before[0], Outcome.FAILURE)
    after_failure = bench.state
    bench.record(before[1], Outcome.SUCCESS)
    bench.record(before[2], Outcome.SUCCESS)
    after_successes = bench.state
    bench.record(trial, Outcome.SUCCESS)
    bench.calls("s")
    for permit in before[3:]:
        bench.record(permit, Outcome.FAILURE)

    assert (after_failure, after_successes, bench.state) == (HALF_OPEN, HALF_OPEN, CLOSED)


def test_an_outcome_without_a_permit_counts_in_any_state(half_open: Bench) -> None:
    unasked = CircuitPermit(admitted=True, state=CLOSED, generation=ANY_GENERATION)
    half_open.allow()

    half_open.record(unasked, Outcome.SUCCESS)
    half_open.record(unasked, Outcome.SUCCESS)

    assert half_open.state is CLOSED


def test_slow_calls_count_as_failed(bench: Bench) -> None:
    config = replace(CONFIG, slow_call_seconds=2.0)

    for seconds in (1.9, 2.0, 5.0, 2.5):
        bench.backend.record(KEY, config, bench.allow(), Outcome.SUCCESS, seconds)

    assert bench.state is OPEN


def test_circuits_of_other_tenants_and_parts_are_others(bench: Bench) -> None:
    others = [LimitKey("vendor", "globex"), LimitKey("vendor", ""), LimitKey("vendor", "acme", "eu"), LimitKey("acme")]
    strange = [LimitKey("a:b", "c"), LimitKey("b", "c", "a"), LimitKey("{vendor}", "acme"), LimitKey("vendör", "*")]
    bench.calls("fff")

    assert all(bench.allow(key=key).admitted for key in others + strange)
    assert not bench.allow().admitted


def test_an_opening_circuit_stays_open_longer_by_a_chance(bench: Bench) -> None:
    bench.chance = 0.5

    bench.calls("fff", replace(CONFIG, open_jitter=0.2))

    assert bench.allow().retry_after == 33.0


@pytest.mark.parametrize(("state", "admitted"), [(OPEN, False), (CLOSED, True), (HALF_OPEN, True)])
def test_a_forced_state_holds_at_once_and_forgets_what_was(bench: Bench, state: CircuitState, admitted: bool) -> None:
    late = bench.allow()
    bench.calls("ff")

    bench.backend.force(KEY, CONFIG, state)
    bench.record(late, Outcome.FAILURE)

    assert bench.state is state
    assert bench.allow().admitted is admitted


def test_each_change_is_told_once_with_a_growing_number(half_open: Bench) -> None:
    half_open.calls("ss")

    seen = [(change.before, change.after) for change in half_open.changes]
    numbers = [change.generation for change in half_open.changes]
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
    assert numbers == sorted(set(numbers))


def test_a_listener_that_fails_fails_no_call(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.changes = Deaf()

    with caplog.at_level(logging.ERROR, "llmteam.ratelimit"):
        bench.calls("fff")

    assert bench.state is OPEN
    assert "listener" in caplog.text


class Deaf(list[CircuitChange]):
    def append(self, change: CircuitChange) -> None:
        raise RuntimeError("nobody is here")


SECONDS = st.sampled_from([0.0, 0.001, 0.5, 5.0, 19.999, 20.0, 30.0, 33.0, 60.0, 61.0, 180.0, 200.0, 3_000.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), SECONDS),
        st.tuples(st.just("allow"), st.sampled_from(["a", "b", "c", "d"])),
        st.tuples(st.just("allow"), st.sampled_from(["a", "b", "c", "d"])),
        st.tuples(st.just("record"), st.integers(0, 7), st.sampled_from(list(Outcome)), st.sampled_from([0.0, 3.0])),
        st.tuples(st.just("record"), st.integers(0, 1), st.just(Outcome.FAILURE), st.just(0.0)),
        st.tuples(st.just("unasked"), st.sampled_from(list(Outcome))),
        st.tuples(st.just("force"), st.sampled_from(list(CircuitState))),
    ),
    max_size=60,
)
CONFIGS = st.builds(
    CircuitBreakerConfig,
    failure_threshold=st.integers(1, 6),
    failure_rate_threshold=st.sampled_from([0.1, 1 / 3, 0.5, 1.0]),
    sample_size=st.integers(1, 6),
    half_open_max_requests=st.integers(1, 3),
    success_threshold=st.integers(1, 3),
    open_timeout=st.sampled_from([timedelta(0), timedelta(seconds=30)]),
    trial_seconds=st.just(20.0),
    slow_call_seconds=st.sampled_from([None, 3.0]),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, config=CONFIGS, chance=st.sampled_from([0.0, 0.25, 0.999]))
def test_memory_and_redis_decide_alike_in_every_history(
    valkey: str, steps: list[Any], config: CircuitBreakerConfig, chance: float
) -> None:
    benches = [Bench(in_memory, chance=chance), Bench(in_redis(valkey), chance=chance)]

    told = [list(played(bench, config, steps)) for bench in benches]

    assert told[0] == told[1]
    assert benches[0].changes == benches[1].changes
    shared = benches[1].backend
    assert isinstance(shared, RedisCircuitBackend)
    assert shared.backend_state().shared
    shared.close()


@settings(max_examples=300)
@given(steps=STEPS, config=CONFIGS)
def test_trials_under_way_never_exceed_their_number(steps: list[Any], config: CircuitBreakerConfig) -> None:
    bench = Bench(in_memory)
    under_way: dict[tuple[int, str], int] = {}

    for what, permit, _ in played(bench, config, steps):
        if what == "record":
            under_way.pop((permit.generation, permit.trial), None)
        elif what == "allow" and permit.trial:
            under_way[permit.generation, permit.trial] = bench.moment + 20_000
            now = [number for (number, _), end in under_way.items() if end > bench.moment]
            assert now.count(permit.generation) <= config.half_open_max_requests


def played(bench: Bench, config: CircuitBreakerConfig, steps: list[Any]) -> Iterator[tuple[str, CircuitPermit, Any]]:
    """Every answer of a backend to a history, and what it looks like after each step."""
    permits: list[CircuitPermit] = []
    unasked = CircuitPermit(admitted=True, state=CLOSED, generation=ANY_GENERATION)
    for what, *rest in steps:
        if what == "wait":
            bench.pass_time(rest[0])
        elif what == "allow":
            permit = bench.allow(rest[0], config)
            if permit.admitted:
                permits.append(permit)
            yield what, permit, None
        elif what == "record" and permits:
            place, outcome, seconds = rest
            permit = permits[-1 - place % len(permits)]
            yield what, permit, bench.backend.record(KEY, config, permit, outcome, seconds)
        elif what == "unasked":
            yield what, unasked, bench.backend.record(KEY, config, unasked, rest[0])
        elif what == "force":
            bench.backend.force(KEY, config, rest[0])
        yield "look", bench.backend.look(KEY, config), None
