"""Stores of values, and what keeps tenants apart in them: the same in memory, in Redis and in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.audit import AuditQuery, MemoryAuditStore, TenantAwareAuditTrail
from llmteam.db import Database
from llmteam.errors import ConfigurationError, NotJSONError
from llmteam.ids import InvalidIdentifierError
from llmteam.tenancy import CrossTenantStore, KeyValueStore, TenantContext, TenantContextError, TenantIsolatedStore
from llmteam.tenancy.isolation import Namespace
from llmteam.tenancy.postgres import PostgresKeyValueStore
from llmteam.tenancy.redis import RedisKeyValueStore
from llmteam.tenancy.stores import BulkKeyValueStore, MemoryKeyValueStore


class Plain:
    """Somebody else's store: the protocol and no more."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self._values.get(key)

    async def set(self, key: str, value: Any) -> None:
        self._values[key] = value

    async def delete(self, key: str) -> bool:
        return key in self._values and self._values.pop(key, 0) != 0

    async def list(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._values if key.startswith(prefix))

    async def exists(self, key: str) -> bool:
        return key in self._values


@pytest.fixture(params=["memory", "redis", "postgres", "foreign"])
def inner(request: pytest.FixtureRequest) -> Iterator[KeyValueStore]:
    if request.param == "memory":
        yield MemoryKeyValueStore()
    elif request.param == "foreign":
        yield Plain()
    elif request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        yield PostgresKeyValueStore(database)
    else:
        store = RedisKeyValueStore(request.getfixturevalue("clean_valkey"))
        yield store
        store.close()


VALUES = [None, 0, "", "ü\n", [1, {"a": None}], {"deep": {"er": [True]}}, 1.5]


def test_values_are_kept_found_and_forgotten(inner: KeyValueStore) -> None:
    async def run() -> None:
        for number, value in enumerate(VALUES):
            await inner.set(f"k{number}", value)
        await inner.set("k1", "again")

        assert [await inner.get(f"k{number}") for number in range(len(VALUES))] == [None, "again", *VALUES[2:]]
        assert await inner.exists("k0")
        assert not await inner.exists("ghost")
        assert await inner.get("ghost") is None
        assert (await inner.delete("k0"), await inner.delete("k0"), await inner.exists("k0")) == (True, False, False)

    with TenantContext("acme"):
        asyncio.run(run())


def test_keys_are_listed_by_a_prefix_that_is_text_and_no_pattern(inner: KeyValueStore) -> None:
    keys = ["a*b", "a*c", "aXb", "a?b", "a[b", "a]b", "a\\b", "a-b", "a^b", "a%b", "a_b", "", "z"]

    async def run() -> None:
        for key in keys:
            await inner.set(key, 1)

        assert await inner.list() == sorted(keys)
        for prefix in ("a*", "a?", "a[", "a]", "a\\", "a-", "a^", "a%", "a_"):
            assert await inner.list(prefix) == sorted(key for key in keys if key.startswith(prefix))

    with TenantContext("acme"):
        asyncio.run(run())


def test_several_values_are_kept_at_once_or_not_at_all(inner: KeyValueStore) -> None:
    if not isinstance(inner, BulkKeyValueStore):
        return
    bulk = inner

    async def run() -> None:
        await bulk.set_many({"a": 1, "b": None})
        with pytest.raises(NotJSONError):
            await bulk.set_many({"c": 1, "d": object()})

        assert await bulk.get_many(["a", "b", "c"]) == {"a": 1, "b": None}
        assert (await bulk.get_many([]), await bulk.delete_many([])) == ({}, 0)
        assert await bulk.delete_many(["a", "b", "ghost"]) == 2

    with TenantContext("acme"):
        asyncio.run(run())


# -- one tenant's part


def test_the_same_key_is_another_value_in_each_tenant(inner: KeyValueStore) -> None:
    store = TenantIsolatedStore(inner)

    async def run() -> None:
        for tenant_id in ("acme", "globex"):
            with TenantContext(tenant_id):
                await store.set("key", tenant_id)
                await store.set_many({"many:1": 1, "many:2": None})
        with TenantContext("acme"):
            assert await store.get("key") == "acme"
            assert await store.list() == ["key", "many:1", "many:2"]
            assert await store.list("many:") == ["many:1", "many:2"]
            assert await store.get_many(["many:1", "many:2", "ghost"]) == {"many:1": 1, "many:2": None}
            assert await store.delete_many(["many:1", "ghost"]) == 1
            assert await store.clear_tenant() == 2
            assert await store.list() == []
        with TenantContext("globex"):
            assert await store.list() == ["key", "many:1", "many:2"]

    asyncio.run(run())


#: Pairs that would share a stored key if nothing was escaped.
ALIKE = [("a", "b:c", "a:b", "c"), ("a", "", "a:", ""), ("a", ":x", "a:", "x"), ("a", "%3Ab:c", "a:b", "c")]


@pytest.mark.parametrize(("one", "key", "other", "alike"), ALIKE)
def test_no_two_tenants_share_a_stored_key(inner: KeyValueStore, one: str, key: str, other: str, alike: str) -> None:
    store = TenantIsolatedStore(inner)

    async def run() -> None:
        with TenantContext(one):
            await store.set(key, "one's")
        with TenantContext(other):
            assert await store.get(alike) is None
            assert await store.list() == []
            assert await store.clear_tenant() == 0
        with TenantContext(one):
            assert await store.list() == [key]

    asyncio.run(run())


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,8}", fullmatch=True)


@given(NAMES, st.text(max_size=8), NAMES, st.text(max_size=8), st.sampled_from([":", "::", "/", "|", "-", "@x", "+"]))
def test_stored_keys_are_equal_only_when_tenant_and_key_are(
    one: str, key: str, other: str, another: str, separator: str
) -> None:
    namespace = Namespace(separator)
    first, second = namespace.prefix(one) + key, namespace.prefix(other) + another

    assert (first == second) == ((one, key) == (other, another))
    assert namespace.split(first) == (one, key)
    assert one == other or not first.startswith(namespace.prefix(other))


@pytest.mark.parametrize("separator", ["", "a", "7", "%", ".", "\n", "ä"])
def test_a_separator_that_could_stand_in_a_name_is_refused(separator: str) -> None:
    with pytest.raises(ConfigurationError, match="separator"):
        TenantIsolatedStore(MemoryKeyValueStore(), separator)


OPERATIONS: list[Callable[[TenantIsolatedStore], Any]] = [
    lambda store: store.get("k"),
    lambda store: store.set("k", 1),
    lambda store: store.delete("k"),
    lambda store: store.exists("k"),
    lambda store: store.list(),
    lambda store: store.get_many(["k"]),
    lambda store: store.set_many({"k": 1}),
    lambda store: store.delete_many(["k"]),
    lambda store: store.clear_tenant(),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_a_tenant_every_operation_is_refused(operation: Callable[[TenantIsolatedStore], Any]) -> None:
    with pytest.raises(TenantContextError):
        asyncio.run(operation(TenantIsolatedStore(MemoryKeyValueStore())))


def test_what_belongs_to_no_tenant_is_no_tenants(inner: KeyValueStore) -> None:
    store = TenantIsolatedStore(inner, require_context=False)

    async def run() -> None:
        await store.set("key", "nobody's")
        for tenant_id in ("default", "acme"):
            with TenantContext(tenant_id):
                assert await store.get("key") is None
                assert await store.list() == []
        assert await store.get("key") == "nobody's"

    asyncio.run(run())


# -- administration


def test_an_administrator_reaches_every_tenant_and_each_call_is_written_down(inner: KeyValueStore) -> None:
    audit = MemoryAuditStore()
    admin = CrossTenantStore(inner, principal="root@example.com", log=TenantAwareAuditTrail(audit))

    async def run() -> None:
        await admin.set_for_tenant("a:b", "k", None)
        await admin.set_for_tenant("acme", "other", 2)

        assert await admin.copy_between_tenants("a:b", "acme", "k") is True
        assert await admin.copy_between_tenants("a:b", "acme", "ghost") is False
        assert await admin.list_all() == [("a:b", "k"), ("acme", "k"), ("acme", "other")]
        assert await admin.list_all("o") == [("acme", "other")]
        assert await admin.list_for_tenant("acme") == ["k", "other"]
        assert await admin.delete_for_tenant("acme", "k") is True
        assert await admin.get_for_tenant("acme", "other") == 2
        told = await audit.query(AuditQuery(tenant_id="acme", order_desc=False))
        assert [one.action.partition(".")[2] for one in told] == [
            *("set", "copy_to", "list", "list", "list", "delete", "get")
        ]
        assert {(one.actor_id, one.resource_type) for one in told} == {("root@example.com", "key_value")}

    asyncio.run(run())


def test_nobody_is_no_administrator() -> None:
    with pytest.raises(InvalidIdentifierError):
        CrossTenantStore(MemoryKeyValueStore(), principal="", log=TenantAwareAuditTrail(MemoryAuditStore()))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=6), st.integers() | st.none() | st.text(max_size=4), max_size=6))
def test_a_memory_store_gives_what_was_kept(items: dict[str, Any]) -> None:
    async def run() -> None:
        store = MemoryKeyValueStore()
        kept = {key: value for key, value in items.items() if "\x00" not in f"{key}{value}"}
        await store.set_many(kept)

        assert await store.get_many(kept) == kept
        assert await store.list() == sorted(kept)
        store.clear()
        assert await store.list() == []

    asyncio.run(run())
