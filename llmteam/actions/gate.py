"""Whether a tenant may take an action."""

from __future__ import annotations

from typing import Protocol

from llmteam.actions.exceptions import ActionDeniedError
from llmteam.tenancy.exceptions import TenantFeatureDisabledError, TenantInactiveError, TenantNotFoundError
from llmteam.tenancy.models import TenantConfig

#: The feature that a tenant needs.
FEATURE = "external_actions"


class TenantRecords(Protocol):
    """What knows tenants, like a :class:`~llmteam.tenancy.TenantManager`."""

    async def get_tenant(self, tenant_id: str) -> TenantConfig:
        """The tenant's record. Raises :class:`TenantNotFoundError`."""
        ...


async def check_allowed(tenants: TenantRecords | None, tenant_id: str, action_id: str) -> None:
    """Raise unless the tenant is active, has the feature, and its lists allow the action.

    Where nobody knows tenants, or this one, everything is allowed. Raises :class:`ActionDeniedError`,
    :class:`TenantInactiveError`, :class:`TenantFeatureDisabledError`.
    """
    if tenants is None:
        return
    try:
        config = await tenants.get_tenant(tenant_id)
    except TenantNotFoundError:
        return
    if not config.is_active:
        raise TenantInactiveError(tenant_id)
    if not config.get_effective_limits().has_feature(FEATURE):
        raise TenantFeatureDisabledError(tenant_id, FEATURE)
    if not config.is_action_allowed(action_id):
        raise ActionDeniedError(tenant_id, action_id)
