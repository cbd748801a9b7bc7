"""Runs for mining from Postgres: every wanted run with all its events, page by page, by indexes, of one tenant only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from llmteam.db import Database
from llmteam.events.models import EventType
from llmteam.mining import PostgresRunReader, Selection
from llmteam.mining.postgres import EVENTS, READ_EVENTS, READ_RUNS, RUNS, batches
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw
from tests.mined import at, run_of
from tests.services import PostgresService, owner_transaction

#: Runs of the filled database, two of three of acme, an hour apart; every run has 8 events, one has very many.
MANY = 3 * RUNS
LONG = 2 * EVENTS + 7
FILL = """
INSERT INTO llmteam.runs (tenant_id, run_id, segment_id, definition_hash, status, next_seq, config, context,
                          root_run_id, created_at)
SELECT %(tenant)s, 'run-' || n, 'seg-' || n %% 2, 'h', 'completed', CASE WHEN n = 77 THEN %(long)s ELSE 8 END + 1,
       '{}', '{}', 'run-' || n,
       timestamptz '2026-01-01 00:00Z' + n / 2 * interval '1 hour'
  FROM generate_series(1, %(many)s) n;
INSERT INTO llmteam.events (tenant_id, run_id, seq, event_type, ts, segment_id, step_id, step_type, visit, severity,
                            payload)
SELECT %(tenant)s, 'run-' || n, m, CASE WHEN m %% 2 = 0 THEN 'step.started' ELSE 'step.completed' END, now(), 'seg',
       's' || m / 2, 'work', 1, 'info', '{"output": "secret"}'
  FROM generate_series(1, %(many)s) n, generate_series(1, CASE WHEN n = 77 THEN %(long)s ELSE 8 END) m;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, queue, ready_at, decisions)
SELECT %(tenant)s, 'run-' || n, 's' || m, 1, 'completed', 'q', now(), '{1}'
  FROM generate_series(1, %(many)s) n, generate_series(1, 4) m;
"""


@pytest.fixture(scope="module")
def full(postgres: PostgresService) -> Iterator[Database]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    for tenant in ("acme", "globex"):
        with database.hot(tenant) as hot:
            hot.script(FILL, {"tenant": tenant, "many": MANY, "long": LONG})
    with owner_transaction(database) as connection:
        connection.execute(text("ANALYZE llmteam.runs, llmteam.events, llmteam.run_steps"))
    yield database
    database.close()
    own.drop_all()


def read(database: Database, **selection: Any) -> dict[str, list[int]]:
    """Numbers of events by run."""
    runs = PostgresRunReader(database).runs(Selection(**{"tenant_id": TENANT, **selection}))
    return {run.run_id: [event.seq for event in run.events] for run in runs}


def test_every_run_is_read_once_with_all_its_events_in_order(full: Database) -> None:
    found = read(full)

    assert set(found) == {f"run-{number}" for number in range(1, MANY + 1)}
    assert found.pop("run-77") == list(range(1, LONG + 1))
    assert {tuple(numbers) for numbers in found.values()} == {tuple(range(1, 9))}


def test_runs_are_chosen_by_segment_and_by_when_they_were_started(full: Database) -> None:
    since, until = at(3600), at(3 * 3600)

    assert set(read(full, since=since, until=until)) == {"run-2", "run-3", "run-4", "run-5"}
    assert set(read(full, since=since, until=until, segment_id="seg-1")) == {"run-3", "run-5"}
    assert read(full, segment_id="another") == {}
    assert read(full, tenant_id="nobody") == {}


def test_nothing_that_was_worked_on_is_read(full: Database) -> None:
    (run,) = list(PostgresRunReader(full).runs(Selection(TENANT, until=at(60))))

    assert "secret" not in repr([run, *run.events])


def test_runs_that_are_left_unread_do_not_stop_those_behind_them(full: Database) -> None:
    reader = PostgresRunReader(full)

    assert sum(1 for _ in reader.runs(Selection(TENANT))) == MANY


def test_a_page_reads_by_indexes_and_no_more_than_it_gives(full: Database) -> None:
    runs = {"tenant": TENANT, "segment": None, "since": at(0), "until": at(1e9), "after": "", "page": RUNS}
    names = [f"run-{number}" for number in range(100, 110)]
    events = {"tenant": TENANT, "runs": names, "firsts": [1] * 10, "lasts": [8] * 10}

    for statement, values, most in ((READ_RUNS, runs, RUNS + 2), (READ_EVENTS, events, 160)):
        with full.tenant_transaction(TENANT) as connection:
            plan = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"), values).scalar_one()
        kinds, rows = rows_read(plan[0]["Plan"])
        assert kinds <= {"Index Scan", "Index Only Scan", "Function Scan", "Subquery Scan"}, json.dumps(plan, indent=1)
        assert rows <= most, json.dumps(plan, indent=1)


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 20))
def test_parts_of_runs_cover_every_event_once_and_are_never_too_many(counts: list[int], most: int) -> None:
    runs = [(f"r{number}", count) for number, count in enumerate(counts)]

    found = list(batches(runs, most))

    sizes = [sum(last - first + 1 for _, first, last in batch) for batch in found]
    assert all(size == most for size in sizes[:-1])
    assert all(0 < size <= most for size in sizes)
    covered = [(run, seq) for batch in found for run, first, last in batch for seq in range(first, last + 1)]
    assert covered == [(run, seq) for run, count in runs for seq in range(1, count + 1)]


def rows_read(plan: dict[str, Any]) -> tuple[set[str], float]:
    """The kinds of scans of a plan that was run, and how many rows the indexes gave."""
    kinds, rows = set(), 0.0
    if "Scan" in plan["Node Type"]:
        kinds.add(plan["Node Type"])
        if "Index" in plan["Node Type"]:
            rows += (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for part in plan.get("Plans", []):
        below, more = rows_read(part)
        kinds |= below
        rows += more
    return kinds, rows


def test_the_engines_runs_are_read_as_they_are(desk: Desk, database: Database) -> None:
    desk.start(draw("a -> b -> if_1", "if_1.true -> c", "if_1.false -> d"), run_id="one")
    desk.do("one", "a", "b")
    desk.do("one", "if_1", answer=True)

    (run,) = [replace(run, events=list(run.events)) for run in PostgresRunReader(database).runs(Selection(TENANT))]

    assert run == run_of(desk, "one")
    started = [event for event in run.events if event.kind == EventType.STEP_STARTED]
    assert all(event.ready_at is not None and event.ready_at <= event.at for event in started)


def test_runs_that_start_meanwhile_are_not_read(desk: Desk, database: Database) -> None:
    desk.start(draw("a"), run_id="before")
    record = desk.store.record(TENANT, "before")
    assert record is not None
    reader = PostgresRunReader(database, clock=lambda: record.created_at + timedelta(microseconds=1))

    found = []
    for run in reader.runs(Selection(TENANT)):
        found.append(run.run_id)
        desk.start(draw("a"), run_id=f"after-{len(found)}")

    assert found == ["before"]
