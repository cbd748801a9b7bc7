"""Tiers and what they allow: the numbers that were promised, and one list of features."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.licensing import LICENSE_LIMITS, TIER_LIMITS, LicenseLimits, LicenseTier, UnknownLicenseLimitError
from llmteam.licensing.limits import FLAGS, LIMITS, key_features, limit_name, with_own
from llmteam.tenancy.admission import LicensedStarts, StartLimits, effective, under_licence

C, P, E = LicenseTier
BASIC = {"basic", "memory_store", "basic_agents", "sequential_execution"}
PAID = {"process_mining", "postgres_store", "redis_store", "human_interaction", "external_actions"}


def test_tiers_are_text_and_have_an_order_of_their_own() -> None:
    assert [str(tier) for tier in LicenseTier] == ["community", "professional", "enterprise"]
    assert C < P < E
    assert E > P >= C
    assert C <= P
    assert sorted([E, C, P]) == [C, P, E]
    assert [tier.display_name for tier in LicenseTier] == ["Community", "Professional", "Enterprise"]
    assert [tier.is_paid for tier in LicenseTier] == [False, True, True]
    with pytest.raises(TypeError):
        sorted([E, 1])  # type: ignore[list-item]


def test_each_tier_has_the_numbers_that_were_promised() -> None:
    numbers = {tier: tuple(limits.numbers().values()) for tier, limits in LICENSE_LIMITS.items()}

    assert numbers == {C: (1, 5, 2, 2, 10), P: (5, 20, 10, 10, 100), E: (999999,) * 5}
    assert TIER_LIMITS is LICENSE_LIMITS
    assert LicenseLimits().numbers()["max_teams"] == 1, "the defaults are not those of the lowest tier"


def test_each_tier_has_the_features_that_were_promised() -> None:
    assert set(LICENSE_LIMITS[C].features) == BASIC
    assert set(LICENSE_LIMITS[P].features) == BASIC | PAID | {"parallel_execution"}
    assert LICENSE_LIMITS[E].has_feature("whatever it is called")
    assert not LICENSE_LIMITS[P].has_feature("audit_trail")
    assert set(key_features(C)) == {"basic", "memory_store"}
    assert set(key_features(P)) == {"basic", "memory_store"} | PAID
    assert set(key_features(E)) - set(key_features(P)) == {"multi_tenant", "audit_trail", "sso", "priority_support"}


@pytest.mark.parametrize("tier", LicenseTier)
def test_flags_names_and_features_of_keys_agree(tier: LicenseTier) -> None:
    limits = LICENSE_LIMITS[tier]

    for name in FLAGS:
        assert getattr(limits, name) == limits.has_feature(name) == (name in key_features(tier)), name
    assert all(limits.has_feature(name) for name in key_features(tier))


def test_what_a_tier_allows_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        LICENSE_LIMITS[C] = LicenseLimits()  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        LICENSE_LIMITS[C].max_teams = 9  # type: ignore[misc]
    with pytest.raises(AttributeError):
        LICENSE_LIMITS[C].features.add("sso")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("pipelines", "concurrent_pipelines"),
        ("concurrent_pipelines", "concurrent_pipelines"),
        ("max_concurrent_pipelines", "concurrent_pipelines"),
        ("agents", "agents_per_pipeline"),
        ("agents_per_pipeline", "agents_per_pipeline"),
        ("parallel_agents", "parallel_agents"),
        ("teams", "teams"),
        ("max_snapshots", "snapshots"),
    ],
)
def test_a_limit_has_several_names(name: str, limit: str) -> None:
    assert limit_name(name) == limit
    assert LICENSE_LIMITS[E].maximum(name) is None
    assert LICENSE_LIMITS[P].maximum(name) == getattr(LICENSE_LIMITS[P], LIMITS[limit])


@pytest.mark.parametrize("name", ["features", "", "process_mining", "max_", "storage_gb", "numbers"])
def test_a_limit_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there are concurrent_pipelines, agents_per_pipeline") as raised:
        LICENSE_LIMITS[C].maximum(name)

    assert isinstance(raised.value, UnknownLicenseLimitError)


def test_a_licence_has_numbers_and_features_of_its_own() -> None:
    own = with_own(P, {"teams": 3}, frozenset({"audit_trail"}))

    assert (own.max_teams, own.max_snapshots, own.audit_trail, own.multi_tenant) == (3, 100, True, False)
    assert own.has_feature("audit_trail")
    with pytest.raises(ValueError, match="no limit 'moons'"):
        with_own(P, {"moons": 1}, frozenset())


limits = st.none() | st.integers(0, 10)


@given(limits, limits)
def test_of_two_limits_the_lower_one_counts_in_either_order(one: Any, other: Any) -> None:
    both = effective(one, other)

    assert both == effective(other, one)
    assert both in {one, other}
    assert all(limit is None or (both is not None and both <= limit) for limit in (one, other))


@given(limits, limits)
def test_a_licence_limits_starts_and_leaves_all_else_as_it_is(concurrent: Any, agents: Any) -> None:
    own = StartLimits(concurrent=4, per_day=7, agents=3, queues=True, is_active=False)

    both = under_licence(own, LicensedStarts(concurrent, agents), reserved=2)

    assert (both.concurrent, both.agents) == (effective(4, concurrent), effective(3, agents))
    assert (both.per_day, both.queues, both.is_active, both.reserved) == (7, True, False, 2)
    assert under_licence(own, None) == own
