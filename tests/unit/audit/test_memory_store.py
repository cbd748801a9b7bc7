"""The store in memory: what it drops it remembers the place of."""

from __future__ import annotations

import asyncio

import pytest

from llmteam.audit import AuditDraft, AuditEventType, AuditQuery, AuditTrail, MemoryAuditStore
from llmteam.audit.exports import check_export, export_lines
from llmteam.audit.stores import DEFAULT_MAX_RECORDS
from llmteam.errors import ConfigurationError
from llmteam.ids import utc_now


def draft(key: str | None = None) -> AuditDraft:
    return AuditDraft(event_type=AuditEventType.DATA_CREATED, idempotency_key=key)


def test_the_oldest_records_of_all_tenants_are_dropped_and_each_chain_still_holds() -> None:
    store = MemoryAuditStore(max_records=5)

    for _ in range(4):
        store.add("acme", [draft()])
        store.add("globex", [draft()])

    assert [(record.tenant_id, record.sequence_number) for record in store.get_all()] == [
        ("acme", 3),
        ("acme", 4),
        ("globex", 2),
        ("globex", 3),
        ("globex", 4),
    ]
    for tenant, kept in (("acme", 2), ("globex", 3)):
        found = store.check(tenant)
        assert (found.valid, found.checked) == (True, kept)
        assert check_export(export_lines(store, tenant, now=utc_now())).chain == (True, [])
    assert len(store) == 5


def test_a_chain_goes_on_behind_records_that_are_all_gone() -> None:
    store = MemoryAuditStore(max_records=1)
    store.add("acme", [draft()])
    store.add("globex", [draft()])

    (record,) = store.add("acme", [draft()])

    assert record.sequence_number == 2
    assert record.previous_checksum != ""
    assert store.check("acme") == store.check("globex") == (True, [])


def test_a_key_is_forgotten_with_its_record() -> None:
    store = MemoryAuditStore(max_records=1)
    store.add("acme", [draft("k"), draft("l")])

    (record,) = store.add("acme", [draft("k")])

    assert record.sequence_number == 3


def test_what_is_cleared_begins_anew() -> None:
    store = MemoryAuditStore()
    store.add("acme", [draft()])

    store.clear()

    assert store.get_all() == []
    assert store.add("acme", [draft()])[0].sequence_number == 1


def test_without_a_tenant_everybodys_records_are_found() -> None:
    store = MemoryAuditStore()
    store.add("acme", [draft()])
    store.add("globex", [draft()])

    assert len(asyncio.run(store.query(AuditQuery()))) == asyncio.run(store.count()) == 2
    assert asyncio.run(AuditTrail(store, "acme").query(AuditQuery()))[0].tenant_id == "acme"


def test_a_store_for_nothing_is_refused() -> None:
    assert MemoryAuditStore().max_records == DEFAULT_MAX_RECORDS
    with pytest.raises(ConfigurationError, match="at least 1"):
        MemoryAuditStore(0)


def test_fields_that_are_secret_can_be_named_by_the_caller() -> None:
    store = MemoryAuditStore(sensitive=lambda name: name == "iban")

    record = AuditTrail(store).log_sync(AuditEventType.DATA_CREATED, metadata={"iban": "DE1", "password": "kept"})

    assert record.metadata == {"iban": "[redacted]", "password": "kept"}
