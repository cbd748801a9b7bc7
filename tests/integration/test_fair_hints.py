"""Hints of a tenant with thousands of runs and of one with a single run, in a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from llmteam.dispatch import IO_QUEUE, CeleryDispatcher, Chord, Hint, celery_app, depth
from llmteam.lanes import AHEAD
from llmteam.settings import Settings
from llmteam.tasks.queues import BusyQueues


@pytest.fixture
def app(clean_valkey: str) -> Iterator[Celery]:
    app = celery_app(Settings(broker_url=clean_valkey))
    yield app
    app.close()


def hints(tenant_id: str, number: int) -> list[Hint]:
    return [Hint(tenant_id, f"run-{one}", "a", 1, IO_QUEUE) for one in range(number)]


def taken(app: Celery, number: int) -> list[str]:
    """The tenants of the next hints, in the order in which a worker gets them."""
    found = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for _ in range(number):
            message = channel.basic_get(IO_QUEUE, no_ack=True)
            found.append(json.loads(message.body)[0][0])
    return found


@pytest.mark.parametrize("how", ["one by one", "at once", "as a chord"])
def test_one_hint_overtakes_the_thousands_of_another_tenant(app: Celery, how: str) -> None:
    heavy = CeleryDispatcher(app)
    if how == "at once":
        heavy.send(hints("heavy", 3_000))
    elif how == "as a chord":
        heavy.send_chord(Chord("chord", hints("heavy", 3_000), Hint("heavy", "run", "join", 1, IO_QUEUE)))
    else:
        for hint in hints("heavy", 3_000):
            heavy.send([hint])
    CeleryDispatcher(app).send(hints("light", 1))

    with app.connection_for_read() as connection:
        assert depth(connection, IO_QUEUE) == 3_001, "nothing is held back"
    order = taken(app, 3_001)

    assert order.index("light") <= AHEAD
    assert order.count("heavy") == 3_000


def test_a_queue_whose_hints_lie_behind_counts_as_busy_while_it_is_worked_off(app: Celery) -> None:
    CeleryDispatcher(app).send(hints("heavy", 100))
    busy = BusyQueues(app, 50)

    assert busy() == []
    taken(app, 20)
    assert busy() == [IO_QUEUE]
    assert busy() == [], "nobody takes any"
