"""Where limits are counted: the same in memory and in Redis, on a clock that the test moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.ratelimit.decisions import Ask, Decision, LimitBackend, LimitKey
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.ratelimit.models import RateLimitConfig, RateLimitStrategy
from tests.services import redis_client

ALONE = LimitKey("api")
START = 1_800_000_000_000_000


class Hands:
    """A clock in microseconds that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


@dataclass
class Place:
    """One backend and its clock."""

    backend: LimitBackend
    clock: Hands

    def ask(self, config: RateLimitConfig, ticket: str, *, queue: bool = True, **more: Any) -> Decision:
        return self.backend.ask([Ask(ALONE, config)], ticket, queue=queue, **more)

    def admitted(self, config: RateLimitConfig, count: int) -> int:
        """How many of ``count`` calls get in now; each is over at once."""
        found = 0
        for number in range(count):
            decision = self.ask(config, f"{self.clock.now}-{number}", queue=False)
            self.backend.release([Ask(ALONE, config)], decision.permit)
            found += decision.admitted
        return found


@pytest.fixture(params=["memory", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    clock = Hands()
    if request.param == "memory":
        yield Place(MemoryLimitBackend(now=clock), clock)
        return
    backend = RedisLimitBackend(request.getfixturevalue("clean_valkey"), now=clock)
    yield Place(backend, clock)
    assert backend.backend_state().shared, backend.backend_state().error
    backend.close()


def only(**limits: Any) -> RateLimitConfig:
    """A configuration with these limits and no others."""
    lifted: dict[str, Any] = dict.fromkeys(("requests_per_second", "requests_per_minute", "requests_per_hour"))
    return RateLimitConfig(**{**lifted, "burst_size": 1000, "max_concurrent": 10_000, **limits})


def test_a_burst_is_admitted_at_once_and_the_rate_after_it(place: Place) -> None:
    config = only(requests_per_second=0.5, burst_size=5)

    assert place.admitted(config, 10) == 5
    place.clock.move(1.9)
    assert place.admitted(config, 10) == 0
    place.clock.move(0.1)
    assert place.admitted(config, 10) == 1
    place.clock.move(3600)
    assert place.admitted(config, 10) == 5


@pytest.mark.parametrize(
    ("limits", "capacity", "span"),
    [
        ({"requests_per_second": 7, "burst_size": 100}, 7, 1),
        ({"requests_per_minute": 3}, 3, 60),
        ({"requests_per_hour": 20}, 20, 3600),
        ({"requests_per_minute": 0.5}, 1, 120),
        ({"requests_per_hour": 1.5}, 2, 4800),
    ],
)
def test_a_window_is_never_over_its_limit_and_free_when_its_first_call_is_old(
    place: Place, limits: dict[str, Any], capacity: int, span: int
) -> None:
    config = only(**limits)

    assert place.admitted(config, 1) == 1
    place.clock.move(span * 0.75)
    assert place.admitted(config, 200) == capacity - 1
    place.clock.move(span * 0.25 - 0.000001)
    assert place.admitted(config, 200) == 0
    place.clock.move(0.000001)
    assert place.admitted(config, 200) == 1


def test_the_wait_is_the_longest_of_all_constraints(place: Place) -> None:
    config = RateLimitConfig(requests_per_second=1, requests_per_minute=2, requests_per_hour=3, burst_size=10)

    waits = []
    for _ in range(3):
        assert place.admitted(config, 1) == 1
        refused = place.ask(config, "next", queue=False)
        waits.append((refused.limited_by, refused.retry_after))
        place.clock.move(refused.retry_after)

    assert waits == [("second", 1.0), ("minute", 59.0), ("hour", 3540.0)]


def test_no_bucket_no_window_no_limit_but_that_of_calls_under_way(place: Place) -> None:
    assert place.admitted(only(burst_size=3), 500) == 500
    assert place.ask(only(burst_size=1, max_concurrent=None), "a").admitted
    assert not place.ask(only(burst_size=1, max_concurrent=None), "b").admitted

    config = only(max_concurrent=2)
    first, second, third = (place.ask(config, name) for name in "abc")

    assert (first.admitted, second.admitted, third.admitted) == (True, True, False)
    assert (third.limited_by, third.retry_after <= 1) == ("in_flight", True)
    place.backend.release([Ask(ALONE, config)], first.permit)
    place.backend.release([Ask(ALONE, config)], first.permit)
    assert place.ask(config, "c").admitted
    assert not place.ask(config, "d").admitted


def test_the_permit_of_a_holder_who_is_gone_ends_with_its_lease_unless_renewed(place: Place) -> None:
    config, asks = only(max_concurrent=2), [Ask(ALONE, only(max_concurrent=2))]
    lives, dies = (place.ask(config, name, lease_seconds=10).permit for name in ("lives", "dies"))
    place.clock.move(6)

    assert place.backend.renew(asks, lives, lease_seconds=10)
    place.clock.move(5)

    assert not place.backend.renew(asks, dies)
    assert place.ask(config, "next").admitted
    assert not place.ask(config, "one more").admitted
    assert place.backend.look(asks)[0].in_flight == 2


def test_a_burst_of_nothing_refuses_for_ever_and_lets_nobody_wait(place: Place) -> None:
    config = only(burst_size=0)

    refused = place.ask(config, "a")

    assert (refused.admitted, refused.limited_by, refused.retry_after) == (False, "bucket", math.inf)
    assert place.backend.look([Ask(ALONE, config)])[0].waiting == 0


def test_tickets_are_served_in_the_order_in_which_they_came_each_at_its_turn(place: Place) -> None:
    config = only(requests_per_second=2, burst_size=1)
    assert place.ask(config, "z").admitted
    waiting = ["f", "a", "k", "c"]

    turns = {name: place.ask(config, name) for name in waiting}
    again = place.ask(config, "f")

    assert [(turns[name].position, turns[name].retry_after) for name in waiting] == [
        (0, 0.5), (1, 1.0), (2, 1.5), (3, 2.0)
    ]  # fmt: skip
    assert again == turns["f"]
    for number, name in enumerate(waiting):
        place.clock.move(0.5)
        assert [place.ask(config, late).admitted for late in waiting[number + 1 :]] == [False] * (3 - number)
        assert not place.ask(config, "pusher", queue=False).admitted
        assert place.ask(config, name).admitted


def test_a_caller_who_does_not_come_back_holds_nobody_up_for_long(place: Place) -> None:
    config = only(requests_per_second=1, burst_size=1)
    assert place.ask(config, "first").admitted
    assert place.ask(config, "dead", grace_seconds=2).retry_after == 1.0
    assert place.ask(config, "alive", grace_seconds=2).retry_after == 2.0

    place.clock.move(2.5)
    assert not place.ask(config, "alive", grace_seconds=2).admitted
    place.clock.move(0.5)

    assert place.ask(config, "alive", grace_seconds=2).admitted


def test_who_waits_for_long_may_come_late(place: Place) -> None:
    config = only(requests_per_minute=1)
    asks = [Ask(ALONE, config)]
    assert place.ask(config, "first").admitted
    assert place.ask(config, "parked", grace_seconds=2).retry_after == 60

    place.clock.move(74.9)
    late = place.ask(config, "other").position
    place.clock.move(0.2)

    assert late == 1
    assert place.backend.look(asks)[0].waiting == 1
    assert place.ask(config, "other").admitted


def test_who_leaves_the_queue_leaves_nothing(place: Place) -> None:
    config = only(requests_per_second=1, burst_size=1)
    place.ask(config, "first")
    place.ask(config, "gives up")
    place.ask(config, "stays")

    place.backend.withdraw([Ask(ALONE, config)], "gives up")

    assert place.ask(config, "stays").position == 0
    assert place.backend.look([Ask(ALONE, config)])[0].waiting == 1


def test_a_call_that_does_not_wait_leaves_no_ticket(place: Place) -> None:
    config = only(requests_per_second=1, burst_size=1)
    place.ask(config, "first")

    place.ask(config, "impatient", queue=False)

    assert place.backend.look([Ask(ALONE, config)])[0].waiting == 0


def test_a_full_queue_lets_nobody_else_wait(place: Place) -> None:
    config = only(requests_per_second=1, burst_size=1, strategy=RateLimitStrategy.QUEUE, queue_size=2)
    place.ask(config, "first")

    found = [place.ask(config, name).limited_by for name in ("a", "b", "c", "a")]

    assert found == ["bucket", "bucket", "queue", "bucket"]


def test_a_ticket_that_was_admitted_counts_again_when_it_asks_again(place: Place) -> None:
    config = only(requests_per_minute=2)

    permits = {place.ask(config, "same").permit, place.ask(config, "same").permit}

    assert len(permits) == 2
    assert place.ask(config, "same").limited_by == "minute"


def levels(tenant_id: str, own: RateLimitConfig, total: RateLimitConfig) -> list[Ask]:
    return [Ask(LimitKey("api", tenant_id), own), Ask(LimitKey("api"), total)]


def test_both_levels_admit_or_neither_counts(place: Place) -> None:
    own, total = only(requests_per_minute=5), only(requests_per_minute=7)

    got = [
        place.backend.ask(levels(tenant, own, total), f"{tenant}{n}", queue=False) for tenant in "ab" for n in range(6)
    ]

    assert [decision.admitted for decision in got] == [True] * 5 + [False] + [True] * 2 + [False] * 4
    assert (got[5].key, got[8].key) == (LimitKey("api", "a"), LimitKey("api"))
    (seen_b, seen_total) = place.backend.look(levels("b", own, total))
    assert (seen_b.in_flight, seen_total.in_flight) == (2, 7)


def test_a_tenant_that_is_over_its_own_limit_keeps_nobody_from_the_common_one(place: Place) -> None:
    own, total = only(requests_per_minute=1), only(requests_per_second=1, burst_size=2)
    assert place.backend.ask(levels("greedy", own, total), "g0", queue=True).admitted
    for number in range(1, 20):
        assert not place.backend.ask(levels("greedy", own, total), f"g{number}", queue=True).admitted

    place.clock.move(1)

    assert place.backend.ask(levels("modest", own, total), "m", queue=True).admitted


def test_limits_of_other_keys_and_other_configurations_count_apart(place: Place) -> None:
    config = only(requests_per_minute=1)
    keys = [
        LimitKey("api"),
        LimitKey("api", "acme"),
        LimitKey("api", "", "gold"),
        LimitKey("api:acme"),
        LimitKey("other"),
    ]

    assert all(place.backend.ask([Ask(key, config)], "t", queue=False).admitted for key in keys)
    assert place.ask(replace(config, requests_per_minute=2), "t", queue=False).admitted
    assert not place.ask(replace(config, retry_count=9), "t", queue=False).admitted


def test_a_limit_that_is_named_twice_counts_once(place: Place) -> None:
    config = only(requests_per_minute=2)

    twice = [Ask(ALONE, config), Ask(ALONE, config)]

    assert place.backend.ask(twice, "a", queue=False).admitted
    assert place.admitted(config, 5) == 1


def test_looking_takes_nothing_and_tells_tokens_as_of_now(place: Place) -> None:
    config = only(requests_per_second=2, burst_size=4)
    place.admitted(config, 2)

    asks = [Ask(ALONE, config)]
    seen = [place.backend.look(asks)[0] for _ in range(3)]
    place.clock.move(0.25)

    assert [view.tokens for view in seen] == [2.0] * 3
    assert place.backend.look(asks)[0].tokens == 2.5
    place.clock.move(60)
    assert place.backend.look(asks)[0].tokens == 4.0


CONFIGS = [
    only(requests_per_second=3, burst_size=2),
    only(requests_per_second=0.7, requests_per_minute=5, burst_size=3),
    only(requests_per_minute=4.5, requests_per_hour=11, max_concurrent=2),
    only(requests_per_second=7, burst_size=5, strategy=RateLimitStrategy.QUEUE, queue_size=2),
    only(burst_size=0),
]
ASKS = st.lists(
    st.builds(
        Ask, st.builds(LimitKey, st.sampled_from(["x", "y"]), st.sampled_from(["", "a"])), st.sampled_from(CONFIGS)
    ),
    min_size=1,
    max_size=3,
)
TICKETS = st.sampled_from([f"t{number}" for number in range(6)])
ACTIONS = st.one_of(
    st.tuples(st.just("ask"), ASKS, TICKETS, st.booleans(), st.sampled_from([1.0, 30.0])),
    st.tuples(st.just("ask"), ASKS.map(lambda asks: asks[:1]), TICKETS, st.just(True), st.just(5.0)),
    st.tuples(st.just("move"), st.one_of(st.floats(0, 2), st.sampled_from([0.5, 1.0, 20.0, 60.0, 3600.0]))),
    st.tuples(st.just("exactly"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["release", "renew"]), st.integers(0, 9)),
    st.tuples(st.just("withdraw"), ASKS, TICKETS),
    st.tuples(st.just("look"), ASKS),
)


class Pair:
    """Both backends on one clock; whatever one answers, the other has to."""

    def __init__(self, url: str) -> None:
        self.clock = Hands()
        self.memory = MemoryLimitBackend(now=self.clock)
        self.redis = RedisLimitBackend(url, now=self.clock)
        self.permits: list[tuple[list[Ask], str, str]] = []
        self.waits: list[float] = []

    def ask(self, asks: list[Ask], ticket: str, queue: bool, lease: float) -> None:
        ours, theirs = (
            backend.ask(asks, ticket, queue=queue, lease_seconds=lease) for backend in (self.memory, self.redis)
        )
        assert replace(ours, permit="") == replace(theirs, permit="")
        if ours.admitted:
            self.permits.append((asks, ours.permit, theirs.permit))
        elif ours.retry_after < math.inf:
            self.waits.append(ours.retry_after)

    def move(self, seconds: float) -> None:
        self.clock.move(seconds)

    def exactly(self, number: int) -> None:
        """To the moment that some answer named: the edges are where two ways to compute would part."""
        if self.waits:
            self.clock.move(self.waits[-1 - number % len(self.waits)])

    def release(self, number: int) -> None:
        if self.permits:
            asks, ours, theirs = self.permits[number % len(self.permits)]
            self.memory.release(asks, ours)
            self.redis.release(asks, theirs)

    def renew(self, number: int) -> None:
        if self.permits:
            asks, ours, theirs = self.permits[number % len(self.permits)]
            assert self.memory.renew(asks, ours) == self.redis.renew(asks, theirs)

    def withdraw(self, asks: list[Ask], ticket: str) -> None:
        self.memory.withdraw(asks, ticket)
        self.redis.withdraw(asks, ticket)

    def look(self, asks: list[Ask]) -> None:
        assert self.memory.look(asks) == self.redis.look(asks)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=60))
def test_memory_and_redis_answer_alike_to_the_same_history(clean_valkey: str, actions: list[tuple[Any, ...]]) -> None:
    with redis_client(clean_valkey) as client:
        client.flushdb()
    pair = Pair(clean_valkey)

    for name, *arguments in actions:
        getattr(pair, name)(*arguments)

    assert pair.redis.backend_state().shared, pair.redis.backend_state().error
    pair.redis.close()


@given(
    config=st.sampled_from(
        [
            RateLimitConfig(requests_per_second=5, requests_per_minute=20, requests_per_hour=None, burst_size=4),
            RateLimitConfig(requests_per_minute=100, burst_size=10),
            RateLimitConfig(requests_per_second=1.5, requests_per_minute=7.5, requests_per_hour=60, burst_size=9),
        ]
    ),
    pauses=st.lists(st.floats(0, 30), min_size=50, max_size=200),
)
def test_no_window_that_ends_anywhere_holds_more_than_its_limit(config: RateLimitConfig, pauses: list[float]) -> None:
    place = Place(MemoryLimitBackend(now=(clock := Hands())), clock)
    taken: list[int] = []

    for number, pause in enumerate(pauses):
        clock.move(pause / 10)
        for caller in range(3):
            decision = place.ask(config, f"{number}-{caller}", queue=False)
            if decision.admitted:
                taken.append(clock.now)
                place.backend.release([Ask(ALONE, config)], decision.permit)

    second, minute, hour = config.requests_per_second, config.requests_per_minute, config.requests_per_hour
    for limit, span in ((second, 1), (minute, 60), (hour, 3600)):
        if limit is not None:
            # A limit that is no whole number holds for as many calls as reach the next one.
            capacity = math.ceil(limit)
            micros = math.ceil(span * 1_000_000 * capacity / limit)
            assert all(b - a >= micros for a, b in zip(taken, taken[capacity:], strict=False))
