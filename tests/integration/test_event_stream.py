"""Following a run over Postgres and Valkey: what another process writes arrives once, in order, soon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from llmteam.db import Database
from llmteam.events import EventStream, EventType, WorktrailEvent
from llmteam.events.postgres import PostgresEventStore
from llmteam.tenancy import TenantContext, TenantContextError
from llmteam.wakeup import RedisWakeup
from tests.unit.events.samples import event
from tests.waiting import wait_until

T = TypeVar("T")

#: A poll that no test lives to see: only wake-ups move the follower.
NEVER = 3600.0
COMPLETED = EventType.SEGMENT_COMPLETED


@pytest.fixture
def wakeup(valkey: str) -> Iterator[RedisWakeup]:
    wakeup = RedisWakeup(valkey)
    yield wakeup
    wakeup.close()


@pytest.fixture
def distant(valkey: str) -> Iterator[RedisWakeup]:
    """The wake-ups of a process that shares nothing with ``wakeup`` but the server."""
    distant = RedisWakeup(valkey)
    yield distant
    distant.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(main, 30)

    return asyncio.run(bounded())


async def collect(events: AsyncIterator[WorktrailEvent]) -> list[int]:
    return [event.seq or 0 async for event in events]


def test_followers_beside_busy_writers_see_every_event_once_in_order(
    database: Database, wakeup: RedisWakeup, distant: RedisWakeup
) -> None:
    writers = PostgresEventStore(database, wakeup=distant)
    stream = EventStream(PostgresEventStore(database, wakeup=wakeup), poll_seconds=NEVER, batch=7)

    def write() -> None:
        for _ in range(40):
            writers.add([event()])

    async def main() -> list[list[int]]:
        threads = [threading.Thread(target=write) for _ in range(3)]
        tasks = [asyncio.create_task(collect(stream.subscribe("run-1", tenant_id="acme"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        tasks.append(asyncio.create_task(collect(stream.subscribe("run-1", tenant_id="acme"))))
        for thread in threads:
            await asyncio.to_thread(thread.join)
        writers.add([event(event_type=COMPLETED)])
        return await asyncio.gather(*tasks)

    assert run(main()) == [list(range(1, 122))] * 3


def test_a_follower_hears_of_each_event_and_not_only_of_the_last(
    database: Database, wakeup: RedisWakeup, distant: RedisWakeup
) -> None:
    writer = PostgresEventStore(database, wakeup=distant)
    stream = EventStream(PostgresEventStore(database, wakeup=wakeup, tenant_id="acme"), poll_seconds=NEVER)

    async def main() -> list[int]:
        events = stream.subscribe("run-1", tenant_id="acme", stay_open=True)
        seen: list[int] = []
        for _ in range(20):
            await asyncio.to_thread(writer.add, [event()])
            seen.append((await anext(events)).seq or 0)
        await events.aclose()
        return seen

    assert run(main()) == list(range(1, 21))
    wait_until(lambda: not wakeup.watched(), "the watch to be closed")


WRITER = """
    import sys
    from llmteam.db import Database
    from llmteam.events.postgres import PostgresEventStore
    from llmteam.wakeup import RedisWakeup
    from tests.unit.events.samples import event

    database, wakeup = Database(sys.argv[1]), RedisWakeup(sys.argv[2])
    store = PostgresEventStore(database, wakeup=wakeup)
    for kind in ("step.started", "step.completed", "segment.completed"):
        store.add([event(event_type=kind)])
    wakeup.close()
    database.close()
"""


def test_events_of_another_process_arrive(
    database: Database, database_url: str, valkey: str, wakeup: RedisWakeup
) -> None:
    stream = EventStream(PostgresEventStore(database, wakeup=wakeup), poll_seconds=NEVER)

    async def main() -> list[str]:
        with TenantContext("acme"):
            events = stream.subscribe("run-1")
        task = asyncio.create_task(_types(events))
        command = [sys.executable, "-c", textwrap.dedent(WRITER), database_url, valkey]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=20)
        return await task

    assert run(main()) == ["step.started", "step.completed", "segment.completed"]


async def _types(events: AsyncIterator[WorktrailEvent]) -> list[str]:
    return [event.event_type.value async for event in events]


def test_without_any_wake_up_the_events_arrive_with_the_next_poll(database: Database) -> None:
    stream = EventStream(PostgresEventStore(database), poll_seconds=0.05)
    elsewhere = PostgresEventStore(database)

    async def main() -> list[int]:
        task = asyncio.create_task(collect(stream.subscribe("run-1", tenant_id="acme")))
        for event_type in (EventType.SEGMENT_STARTED, COMPLETED):
            await asyncio.to_thread(elsewhere.add, [event(event_type=event_type)])
        return await task

    assert run(main()) == [1, 2]


def test_a_run_of_no_named_tenant_cannot_be_followed(database: Database) -> None:
    stream = EventStream(PostgresEventStore(database))

    with pytest.raises(TenantContextError, match="Whose events"):
        run(collect(stream.subscribe("run-1")))


def test_a_store_made_of_a_url_has_connections_of_its_own_until_it_is_closed(
    database: Database, database_url: str
) -> None:
    own, given = PostgresEventStore(database_url, tenant_id="acme"), PostgresEventStore(database, tenant_id="acme")

    kept = run(own.append(event(run_id="r")))
    assert run(given.get_by_run("r")) == [kept]
    before = connections(database)
    own.close()
    given.close()

    wait_until(lambda: connections(database) == before - 1, "its connection to be closed, and no other")


def connections(database: Database) -> int:
    with database.tenant_transaction("acme") as connection:
        found = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return int(connection.exec_driver_sql(found).scalar_one())
