"""Licences: tiers and limits, signed keys that are checked without a server, and what holds for each tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.licensing.exceptions import (
    FeatureNotLicensedError,
    LicenseConflictError,
    LicenseError,
    LicenseExpiredError,
    LicenseLimitExceededError,
    LicenseValidationError,
    UnknownLicenseLimitError,
)
from llmteam.licensing.gates import (
    enterprise_only,
    professional_only,
    require_enterprise,
    require_professional,
    require_tier,
)
from llmteam.licensing.limits import LICENSE_LIMITS, LicenseLimits, LicenseTier
from llmteam.licensing.limits import TIER_LIMITS as TIER_LIMITS
from llmteam.licensing.manager import (
    LicenseManager,
    activate,
    get_license_manager,
    get_tier,
    has_feature,
    print_license_status,
)
from llmteam.licensing.models import License, LicenseRecord, Standing, State
from llmteam.licensing.stores import LicenseStore, MemoryLicenseStore
from llmteam.licensing.tenants import TenantLicenses

if TYPE_CHECKING:
    from llmteam.licensing.postgres import PostgresLicenseStore

__all__ = [
    "LICENSE_LIMITS",
    "FeatureNotLicensedError",
    "License",
    "LicenseConflictError",
    "LicenseError",
    "LicenseExpiredError",
    "LicenseLimitExceededError",
    "LicenseLimits",
    "LicenseManager",
    "LicenseRecord",
    "LicenseStore",
    "LicenseTier",
    "LicenseValidationError",
    "MemoryLicenseStore",
    "PostgresLicenseStore",
    "Standing",
    "State",
    "TenantLicenses",
    "UnknownLicenseLimitError",
    "activate",
    "enterprise_only",
    "get_license_manager",
    "get_tier",
    "has_feature",
    "print_license_status",
    "professional_only",
    "require_enterprise",
    "require_professional",
    "require_tier",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresLicenseStore":
        from llmteam.licensing.postgres import PostgresLicenseStore

        return PostgresLicenseStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
