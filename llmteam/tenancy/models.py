"""A tenant's record as a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal, Self, get_args

from llmteam import codec
from llmteam.ids import as_utc, check_identifier, utc_now
from llmteam.regions import DEFAULT_REGION, check_region
from llmteam.tenancy.exceptions import InvalidTenantError
from llmteam.tenancy.limits import TenantLimits, TenantTier, with_overrides

__all__ = ["DEFAULT_REGION", "WHEN_FULL", "TenantConfig", "TenantLimits", "TenantTier", "WhenFull"]

#: The most that a limit can be: what an integer of the database holds.
MAX_LIMIT = 2_147_483_647

WhenFull = Literal["refuse", "queue"]
WHEN_FULL: tuple[WhenFull, ...] = get_args(WhenFull)

_OVERRIDES = (
    "max_concurrent_pipelines",
    "max_agents_per_pipeline",
    "max_requests_per_minute",
    "max_runs_per_day",
)
_SETS = ("features_enabled", "features_disabled", "allowed_actions", "blocked_actions")
_MOMENTS = ("created_at", "updated_at")


@dataclass
class TenantConfig:
    """A tenant: what it may use and where its data is worked on.

    Steps run in ``data_region``: on workers whose ``LLMTEAM_REGION`` it is. Limits that are None are those of the tier;
    0 allows none. ``when_full`` says what becomes of a start that is one too many at the same time: it is refused, or
    waits for its turn. Audit records are removed once they are older than ``audit_retention_days``, never when that is
    0 or during a ``legal_hold``. ``version`` counts the changes of the stored record: an update of another version than
    the stored one is refused, unless it is 0.

    Raises:
        InvalidIdentifierError: ``tenant_id`` is no usable id, or ``data_region`` no usable region (also a
            ``ValueError``).
        InvalidTenantError: another value cannot be used (also a ``ValueError``).
    """

    tenant_id: str
    name: str
    tier: TenantTier = TenantTier.FREE
    max_concurrent_pipelines: int | None = None
    max_agents_per_pipeline: int | None = None
    max_requests_per_minute: int | None = None
    features_enabled: set[str] = field(default_factory=set)
    features_disabled: set[str] = field(default_factory=set)
    allowed_actions: set[str] = field(default_factory=set)
    blocked_actions: set[str] = field(default_factory=set)
    data_region: str = DEFAULT_REGION
    encryption_key_id: str = ""
    audit_retention_days: int = 90
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)
    updated_at: datetime = field(default_factory=utc_now)
    is_active: bool = True
    max_runs_per_day: int | None = None
    when_full: WhenFull = "refuse"
    legal_hold: bool = False
    version: int = 0
    max_storage_gb: float | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Look at all values again, after some were set. Raises what the constructor raises."""
        check_identifier("tenant_id", self.tenant_id)
        check_region("data_region", self.data_region)
        if not isinstance(self.name, str) or not self.name.strip() or len(self.name) > 255:
            raise InvalidTenantError("name", "it must be 1 to 255 characters")
        codec.check(self.name, "name")
        self.tier = _tier(self.tier)
        if self.when_full not in WHEN_FULL:
            raise InvalidTenantError("when_full", f"it must be one of {', '.join(WHEN_FULL)}")
        for name in _OVERRIDES:
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 0 <= value <= MAX_LIMIT):
                raise InvalidTenantError(name, f"it must be a whole number from 0 to {MAX_LIMIT:,}, or None")
        stored = self.max_storage_gb
        if stored is not None and not (type(stored) in (int, float) and 0 <= stored <= MAX_LIMIT):
            raise InvalidTenantError("max_storage_gb", f"it must be a number from 0 to {MAX_LIMIT:,}, or None")
        if type(self.audit_retention_days) is not int or self.audit_retention_days < 0:
            raise InvalidTenantError("audit_retention_days", "it must be a whole number of days, not negative")
        if type(self.legal_hold) is not bool:
            raise InvalidTenantError("legal_hold", "it must be true or false")
        for name in _SETS:
            setattr(self, name, _texts(name, getattr(self, name)))
        for name in _MOMENTS:
            setattr(self, name, as_utc(getattr(self, name)))

    def get_effective_limits(self) -> TenantLimits:
        """The tier's limits, with what this tenant has of its own in their place."""
        overrides = {name: getattr(self, name) for name in (*_OVERRIDES, "max_storage_gb")}
        return with_overrides(self.tier, overrides, self.features_enabled, self.features_disabled)

    def is_action_allowed(self, action_name: str) -> bool:
        """Whether the action may be taken: blocked ones never, and only allowed ones where there is such a list."""
        if action_name in self.blocked_actions:
            return False
        return not self.allowed_actions or action_name in self.allowed_actions

    def copy(self, **changes: Any) -> Self:
        """A copy that shares nothing with this one, with some values changed."""
        sets: dict[str, Any] = {name: set(getattr(self, name)) for name in _SETS}
        document = codec.loads(codec.dumps(self.metadata, path="metadata"))
        return replace(self, **{**sets, "metadata": document, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON can carry it."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **plain,
            "tier": self.tier.value,
            **{name: sorted(getattr(self, name)) for name in _SETS},
            "metadata": dict(self.metadata),
            **{name: getattr(self, name).isoformat() for name in _MOMENTS},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form; ``tenant_id``, ``name`` and ``tier`` are required, other names are refused.

        Raises what the constructor raises.
        """
        known = {item.name for item in fields(cls)}
        for name in ("tenant_id", "name", "tier"):
            if name not in data:
                raise InvalidTenantError(name, "it is missing")
        for name in data:
            if name not in known:
                raise InvalidTenantError(str(name)[:80], "a tenant has no such field")
        given = dict(data)
        for name in _MOMENTS:
            if isinstance(given.get(name), str):
                given[name] = _moment(name, given[name])
        return cls(**given)


def _tier(value: object) -> TenantTier:
    try:
        return TenantTier(value)
    except ValueError:
        known = ", ".join(tier.value for tier in TenantTier)
        raise InvalidTenantError("tier", f"it must be one of {known}") from None


def _texts(name: str, value: object) -> set[str]:
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(one, str) for one in value):
        raise InvalidTenantError(name, "it must be a set of names")
    return set(value)


def _moment(name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidTenantError(name, "it must be a moment in ISO 8601") from None
