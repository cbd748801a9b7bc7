"""What each tier allows, and what of it holds for one tenant. Pure.

Limits are compared as ordinary numbers. For a start, :data:`UNCOUNTED` and more mean that nothing is counted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from llmteam.tenancy.exceptions import UnknownLimitError

#: The feature that stands for all of them.
EVERY_FEATURE = "*"
#: What stands for "as many as you like" in the table of tiers.
UNCOUNTED = 999_999


class TenantTier(Enum):
    """What a tenant has bought. The value is what is stored."""

    FREE = "free"
    STARTER = "starter"
    PROFESSIONAL = "professional"
    ENTERPRISE = "enterprise"


@dataclass
class TenantLimits:
    """What a tenant may use. ``features_disabled`` are off also where :data:`EVERY_FEATURE` is on."""

    max_concurrent_pipelines: int
    max_agents_per_pipeline: int
    max_requests_per_minute: int
    max_storage_gb: float
    max_runs_per_day: int
    features: set[str]
    features_disabled: frozenset[str] = field(default=frozenset(), repr=False)

    def has_feature(self, feature: str) -> bool:
        """Whether the feature is on."""
        on = feature in self.features or EVERY_FEATURE in self.features
        return on and feature not in self.features_disabled and EVERY_FEATURE not in self.features_disabled

    def to_dict(self) -> dict[str, Any]:
        """The limits by name, the features as a sorted list."""
        named = {name: getattr(self, name) for name in LIMITS.values()}
        return {**named, "features": sorted(self.features)}


#: Bytes of what limits call a GB.
GB = 1_000_000_000


def gigabytes(stored: int) -> float:
    """Bytes in GB."""
    return stored / GB


#: The field of :class:`TenantLimits` by the name of its limit.
LIMITS = {
    name: f"max_{name}"
    for name in (
        "concurrent_pipelines",
        "agents_per_pipeline",
        "requests_per_minute",
        "storage_gb",
        "runs_per_day",
    )
}

_BASIC = frozenset({"basic_agents", "simple_pipelines"})
_STARTER = _BASIC | {"parallel_execution"}
_PROFESSIONAL = _STARTER | {"external_actions", "human_interaction", "persistence"}

TIER_LIMITS: dict[TenantTier, TenantLimits] = {
    TenantTier.FREE: TenantLimits(1, 5, 10, 1.0, 100, set(_BASIC)),
    TenantTier.STARTER: TenantLimits(2, 10, 60, 10.0, 1_000, set(_STARTER)),
    TenantTier.PROFESSIONAL: TenantLimits(10, 50, 300, 100.0, 10_000, set(_PROFESSIONAL)),
    TenantTier.ENTERPRISE: TenantLimits(UNCOUNTED, UNCOUNTED, UNCOUNTED, float(UNCOUNTED), UNCOUNTED, {EVERY_FEATURE}),
}


def get_tier_limits(tier: TenantTier) -> TenantLimits:
    """What the tier allows; a copy, which may be changed."""
    return with_overrides(tier, {}, (), ())


def with_overrides(
    tier: TenantTier, overrides: dict[str, Any], enabled: Collection[str], disabled: Collection[str]
) -> TenantLimits:
    """The tier's limits with those of ``overrides`` that are not None in their place; disabling a feature wins."""
    base = TIER_LIMITS[tier]
    given = {name: value for name, value in overrides.items() if value is not None}
    values: dict[str, Any] = {name: getattr(base, name) for name in LIMITS.values()} | given
    features = (base.features | set(enabled)) - set(disabled)
    return TenantLimits(**values, features=features, features_disabled=frozenset(disabled))


def limit_name(limit_type: str) -> str:
    """The name of a limit that was given with or without ``max_``. Raises :class:`UnknownLimitError`."""
    name = limit_type.removeprefix("max_")
    if name not in LIMITS:
        raise UnknownLimitError(limit_type)
    return name


def maximum(limits: TenantLimits, limit_type: str) -> float:
    """The value of a limit by its name. Raises :class:`UnknownLimitError`."""
    value: float = getattr(limits, LIMITS[limit_name(limit_type)])
    return value
