"""The manager of tenants: its cache, its checks and its contexts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmteam.audit import AuditQuery, MemoryAuditStore, TenantAwareAuditTrail
from llmteam.tenancy import (
    TenantConfig,
    TenantContextError,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantManager,
    TenantNotFoundError,
    TenantTier,
    UnknownLimitError,
    current_tenant,
)
from llmteam.tenancy.stores import MemoryTenantStore


class Foreign:
    """Somebody else's store, which can only be awaited."""

    def __init__(self, inner: MemoryTenantStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name in {"get", "create", "update", "delete", "list"}:
            return getattr(self._inner, name)
        raise AttributeError(name)


def managed(*configs: TenantConfig, **how: Any) -> TenantManager:
    manager = TenantManager(MemoryTenantStore(), **how)
    for config in configs:
        asyncio.run(manager.create_tenant(config))
    return manager


def test_a_change_elsewhere_holds_when_the_record_has_been_remembered_long_enough() -> None:
    now = 0.0
    manager = managed(TenantConfig("acme", "Acme"), monotonic=lambda: now)
    other = TenantManager(manager.store)
    asyncio.run(other.update_tenant(TenantConfig("acme", "Renamed")))

    before = asyncio.run(manager.get_tenant("acme")).name
    now = 5.0
    after = asyncio.run(manager.get_tenant("acme")).name

    assert (before, after) == ("Acme", "Renamed")


@pytest.mark.parametrize("forget", ["one", "all", "off"])
def test_what_is_forgotten_is_read_again(forget: str) -> None:
    manager = managed(TenantConfig("acme", "Acme"), cache_enabled=forget != "off")
    manager.preload_cache([TenantConfig("acme", "Preloaded")])
    if forget != "off":
        assert asyncio.run(manager.get_tenant("acme")).name == "Preloaded"
        manager.invalidate_cache("acme" if forget == "one" else None)

    assert asyncio.run(manager.get_tenant("acme")).name == "Acme"


def test_changing_what_was_given_changes_nothing_without_an_update() -> None:
    manager = managed(TenantConfig("acme", "Acme"))

    asyncio.run(manager.get_tenant("acme")).features_enabled.add("x")

    assert asyncio.run(manager.get_tenant("acme")).features_enabled == set()


@pytest.mark.parametrize(("current", "may"), [(0, True), (1, False), (2, False)])
def test_a_limit_says_whether_one_more_is_allowed(current: int, may: bool) -> None:
    manager = managed(TenantConfig("acme", "Acme"))

    assert asyncio.run(manager.check_limit("acme", "concurrent_pipelines", current)) is may
    if may:
        asyncio.run(manager.enforce_limit("acme", "max_concurrent_pipelines", current))
        return
    with pytest.raises(TenantLimitExceededError) as raised:
        asyncio.run(manager.enforce_limit("acme", "max_concurrent_pipelines", current))
    error = raised.value
    assert (error.tenant_id, error.limit_type, error.current, error.maximum) == (
        *("acme", "concurrent_pipelines"),
        *(current, 1),
    )


def test_a_limit_that_does_not_exist_is_an_error_not_a_yes() -> None:
    with pytest.raises(UnknownLimitError):
        asyncio.run(managed(TenantConfig("acme", "Acme")).check_limit("acme", "pipelnes", 0))


def test_a_feature_is_required() -> None:
    manager = managed(TenantConfig("acme", "Acme"))

    asyncio.run(manager.require_feature("acme", "basic_agents"))
    with pytest.raises(TenantFeatureDisabledError, match="persistence") as raised:
        asyncio.run(manager.require_feature("acme", "persistence"))

    assert (raised.value.tenant_id, raised.value.feature) == ("acme", "persistence")


# -- contexts


async def enter(manager: TenantManager, tenant_id: str, how: str) -> str:
    if how == "with":
        with manager.context(tenant_id):
            return current_tenant.get()
    async with manager.context(tenant_id):
        return current_tenant.get()


@pytest.mark.parametrize("how", ["with", "async with"])
def test_a_context_makes_a_tenant_current_that_exists_and_is_active(how: str) -> None:
    manager = managed(TenantConfig("acme", "Acme"), TenantConfig("idle", "Idle", is_active=False))
    manager.invalidate_cache()

    assert asyncio.run(enter(manager, "acme", how)) == "acme"
    with pytest.raises(TenantNotFoundError):
        asyncio.run(enter(manager, "ghost", how))
    with pytest.raises(TenantInactiveError, match="idle"):
        asyncio.run(enter(manager, "idle", how))
    assert current_tenant.get() == ""


def test_a_context_of_no_tenant_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="tenant_id"):
        managed().context("")


def test_a_store_that_must_be_awaited_is_not_asked_without() -> None:
    inner = MemoryTenantStore()
    manager = TenantManager(Foreign(inner))
    asyncio.run(inner.create(TenantConfig("acme", "Acme", TenantTier.FREE)))

    with pytest.raises(TenantContextError, match="async with"), manager.context("acme"):
        pass
    assert asyncio.run(enter(manager, "acme", "async with")) == "acme"
    assert asyncio.run(enter(manager, "acme", "with")) == "acme", "it is in the cache now"


def test_changes_are_written_down_in_the_trail_of_their_tenant() -> None:
    audit = MemoryAuditStore()
    manager = TenantManager(MemoryTenantStore(), log=TenantAwareAuditTrail(audit), actor_id="root")

    async def run() -> None:
        created = await manager.create_tenant(TenantConfig("acme", "Acme"))
        created.name = "Renamed"
        await manager.update_tenant(created)
        await manager.delete_tenant("acme")
        told = await audit.query(AuditQuery(tenant_id="acme", order_desc=False))
        assert [(one.event_type.value, one.actor_id) for one in told] == [
            ("config.tenant_created", "root"),
            ("config.tenant_updated", "root"),
            ("config.tenant_deleted", "root"),
        ]
        changed = told[1]
        assert changed.old_value is not None
        assert changed.new_value is not None
        assert (changed.old_value["name"], changed.new_value["name"]) == ("Acme", "Renamed")

    asyncio.run(run())
