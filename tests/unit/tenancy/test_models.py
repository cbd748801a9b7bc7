"""Tenants' records and limits as values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmteam.ids import InvalidIdentifierError
from llmteam.tenancy import (
    TIER_LIMITS,
    InvalidTenantError,
    TenantConfig,
    TenantTier,
    UnknownLimitError,
    get_tier_limits,
)
from llmteam.tenancy.limits import limit_name, maximum

TABLE = {
    "free": (1, 5, 10, 1.0, 100),
    "starter": (2, 10, 60, 10.0, 1000),
    "professional": (10, 50, 300, 100.0, 10000),
    "enterprise": (999999, 999999, 999999, 999999.0, 999999),
}


@pytest.mark.parametrize("tier", TenantTier)
def test_a_tier_allows_what_its_table_says(tier: TenantTier) -> None:
    limits = get_tier_limits(tier)

    assert tuple(limits.to_dict().values())[:5] == TABLE[tier.value]
    limits.features.clear()
    assert get_tier_limits(tier).features == TIER_LIMITS[tier].features != set()


def test_what_a_tenant_has_of_its_own_comes_before_its_tier_zero_too() -> None:
    limits = TenantConfig("t", "T", max_concurrent_pipelines=5, max_requests_per_minute=0).get_effective_limits()

    assert (limits.max_concurrent_pipelines, limits.max_agents_per_pipeline) == (5, 5)
    assert limits.max_requests_per_minute == 0


def test_a_feature_that_is_disabled_is_off_whatever_else_is_said() -> None:
    free = TenantConfig("t", "T", features_enabled={"x", "y"}, features_disabled={"y", "basic_agents"})
    everything = TenantConfig("t", "T", TenantTier.ENTERPRISE, features_disabled={"persistence"})

    assert free.get_effective_limits().features == {"simple_pipelines", "x"}
    assert everything.get_effective_limits().has_feature("anything")
    assert not everything.get_effective_limits().has_feature("persistence")


@pytest.mark.parametrize(
    ("allowed", "blocked", "action", "may"),
    [
        (set(), set(), "mail", True),
        ({"mail"}, set(), "mail", True),
        ({"mail"}, set(), "call", False),
        ({"mail"}, {"mail"}, "mail", False),
        (set(), {"mail"}, "call", True),
    ],
)
def test_blocked_beats_allowed_and_a_list_of_allowed_is_all_there_is(
    allowed: set[str], blocked: set[str], action: str, may: bool
) -> None:
    assert TenantConfig("t", "T", allowed_actions=allowed, blocked_actions=blocked).is_action_allowed(action) is may


def test_a_record_survives_json_and_reads_naive_times_as_utc() -> None:
    config = TenantConfig(
        "acme",
        "Acme",
        TenantTier.STARTER,
        features_enabled={"b", "a"},
        created_at=datetime(2026, 1, 2, 3),  # noqa: DTZ001
    )

    document = config.to_dict()

    assert TenantConfig.from_dict(document) == config
    assert (document["tier"], document["features_enabled"]) == ("starter", ["a", "b"])
    assert config.created_at == datetime(2026, 1, 2, 3, tzinfo=UTC)
    assert TenantConfig.from_dict({"tenant_id": "t", "name": "T", "tier": "free"}).audit_retention_days == 90


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("tier", "gold"),
        ("max_concurrent_pipelines", -1),
        ("max_agents_per_pipeline", True),
        ("max_requests_per_minute", 1.5),
        ("max_runs_per_day", 2**31),
        ("audit_retention_days", -1),
        ("features_enabled", "text"),
        ("when_full", "wait"),
        ("created_at", "yesterday"),
        ("colour", "blue"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    document = {"tenant_id": "t", "name": "T", "tier": "free", field: value}

    with pytest.raises(InvalidTenantError, match=field) as raised:
        TenantConfig.from_dict(document)

    assert raised.value.field == field


@pytest.mark.parametrize("name", ["tenant_id", "name", "tier"])
def test_what_is_missing_is_named(name: str) -> None:
    document = {"tenant_id": "t", "name": "T", "tier": "free"}
    del document[name]

    with pytest.raises(InvalidTenantError, match=f"{name}: it is missing"):
        TenantConfig.from_dict(document)


@pytest.mark.parametrize("tenant_id", ["", " ", "a b", "a\n", "x" * 256, "-a"])
def test_an_id_that_cannot_be_one_is_refused(tenant_id: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        TenantConfig(tenant_id, "T")


def test_limits_have_names_with_and_without_max_and_no_others() -> None:
    limits = get_tier_limits(TenantTier.FREE)

    assert maximum(limits, "max_storage_gb") == maximum(limits, "storage_gb") == 1.0
    assert limit_name("max_runs_per_day") == "runs_per_day"
    for wrong in ("pipelines", "max_max_storage_gb", ""):
        with pytest.raises(UnknownLimitError):
            limit_name(wrong)
