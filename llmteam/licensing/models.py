"""Licences as values, and the one place that says what of a licence holds at a moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from llmteam.ids import as_utc, utc_now
from llmteam.licensing.limits import LICENSE_LIMITS, LicenseLimits, LicenseTier, key_features, with_own
from llmteam.tenancy.admission import LicensedStarts

#: When a licence expires that does not.
NEVER = datetime.max.replace(tzinfo=UTC)
#: Days for which a licence goes on to hold after its last one, unless its key says otherwise.
GRACE_DAYS = 14
#: How far a clock may be behind the latest time seen before that is called set back.
CLOCK_TOLERANCE = timedelta(minutes=5)

#: After how long it is written down again that somebody looked at a tenant's licence.
SEEN_EVERY = timedelta(hours=1)


def end_of(day: date) -> datetime:
    """The last moment of a day, in UTC."""
    return datetime.combine(day, time.max, UTC)


@dataclass
class License:
    """What somebody has bought, and until when; ``expires_at`` is the last moment. Naive times are read as UTC.

    ``limits`` are numbers of the licence's own by the name of the limit, ``features`` come on top of those of the tier.
    ``tenant_id`` None is for any tenant. ``license_id`` is empty where an operator gave the licence without a key;
    ``signer`` is the id of the key that signed it.
    """

    key: str = field(repr=False)
    tier: LicenseTier
    owner: str
    owner_email: str
    expires_at: datetime
    issued_at: datetime
    features: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    license_id: str = ""
    tenant_id: str | None = None
    starts_at: datetime | None = None
    grace_days: int = GRACE_DAYS
    signer: str = ""

    def __post_init__(self) -> None:
        self.tier = LicenseTier(self.tier)
        self.expires_at, self.issued_at = as_utc(self.expires_at), as_utc(self.issued_at)
        if self.starts_at is not None:
            self.starts_at = as_utc(self.starts_at)
        with_own(self.tier, self.limits, frozenset(self.features))

    @property
    def grace_until(self) -> datetime:
        """The last moment at which it holds."""
        return self.expires_at if self.expires_at == NEVER else self.expires_at + timedelta(days=self.grace_days)

    @property
    def allowed(self) -> LicenseLimits:
        """What it allows while it holds: its tier's limits with its own in their place."""
        return with_own(self.tier, self.limits, frozenset(self.features))

    @property
    def is_expired(self) -> bool:
        """Whether its last day is over now; during its days of grace it holds all the same."""
        return utc_now() > self.expires_at

    @property
    def days_remaining(self) -> int:
        """Whole days that are left now, never below 0."""
        return self.days_left(utc_now())

    def days_left(self, now: datetime) -> int:
        """Whole days that are left, never below 0."""
        return max((self.expires_at - now).days, 0)

    def to_dict(self) -> dict[str, Any]:
        """The licence as JSON can carry it, with its key masked."""
        return {
            "key": f"{self.key[:10]}..." if self.key else "",
            "tier": self.tier.value,
            "owner": self.owner,
            "expires_at": self.expires_at.isoformat(),
            "days_remaining": self.days_remaining,
            "features": list(self.features),
        }

    def document(self) -> dict[str, Any]:
        """All of it but its key, as it is kept and audited."""
        return {
            "tier": self.tier.value,
            "owner": self.owner,
            "owner_email": self.owner_email,
            "expires_at": None if self.expires_at == NEVER else self.expires_at.isoformat(),
            "issued_at": self.issued_at.isoformat(),
            "features": list(self.features),
            "limits": dict(self.limits),
            "license_id": self.license_id,
            "tenant_id": self.tenant_id,
            "starts_at": None if self.starts_at is None else self.starts_at.isoformat(),
            "grace_days": self.grace_days,
            "signer": self.signer,
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> License:
        """Read :meth:`document`'s form; the key is not there."""
        moments: dict[str, Any] = {
            name: None if document[name] is None else datetime.fromisoformat(document[name])
            for name in ("expires_at", "issued_at", "starts_at")
        }
        moments["expires_at"] = moments["expires_at"] or NEVER
        return cls("", **{**document, **moments})

    @classmethod
    def of_operator(cls, tier: LicenseTier, now: datetime, expires_at: datetime | None = None) -> License:
        """A licence that an operator gives without a key; it has no grace, as its end is the operator's own."""
        found = LicenseTier(tier)
        return cls("", found, "", "", expires_at or NEVER, now, key_features(found), grace_days=0)


class State(StrEnum):
    """How a licence stands at a moment."""

    NONE = "none"
    VALID = "valid"
    #: Its last day is over, and it holds for some days more.
    GRACE = "grace"
    EXPIRED = "expired"
    REVOKED = "revoked"
    #: It cannot be read, and nothing recent is known.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds: for everything that asks about a licence, so that no two answers disagree."""

    state: State
    tier: LicenseTier
    limits: LicenseLimits
    license: License | None = None

    @property
    def starts(self) -> LicensedStarts | None:
        """What of it counts when a run starts; None without a licence, of which nothing counts."""
        return None if self.state is State.NONE else starts_of(self.limits)


def standing(license_: License | None, now: datetime, *, revoked: bool = False) -> Standing:
    """What holds of a licence; one that is over or revoked is worth the lowest tier, as none is."""
    if license_ is None:
        return _lowest(State.NONE, None)
    if revoked:
        return _lowest(State.REVOKED, license_)
    if now > license_.grace_until:
        return _lowest(State.EXPIRED, license_)
    state = State.GRACE if now > license_.expires_at else State.VALID
    return Standing(state, license_.tier, license_.allowed, license_)


def starts_of(limits: LicenseLimits) -> LicensedStarts:
    """What of a licence's limits counts when a run starts."""
    return LicensedStarts(limits.maximum("concurrent_pipelines"), limits.maximum("agents_per_pipeline"))


def _lowest(state: State, license_: License | None) -> Standing:
    return Standing(state, LicenseTier.COMMUNITY, LICENSE_LIMITS[LicenseTier.COMMUNITY], license_)


def of_tier(tier: LicenseTier) -> Standing:
    """What a tier allows, without a licence."""
    return Standing(State.NONE, tier, LICENSE_LIMITS[tier])


@dataclass(frozen=True, slots=True)
class LicenseRecord:
    """A licence as it holds, or held, for a tenant. ``version`` counts a tenant's changes; ``valid_to`` None is now.

    ``seen_at`` is the latest time at which anybody looked: a clock that is behind it was set back.
    """

    tenant_id: str
    version: int
    license: License
    valid_from: datetime
    set_by: str
    seen_at: datetime
    valid_to: datetime | None = None
    revoked: bool = False

    def standing(self, now: datetime, revoked: frozenset[str] = frozenset()) -> Standing:
        """What holds of it; a clock that was set back gives no time back. ``revoked`` are ids besides those stored."""
        lost = self.revoked or self.license.license_id in revoked
        return standing(self.license, max(now, self.seen_at), revoked=lost)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON can carry it, without a key."""
        return {
            "tenant_id": self.tenant_id,
            "version": self.version,
            "license": self.license.document(),
            "valid_from": self.valid_from.isoformat(),
            "valid_to": None if self.valid_to is None else self.valid_to.isoformat(),
            "set_by": self.set_by,
            "revoked": self.revoked,
        }


def is_set_back(now: datetime, seen_at: datetime) -> bool:
    """Whether a clock is behind the latest time seen by more than clocks differ."""
    return now < seen_at - CLOCK_TOLERANCE
