"""Events in Postgres beside the engine: one numbering under the run row's lock, one transaction with the change."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from llmteam.db import Database
from llmteam.db.tables import runs
from llmteam.errors import NotJSONError
from llmteam.events import ErrorInfo, EventDraft, EventQuery, EventScope, EventSeverity, EventType
from llmteam.events.postgres import PostgresEventStore, append_in, insert_values
from tests.unit.events.samples import MOMENT, event
from tests.waiting import wait_until

SCOPE = EventScope(tenant_id="acme", run_id="run-1", instance_id="wf-9", segment_id="triage")
DRAFTS = [
    EventDraft(EventType.SEGMENT_STARTED, payload={"input": {"ü": [1, None]}}),
    EventDraft(
        EventType.STEP_FAILED,
        "load",
        "http_action",
        visit=2,
        attempt=3,
        severity=EventSeverity.ERROR,
        error=ErrorInfo(error_type="E", error_message="it's 100 % refused"),
        duration_ms=4,
        correlation_id="c",
        parent_event_id="run-1:1",
    ),
]


@pytest.fixture
def store(database: Database) -> PostgresEventStore:
    return PostgresEventStore(database)


def start_run(database: Database, run_id: str = "run-1") -> None:
    """The row of a run as the engine would have it."""
    row = {
        "tenant_id": "acme",
        "run_id": run_id,
        "instance_id": "wf-9",
        "segment_id": "triage",
        "definition_hash": "hash",
        "status": "running",
        "config": {},
        "context": {},
        "root_run_id": run_id,
        "created_at": MOMENT,
    }
    with database.tenant_transaction("acme") as connection:
        connection.execute(insert(runs), row)


def next_seq(database: Database) -> int:
    with database.tenant_transaction("acme") as connection:
        return connection.execute(select(runs.c.next_seq)).scalar_one()


def seqs(store: PostgresEventStore) -> list[int | None]:
    return [event.seq for event in store.select(EventQuery("acme", "run-1"))]


def test_the_engines_insert_gives_the_events_of_its_drafts(database: Database, store: PostgresEventStore) -> None:
    sql, params = insert_values(SCOPE, 1, MOMENT, DRAFTS)
    with database.hot("acme") as connection:
        connection.script(sql + "; COMMIT", params, begin=True)

    assert store.select(EventQuery("acme", "run-1")) == [
        draft.stamp(SCOPE, MOMENT, seq) for seq, draft in enumerate(DRAFTS, 1)
    ]


def test_no_drafts_are_no_statement() -> None:
    assert insert_values(SCOPE, 1, MOMENT, []) == ("", [])


def test_a_payload_that_is_no_json_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(NotJSONError):
        insert_values(SCOPE, 1, MOMENT, [EventDraft(EventType.CUSTOM, payload={"x": float("nan")})])


def test_appending_to_a_run_takes_its_next_numbers_and_its_identity(
    database: Database, store: PostgresEventStore
) -> None:
    start_run(database)
    sql, params = insert_values(SCOPE, 1, MOMENT, DRAFTS)
    with database.tenant_transaction("acme") as connection:
        connection.exec_driver_sql(sql, tuple(params))
        connection.execute(update(runs).values(next_seq=3))

    (kept,) = store.add([event(instance_id="another", segment_id="")])

    assert (kept.event_id, kept.instance_id, kept.segment_id) == ("run-1:3", "wf-9", "triage")
    assert next_seq(database) == 4
    assert seqs(store) == [1, 2, 3]


def test_an_append_is_part_of_the_callers_transaction(database: Database, store: PostgresEventStore) -> None:
    start_run(database)

    def append_and_fail() -> None:
        with database.tenant_transaction("acme") as connection:
            append_in(connection, "acme", "run-1", DRAFTS, now=MOMENT)
            raise LookupError

    with pytest.raises(LookupError):
        append_and_fail()
    assert (seqs(store), next_seq(database)) == ([], 1)

    with database.tenant_transaction("acme") as connection:
        kept = append_in(connection, "acme", "run-1", DRAFTS, now=MOMENT)
    assert store.select(EventQuery("acme", "run-1")) == kept
    assert next_seq(database) == 3


def test_an_event_handed_over_twice_leaves_no_gap(database: Database, store: PostgresEventStore) -> None:
    start_run(database)
    (first,) = store.add([event()])

    assert store.add([first, event()])[0] == first
    assert (seqs(store), next_seq(database)) == ([1, 2], 3)


@pytest.mark.parametrize("with_row", [True, False], ids=["run of the engine", "run without a row"])
def test_an_append_waits_for_whoever_numbers_the_run(
    database: Database, store: PostgresEventStore, with_row: bool
) -> None:
    if with_row:
        start_run(database)
    appended: list[Any] = []
    thread = threading.Thread(target=lambda: appended.extend(store.add([event()])))

    with database.tenant_transaction("acme") as connection:
        append_in(connection, "acme", "run-1", DRAFTS, now=MOMENT)
        thread.start()
        wait_until(lambda: waiting(database), "the append to wait for the lock")
        assert not appended
    thread.join(10)

    assert [event.event_id for event in appended] == ["run-1:3"]


def waiting(database: Database) -> bool:
    # As any role: the numbers of waiting locks are no secret.
    with database.login_transaction() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())
