"""What can go wrong around licences.

::

    LicenseError
    ├── LicenseValidationError      a key is no key, is not signed as it must be, or is not for here
    ├── LicenseExpiredError         a key's last day is over
    ├── FeatureNotLicensedError     what was called needs a higher tier
    ├── LicenseLimitExceededError   one more would be over a limit of the licence
    ├── LicenseConflictError        somebody else changed the tenant's licence meanwhile
    └── UnknownLicenseLimitError    there is no limit of this name

No text of a key is ever part of an error.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from llmteam.errors import LLMTeamError
from llmteam.licensing.limits import LIMITS, LicenseTier

#: Why a key is refused.
Fault = Literal[
    "malformed", "no public key", "wrong key", "altered", "signature", "not yet valid", "other tenant", "revoked"
]


class LicenseError(LLMTeamError):
    """Root of the errors of this package."""

    retryable: bool | None = False


class LicenseValidationError(LicenseError):
    """A licence key grants nothing; ``fault`` says of which kind that is, ``reason`` precisely why."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(f"licence key refused ({fault}): {reason}")
        self.fault = fault
        self.reason = reason


class LicenseExpiredError(LicenseError):
    """A licence key's last day is over."""

    def __init__(self, license_id: str, expired_at: datetime) -> None:
        super().__init__(
            f"licence '{license_id}' expired on {expired_at:%Y-%m-%d}, at the end of that day in UTC: ask for another"
        )
        self.license_id = license_id
        self.expired_at = expired_at


class FeatureNotLicensedError(LicenseError):
    """What was called needs a higher tier than the one that holds."""

    def __init__(self, feature: str, required_tier: LicenseTier) -> None:
        tier = LicenseTier(required_tier)
        super().__init__(f"'{feature}' needs the licence tier {tier.value}: `llmteam license show` tells what holds")
        self.feature = feature
        self.required_tier = tier


class LicenseLimitExceededError(LicenseError):
    """One more would be over a limit of the licence."""

    retryable = None

    def __init__(self, tenant_id: str, limit: str, current: int, maximum: int) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' is at its limit of {limit}: {current:,} of {maximum:,}; wait until there is room, "
            "or install a licence that allows more"
        )
        self.tenant_id = tenant_id
        self.limit = limit
        self.current = current
        self.maximum = maximum


class LicenseConflictError(LicenseError):
    """The tenant's licence is not the one that was read: read it again and repeat the change."""

    def __init__(self, tenant_id: str, version: int) -> None:
        super().__init__(
            f"The licence of tenant '{tenant_id}' was changed by somebody else since its version {version} was read: "
            "read it again and repeat the change"
        )
        self.tenant_id = tenant_id
        self.version = version


class UnknownLicenseLimitError(LicenseError, ValueError):
    """There is no limit of this name."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"There is no limit {str(limit)[:80]!r}; there are {', '.join(LIMITS)}")
        self.limit = limit
