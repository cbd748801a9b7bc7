"""Where a process of an installation counts limits and keeps circuits."""

from __future__ import annotations

from contextlib import closing

import pytest

from llmteam.canvas.fleet import connect, shared_limits
from llmteam.ratelimit import MemoryCircuitBackend, MemoryLimitBackend, RateLimitConfig
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.decisions import Ask, LimitKey
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.settings import Settings
from llmteam.wakeup import MemoryWakeup


@pytest.mark.parametrize(
    ("broker", "redis", "shared"),
    [
        ("amqp://mq//", None, None),
        ("amqp://mq//", "redis://r:6379/1", "redis://r:6379/1"),
        ("redis://b:6379/0", None, "redis://b:6379/0"),
        ("redis+socket:///v.sock?virtual_host=2", None, "unix:///v.sock?db=2"),
        ("sentinel://s?master_name=jobs", None, "sentinel://s?master_name=jobs"),
        ("sqla+postgresql://db/app", None, None),
    ],
)
def test_only_a_redis_is_shared_be_it_the_broker_or_another(broker: str, redis: str | None, shared: str | None) -> None:
    assert Settings(redis_url=redis).redis_beside(broker) == shared


def test_without_a_redis_each_process_takes_its_part_of_a_limit() -> None:
    limits, circuits = shared_limits(None, 4)

    asks = [Ask(LimitKey("vendor"), RateLimitConfig(None, 8, None))]
    admitted = [limits.ask(asks, str(number), queue=False).admitted for number in range(4)]

    assert (type(limits), type(circuits)) == (MemoryLimitBackend, MemoryCircuitBackend)
    assert admitted == [True, True, False, False]


def test_a_redis_is_shared() -> None:
    limits, circuits = shared_limits("redis://127.0.0.1:9/0", 4)

    assert isinstance(limits, RedisLimitBackend)
    assert isinstance(circuits, RedisCircuitBackend)
    with closing(limits), closing(circuits):
        assert (limits.backend_state(), circuits.backend_state()) == (circuits.backend_state(), limits.backend_state())
        assert limits.backend_state().place == "127.0.0.1"


@pytest.mark.parametrize("broker", ["amqp://mq//", "sqla+postgresql://db/app"])
def test_over_a_broker_that_is_no_redis_waiters_are_woken_in_their_own_process_alone(broker: str) -> None:
    settings = Settings(database_url="postgresql://db/app", broker_url=broker)

    with closing(connect(settings)) as runs:
        assert type(runs.wakeup) is MemoryWakeup
