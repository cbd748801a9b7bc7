"""How many snapshots a tenant's licence allows holds in each store that keeps them for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.db import Database
from llmteam.ids import utc_now
from llmteam.licensing import License, LicenseLimitExceededError, LicenseTier, MemoryLicenseStore, TenantLicenses
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.licensing.stores import LicenseStore
from llmteam.persistence import (
    HybridSnapshotStore,
    MemorySnapshotStore,
    PipelinePhase,
    PostgresSnapshotStore,
    RedisSnapshotStore,
    SnapshotStore,
    SnapshotType,
)
from llmteam.tenancy import TenantContext
from tests.looping import in_a_loop
from tests.snapshots import snapshot

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Shop:
    """A store of snapshots, and where its tenants' licences are."""

    store: SnapshotStore
    licences: LicenseStore

    def give(self, tier: LicenseTier, tenant_id: str = "acme", **limits: int) -> None:
        given = License("", tier, "Acme", "", utc_now() + timedelta(days=9), NOW, limits=limits, license_id="lic-1")
        self.licences.put(tenant_id, given, "ann", utc_now())

    async def save(self, *names: str, **given: Any) -> None:
        for name in names:
            await self.store.save(snapshot(snapshot_id=name, **{"snapshot_type": SnapshotType.MANUAL, **given}))

    async def kept(self) -> list[str]:
        with TenantContext("acme"):
            return sorted(one.snapshot_id for one in await self.store.list("invoice_triage", 1000))


def in_memory(request: pytest.FixtureRequest) -> Shop:
    licences = MemoryLicenseStore()
    tenants = TenantLicenses(licences, cache_seconds=0.0)
    return Shop(MemorySnapshotStore(limit_of=tenants.licensed("snapshots")), licences)


def in_postgres(request: pytest.FixtureRequest) -> Shop:
    database: Database = request.getfixturevalue("database")
    return Shop(PostgresSnapshotStore(database), PostgresLicenseStore(database))


def in_both(request: pytest.FixtureRequest) -> Shop:
    shop = in_postgres(request)
    assert isinstance(shop.store, PostgresSnapshotStore)
    redis = RedisSnapshotStore(request.getfixturevalue("clean_valkey"))
    return Shop(HybridSnapshotStore(redis, shop.store), shop.licences)


SHOPS: dict[str, Callable[[pytest.FixtureRequest], Shop]] = {
    "memory": in_memory,
    "postgres": in_postgres,
    "hybrid": in_both,
}


@pytest.fixture(params=SHOPS)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    made = SHOPS[request.param](request)
    yield made
    if isinstance(made.store, HybridSnapshotStore):
        made.store.redis.close()


@in_a_loop
async def test_one_more_than_the_licence_allows_is_refused_and_nothing_is_lost(shop: Shop) -> None:
    shop.give(LicenseTier.COMMUNITY, snapshots=3)
    await shop.save("a", "b", "c")

    with pytest.raises(LicenseLimitExceededError) as refused:
        await shop.save("d")

    assert (refused.value.tenant_id, refused.value.limit) == ("acme", "snapshots")
    assert (refused.value.current, refused.value.maximum) == (3, 3)
    assert await shop.kept() == ["a", "b", "c"]
    await shop.save("b", current_step="again")
    await shop.store.save(snapshot(snapshot_id="others", tenant_id="globex"))
    with TenantContext("acme"):
        await shop.store.delete("a")
    await shop.save("d")
    assert await shop.kept() == ["b", "c", "d"]


@in_a_loop
@pytest.mark.parametrize(("tier", "most"), [(LicenseTier.COMMUNITY, 10), (LicenseTier.PROFESSIONAL, 100)])
async def test_each_tier_has_its_number_and_no_licence_has_none(shop: Shop, tier: LicenseTier, most: int) -> None:
    await shop.save(*(f"s-{number}" for number in range(most)))
    shop.give(tier)

    with pytest.raises(LicenseLimitExceededError, match=f"{most} of {most}"):
        await shop.save("more")

    shop.give(LicenseTier.ENTERPRISE)
    await shop.save("more")
    assert len(await shop.kept()) == most + 1


@in_a_loop
async def test_a_licence_that_was_revoked_is_worth_the_lowest_tier(shop: Shop) -> None:
    shop.give(LicenseTier.PROFESSIONAL)
    await shop.save(*(f"s-{number}" for number in range(10)))
    shop.licences.revoke("acme", "lic-1", "ann", utc_now())

    with pytest.raises(LicenseLimitExceededError, match="10 of 10"):
        await shop.save("more")


@in_a_loop
async def test_automatic_snapshots_make_room_but_for_the_latest_of_what_goes_on(shop: Shop) -> None:
    shop.give(LicenseTier.COMMUNITY, snapshots=5)
    auto = {"snapshot_type": SnapshotType.AUTO, "phase": PipelinePhase.RUNNING}
    await shop.save("first", "second", run_id="r-1", **auto)
    await shop.save("over", run_id="r-2", snapshot_type=SnapshotType.AUTO, phase=PipelinePhase.COMPLETED)
    await shop.save("alone", run_id="r-3", **auto)
    await shop.save("mine")

    await shop.save("sixth")
    await shop.save("seventh")
    after_two = await shop.kept()
    with pytest.raises(LicenseLimitExceededError):
        await shop.save("eighth")
    await shop.save("third", run_id="r-1", **auto)

    assert after_two == ["alone", "mine", "second", "seventh", "sixth"]
    assert await shop.kept() == ["alone", "mine", "seventh", "sixth", "third"]
