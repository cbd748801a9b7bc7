"""What can go wrong around tenants.

::

    TenantError
    └── TenantContextError          no tenant is current, another one is, or a context is left out of turn
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class TenantError(LLMTeamError):
    """Root of the errors of this package."""

    retryable = False


class TenantContextError(TenantError):
    """No tenant is current where one is needed, another one is, or a context is left out of turn."""
