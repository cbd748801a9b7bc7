"""Changes of tenants and keys are in the audit trail with the transaction that makes them, or not made at all."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from llmteam.audit import AuditEventType, AuditRecord, AuditStorageError, PostgresAuditStore
from llmteam.audit.postgres import key_changes, tenant_changes
from llmteam.crypto import MasterKeys
from llmteam.db import Database
from llmteam.keys import PostgresKeyStore, TenantKeys
from llmteam.tenancy import TenantConfig, TenantConflictError, TenantNotFoundError
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.conformance.desk import at_once

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)


def told(database: Database, tenant_id: str = "acme") -> list[AuditRecord]:
    """The tenant's records; the chain holds."""
    store = PostgresAuditStore(database)
    assert store.check(tenant_id).valid
    return [one for one in store.links(tenant_id, 1, 99) if isinstance(one, AuditRecord)]


def away(*what: Any) -> NoReturn:
    raise AuditStorageError("no audit record can be written")


def test_a_tenant_that_is_made_changed_and_deleted_is_told_with_who_did_it(database: Database) -> None:
    store = PostgresTenantStore(database, record=tenant_changes("root"))
    made = store.add(TenantConfig("acme", "Acme"))

    store.put(made.copy(is_active=False, max_concurrent_pipelines=3))
    store.remove("acme")

    records = told(database)
    assert [(one.event_type, one.action, one.actor_id, one.resource_id) for one in records] == [
        (AuditEventType.TENANT_CREATED, "create", "root", "acme"),
        (AuditEventType.TENANT_UPDATED, "update", "root", "acme"),
        (AuditEventType.TENANT_DELETED, "delete", "root", "acme"),
    ]
    before, after = records[1].old_value or {}, records[1].new_value or {}
    assert (before["is_active"], after["is_active"], after["max_concurrent_pipelines"]) == (True, False, 3)
    assert records[2].new_value is None


def test_a_change_of_a_tenant_that_is_refused_is_not_told(database: Database) -> None:
    store = PostgresTenantStore(database, record=tenant_changes("root"))
    made = store.add(TenantConfig("acme", "Acme"))
    store.put(made)

    with pytest.raises(TenantConflictError):
        store.put(made)
    with pytest.raises(TenantNotFoundError):
        store.remove("globex")

    assert [one.action for one in told(database)] == ["create", "update"]
    assert told(database, "globex") == []


def test_a_tenant_is_not_changed_when_that_cannot_be_told(database: Database) -> None:
    PostgresTenantStore(database).add(TenantConfig("acme", "Acme"))
    store = PostgresTenantStore(database, record=away)

    with pytest.raises(AuditStorageError):
        store.add(TenantConfig("globex", "Globex"))
    with pytest.raises(AuditStorageError):
        store.put(TenantConfig("acme", "Other"))
    with pytest.raises(AuditStorageError):
        store.remove("acme")

    assert store.find("globex") is None
    found = store.find("acme")
    assert found is not None
    assert (found.name, found.version) == ("Acme", 1)


def test_each_life_of_a_key_is_told_by_id_and_a_key_that_was_there_is_not(database: Database) -> None:
    def keys(*masters: tuple[str, bytes]) -> TenantKeys:
        return TenantKeys(PostgresKeyStore(database, record=key_changes("root")), MasterKeys(masters))

    first = at_once([lambda: keys(OLD).current("acme").key_id] * 4)[0]
    second = keys(OLD).renew("acme")
    assert keys(NEW, OLD).rewrap() == 2
    assert keys(NEW, OLD).rewrap() == 0
    keys(NEW).destroy("acme")
    keys(NEW).destroy("acme")

    records = told(database)
    assert [(one.action, one.resource_id) for one in records[:2]] == [("create", first), ("renew", second)]
    assert {(one.action, one.resource_id) for one in records[2:4]} == {("rewrap", first), ("rewrap", second)}
    assert [(one.action, one.resource_id) for one in records[4:]] == [("destroy", "")]
    assert (records[2].old_value, records[2].new_value) == ({"wrapped_by": "old"}, {"wrapped_by": "new"})
    assert all(one.actor_id == "root" and one.resource_type == "data_key" for one in records)


def test_a_key_is_not_made_when_that_cannot_be_told(database: Database) -> None:
    keys = TenantKeys(PostgresKeyStore(database, record=away), MasterKeys([NEW]))

    with pytest.raises(AuditStorageError):
        keys.current("acme")

    assert PostgresKeyStore(database).all("acme") == []
