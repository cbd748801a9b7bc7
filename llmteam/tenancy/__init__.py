"""Tenants: whose work the running code does."""

from llmteam.tenancy.context import (
    TenantContext,
    TenantContextStack,
    current_tenant,
    get_current_tenant,
    require_tenant_context,
)
from llmteam.tenancy.exceptions import TenantContextError, TenantError

__all__ = [
    "TenantContext",
    "TenantContextError",
    "TenantContextStack",
    "TenantError",
    "current_tenant",
    "get_current_tenant",
    "require_tenant_context",
]
