"""Tenants: what they may use, what keeps them apart, and whose work the running code does."""

from llmteam.tenancy.context import (
    TenantContext,
    TenantContextStack,
    current_tenant,
    get_current_tenant,
    require_tenant_context,
)
from llmteam.tenancy.exceptions import (
    InvalidTenantError,
    TenantAlreadyExistsError,
    TenantConflictError,
    TenantContextError,
    TenantError,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
    UnknownLimitError,
)
from llmteam.tenancy.isolation import CrossTenantStore, TenantIsolatedStore
from llmteam.tenancy.limits import TIER_LIMITS, TenantLimits, TenantTier, get_tier_limits
from llmteam.tenancy.manager import TenantManager
from llmteam.tenancy.models import TenantConfig
from llmteam.tenancy.stores import KeyValueStore, TenantStore

__all__ = [
    "TIER_LIMITS",
    "CrossTenantStore",
    "InvalidTenantError",
    "KeyValueStore",
    "TenantAlreadyExistsError",
    "TenantConfig",
    "TenantConflictError",
    "TenantContext",
    "TenantContextError",
    "TenantContextStack",
    "TenantError",
    "TenantFeatureDisabledError",
    "TenantInactiveError",
    "TenantIsolatedStore",
    "TenantLimitExceededError",
    "TenantLimits",
    "TenantManager",
    "TenantNotFoundError",
    "TenantStore",
    "TenantTier",
    "UnknownLimitError",
    "current_tenant",
    "get_current_tenant",
    "get_tier_limits",
    "require_tenant_context",
]
