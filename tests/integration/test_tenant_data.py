"""All that a tenant owns: exported line by line, erased in batches that may be cut short anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Column, Table, func, insert, select

from llmteam.audit import AuditDraft, AuditEventType, PostgresAuditStore
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.runs import Runs
from llmteam.cli.erasure import Erasure
from llmteam.db import Database, StatementError
from llmteam.db.tables import audit_checkpoints, audit_heads, audit_log, metadata, sweeps, tenant_licenses, tenants
from llmteam.events.postgres import PostgresEventStore
from llmteam.ids import utc_now
from llmteam.tenancy import TenantAlreadyExistsError, TenantConfig
from llmteam.tenancy.postgres import PostgresTenantStore, everything
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import Desk

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OURS = [
    table
    for table in metadata.sorted_tables
    if table not in (audit_log, audit_heads, audit_checkpoints, tenants, sweeps)
]
ROWS = 5
#: What is left of a tenant: that it was there, what was done to it, and that its keys are destroyed.
KEPT = {"tenants": 1, "audit_heads": 1, "audit_log": ROWS + 2, "tenant_keys": ROWS}


def sample(table: Table, tenant_id: str, number: int) -> dict[str, Any]:
    """A row with everything that has no default, another one for each number."""

    def value(column: Column[Any]) -> Any:
        kind = column.type.python_type
        if kind is str:
            return f"x{number}"
        return {int: number, datetime: NOW, date: NOW.date()}.get(kind, {})

    needed = [
        column
        for column in table.columns
        if (not column.nullable and column.server_default is None) or column.primary_key
    ]
    row = {column.name: tenant_id if column.name == "tenant_id" else value(column) for column in needed}
    # No two licences of a tenant hold at once; these held for no time at all.
    return row | {"valid_to": NOW} if table is tenant_licenses else row


@pytest.fixture
def filled(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Two tenants with rows in every table, more than go into one batch, and an audit trail each."""
    monkeypatch.setattr(everything, "BATCH", 2)
    audit = PostgresAuditStore(database)
    for tenant_id in ("acme", "globex"):
        PostgresTenantStore(database).add(TenantConfig(tenant_id, tenant_id, metadata={"secret": tenant_id}))
        with database.tenant_transaction(tenant_id) as connection:
            for table in OURS:
                rows = 1 if len(table.primary_key.columns) == 1 else ROWS
                connection.execute(insert(table), [sample(table, tenant_id, number) for number in range(rows)])
        draft = AuditDraft(event_type=AuditEventType.DATA_CREATED, new_value={"secret": tenant_id})
        audit.add(tenant_id, [draft] * ROWS)
    return database


def counts(database: Database, tenant_id: str) -> dict[str, int]:
    """Rows of a tenant by table."""
    with database.tenant_transaction(tenant_id) as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
            if table is not sweeps
        }


def erasure(database: Database, tenant_id: str = "acme", **how: Any) -> Erasure:
    store, events = PostgresRunStore(database), PostgresEventStore(database)
    runs = Runs(Desk(store, events).engine, events, MemoryWakeup())
    return Erasure(tenant_id, database, PostgresAuditStore(database), runs, actor_id="root", clock=utc_now, **how)


def test_an_export_has_every_row_of_the_tenant_and_no_other(filled: Database) -> None:
    lines = [json.loads(line) for line in everything.export_lines(filled, "acme")]

    # Wrapped keys are the installation's, and of use to nobody else.
    owned = {name: number for name, number in counts(filled, "acme").items() if name != "tenant_keys"}
    assert Counter(line["table"] for line in lines) == Counter(owned)
    assert {line["row"]["tenant_id"] for line in lines} == {"acme"}
    keys = [(line["table"], json.dumps(line["row"], sort_keys=True)) for line in lines]
    assert len(set(keys)) == len(keys)


def test_an_export_reads_no_more_than_a_batch_ahead(filled: Database) -> None:
    lines = everything.export_lines(filled, "acme")
    before = filled.round_trips

    assert json.loads(next(lines))["table"] == metadata.sorted_tables[0].name

    assert filled.round_trips - before == 1


def test_of_an_erased_tenant_nothing_is_left_but_its_empty_audit_trail(filled: Database) -> None:
    destroyed: list[str] = []
    untouched = counts(filled, "globex")

    list(erasure(filled, destroy_key=destroyed.append).run())

    left = {name: number for name, number in counts(filled, "acme").items() if number}
    assert left == KEPT
    assert destroyed == ["acme"]
    assert counts(filled, "globex") == untouched
    audit = PostgresAuditStore(filled)
    found = audit.check("acme", 1, None, [])
    assert found.valid
    assert len(found.erased_record_ids) == ROWS, "the two that tell of it carry nothing"
    records = audit.links("acme", 1, ROWS + 2)
    assert [getattr(record, "action", "") for record in records][-2:] == ["erase.begun", "erase.done"]
    with pytest.raises(TenantAlreadyExistsError):
        PostgresTenantStore(filled).add(TenantConfig("acme", "Another"))
    with filled.tenant_transaction("acme") as connection:
        assert connection.execute(select(tenants.c.name, tenants.c.document)).one() == ("erased", {})


def steps(work: Iterator[tuple[str, int]]) -> int:
    return sum(1 for _ in work)


def test_an_erasure_that_was_cut_short_is_gone_on_with_and_told_once(filled: Database) -> None:
    every = steps(erasure(filled, "globex").run())
    assert every > len(OURS)

    for cut in (1, 3, every // 2, every - 3):
        work = erasure(filled).run()
        for _ in range(min(cut, every)):
            if next(work, None) is None:
                break
        work.close()
    steps(erasure(filled).run())

    left = {name: number for name, number in counts(filled, "acme").items() if number}
    assert left == KEPT
    assert PostgresAuditStore(filled).check("acme", 1, None, []).valid
    assert steps(erasure(filled).run()) == 2, "there is nothing left to do"


def test_a_tenant_without_a_record_can_be_erased(filled: Database) -> None:
    with filled.hot(None) as hot:
        hot.script("SELECT 1")
    PostgresTenantStore(filled).forget("acme")

    list(erasure(filled).run())

    assert {name for name, number in counts(filled, "acme").items() if number} == {
        "tenants",
        "audit_heads",
        "audit_log",
        "tenant_keys",
    }


def test_audit_records_of_a_tenant_that_is_not_erased_are_not_emptied(filled: Database) -> None:
    assert everything.empty_audit_batch(filled, "acme") == 0
    everything.mark_erased(filled, "acme", NOW)

    for wrong in (
        "UPDATE llmteam.audit_log SET old_value = '1'",
        "UPDATE llmteam.audit_log SET salt = 'another'",
        "UPDATE llmteam.audit_log SET checksum = ''",
    ):
        with filled.hot(None) as hot, pytest.raises(StatementError, match=r"only ever added|permission denied"):
            hot.script(wrong, role="llmteam_sweeper")
    assert everything.empty_audit_batch(filled, "acme") == 2
