"""Leases, wake-ups and deadlines go by the database's clock, whatever that of a worker's machine says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

import pytest

from llmteam.canvas import SegmentClient
from llmteam.canvas.fleet import connect
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.runs import Runs
from llmteam.db import Database, DatabaseClock
from llmteam.dispatch import Hint
from llmteam.errors import InfrastructureError
from llmteam.ids import utc_now
from llmteam.settings import Settings
from tests.conformance.steps import register
from tests.drawing import draw
from tests.services import PostgresService, url_of

#: Functions before those of Postgres, so that the database's clock differs from this machine's.
SHIFT = """
CREATE SCHEMA shifted;
GRANT USAGE ON SCHEMA shifted TO PUBLIC;
CREATE FUNCTION shifted.now() RETURNS timestamptz LANGUAGE sql STABLE
  AS $$SELECT pg_catalog.now() + interval '{hours} hours'$$;
CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
  AS $$SELECT pg_catalog.clock_timestamp() + interval '{hours} hours'$$;
"""


@dataclass
class Apart:
    """An installation whose database is ``hours`` ahead of this machine."""

    hours: int
    runs: Runs
    client: SegmentClient
    database: Database

    def now(self) -> datetime:
        return utc_now() + timedelta(hours=self.hours)


@pytest.fixture(params=[-1, 0, 1])
def apart(request: pytest.FixtureRequest, postgres: PostgresService, valkey: str) -> Iterator[Apart]:
    url = postgres.create()
    name = Database(url).url.database or ""
    there = PostgresService(url_of(postgres.superuser_url, name), url)
    there.as_superuser(SHIFT.format(hours=request.param))
    shifted = f"{url}&options={quote('-c search_path=shifted,pg_catalog,llmteam')}"
    settings = Settings.load({"LLMTEAM_DATABASE_URL": shifted, "LLMTEAM_BROKER_URL": valkey})
    runs = connect(settings, catalog=register())
    database = Database(shifted)
    yield Apart(request.param, runs, SegmentClient(runs), database)
    runs.close()
    database.close()
    postgres.drop_all()


def close(one: datetime | None, other: datetime) -> bool:
    return one is not None and abs(one - other) < timedelta(seconds=5)


def test_p29_neither_lease_nor_wake_up_nor_deadline_goes_by_the_clock_of_the_machine(apart: Apart) -> None:
    run_id = apart.client.start(draw("a -> b"))
    store, sweeps = apart.runs.engine.store, PostgresSweeps(apart.database)
    (ready, _) = sorted(store.steps("default", run_id), key=lambda step: step.row.step_id)
    assert close(ready.row.wake_at, apart.now() + timedelta(seconds=10))

    execution = apart.runs.engine.begin(Hint("default", run_id, "a", 1, ""))

    assert execution is not None
    (running, _) = sorted(store.steps("default", run_id), key=lambda step: step.row.step_id)
    assert close(running.lease_until, apart.now() + timedelta(seconds=30))
    assert close(running.row.deadline, apart.now() + timedelta(seconds=600))
    assert close(execution.ctx.deadline, utc_now() + timedelta(seconds=600)), "handlers look at their own clock"
    assert (sweeps.take_due(10), sweeps.take_expired(10), sweeps.late_runs(10)) == ([], [], [])
    assert apart.runs.engine.answered(execution, 1).applied


def test_the_database_is_asked_for_the_time_once_a_minute(database: Database) -> None:
    seconds = [0.0]
    clock = DatabaseClock(database, monotonic=lambda: seconds[0])

    first = clock()
    asked = database.round_trips
    seconds[0] = 59.0
    assert clock() - first == timedelta(seconds=59)
    assert database.round_trips == asked
    seconds[0] = 61.0
    assert clock() - first < timedelta(seconds=50)
    assert database.round_trips == asked + 1


def test_a_clock_goes_on_while_the_database_is_away(postgres: PostgresService) -> None:
    seconds = [0.0]
    database = Database(postgres.create())
    clock = DatabaseClock(database, monotonic=lambda: seconds[0])
    first = clock()
    database.close()
    postgres.drop_all()

    seconds[0] = 100.0

    assert clock() - first == timedelta(seconds=100)
    with pytest.raises(InfrastructureError):
        DatabaseClock(database)()
