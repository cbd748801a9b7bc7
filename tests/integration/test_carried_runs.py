"""Paused runs that leave one installation and go on in another one, with another database."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from llmteam import codec
from llmteam.audit import AuditEventType, AuditQuery, AuditRecord, PostgresAuditStore
from llmteam.canvas.exceptions import (
    AlreadyRunningError,
    RunNotFoundError,
    RunStateError,
    SnapshotNotPortableError,
)
from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.moving import Moving
from llmteam.canvas.portable import TABLES, from_bytes, to_bytes
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.db.tables import metadata
from llmteam.events.postgres import PostgresEventStore
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.persistence import SnapshotFormatError, SnapshotIntegrityError, SnapshotTooLargeError
from llmteam.persistence.documents import sealed
from llmteam.tenancy import TenantConfig, TenantError
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.conformance.desk import TENANT, Outbox, new_run
from tests.conformance.office import Office
from tests.conformance.ward import Ward
from tests.drawing import draw
from tests.services import PostgresService

KEY = {TENANT: b"k" * 32}
ROW = draw("a -> human_1", "human_1.approved -> c")
LARGE = "x" * 20_000


@dataclass
class Host:
    """One installation."""

    database: Database
    ward: Ward
    office: Office
    moving: Moving
    signed: Moving

    def refused(self) -> list[AuditRecord]:
        query = AuditQuery(tenant_id=TENANT, success=False, resource_type="run_snapshot")
        return PostgresAuditStore(self.database).select(query)


@pytest.fixture
def hosts(postgres: PostgresService) -> Iterator[tuple[Host, Host]]:
    """Two installations; none of their rows breaks a rule in the end."""
    with (
        postgres.lent() as here,
        postgres.lent() as there,
        closing(Database(here)) as one,
        closing(Database(there)) as other,
    ):
        yield _host(one), _host(other)
        for database in (one, other):
            found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
            assert found.counts == {}, found.rows


def _host(database: Database) -> Host:
    outbox = Outbox()
    face = PostgresInteractionStore(database, dispatcher=outbox)
    store = PostgresRunStore(database, face.core)
    ward = Ward(store, PostgresEventStore(database), PostgresSweeps(database), lambda seconds: None, outbox)
    audit = PostgresAuditStore(database)
    return Host(database, ward, Office(ward, face), Moving(store.carrying, audit), Moving(store.carrying, audit, KEY))


def paused(host: Host, run_id: str = "run-1") -> str:
    """A run that a person was asked in, with a large input and a large answer behind it; paused."""
    run = new_run(ROW, run_id, input_text=codec.dumps({"$type": LARGE}))
    facts = {type_id: found.model_dump(mode="json") for type_id, found in run.pinned.facts.items()}
    key = codec.digest(codec.canonical([run.pinned.definition.to_dict(), facts]))
    assert host.ward.engine.submit(replace(run, pinned=replace(run.pinned, hash=key)))
    host.ward.do(run_id, "a", answer={"text": LARGE, "$type": "of the user's own"})
    host.office.park(run_id)
    snapshot_id = host.ward.surgery.pause(TENANT, run_id, grace=0.0)
    assert snapshot_id is not None
    return snapshot_id


def changed(data: bytes, change: Callable[[dict[str, Any]], None], *, reseal: bool = True) -> bytes:
    """An exported run with something else in it; its checksum made to fit, as anybody can."""
    snapshot = from_bytes(data)
    change(snapshot.global_state["rows"])
    return to_bytes(sealed(snapshot) if reseal else snapshot)


def test_a_paused_run_goes_on_where_it_is_imported(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    snapshot_id = paused(here)
    key = here.ward.store.header(TENANT, "run-1")
    data = here.moving.export_run(TENANT, "run-1", by="ann")

    assert there.moving.import_run(TENANT, data, by="bob") == "run-1"

    record = there.ward.record("run-1")
    assert (record.status, record.snapshot_id) == (SegmentStatus.PAUSED, snapshot_id)
    assert there.ward.store.header(TENANT, "run-1") == key
    assert there.ward.store.snapshot(TENANT, snapshot_id) == here.ward.store.snapshot(TENANT, snapshot_id)
    assert [event.to_dict() for event in there.ward.told("run-1")] == [
        event.to_dict() for event in here.ward.told("run-1")
    ]
    assert there.ward.all_rows("run-1") == here.ward.all_rows("run-1")
    there.ward.surgery.resume(TENANT, snapshot_id)
    there.office.answer(there.office.request("run-1"), "ann")
    there.office.hint("run-1")
    there.ward.do("run-1", "c", answer="end")
    assert there.ward.status("run-1") is SegmentStatus.COMPLETED
    assert there.ward.runs.result(TENANT, "run-1").outputs == {"output": "end"}
    assert here.ward.status("run-1") is SegmentStatus.PAUSED


def test_an_answer_that_was_given_during_the_pause_counts_there(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    snapshot_id = paused(here)
    here.office.answer(here.office.request("run-1"), "ann", comment="while it stood still")

    there.moving.import_run(TENANT, here.moving.export_run(TENANT, "run-1"))

    there.ward.surgery.resume(TENANT, snapshot_id)
    there.office.hint("run-1")
    assert there.ward.claim("run-1", "c").input["input"]["comment"] == "while it stood still"


def test_who_carries_what_is_in_the_trail_of_both(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    snapshot_id = paused(here)
    there.signed.import_run(TENANT, here.signed.export_run(TENANT, "run-1", by="ann"), by="bob")

    def told(host: Host) -> list[tuple[str, str, str, str]]:
        records = PostgresAuditStore(host.database).select(AuditQuery(tenant_id=TENANT, resource_type="run_snapshot"))
        return [(one.event_type, one.actor_id, one.resource_id, one.run_id) for one in records]

    assert told(here) == [(AuditEventType.DATA_EXPORTED, "ann", snapshot_id, "run-1")]
    assert told(there) == [(AuditEventType.DATA_IMPORTED, "bob", snapshot_id, "run-1")]


def test_a_run_is_imported_once(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    paused(here)
    data = here.moving.export_run(TENANT, "run-1")
    there.moving.import_run(TENANT, data)

    for host in hosts:
        with pytest.raises(AlreadyRunningError):
            host.moving.import_run(TENANT, data)
    assert len(there.refused()) == 1


def test_only_a_paused_run_can_be_exported(hosts: tuple[Host, Host]) -> None:
    here, _ = hosts
    here.ward.start(ROW, run_id="going")

    with pytest.raises(RunStateError, match="pause it"):
        here.moving.export_run(TENANT, "going")
    with pytest.raises(RunNotFoundError):
        here.moving.export_run(TENANT, "unknown")
    with pytest.raises(RunNotFoundError):
        here.moving.export_run("globex", "going")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-20], "no whole file"),
        (lambda data: b"{}" + data, "no whole file"),
        (lambda data: b"", "no whole file"),
        (lambda data: gzip.compress(b"[1]"), "no whole file"),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b"human_1", b"human_2")), "checksum"),
        (lambda data: gzip.compress(gzip.decompress(data).replace(b'"1.0"', b'"9.0"', 1)), "newer"),
        (lambda data: changed(data, lambda rows: rows["payloads"][0].update(body={"x": 1})), "large value"),
        (lambda data: changed(data, lambda rows: rows["definitions"][0]["document"].update(name="x")), "definition"),
        (lambda data: changed(data, lambda rows: rows["runs"][0].update(status="running")), "not the paused one"),
        (lambda data: changed(data, lambda rows: rows["runs"].clear()), "no whole run"),
        (lambda data: changed(data, lambda rows: rows.pop("events")), "no whole run"),
        (lambda data: changed(data, lambda rows: rows["run_steps"][0].update(step_id="z")), "steps"),
        (lambda data: changed(data, lambda rows: rows["run_steps"][0].update(tenant_id="globex")), "something else"),
        (lambda data: changed(data, lambda rows: rows["events"][0].update(run_id="other")), "something else"),
        (lambda data: changed(data, lambda rows: [row.update(extra=1) for row in rows["runs"]]), "upgrade"),
        (lambda data: changed(data, lambda rows: rows["run_steps"][0].update(owner="nobody")), "do not fit"),
        (lambda data: changed(data, lambda rows: rows["runs"][0].update(created_at="never")), "do not fit"),
    ],
)
def test_what_is_damaged_or_forged_is_refused_with_the_reason_and_audited(
    hosts: tuple[Host, Host], damage: Callable[[bytes], bytes], reason: str
) -> None:
    here, there = hosts
    paused(here)
    wrong = damage(here.moving.export_run(TENANT, "run-1"))

    with pytest.raises((SnapshotFormatError, SnapshotIntegrityError), match=reason):
        there.moving.import_run(TENANT, wrong, by="bob")

    assert there.ward.store.record(TENANT, "run-1") is None
    (record,) = there.refused()
    assert (record.event_type, record.actor_id) == (AuditEventType.DATA_IMPORTED, "bob")
    assert reason in record.error_message


def test_with_a_key_only_what_is_signed_with_it_comes_in(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    paused(here)
    unsigned, signed = (one.export_run(TENANT, "run-1") for one in (here.moving, here.signed))
    forged = changed(signed, lambda rows: rows["runs"][0].update(failed=1))
    copied = to_bytes(replace(from_bytes(forged), signature=from_bytes(signed).signature))

    for wrong in (unsigned, forged, copied):
        with pytest.raises(SnapshotIntegrityError, match="signature"):
            there.signed.import_run(TENANT, wrong)

    assert there.signed.import_run(TENANT, signed) == "run-1"
    assert len(there.refused()) == 3


def test_another_tenant_takes_nothing_over(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    paused(here)

    with pytest.raises(SnapshotNotPortableError, match="another tenant"):
        there.moving.import_run("globex", here.moving.export_run(TENANT, "run-1"))


def test_a_tenant_that_is_not_active_takes_nothing_over(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    paused(here)
    inactive = TenantConfig(tenant_id=TENANT, name="Acme", is_active=False)
    asyncio.run(PostgresTenantStore(there.database).create(inactive))

    with pytest.raises(TenantError):
        there.moving.import_run(TENANT, here.moving.export_run(TENANT, "run-1"))

    assert there.ward.store.record(TENANT, "run-1") is None


def test_a_file_that_would_fill_the_memory_is_not_unpacked(hosts: tuple[Host, Host]) -> None:
    bomb = gzip.compress(b" " * 1_000_000)

    for data in (bomb, gzip.decompress(bomb)):
        with pytest.raises(SnapshotTooLargeError):
            from_bytes(data, max_bytes=10_000)


def test_a_file_is_taken_over_whether_it_is_compressed_or_not(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    paused(here)
    packed, plain = (here.moving.export_run(TENANT, "run-1", compress=compress) for compress in (True, False))

    assert gzip.decompress(packed) == plain
    assert there.moving.import_run(TENANT, plain) == "run-1"
    for broken in (plain[:-1], plain[1:], packed[:-9], b"", b"[]"):
        with pytest.raises(SnapshotFormatError):
            from_bytes(broken)


def test_every_table_with_rows_of_a_run_is_carried() -> None:
    of_runs = {table.name for table in metadata.sorted_tables if "run_id" in table.columns}

    assert of_runs - set(TABLES) == {"audit_log"}
