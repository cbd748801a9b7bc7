"""Stores of tenants: the same records and the same refusals in memory and in Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from llmteam.db import Database
from llmteam.ids import InvalidIdentifierError
from llmteam.tenancy import (
    TenantAlreadyExistsError,
    TenantConfig,
    TenantConflictError,
    TenantManager,
    TenantNotFoundError,
    TenantStore,
    TenantTier,
)
from llmteam.tenancy.admission import limits_of
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.tenancy.stores import MemoryTenantStore, TenantStoreFace

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> TenantStoreFace:
    if request.param == "memory":
        return MemoryTenantStore()
    database: Database = request.getfixturevalue("database")
    return PostgresTenantStore(database)


def full(tenant_id: str) -> TenantConfig:
    return TenantConfig(
        tenant_id,
        "Ächme & Söhne",
        TenantTier.PROFESSIONAL,
        max_concurrent_pipelines=0,
        features_enabled={"x"},
        features_disabled={"persistence"},
        blocked_actions={"delete"},
        data_region="eu-west-1",
        metadata={"contract": {"number": 17, "notes": [None, "ü"]}},
        created_at=MOMENT,
        updated_at=MOMENT,
        max_runs_per_day=5,
        when_full="queue",
    )


def test_a_store_keeps_its_protocol(store: TenantStoreFace) -> None:
    assert isinstance(store, TenantStore)


async def get(store: TenantStoreFace, tenant_id: str) -> TenantConfig:
    found = await store.get(tenant_id)
    assert found is not None
    return found


def test_a_record_comes_back_as_it_was_kept(store: TenantStoreFace) -> None:
    async def run() -> None:
        kept = await store.create(full("acme"))

        assert await store.get("acme") == kept == full("acme").copy(version=1)
        assert store.start_limits("acme") == limits_of(kept)
        assert store.start_limits("ghost") is None
        assert await store.get("ghost") is None

    asyncio.run(run())


def test_an_id_is_given_once(store: TenantStoreFace) -> None:
    async def run() -> None:
        await store.create(TenantConfig("acme", "Acme"))

        with pytest.raises(TenantAlreadyExistsError, match="There is a tenant 'acme' already"):
            await store.create(TenantConfig("acme", "Another"))

        assert (await get(store, "acme")).name == "Acme"

    asyncio.run(run())


def test_of_two_who_change_the_same_version_one_is_refused(store: TenantStoreFace) -> None:
    async def run() -> None:
        await store.create(TenantConfig("acme", "Acme"))
        mine, theirs = await get(store, "acme"), await get(store, "acme")
        mine.name = "Mine"
        theirs.name = "Theirs"

        changed = await store.update(mine)
        with pytest.raises(TenantConflictError, match="version 1"):
            await store.update(theirs)

        assert (changed.name, changed.version) == ("Mine", 2)
        assert await store.get("acme") == changed

    asyncio.run(run())


def test_a_record_that_was_never_read_replaces_whatever_is_there(store: TenantStoreFace) -> None:
    async def run() -> None:
        created = await store.create(full("acme"))

        changed = await store.update(TenantConfig("acme", "Acme", created_at=MOMENT + timedelta(days=1)))

        assert (changed.name, changed.version, changed.created_at) == ("Acme", 2, created.created_at)

    asyncio.run(run())


def test_what_is_given_out_is_a_copy(store: TenantStoreFace) -> None:
    async def run() -> None:
        mine = full("acme")
        await store.create(mine)

        mine.features_enabled.add("mine")
        found = await get(store, "acme")
        found.metadata["contract"]["number"] = 18
        (await store.list())[0].blocked_actions.clear()

        assert await store.get("acme") == full("acme").copy(version=1)

    asyncio.run(run())


def test_a_deleted_tenant_is_found_no_more_and_keeps_its_id(store: TenantStoreFace) -> None:
    async def run() -> None:
        await store.create(TenantConfig("acme", "Acme"))
        await store.delete("acme")

        assert await store.get("acme") is None
        assert await store.list(include_inactive=True) == []
        limits = store.start_limits("acme")
        assert limits is not None
        assert limits.is_deleted
        for refused in (store.delete("acme"), store.update(TenantConfig("acme", "Acme"))):
            with pytest.raises(TenantNotFoundError):
                await refused
        with pytest.raises(TenantAlreadyExistsError, match="not given again"):
            await store.create(TenantConfig("acme", "Acme"))

        assert await store.hard_delete("acme") is True
        assert await store.hard_delete("acme") is False
        assert (await store.create(TenantConfig("acme", "Acme"))).version == 1

    asyncio.run(run())


@pytest.mark.parametrize("what", ["update", "delete"])
def test_who_is_not_there_cannot_be_changed(store: TenantStoreFace, what: str) -> None:
    change = store.update(TenantConfig("ghost", "Ghost")) if what == "update" else store.delete("ghost")
    with pytest.raises(TenantNotFoundError, match="There is no tenant 'ghost'"):
        asyncio.run(change)


def test_lists_are_by_age_and_in_pages_and_leave_out_the_inactive(store: TenantStoreFace) -> None:
    async def run() -> None:
        for number, tenant_id in enumerate(("c", "a", "d", "b")):
            tier = TenantTier.FREE if number % 2 else TenantTier.STARTER
            created = MOMENT + timedelta(seconds=number)
            config = TenantConfig(tenant_id, tenant_id, tier, created_at=created, is_active=tenant_id != "d")
            await store.create(config)

        assert [one.tenant_id for one in await store.list()] == ["c", "a", "b"]
        assert [one.tenant_id for one in await store.list(2, 1)] == ["a", "b"]
        assert [one.tenant_id for one in await store.list(include_inactive=True)] == ["c", "a", "d", "b"]
        assert [one.tenant_id for one in await store.list_by_tier(TenantTier.STARTER)] == ["c"]
        assert (await store.count(), await store.count(include_inactive=True)) == (3, 4)
        assert (await get(store, "d")).is_active is False

    asyncio.run(run())


def test_values_that_were_set_later_are_checked_before_they_are_kept(store: TenantStoreFace) -> None:
    async def run() -> None:
        created = await store.create(TenantConfig("acme", "Acme"))
        created.data_region = "not a region"

        with pytest.raises(InvalidIdentifierError):
            await store.update(created)

    asyncio.run(run())


def test_a_manager_works_on_any_store(store: TenantStoreFace) -> None:
    async def run() -> None:
        manager = TenantManager(store)
        created = await manager.create_tenant(TenantConfig("acme", "Acme", TenantTier.FREE, max_concurrent_pipelines=3))
        created.max_concurrent_pipelines = 4
        await manager.update_tenant(created)

        assert await manager.check_limit("acme", "concurrent_pipelines", 3)
        assert not await manager.check_limit("acme", "max_concurrent_pipelines", 4)
        async with manager.context("acme") as context:
            config = context.get_config()
            assert config is not None
            assert config.tenant_id == "acme"
        await manager.delete_tenant("acme")
        with pytest.raises(TenantNotFoundError):
            async with manager.context("acme"):
                pass

    asyncio.run(run())
