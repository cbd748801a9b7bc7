"""Retention in Postgres: among writers, across crashes, and under those who may write everything."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmteam.audit import AuditCheckpoint, AuditDraft, AuditEventType, AuditIntegrityError, PostgresAuditStore
from llmteam.audit.fleet import pruning
from llmteam.audit.retention import AuditKeys, Pruner, kept_since, prune
from llmteam.beat_schedules import celery_schedule
from llmteam.canvas.sweeper import _SWEEPS as SWEEPS
from llmteam.crypto import SigningKey
from llmteam.db import Database, StatementError
from llmteam.errors import ConfigurationError
from llmteam.ids import utc_now
from llmteam.settings import Settings
from llmteam.tasks import sweeps
from llmteam.tenancy import TenantConfig
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.tenancy.postgres.everything import export_lines
from tests.integration.test_audit_chain import WRITER
from tests.scenario import ROOT
from tests.services import owner_transaction

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 15, 13, 30, tzinfo=UTC)
BEFORE = kept_since(NOW, 5)
KEY = SigningKey.generate()
KEYS = AuditKeys(KEY)
LOG, BASES, HEADS = "llmteam.audit_log", "llmteam.audit_checkpoints", "llmteam.audit_heads"
MOVED = f"""
INSERT INTO {BASES} SELECT b.tenant_id, l.sequence_number, l.checksum, b.issued_at, b.key_id, b.signature
  FROM {BASES} b, {LOG} l WHERE l.sequence_number = 5;
DELETE FROM {LOG} WHERE sequence_number < 6"""


def fill(store: PostgresAuditStore, tenant: str, ages: Sequence[int]) -> None:
    store.add(
        tenant,
        [
            AuditDraft(event_type=AuditEventType.DATA_UPDATED, timestamp=NOW - age * DAY, new_value={"n": age})
            for age in ages
        ],
    )


@pytest.fixture
def store(database: Database) -> PostgresAuditStore:
    """Six records of acme, of which three are old; with that of the removal there will be four."""
    store = PostgresAuditStore(database, clock=lambda: NOW)
    fill(store, "acme", (9, 8, 7, 3, 2, 1))
    return store


def cut(store: PostgresAuditStore) -> int:
    return prune(store, "acme", before=BEFORE, keys=KEYS, now=NOW).removed


def faults(store: PostgresAuditStore) -> list[tuple[int, str]]:
    found = store.check("acme", keys=[KEY.verify_key])
    return [(fault.sequence_number, fault.kind.value) for fault in found.faults]


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (f"UPDATE {LOG} SET actor_id = 'mallory' WHERE sequence_number = 2", [(2, "altered")]),
        (f"UPDATE {LOG} SET event_type = 'no.such' WHERE sequence_number = 2", [(2, "altered")]),
        (f"UPDATE {LOG} SET new_value = NULL WHERE sequence_number = 3", [(3, "altered")]),
        (f"DELETE FROM {LOG} WHERE sequence_number = 2", [(2, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number < 3", [(1, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number < 4", [(1, "gap")]),
        (f"DELETE FROM {LOG}", [(1, "truncated")]),
    ],
)
def test_what_was_tampered_with_before_is_not_removed(
    store: PostgresAuditStore, tamper: Callable[[str], None], statements: str, found: list[tuple[int, str]]
) -> None:
    tamper(statements)

    with pytest.raises(AuditIntegrityError, match="does not hold"):
        cut(store)

    assert faults(store) == found
    assert store.ends("acme").checkpoint is None


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (f"UPDATE {LOG} SET actor_id = 'mallory' WHERE sequence_number = 4", [(4, "altered")]),
        (f"UPDATE {LOG} SET previous_checksum = 'x' WHERE sequence_number = 4", [(4, "altered"), (4, "relinked")]),
        (f"DELETE FROM {LOG} WHERE sequence_number = 4", [(4, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number = 5", [(5, "gap")]),
        (f"DELETE FROM {LOG} WHERE sequence_number = 7", [(7, "truncated")]),
        (f"DELETE FROM {LOG}", [(4, "truncated")]),
        (f"DELETE FROM {BASES}", [(1, "gap")]),
        (f"UPDATE {BASES} SET checksum = 'x'", [(3, "forged"), (4, "relinked")]),
        (f"UPDATE {BASES} SET signature = ''", [(3, "forged")]),
        (f"UPDATE {BASES} SET issued_at = issued_at - interval '1 day'", [(3, "forged")]),
        (f"UPDATE {BASES} SET sequence_number = 9", [(9, "forged"), (9, "forged")]),
        (MOVED, [(5, "forged")]),
        (f"UPDATE {HEADS} SET checksum = 'x'", [(7, "forged")]),
    ],
)
def test_what_was_tampered_with_afterwards_is_found_and_named(
    store: PostgresAuditStore, tamper: Callable[[str], None], statements: str, found: list[tuple[int, str]]
) -> None:
    cut(store)
    assert faults(store) == []

    tamper(statements)

    assert faults(store) == found


def test_a_checkpoint_of_the_end_is_no_leave_to_remove(
    store: PostgresAuditStore, tamper: Callable[[str], None]
) -> None:
    """Checkpoints are handed out; with one of them in the table, everything up to it could go."""
    head = store.ends("acme").head
    genuine = AuditCheckpoint("acme", head.sequence_number, head.checksum, NOW).signed(KEY)
    values = f"'acme', 6, '{head.checksum}', '2026-06-15 13\\:30Z', '{genuine.key_id}', '{genuine.signature}'"

    tamper(f"INSERT INTO {BASES} VALUES ({values}); DELETE FROM {LOG}")

    assert faults(store) == [(6, "forged")]


CRASH = """
import os, signal, sys
from datetime import datetime
from llmteam.audit import PostgresAuditStore, retention
from llmteam.crypto import SigningKey

def crash(tenant, limit):
    if store.ends(tenant).checkpoint is None:
        return 0
    if sys.argv[3] == "some":
        genuine(tenant, 1)
    os.kill(os.getpid(), signal.SIGKILL)

store = PostgresAuditStore(sys.argv[1])
genuine, store.remove_released = store.remove_released, crash
before = datetime.fromisoformat(sys.argv[2])
keys = retention.AuditKeys(SigningKey.from_pem(sys.stdin.buffer.read()))
retention.prune(store, "acme", before=before, keys=keys, now=before)
"""


@pytest.mark.parametrize("removed", ["none", "some"])
def test_a_crash_between_checkpoint_and_removal_leaves_a_chain_that_holds(
    store: PostgresAuditStore, database_url: str, removed: str
) -> None:
    died = subprocess.run(
        [sys.executable, "-W", "error", "-c", CRASH, database_url, BEFORE.isoformat(), removed],
        input=KEY.to_pem(),
        cwd=ROOT,
        capture_output=True,
        check=False,
    )

    assert died.returncode == -9, died.stderr
    left = store.ends("acme")
    assert (left.base.sequence_number, left.first) == (3, 2 if removed == "some" else 1)
    assert faults(store) == []
    assert cut(store) == 3 - (removed == "some")
    assert faults(store) == []
    assert store.ends("acme").first == 4
    assert store.ends("acme").last == 7, "told of once"


def test_what_is_released_and_still_there_is_checked_up_to_its_checkpoint(
    store: PostgresAuditStore, tamper: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "remove_released", lambda tenant, limit: 0)
    cut(store)
    monkeypatch.undo()

    tamper(f"UPDATE {LOG} SET actor_id = 'mallory' WHERE sequence_number = 2")

    assert faults(store) == [(2, "altered")]


@pytest.mark.timeout(120)
def test_eight_writers_are_not_held_up_and_every_look_meanwhile_finds_a_whole_chain(
    database: Database, database_url: str
) -> None:
    store = PostgresAuditStore(database)
    command = [sys.executable, "-W", "error", "-c", WRITER, database_url]
    writers = [
        subprocess.Popen([*command, f"writer-{n}"], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(8)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()

    removals = removed = 0
    while any(writer.poll() is None for writer in writers):
        done = prune(store, "acme", before=utc_now() + DAY, keys=KEYS, now=utc_now(), limit=20)
        removals, removed = removals + (done.up_to > 0), removed + done.removed
        assert store.check("acme", keys=[KEY.verify_key]) == (True, [])

    assert [writer.communicate()[1] for writer in writers] == [b""] * 8
    ends = store.ends("acme")
    assert ends.head.sequence_number == 200 + removals
    assert removed == ends.base.sequence_number > 0
    assert store.check("acme", keys=[KEY.verify_key]).checked == ends.head.sequence_number - removed


def test_two_who_remove_at_once_tell_of_it_once(store: PostgresAuditStore, database: Database) -> None:
    other = PostgresAuditStore(database, clock=lambda: NOW)
    genuine = store.release

    def late(checkpoint: AuditCheckpoint, draft: AuditDraft) -> bool:
        assert cut(other) == 3
        return genuine(checkpoint, draft)

    store.release = late  # type: ignore[method-assign]

    assert cut(store) == 0
    assert store.ends("acme").last == 7
    assert faults(store) == []


def hold(database: Database, tenant: str, days: int = 90, *, held: bool = True) -> None:
    PostgresTenantStore(database).add(TenantConfig(tenant, tenant, audit_retention_days=days, legal_hold=held))


def test_a_legal_hold_stops_removals_in_the_database_itself(store: PostgresAuditStore, database: Database) -> None:
    cut(store)
    fill(store, "acme", (1,))
    hold(database, "acme")
    record = store.links("acme", 4, 4)[0]

    with database.hot(None) as hot:
        insert = f"INSERT INTO {BASES} VALUES ('acme', 4, %s, now(), 'k', 's')"
        with pytest.raises(StatementError, match="row-level security"):
            hot.script(insert, (record.checksum,), role="llmteam_sweeper")
    with database.hot(None) as hot:
        assert not hot.script(f"DELETE FROM {LOG} RETURNING 1", role="llmteam_sweeper")
    assert store.due(1, NOW + 30 * DAY, 10) == []


def test_the_door_is_as_narrow_as_a_checkpoint_of_a_record_that_is_there(
    store: PostgresAuditStore, database: Database
) -> None:
    record = store.links("acme", 2, 2)[0]
    insert = f"INSERT INTO {BASES} VALUES (%s, %s, %s, now(), 'k', %s)"

    for tenant, number, checksum, signature in (
        ("acme", 3, record.checksum, "s"),
        ("acme", 2, "x", "s"),
        ("globex", 2, record.checksum, "s"),
        ("acme", 2, record.checksum, ""),
    ):
        with database.hot(None) as hot, pytest.raises(StatementError, match="row-level security"):
            hot.script(insert, (tenant, number, checksum, signature), role="llmteam_sweeper")
    with database.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
        hot.script(insert, ("acme", 2, record.checksum, "s"))
    with database.hot(None) as hot:
        hot.script(insert, ("acme", 2, record.checksum, "s"), role="llmteam_sweeper")
    for statement in (f"DELETE FROM {LOG} WHERE sequence_number = 1", f"DELETE FROM {BASES}"):
        with database.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
            hot.script(statement)
        with pytest.raises(StatementError, match="only ever added"), owner_transaction(database) as connection:
            connection.exec_driver_sql(statement)
    with database.hot(None) as hot:
        gone = hot.script(f"DELETE FROM {LOG} RETURNING sequence_number", role="llmteam_sweeper") or []
    assert sorted(gone) == [(1,), (2,)]


def test_a_sweep_goes_by_each_tenants_days_and_keeps_what_does_not_hold(
    database: Database, tamper: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = PostgresAuditStore(database, clock=lambda: NOW)
    tenants = {"short": 3, "long": 30, "ever": 0, "held": 3, "broken": 3}
    for tenant, days in tenants.items():
        hold(database, tenant, days, held=tenant == "held")
    for tenant in (*tenants, "unrecorded"):
        fill(store, tenant, (40, 20, 5, 1))
    tamper(f"UPDATE {LOG} SET actor_id = 'mallory' WHERE tenant_id = 'broken' AND sequence_number = 1")
    pruner = Pruner(store, KEYS, 10, lambda: NOW)

    removed = pruner.sweep()

    assert removed == 3 + 1 + 2
    left = {tenant: store.ends(tenant).base.sequence_number for tenant in (*tenants, "unrecorded")}
    assert left == {"short": 3, "long": 1, "ever": 0, "held": 0, "broken": 0, "unrecorded": 2}
    assert "audit records of tenant broken are not removed" in caplog.text
    assert pruner.sweep() == 0
    assert [one.tenant_id for one in store.due(None, NOW, 10)] == ["broken"]


def test_what_a_tenant_is_given_begins_at_the_checkpoint_too(store: PostgresAuditStore, database: Database) -> None:
    cut(store)

    rows = [json.loads(line) for line in export_lines(database, "acme")]

    numbers = [(one["table"], one["row"]["sequence_number"]) for one in rows if one["table"] != "audit_heads"]
    assert sorted(numbers) == [("audit_checkpoints", 3), *(("audit_log", number) for number in (4, 5, 6, 7))]


def test_a_sweep_of_an_installation_signs_with_the_first_of_its_keys_or_removes_nothing(
    store: PostgresAuditStore, database: Database, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(KEY.to_pem())
    (tmp_path / "old.pem").write_bytes(SigningKey.generate().verify_key.to_pem())
    paths = f"{tmp_path}/key.pem, {tmp_path}/old.pem"
    given = {"LLMTEAM_DATABASE_URL": database_url, "LLMTEAM_AUDIT_RETENTION_DAYS": "1"}

    assert pruning(Settings.load(given), database)() == 0
    assert pruning(Settings.load({**given, "LLMTEAM_AUDIT_KEYS": paths}), database)() == 6

    assert store.check("acme", keys=[KEY.verify_key]).removed == 6


@pytest.mark.parametrize("text", [b"", SigningKey.generate().verify_key.to_pem(), None])
def test_a_key_that_cannot_sign_is_refused_at_the_start(database: Database, tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if text is not None:
        path.write_bytes(text)

    with pytest.raises(ConfigurationError, match=r"key\.pem"):
        pruning(Settings(audit_keys=(path,)), database)


def test_beat_asks_for_it_seldom_and_every_sweep_of_beat_is_known() -> None:
    schedule = celery_schedule(5.0)

    assert (schedule["audit"]["task"], schedule["audit"]["schedule"]) == ("llmteam.sweep_audit", 600.0)
    assert celery_schedule(3600.0)["audit"]["schedule"] == 3600.0
    assert set(schedule) == set(SWEEPS)
    assert {task.name for task in vars(sweeps).values() if hasattr(task, "apply_async")} == {
        one["task"] for one in schedule.values()
    }
