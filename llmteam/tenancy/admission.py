"""Whether one more run may start: from a tenant's limits and what it has, to a refusal or none. Pure.

The database decides by the same rules in ``llmteam.admit_start``; one suite of tests runs against both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from llmteam.regions import DEFAULT_REGION
from llmteam.tenancy.exceptions import (
    TenantError,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
)
from llmteam.tenancy.limits import EVERY_FEATURE, GB, UNCOUNTED, TenantTier, get_tier_limits, gigabytes
from llmteam.tenancy.models import TenantConfig

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class StartLimits:
    """What is looked at when a run starts; None is not counted. ``queues``: one too many waits for its turn.

    ``features`` is None where none is looked at. ``storage`` is in bytes.
    """

    concurrent: int | None = None
    per_day: int | None = None
    per_minute: int | None = None
    agents: int | None = None
    queues: bool = False
    is_active: bool = True
    is_deleted: bool = False
    features: frozenset[str] | None = None
    features_off: frozenset[str] = frozenset()
    storage: int | None = None
    region: str = DEFAULT_REGION
    #: Places among the concurrent ones that are reserved for runs to come.
    reserved: int = 0

    @property
    def counts(self) -> bool:
        """Whether anything of the tenant has to be counted."""
        return (self.concurrent, self.per_day, self.per_minute) != (None, None, None)

    def has_feature(self, feature: str) -> bool:
        """Whether the feature is on, or none is looked at."""
        names = {feature, EVERY_FEATURE}
        return self.features is None or bool(names & self.features and not names & self.features_off)


@dataclass(frozen=True, slots=True)
class StartCounts:
    """What a tenant has: open runs that were admitted, those that wait for it, starts of this UTC day and minute, and
    the bytes that it stores, as they were last metered.
    """

    open: int = 0
    queued: int = 0
    today: int = 0
    last_minute: int = 0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class LicensedStarts:
    """What a tenant's licence says about its starts; None is not counted."""

    concurrent: int | None = None
    agents: int | None = None


def effective(own: _Number | None, licensed: _Number | None) -> _Number | None:
    """A limit where the tenant's tier says one thing and its licence another: the lower one; None is not counted."""
    counted = [limit for limit in (own, licensed) if limit is not None]
    return min(counted) if counted else None


def under_licence(limits: StartLimits, licence: LicensedStarts | None, reserved: int = 0) -> StartLimits:
    """What holds for the starts of a tenant with a licence, and places reserved; without one its tier alone decides."""
    cap = licence or LicensedStarts()
    return replace(
        limits,
        concurrent=effective(limits.concurrent, cap.concurrent),
        agents=effective(limits.agents, cap.agents),
        reserved=reserved,
    )


def limits_of(config: TenantConfig) -> StartLimits:
    """What holds for the starts of a tenant."""
    limits = config.get_effective_limits()
    return StartLimits(
        concurrent=_counted(limits.max_concurrent_pipelines),
        per_day=_counted(limits.max_runs_per_day),
        per_minute=_counted(limits.max_requests_per_minute),
        agents=_counted(limits.max_agents_per_pipeline),
        queues=config.when_full == "queue",
        is_active=config.is_active,
        features=frozenset(limits.features),
        features_off=limits.features_disabled,
        storage=None if limits.max_storage_gb >= UNCOUNTED else int(limits.max_storage_gb * GB),
        region=config.data_region,
    )


def limits_of_tier(tier: TenantTier) -> StartLimits:
    """What holds for the starts of tenants without a record when ``tier`` is theirs."""
    limits = get_tier_limits(tier)
    return StartLimits(
        concurrent=_counted(limits.max_concurrent_pipelines),
        per_day=_counted(limits.max_runs_per_day),
        per_minute=_counted(limits.max_requests_per_minute),
        agents=_counted(limits.max_agents_per_pipeline),
    )


def _counted(limit: int) -> int | None:
    return None if limit >= UNCOUNTED else limit


def standing(tenant_id: str, limits: StartLimits) -> TenantError | None:
    """Why nothing may be begun for the tenant, whatever it is, or None."""
    if limits.is_deleted:
        return TenantNotFoundError(tenant_id)
    return None if limits.is_active else TenantInactiveError(tenant_id)


def refusal(
    tenant_id: str, limits: StartLimits, counts: StartCounts, agents: int, features: Sequence[str] = ()
) -> TenantError | None:
    """Why a run of so many agents that needs ``features`` may not be started, or None.

    Whether it may begin at once is :func:`wait`'s.
    """
    refused = standing(tenant_id, limits)
    if refused is not None:
        return refused
    missing = next((feature for feature in features if not limits.has_feature(feature)), None)
    if missing is not None:
        return TenantFeatureDisabledError(tenant_id, missing)
    if limits.agents is not None and agents > limits.agents:
        return TenantLimitExceededError(tenant_id, "agents_per_pipeline", agents, limits.agents)
    if limits.storage is not None and counts.stored >= limits.storage:
        return TenantLimitExceededError(tenant_id, "storage_gb", gigabytes(counts.stored), gigabytes(limits.storage))
    for name, current, most in (
        ("requests_per_minute", counts.last_minute, limits.per_minute),
        ("runs_per_day", counts.today, limits.per_day),
    ):
        if most is not None and current >= most:
            return TenantLimitExceededError(tenant_id, name, current, most)
    return None


def wait(
    tenant_id: str, limits: StartLimits, counts: StartCounts, *, behind_queue: bool
) -> TenantLimitExceededError | None:
    """Why a run may not begin now, or None. With ``behind_queue`` it may not overtake those that wait."""
    most, taken = limits.concurrent, counts.open + limits.reserved
    if most is None or (taken < most and not (behind_queue and counts.queued)):
        return None
    return TenantLimitExceededError(tenant_id, "concurrent_pipelines", taken, most, limits.queues)
