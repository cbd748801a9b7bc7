"""Snapshots as rows: those of pauses among them, older formats, and what retention leaves."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from llmteam import codec
from llmteam.canvas.exceptions import SnapshotIntegrityError
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from llmteam.persistence import PipelinePhase, PostgresSnapshotStore, SnapshotManager, SnapshotType
from llmteam.tenancy import TenantContext
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward
from tests.drawing import draw
from tests.looping import in_a_loop
from tests.snapshots import snapshot

ROW = draw("a -> b")


def rows(database: Database, tenant_id: str = TENANT) -> dict[str, Any]:
    with database.tenant_transaction(tenant_id) as connection:
        found = connection.execute(text("SELECT snapshot_id, document FROM llmteam.snapshots"))
        return {row.snapshot_id: row.document for row in found}


def age(database: Database, days: int, tenant_id: str = TENANT) -> None:
    with database.tenant_transaction(tenant_id) as connection:
        connection.execute(
            text("UPDATE llmteam.snapshots SET created_at = created_at - :age"), {"age": timedelta(days=days)}
        )


@pytest.fixture
def desk(database: Database) -> Ward:
    sweeps, events = PostgresSweeps(database), PostgresEventStore(database)
    return Ward(PostgresRunStore(database), events, sweeps, lambda seconds: None)


@in_a_loop
async def test_the_pause_of_a_run_is_a_snapshot_like_any_other(database: Database, desk: Ward) -> None:
    run_id = desk.start(ROW)
    desk.do(run_id, "a", answer={"n": 1})
    snapshot_id = desk.surgery.pause(TENANT, run_id, grace=0.0)
    assert snapshot_id is not None

    with TenantContext(TENANT):
        taken = await SnapshotManager(PostgresSnapshotStore(database)).get_snapshot(snapshot_id)

    assert taken is not None
    assert (taken.snapshot_type, taken.phase, taken.run_id) == (SnapshotType.PAUSE, PipelinePhase.PAUSED, run_id)
    assert (taken.completed_steps, taken.next_steps, taken.current_step) == (["a"], ["b"], "b")
    own = desk.store.snapshot(TENANT, snapshot_id)
    assert own is not None
    assert own.to_dict() == taken.global_state["segment"]


def test_a_pause_that_an_older_version_kept_is_read_and_a_damaged_one_refused(database: Database, desk: Ward) -> None:
    run_id = desk.start(ROW)
    desk.do(run_id, "a", answer={"$type": "of the user's own", "n": 417})
    snapshot_id = desk.surgery.pause(TENANT, run_id, grace=0.0)
    assert snapshot_id is not None
    before = desk.store.snapshot(TENANT, snapshot_id)
    assert before is not None

    def keep(document: str) -> None:
        with database.tenant_transaction(TENANT) as connection:
            connection.execute(text("UPDATE llmteam.snapshots SET document = :document"), {"document": document})

    keep(codec.dumps(before.to_dict()))
    assert desk.store.snapshot(TENANT, snapshot_id) == before

    keep(codec.dumps(before.to_dict()).replace("417", "418"))
    with pytest.raises(SnapshotIntegrityError):
        desk.store.snapshot(TENANT, snapshot_id)


@in_a_loop
async def test_retention_leaves_the_latest_of_each_run_that_is_not_over(database: Database) -> None:
    store = PostgresSnapshotStore(database)
    for number in range(3):
        await store.save(snapshot(snapshot_id=f"s-{number}"))
    await store.save(snapshot(snapshot_id="alone", run_id="r-2"))
    await store.save(snapshot(snapshot_id="over", run_id="r-3", phase=PipelinePhase.COMPLETED))
    await store.save(snapshot(snapshot_id="others", tenant_id="globex"))
    age(database, 1000)
    await store.save(snapshot(snapshot_id="fresh", phase=PipelinePhase.FAILED, run_id="r-4"))

    PostgresSweeps(database).purge(timedelta(days=900), 100)

    assert sorted(rows(database, "acme")) == ["alone", "fresh", "s-2"]
    assert sorted(rows(database, "globex")) == ["others"]


def test_the_table_itself_keeps_the_latest_from_the_sweeper(database: Database) -> None:
    with database.tenant_transaction("acme") as connection:
        for name in ("first", "second"):
            connection.execute(
                text(
                    "INSERT INTO llmteam.snapshots (tenant_id, snapshot_id, run_id, segment_id, document, created_at) "
                    "VALUES ('acme', :name, 'r', 'p', '{}', '2020-01-01Z')"
                ),
                {"name": name},
            )

    with database.hot(None) as connection:
        statement = "DELETE FROM llmteam.snapshots RETURNING snapshot_id"
        gone = connection.script(statement, role="llmteam_sweeper")

    assert gone == [("first",)]


@in_a_loop
async def test_large_snapshots_stand_compressed(database: Database) -> None:
    await PostgresSnapshotStore(database).save(snapshot(global_state={"text": "state " * 100_000}))

    with database.tenant_transaction("acme") as connection:
        size = connection.scalar(text("SELECT pg_column_size(document) FROM llmteam.snapshots"))

    assert size < 100_000
    assert len(json.dumps(rows(database, "acme"))) > 600_000
