"""The stores of data keys keep the same promises, and so do the keys over each of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from llmteam.crypto import MasterKeys, NoEncryptionKeysError, SealBrokenError, UnknownMasterKeyError
from llmteam.db import Database, StatementError
from llmteam.db.tables import tenant_keys
from llmteam.keys import (
    KeyStore,
    MasterKeyUse,
    MemoryKeyStore,
    PostgresKeyStore,
    TenantKeyDestroyedError,
    TenantKeys,
    UnknownDataKeyError,
)
from llmteam.keys.tenants import CACHE_SECONDS
from tests.conformance.desk import at_once

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLACE = ("context", ("run", "agent", "card"))


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[KeyStore]:
    if request.param == "memory":
        yield MemoryKeyStore()
    else:
        yield PostgresKeyStore(request.getfixturevalue("database"))


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def keys_of(store: KeyStore, *masters: tuple[str, bytes], time: Time | None = None) -> TenantKeys:
    """As another process over the same store has them."""
    return TenantKeys(store, MasterKeys(masters or (OLD,)), clock=lambda: NOW, monotonic=time or Time())


def test_what_one_process_seals_another_opens(store: KeyStore) -> None:
    sealed = keys_of(store).vault("acme").seal(*PLACE, b"4111")

    assert keys_of(store).vault("acme").open(*PLACE, sealed) == b"4111"
    assert keys_of(store).vault("acme").durable


def test_each_tenant_has_a_key_of_its_own(store: KeyStore) -> None:
    keys = keys_of(store)
    sealed = keys.vault("acme").seal(*PLACE, b"4111")

    with pytest.raises(UnknownDataKeyError, match="globex"):
        keys.vault("globex").open(*PLACE, sealed)
    assert keys.current("acme").key_id != keys.current("globex").key_id


def test_many_that_need_the_first_key_at_once_get_the_same(store: KeyStore) -> None:
    processes = [keys_of(store) for _ in range(8)]

    found = at_once([lambda keys=keys: keys.current("acme").key_id for keys in processes])

    assert len(set(found)) == 1
    assert [stored.generation for stored in store.all("acme")] == [1]


def test_the_store_has_no_key_in_the_clear(store: KeyStore) -> None:
    raw = keys_of(store).current("acme")._raw

    (stored,) = store.all("acme")

    assert stored.wrapped is not None
    assert raw.hex() not in repr(stored)
    assert MasterKeys([OLD]).unwrap(stored.wrapped, "acme")._raw == raw


def test_a_rotation_wraps_every_key_anew_and_the_old_master_key_can_go(store: KeyStore) -> None:
    tenants = [f"tenant-{number:03}" for number in range(5)]
    sealed = {tenant: keys_of(store).vault(tenant).seal(*PLACE, b"4111") for tenant in tenants}
    rotated = keys_of(store, NEW, OLD)
    fresh = rotated.vault("later").seal(*PLACE, b"4111")

    assert rotated.uses() == [MasterKeyUse("new", 1), MasterKeyUse("old", 5)]
    assert rotated.rewrap() == 5
    assert rotated.rewrap() == 0

    assert rotated.uses() == [MasterKeyUse("new", 6)]
    only_new = keys_of(store, NEW)
    assert {only_new.vault(tenant).open(*PLACE, sealed[tenant]) for tenant in tenants} == {b"4111"}
    assert only_new.vault("later").open(*PLACE, fresh) == b"4111"
    with pytest.raises(UnknownMasterKeyError):
        keys_of(store, OLD).vault("later").open(*PLACE, fresh)


def test_rotations_at_once_do_no_harm(store: KeyStore) -> None:
    for number in range(6):
        keys_of(store).current(f"tenant-{number}")

    at_once([keys_of(store, NEW, OLD).rewrap for _ in range(4)])

    assert keys_of(store, NEW).uses() == [MasterKeyUse("new", 6)]


def test_a_renewed_tenant_seals_with_the_fresh_key_and_opens_what_the_older_sealed(store: KeyStore) -> None:
    keys = keys_of(store)
    before = keys.vault("acme").seal(*PLACE, b"1")

    fresh = keys.renew("acme")

    assert keys.current("acme").key_id == fresh
    assert keys.vault("acme").open(*PLACE, before) == b"1"
    assert [stored.generation for stored in store.all("acme")] == [2, 1]


def test_another_process_opens_at_once_what_a_fresh_key_sealed(store: KeyStore) -> None:
    keys, other = keys_of(store), keys_of(store)
    other.current("acme")

    keys.renew("acme")

    assert other.vault("acme").open(*PLACE, keys.vault("acme").seal(*PLACE, b"2")) == b"2"


def test_destroying_the_keys_makes_everything_that_they_sealed_unreadable(store: KeyStore) -> None:
    keys = keys_of(store)
    sealed = keys.vault("acme").seal(*PLACE, b"4111")
    keys.renew("acme")

    assert keys.destroy("acme") == 2
    assert keys.destroy("acme") == 0

    for process in (keys, keys_of(store)):
        with pytest.raises(TenantKeyDestroyedError, match="llmteam keys renew acme"):
            process.vault("acme").open(*PLACE, sealed)
        with pytest.raises(TenantKeyDestroyedError):
            process.vault("acme").seal(*PLACE, b"4111")
    assert {(stored.wrapped, stored.destroyed_at) for stored in store.all("acme")} == {(None, NOW)}


def test_other_processes_follow_when_their_cache_ends(store: KeyStore) -> None:
    time = Time()
    other = keys_of(store, time=time)
    sealed = other.vault("acme").seal(*PLACE, b"4111")
    keys_of(store).destroy("acme")

    time.now = CACHE_SECONDS

    with pytest.raises(TenantKeyDestroyedError):
        other.vault("acme").open(*PLACE, sealed)


def test_a_tenant_that_was_destroyed_before_it_had_a_key_gets_none_by_itself(store: KeyStore) -> None:
    keys = keys_of(store)

    assert keys.destroy("acme") == 0

    with pytest.raises(TenantKeyDestroyedError):
        keys.current("acme")


def test_a_destroyed_tenant_can_begin_anew_and_its_past_stays_unreadable(store: KeyStore) -> None:
    keys = keys_of(store)
    sealed = keys.vault("acme").seal(*PLACE, b"4111")
    keys.destroy("acme")

    keys.renew("acme")

    assert keys.vault("acme").open(*PLACE, keys.vault("acme").seal(*PLACE, b"5")) == b"5"
    with pytest.raises(UnknownDataKeyError):
        keys.vault("acme").open(*PLACE, sealed)


def test_destroying_ends_no_other_tenants_key(store: KeyStore) -> None:
    keys = keys_of(store)
    sealed = keys.vault("globex").seal(*PLACE, b"4111")

    keys.destroy("acme")

    assert keys_of(store).vault("globex").open(*PLACE, sealed) == b"4111"


def test_while_keys_are_destroyed_and_renewed_at_once_none_survives_half(store: KeyStore) -> None:
    for number in range(10):
        tenant = f"tenant-{number}"
        keys_of(store).current(tenant)
        at_once([lambda t=tenant: keys_of(store).destroy(t), lambda t=tenant: keys_of(store).renew(t)])

        found = store.all(tenant)

        assert all((stored.wrapped is None) == (stored.destroyed_at is not None) for stored in found)
        assert found[-1].wrapped is None


def test_without_a_master_key_nothing_is_made(store: KeyStore) -> None:
    with pytest.raises(NoEncryptionKeysError):
        TenantKeys(store, MasterKeys()).vault("acme").seal(*PLACE, b"4111")

    assert store.all("acme") == []


def test_a_wrapped_key_that_was_exchanged_with_another_tenants_does_not_unwrap(database: Database) -> None:
    store = PostgresKeyStore(database)
    keys_of(store).current("acme")
    keys_of(store).current("globex")
    (stolen,) = store.all("globex")
    assert stolen.wrapped is not None

    with database.tenant_transaction("acme") as connection:
        connection.execute(update(tenant_keys).values(wrapped=stolen.wrapped.wrapped))

    with pytest.raises(SealBrokenError):
        keys_of(store).current("acme")


def test_no_statement_of_a_tenant_brings_a_destroyed_key_back_or_deletes_it(database: Database) -> None:
    keys = keys_of(PostgresKeyStore(database))
    keys.current("acme")
    keys.destroy("acme")

    with database.hot("acme") as hot:
        hot.script("UPDATE llmteam.tenant_keys SET destroyed_at = NULL, wrapped = 'x', master_id = 'y'")
        assert hot.script("SELECT wrapped, destroyed_at IS NULL FROM llmteam.tenant_keys") == [(None, False)]
    for statement in ("DELETE FROM llmteam.tenant_keys", "UPDATE llmteam.tenant_keys SET key_id = 'x'"):
        with database.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
            hot.script(statement)


def test_the_sweeper_finds_old_master_keys_and_sees_no_wrapped_key(database: Database) -> None:
    with database.hot(None) as hot, pytest.raises(StatementError, match="permission denied"):
        hot.script("SELECT wrapped FROM llmteam.tenant_keys", role="llmteam_sweeper")
