"""A queue that is long and being worked off gets no more hints from sweeps; one that nobody works off does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from llmteam.dispatch import DEFAULT_QUEUE, IO_QUEUE, celery_app
from llmteam.settings import Settings
from llmteam.tasks.queues import BusyQueues
from tests.services import redis_client

DEPTH = 3


@pytest.fixture
def broker(clean_valkey: str) -> Iterator[redis.Redis]:
    with redis_client(clean_valkey) as client:
        yield client


@pytest.fixture
def busy(clean_valkey: str) -> Iterator[BusyQueues]:
    app = celery_app(Settings(broker_url=clean_valkey))
    yield BusyQueues(app, DEPTH)
    app.close()


def fill(broker: redis.Redis, queue: str, count: int) -> None:
    broker.lpush(queue, *(f"message {number}" for number in range(count)))


def test_a_queue_is_busy_when_it_is_deep_and_its_next_message_is_another_one(
    broker: redis.Redis, busy: BusyQueues
) -> None:
    fill(broker, IO_QUEUE, DEPTH + 2)
    fill(broker, DEFAULT_QUEUE, DEPTH + 2)

    assert busy() == []
    broker.rpop(IO_QUEUE)
    assert busy() == [IO_QUEUE]
    assert busy() == []


def test_a_queue_that_is_not_deep_is_not_busy_however_it_is_worked_off(broker: redis.Redis, busy: BusyQueues) -> None:
    fill(broker, IO_QUEUE, DEPTH + 1)
    busy()

    broker.rpop(IO_QUEUE)

    assert busy() == []


def test_a_broker_that_does_not_answer_has_no_busy_queues() -> None:
    app = celery_app(Settings(broker_url="redis://127.0.0.1:9/0"))

    assert BusyQueues(app, DEPTH)() == []
    app.close()
