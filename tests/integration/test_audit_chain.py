"""The chain in Postgres under many writers, and under those who may write everything: what they did is found."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from llmteam.audit import (
    AuditDraft,
    AuditEventType,
    AuditIntegrityError,
    AuditRecord,
    AuditStorageError,
    AuditTrail,
    ChainPoint,
)
from llmteam.audit.postgres import PostgresAuditStore, append_in
from llmteam.crypto import SigningKey
from llmteam.db import Database, StatementError
from llmteam.db.tables import audit_log
from tests.scenario import ROOT
from tests.services import PostgresService

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

WRITER = """
import asyncio, sys
from llmteam.audit import AuditEventType, AuditTrail, PostgresAuditStore

store = PostgresAuditStore(sys.argv[1])
trail = AuditTrail(store, "acme")
sys.stdin.readline()

async def write():
    for number in range(25):
        await trail.log(AuditEventType.DATA_UPDATED, actor_id=sys.argv[2], resource_id=str(number))

asyncio.run(write())
store.close()
"""


def test_eight_processes_write_one_chain_without_gap_or_fork(database: Database, database_url: str) -> None:
    store = PostgresAuditStore(database)
    command = [sys.executable, "-W", "error", "-c", WRITER, database_url]
    writers = [
        subprocess.Popen([*command, f"writer-{n}"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(8)
    ]

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(lambda writer: writer.communicate(b"go\n"), writers))

    assert [(writer.returncode, said) for writer, (_, said) in zip(writers, ended, strict=True)] == [(0, b"")] * 8
    found = store.check("acme")
    assert (found.valid, found.missing, found.checked) == (True, [], 200)
    with database.tenant_transaction("acme") as connection:
        per_writer = connection.execute(select(audit_log.c.actor_id, func.count()).group_by(audit_log.c.actor_id)).all()
    assert sorted(per_writer) == [(f"writer-{n}", 25) for n in range(8)]


@pytest.fixture
def store(database: Database) -> PostgresAuditStore:
    """Five records of acme; the fourth has payloads."""
    store = PostgresAuditStore(database, clock=lambda: NOW)
    for number in range(1, 6):
        payload = {"name": "Ann"} if number == 4 else None
        store.add("acme", [AuditDraft(event_type=AuditEventType.DATA_UPDATED, actor_id="ann", new_value=payload)])
    return store


def kinds(store: PostgresAuditStore) -> list[tuple[int, str]]:
    return [(fault.sequence_number, fault.kind.value) for fault in store.check("acme").faults]


LOG = "llmteam.audit_log"
SWAP = "; ".join(
    f"UPDATE {LOG} SET sequence_number = {new} WHERE sequence_number = {old}" for old, new in ((2, 9), (3, 2), (9, 3))
)
REWIND = (
    "UPDATE llmteam.audit_heads h SET (sequence_number, checksum) = "
    f"(SELECT sequence_number, checksum FROM {LOG} WHERE sequence_number = 3)"
)


@pytest.mark.parametrize(
    ("statements", "faults"),
    [
        (f"UPDATE {LOG} SET actor_id = 'mallory' WHERE sequence_number = 3", [(3, "altered")]),
        (
            f"UPDATE {LOG} SET timestamp = timestamp + interval '1 microsecond' WHERE sequence_number = 3",
            [(3, "altered")],
        ),
        (f"UPDATE {LOG} SET event_type = 'data.deleted' WHERE sequence_number = 3", [(3, "altered")]),
        (f"UPDATE {LOG} SET event_type = 'no.such' WHERE sequence_number = 3", [(3, "altered")]),
        (f"UPDATE {LOG} SET checksum = '' WHERE sequence_number = 5", [(5, "altered"), (5, "forged")]),
        (f'UPDATE {LOG} SET new_value = \'{{"name": "Bob"}}\' WHERE sequence_number = 4', [(4, "altered")]),
        (f"UPDATE {LOG} SET new_value = NULL WHERE sequence_number = 4", [(4, "altered")]),
        (f"UPDATE {LOG} SET new_value = '\"\\ud800\"' WHERE sequence_number = 4", [(4, "altered")]),
        (f"UPDATE {LOG} SET metadata = '[1]' WHERE sequence_number = 2", [(2, "altered")]),
        (f"DELETE FROM {LOG} WHERE sequence_number IN (2, 3)", [(2, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number = 1", [(1, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number > 3", [(4, "truncated")]),
        (f"DELETE FROM {LOG}", [(1, "truncated")]),
        (
            SWAP,
            [(2, "altered"), (2, "relinked"), (3, "altered"), (3, "relinked"), (4, "relinked")],
        ),
        (REWIND, [(4, "forged"), (5, "forged")]),
        ("UPDATE llmteam.audit_heads SET checksum = 'other'", [(5, "forged")]),
        ("DELETE FROM llmteam.audit_heads", [(number, "forged") for number in range(1, 6)]),
    ],
)
def test_what_a_superuser_did_is_found_and_named(
    store: PostgresAuditStore, tamper: Callable[[str], None], statements: str, faults: list[tuple[int, str]]
) -> None:
    assert kinds(store) == []

    tamper(statements.replace(":", "\\:"))

    assert kinds(store) == faults


def test_a_chain_that_was_rewritten_with_its_head_is_found_by_a_checkpoint_alone(
    store: PostgresAuditStore, tamper: Callable[[str], None]
) -> None:
    key, trail = SigningKey.generate(), AuditTrail(store, "acme")
    genuine = asyncio.run(trail.checkpoint(key))
    tamper(f"DELETE FROM {LOG} WHERE sequence_number > 3; {REWIND}")

    def found() -> list[str]:
        checked = asyncio.run(trail.verify_chain(checkpoints=[genuine], key=key.verify_key))
        return [fault.kind.value for fault in checked.faults]

    assert kinds(store) == []
    assert found() == ["truncated"]
    for _ in range(3):
        store.add("acme", [AuditDraft(event_type=AuditEventType.DATA_UPDATED, actor_id="mallory")])
    assert kinds(store) == []
    assert found() == ["forged"]


def test_payloads_that_were_erased_leave_a_chain_that_holds_and_says_so(
    store: PostgresAuditStore, tamper: Callable[[str], None]
) -> None:
    (before,) = store.links("acme", 4, 4)
    tamper(
        f"UPDATE {LOG} SET old_value = NULL, new_value = NULL, metadata = NULL, salt = NULL WHERE sequence_number = 4"
    )

    found = store.check("acme")

    assert found == (True, [])
    assert found.erased_record_ids == [before.record_id]
    (after,) = store.links("acme", 4, 4)
    assert isinstance(after, AuditRecord)
    assert (after.new_value, after.metadata, after.is_erased, after.checksum) == (None, {}, True, before.checksum)


def test_a_record_that_is_none_is_named_by_whoever_asks_for_it(
    store: PostgresAuditStore, tamper: Callable[[str], None]
) -> None:
    tamper(f"UPDATE {LOG} SET severity = 'none' WHERE sequence_number = 2")

    with pytest.raises(AuditIntegrityError, match="audit record 2") as raised:
        asyncio.run(store.get_by_sequence_range("acme", 1, 3))

    assert len(raised.value.invalid_records) == 1


def test_a_report_tells_of_records_that_are_missing_at_its_edges(
    store: PostgresAuditStore, tamper: Callable[[str], None]
) -> None:
    trail = AuditTrail(store, "acme")
    assert asyncio.run(trail.generate_report(NOW, NOW)).chain_valid

    tamper(f"DELETE FROM {LOG} WHERE sequence_number = 5")

    report = asyncio.run(trail.generate_report(NOW, NOW))
    assert (report.total_events, report.chain_valid, report.missing_sequence_numbers) == (4, False, [5])


def test_row_security_keeps_a_tenant_from_anothers_records(store: PostgresAuditStore, database: Database) -> None:
    with database.hot("globex") as hot:
        assert hot.script("SELECT count(*) FROM llmteam.audit_log") == [(0,)]
        hot.script("SELECT 1", begin=True)
        with pytest.raises(StatementError, match="row-level security"):
            append_in(hot, "acme", [AuditDraft(event_type=AuditEventType.DATA_CREATED)], now=NOW)


def test_a_check_goes_by_what_was_there_when_it_began(store: PostgresAuditStore, database: Database) -> None:
    """Records that are appended meanwhile are neither checked nor taken for forged ones."""
    added: list[AuditRecord] = []
    genuine = store.ends

    def ends(tenant_id: str) -> object:
        found = genuine(tenant_id)
        added.extend(PostgresAuditStore(database).add(tenant_id, [AuditDraft(event_type=AuditEventType.DATA_CREATED)]))
        return found

    store.ends = ends  # type: ignore[assignment, method-assign]

    assert store.check("acme").checked == 5
    assert added[0].sequence_number == 6


def test_a_database_that_is_away_is_an_error_of_storage_with_its_cause() -> None:
    store = PostgresAuditStore("postgresql://nobody:s3cr3t@127.0.0.1:1/none")

    for call in (
        lambda: store.add("acme", [AuditDraft(event_type=AuditEventType.DATA_CREATED)]),
        lambda: store.check("acme"),
    ):
        with pytest.raises(AuditStorageError, match="cannot be reached") as raised:
            call()
        assert raised.value.__cause__ is not None
        assert raised.value.retryable
        assert "s3cr3t" not in str(raised.value)
    store.close()


def test_a_store_without_its_tables_says_what_to_run(postgres: PostgresService) -> None:
    store = PostgresAuditStore(postgres.create(migrated=False))

    with pytest.raises(AuditStorageError, match="llmteam db upgrade") as raised:
        asyncio.run(AuditTrail(store, "acme").initialize())

    assert not raised.value.retryable
    store.close()
    postgres.drop_all()


def test_a_records_change_and_its_audit_are_one(store: PostgresAuditStore, database: Database) -> None:
    draft = AuditDraft(event_type=AuditEventType.PIPELINE_CANCELLED, run_id="r")
    with database.hot("acme") as hot:
        hot.script("INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now())", begin=True)
        append_in(hot, "acme", [draft], now=NOW)
        hot.rollback()
    assert store.ends("acme").last == 5

    with database.hot("acme") as hot:
        hot.script("INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now())", begin=True)
        (record,) = append_in(hot, "acme", [draft], now=NOW)
        hot.script("COMMIT")

    assert store.ends("acme").head == ChainPoint.of(record)
    assert store.check("acme").checked == 6
