"""Licences of tenants as programs use them: set, held against what is there, and what is known when nothing answers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.audit import AuditQuery, MemoryAuditStore, TenantAwareAuditTrail
from llmteam.errors import InfrastructureError
from llmteam.ids import InvalidIdentifierError
from llmteam.licensing import (
    LicenseConflictError,
    LicenseExpiredError,
    LicenseLimitExceededError,
    LicenseManager,
    LicenseRecord,
    LicenseTier,
    LicenseValidationError,
    MemoryLicenseStore,
    State,
)
from llmteam.licensing.models import CLOCK_TOLERANCE
from llmteam.licensing.tenants import STALE_SECONDS
from llmteam.tenancy import TenantConfig, TenantContext, TenantContextError, TenantManager, TenantTier
from llmteam.tenancy.exceptions import TenantFeatureDisabledError
from llmteam.tenancy.stores import MemoryTenantStore
from tests.unit.licensing.issuing import NOW, key, settings

C, P, E = LicenseTier
DAY = timedelta(days=1)


class Flaky(MemoryLicenseStore):
    """A store whose server can be taken away."""

    down = False

    def current(self, tenant_id: str) -> LicenseRecord | None:
        if self.down:
            raise InfrastructureError("Postgres is away")
        return super().current(tenant_id)


class World:
    """A manager with a store, tenants and a trail, and clocks that are set."""

    def __init__(self, **given: Any) -> None:
        self.now, self.ticks = NOW, 0.0
        self.store, self.tenants, self.audit = Flaky(), MemoryTenantStore(), MemoryAuditStore()
        self.manager = LicenseManager(
            E,
            store=self.store,
            tenants=self.tenants,
            log=TenantAwareAuditTrail(self.audit),
            actor_id="root",
            settings=settings(**given),
            clock=lambda: self.now,
            monotonic=lambda: self.ticks,
        )
        self.licences = self.manager.tenants

    def tier(self, tenant_id: str = "acme") -> LicenseTier:
        return asyncio.run(self.licences.standing_for(tenant_id)).tier

    def trail(self, tenant_id: str = "acme") -> list[tuple[str, str, Any, Any]]:
        found = self.audit.select(AuditQuery(tenant_id=tenant_id, order_desc=False))
        return [(one.event_type.name, one.action, one.old_value, one.new_value) for one in found]


@pytest.fixture
def world() -> World:
    return World()


def test_the_printed_call_answers_no_as_a_professional_licence_allows_five() -> None:
    async def run() -> list[bool]:
        license_manager = LicenseManager()
        await license_manager.set_license("acme", LicenseTier.PROFESSIONAL)
        return [await license_manager.check_limit("acme", "pipelines", current=number) for number in (4, 5)]

    assert asyncio.run(run()) == [True, False]


def test_one_manager_serves_many_tenants_and_reads_no_tier_of_the_process(world: World) -> None:
    async def run() -> None:
        await world.manager.set_license("acme", "professional")
        await world.manager.set_license("globex", E)

        assert [await world.manager.check_limit(one, "teams", 9) for one in ("acme", "globex")] == [True, True]
        assert [await world.manager.check_limit(one, "teams", current_value=10) for one in ("acme", "globex")] == [
            False,
            True,
        ]
        assert await world.manager.check_limit("nobody", "pipelines", current=1) is False

    asyncio.run(run())
    assert (world.tier("acme"), world.tier("globex"), world.tier("nobody")) == (P, E, C)


def test_a_change_is_audited_with_what_was_and_what_is(world: World) -> None:
    async def run() -> None:
        await world.manager.set_license("acme", P)
        await world.manager.set_license("acme", E, by="ann", version=1)
        await world.manager.install("acme", key(), version=2)
        await world.licences.revoke("acme", "lic-17")
        await world.licences.revoke("acme", "lic-17")
        await world.licences.remove("acme")

    asyncio.run(run())

    told = world.trail()
    assert [(kind, action) for kind, action, _, _ in told] == [
        ("POLICY_CHANGED", f"license.{name}") for name in ("set", "set", "install", "revoke", "remove")
    ]
    assert (told[0][2], told[0][3]["tier"]) == (None, "professional")
    assert (told[1][2]["tier"], told[1][3]["tier"]) == ("professional", "enterprise")
    assert (told[2][3]["license_id"], told[2][3]["owner"]) == ("lic-17", "Ächme & Söhne")
    assert told[3][3] == {"license_id": "lic-17"}
    assert (told[4][2]["license_id"], told[4][3]) == ("lic-17", None)
    actors = [one.actor_id for one in world.audit.select(AuditQuery(tenant_id="acme", order_desc=False))]
    assert actors == ["root", "ann", "root", "root", "root"]


def test_a_change_of_another_version_is_refused_and_not_audited(world: World) -> None:
    async def run() -> None:
        await world.manager.set_license("acme", P)
        with pytest.raises(LicenseConflictError):
            await world.manager.set_license("acme", E, version=0)
        with pytest.raises(ValueError, match="gold"):
            await world.manager.set_license("acme", "gold")
        with pytest.raises(InvalidIdentifierError):
            await world.manager.set_license("no tenant", E)

    asyncio.run(run())
    assert len(world.trail()) == 1
    assert world.tier() is P


def test_a_tenant_cannot_change_the_licence_of_another(world: World) -> None:
    async def run() -> None:
        with TenantContext("globex"):
            for change in (
                world.manager.set_license("acme", E),
                world.manager.install("acme", key()),
                world.licences.remove("acme"),
                world.licences.revoke("acme", "lic-17"),
            ):
                with pytest.raises(TenantContextError, match="while 'globex' is current"):
                    await change
        with TenantContext("acme"):
            await world.manager.set_license("acme", P)

    asyncio.run(run())
    assert world.tier() is P


def test_only_a_key_that_is_for_the_tenant_now_is_installed(world: World) -> None:
    async def refused(text: str) -> str:
        with pytest.raises((LicenseValidationError, LicenseExpiredError)) as raised:
            await world.manager.install("acme", text)
        return getattr(raised.value, "fault", "expired")

    async def run() -> list[str]:
        await world.licences.revoke("acme", "lic-9")
        wrong = (
            key(tenant_id="globex"),
            key(starts=NOW.date() + DAY),
            key(expires=NOW.date() - DAY),
            key(license_id="lic-9"),
            key()[:-1],
            "LLMT-ENT-Acme-20301231",
        )
        return [await refused(text) for text in wrong]

    found = asyncio.run(run())

    assert found == ["other tenant", "not yet valid", "expired", "revoked", "malformed", "signature"]
    assert world.store.current("acme") is None
    assert world.tier() is C


def test_a_key_whose_id_the_settings_revoke_is_worth_nothing_before_and_after() -> None:
    world = World(license_revoked=("lic-17",))
    with pytest.raises(LicenseValidationError, match="'lic-17' was revoked"):
        asyncio.run(world.manager.install("acme", key()))
    installed = World()
    asyncio.run(installed.manager.install("acme", key()))
    record = installed.store.current("acme")
    assert record is not None
    world.store.put("acme", record.license, "ann", NOW)

    assert world.tier() is C

    assert world.store.is_revoked("acme", "lic-17"), "starts of runs know it too from now on"
    assert asyncio.run(world.licences.standing("acme")).state is State.REVOKED


def test_a_licence_ends_after_its_grace_and_what_holds_then_is_the_lowest_tier(world: World) -> None:
    asyncio.run(world.manager.install("acme", key(grace_days=10)))

    for day, tier in ((200, P), (209, P), (210, C)):
        world.now, world.ticks = datetime(2026, 6, 15, tzinfo=UTC) + timedelta(days=day), day * 86400.0
        assert world.tier() is tier, day


def test_a_licence_that_an_operator_gives_may_end_on_the_minute(world: World) -> None:
    asyncio.run(world.manager.set_license("acme", E, expires_at=datetime(2026, 6, 16)))  # noqa: DTZ001

    world.now = datetime(2026, 6, 16, tzinfo=UTC)
    assert world.tier() is E
    world.now += timedelta(microseconds=1)
    assert world.tier() is C


def test_a_clock_that_was_set_back_is_noticed_and_gives_no_time_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(world.manager.set_license("acme", E, expires_at=NOW + DAY))
    world.now, world.ticks = NOW + 2 * DAY, 100.0
    assert world.tier() is C
    assert caplog.text == ""

    world.now, world.ticks = NOW, 200.0

    assert world.tier() is C
    assert "the clock is behind 2026-06-17T12:00:00+00:00" in caplog.text
    caplog.clear()
    world.now, world.ticks = NOW + 2 * DAY - CLOCK_TOLERANCE, 300.0
    assert world.tier() is C
    assert caplog.text == "", "clocks differ"


def test_of_the_tier_of_a_tenant_and_its_licence_the_lower_limit_counts(world: World) -> None:
    world.tenants.add(TenantConfig("acme", "Acme", TenantTier.PROFESSIONAL))
    tenants = TenantManager(world.tenants, licensed=world.manager.starts)

    async def most() -> tuple[int | None, bool, bool]:
        found = await world.licences.maximum("acme", "pipelines")
        below, at = (number - 1 if found else 0 for number in (found or 1, (found or 0) + 1))
        both = [await tenants.check_limit("acme", "concurrent_pipelines", number) for number in (below, at)]
        return found, both[0], both[1]

    async def run() -> None:
        assert await most() == (10, True, False), "without a licence the tier alone"
        assert await world.licences.maximum("acme", "teams") is None
        await world.manager.set_license("acme", P)
        assert await most() == (5, True, False)
        assert await world.licences.maximum("acme", "teams") == 10
        await world.manager.set_license("acme", E)
        assert await most() == (10, True, False)
        assert await tenants.check_limit("acme", "runs_per_day", 9_999) is True
        await world.licences.remove("acme")
        assert await most() == (10, True, False)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("limit", "most"),
    [("pipelines", 5), ("agents", 20), ("parallel_agents", 10), ("teams", 10), ("snapshots", 100)],
)
def test_each_limit_refuses_what_is_beyond_it(world: World, limit: str, most: int) -> None:
    async def run() -> None:
        await world.manager.set_license("acme", P)
        await world.manager.require_limit("acme", limit, most - 1)
        with pytest.raises(LicenseLimitExceededError) as raised:
            await world.manager.require_limit("acme", limit, most)
        assert (raised.value.tenant_id, raised.value.current, raised.value.maximum) == ("acme", most, most)
        for number in range(most):
            await world.manager.reserve("acme", limit, f"owner-{number}", 60)
        with pytest.raises(LicenseLimitExceededError, match=f"{most:,} of {most:,}"):
            await world.manager.reserve("acme", limit, "one-more", timedelta(seconds=60))
        assert await world.manager.release("acme", limit, "owner-0") is True
        await world.manager.reserve("acme", limit, "one-more", 60)

    asyncio.run(run())


def test_a_limit_that_there_is_not_is_refused_for_tenants_too(world: World) -> None:
    async def run() -> None:
        for call in (
            world.manager.check_limit("acme", "features", current=1),
            world.manager.require_limit("acme", "moons", 1),
            world.manager.reserve("acme", "moons", "one", 1),
            world.manager.release("acme", "moons", "one"),
        ):
            with pytest.raises(ValueError, match="There is no limit"):
                await call

    asyncio.run(run())


def test_what_another_process_changes_holds_after_the_time_of_the_cache(world: World) -> None:
    asyncio.run(world.manager.set_license("acme", P))
    assert world.tier() is P

    world.store.put("acme", None, "elsewhere", NOW)

    world.ticks = 4.9
    assert world.tier() is P
    world.ticks = 5.0
    assert world.tier() is C


def test_while_the_store_is_away_the_last_known_licence_holds_for_a_while(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(world.manager.set_license("acme", E))
    world.tenants.add(TenantConfig("acme", "Acme", TenantTier.ENTERPRISE))
    assert world.tier() is E
    world.store.down = True

    for ticks, tier in ((10.0, E), (STALE_SECONDS - 0.1, E), (STALE_SECONDS, C)):
        world.ticks = ticks
        assert world.tier() is tier, ticks

    assert "Postgres is away" in caplog.text
    assert asyncio.run(world.licences.maximum("acme", "pipelines")) == 1, "not what the tier alone would allow"
    assert world.tier("never-seen") is C
    world.store.down = False
    assert world.tier() is E


def test_a_feature_comes_with_the_tier_or_the_licence_unless_it_was_disabled() -> None:
    world = World()
    known = world.manager.tenants
    off = {"process_mining"}
    for tenant_id, tier, disabled in (
        ("bought", TenantTier.FREE, set()), ("large", TenantTier.ENTERPRISE, set()),
        ("small", TenantTier.PROFESSIONAL, set()), ("off", TenantTier.ENTERPRISE, off),
    ):  # fmt: skip
        config = TenantConfig(tenant_id, tenant_id, tier, features_disabled=set(disabled))
        asyncio.run(TenantManager(world.tenants, False).create_tenant(config))
    for tenant_id, licence in (("bought", P), ("off", E), ("only", P), ("low", C)):
        asyncio.run(world.manager.set_license(tenant_id, licence))

    names = ("bought", "large", "only", "nobody", "small", "off", "low")
    has = {name: asyncio.run(known.has_feature(name, "process_mining")) for name in names}

    assert has == {**dict.fromkeys(names[:4], True), **dict.fromkeys(names[4:], False)}
    asyncio.run(known.require_feature("bought", "process_mining"))
    with pytest.raises(TenantFeatureDisabledError, match="--enable process_mining"):
        asyncio.run(known.require_feature("small", "process_mining"))


def test_what_counts_for_itself_is_told_what_a_licence_says_and_nothing_without_one() -> None:
    world = World()
    asyncio.run(world.manager.set_license("acme", P))
    most = world.manager.tenants.licensed("parallel_agents")

    assert (most("acme"), most("globex"), most("")) == (10, None, None)
    asyncio.run(world.manager.set_license("acme", E))
    assert most("acme") is None
    with pytest.raises(ValueError, match="There is no limit"):
        world.manager.tenants.licensed("moons")


def test_without_a_licence_of_its_own_that_of_the_process_counts() -> None:
    world = World()
    world.manager.activate(key(tier=P))
    most = world.manager.tenants.licensed("snapshots")

    assert (most("acme"), most("")) == (100, 100)
