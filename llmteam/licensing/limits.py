"""Tiers, and what each of them allows. Pure.

Every feature stands once in :data:`_FEATURES`; flags, names and the features of a key are derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from llmteam.tenancy.limits import EVERY_FEATURE, UNCOUNTED


class LicenseTier(StrEnum):
    """What a licence is for, in this order. The value is what is stored."""

    COMMUNITY = "community"
    PROFESSIONAL = "professional"
    ENTERPRISE = "enterprise"

    @property
    def display_name(self) -> str:
        """As people read it."""
        return self.value.capitalize()

    @property
    def is_paid(self) -> bool:
        """Whether it takes a licence to have it."""
        return self is not LicenseTier.COMMUNITY

    @property
    def rank(self) -> int:
        """Its place in the order of tiers."""
        return tuple(LicenseTier).index(self)

    # Text would compare by its letters.
    def __lt__(self, other: object) -> bool:
        return self.rank < other.rank if isinstance(other, LicenseTier) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self.rank <= other.rank if isinstance(other, LicenseTier) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self.rank > other.rank if isinstance(other, LicenseTier) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self.rank >= other.rank if isinstance(other, LicenseTier) else NotImplemented


#: The field of :class:`LicenseLimits` by the name of its limit.
LIMITS: Mapping[str, str] = MappingProxyType(
    {
        name: f"max_{name}"
        for name in ("concurrent_pipelines", "agents_per_pipeline", "parallel_agents", "teams", "snapshots")
    }
)
#: Other names of limits.
_ALIASES = {"pipelines": "concurrent_pipelines", "agents": "agents_per_pipeline"}

_C, _P, _E = LicenseTier
#: Every feature: its name, the tier from which on it is there, and whether a key lists it.
_FEATURES: tuple[tuple[str, LicenseTier, bool], ...] = (
    ("basic", _C, True),
    ("memory_store", _C, True),
    ("basic_agents", _C, False),
    ("sequential_execution", _C, False),
    ("parallel_execution", _P, False),
    ("process_mining", _P, True),
    ("postgres_store", _P, True),
    ("redis_store", _P, True),
    ("human_interaction", _P, True),
    ("external_actions", _P, True),
    ("multi_tenant", _E, True),
    ("audit_trail", _E, True),
    ("sso", _E, True),
    ("priority_support", _E, True),
)
#: Features that are fields of :class:`LicenseLimits` too.
FLAGS = (
    "process_mining",
    "audit_trail",
    "multi_tenant",
    "postgres_store",
    "redis_store",
    "human_interaction",
    "external_actions",
)


@dataclass(frozen=True)
class LicenseLimits:
    """What a licence allows. A number of :data:`UNCOUNTED` and more stands for as many as you like."""

    max_concurrent_pipelines: int = 1
    max_agents_per_pipeline: int = 5
    max_parallel_agents: int = 2
    max_teams: int = 1
    max_snapshots: int = 10
    process_mining: bool = False
    audit_trail: bool = False
    multi_tenant: bool = False
    postgres_store: bool = False
    redis_store: bool = False
    human_interaction: bool = False
    external_actions: bool = False
    features: frozenset[str] = frozenset()

    def maximum(self, limit: str) -> int | None:
        """The number of a limit by its name, None when nothing is counted. Raises ``ValueError``."""
        value: int = getattr(self, LIMITS[limit_name(limit)])
        return None if value >= UNCOUNTED else value

    def has_feature(self, feature: str) -> bool:
        """Whether the feature is there."""
        return feature in self.features or EVERY_FEATURE in self.features

    def numbers(self) -> dict[str, int]:
        """The numbers by the names of their fields, as they are shown."""
        return {name: getattr(self, name) for name in LIMITS.values()}


def limit_name(limit: str) -> str:
    """The name of a limit that was given with or without ``max_``, or by another name.

    Raises :class:`UnknownLicenseLimitError` (also a ``ValueError``).
    """
    name = str(limit).removeprefix("max_")
    name = _ALIASES.get(name, name)
    if name not in LIMITS:
        from llmteam.licensing.exceptions import UnknownLicenseLimitError

        raise UnknownLicenseLimitError(limit)
    return name


def features_of(tier: LicenseTier) -> frozenset[str]:
    """The names of features that a tier has; the highest has any."""
    named = frozenset(name for name, since, _ in _FEATURES if since <= tier)
    return named | {EVERY_FEATURE} if tier is LicenseTier.ENTERPRISE else named


def key_features(tier: LicenseTier) -> list[str]:
    """The features that a licence of this tier lists."""
    return [name for name, since, listed in _FEATURES if listed and since <= tier]


def _limits(tier: LicenseTier, numbers: tuple[int, int, int, int, int]) -> LicenseLimits:
    features = features_of(tier)
    flags: dict[str, Any] = {name: name in features for name in FLAGS}
    return LicenseLimits(*numbers, **flags, features=features)


LICENSE_LIMITS: Mapping[LicenseTier, LicenseLimits] = MappingProxyType(
    {
        _C: _limits(_C, (1, 5, 2, 2, 10)),
        _P: _limits(_P, (5, 20, 10, 10, 100)),
        _E: _limits(_E, (UNCOUNTED,) * 5),
    }
)
TIER_LIMITS = LICENSE_LIMITS


def with_own(tier: LicenseTier, numbers: Mapping[str, int], features: frozenset[str]) -> LicenseLimits:
    """A tier's limits, with a licence's own numbers in their place and its own features added.

    ``numbers`` are by the names of fields. Raises :class:`UnknownLicenseLimitError` for any other.
    """
    base = LICENSE_LIMITS[tier]
    own = {LIMITS[limit_name(name)]: value for name, value in numbers.items()}
    added = base.features | features
    flags = {name: getattr(base, name) or name in features for name in FLAGS}
    values: dict[str, Any] = {**base.numbers(), **own, **flags, "features": added}
    return LicenseLimits(**values)
