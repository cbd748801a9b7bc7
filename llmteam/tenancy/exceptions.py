"""What can go wrong around tenants.

::

    TenantError
    ├── TenantContextError          no tenant is current, another one is, or a context is left out of turn
    ├── TenantNotFoundError         no tenant has this id, or it was deleted
    ├── TenantAlreadyExistsError    a tenant has this id, or had it
    ├── TenantInactiveError         the tenant is deactivated and starts nothing
    ├── TenantConflictError         somebody else changed the tenant's record meanwhile
    ├── TenantLimitExceededError    one more would be over a limit of the tenant
    ├── TenantFeatureDisabledError  the tenant has not got this feature
    ├── UnknownLimitError           there is no limit of this name
    └── InvalidTenantError          a tenant's record has a value that cannot be used
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class TenantError(LLMTeamError):
    """Root of the errors of this package."""

    retryable: bool | None = False


class TenantContextError(TenantError):
    """No tenant is current where one is needed, another one is, or a context is left out of turn."""


class TenantNotFoundError(TenantError):
    """No tenant has this id, or it was deleted."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"There is no tenant '{tenant_id}': see them with `llmteam tenants list`")
        self.tenant_id = tenant_id


class TenantAlreadyExistsError(TenantError):
    """A tenant has this id. One that was deleted keeps it, as its data or its audit trail is still there."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            f"There is a tenant '{tenant_id}' already: choose another id; one that was deleted is not given again"
        )
        self.tenant_id = tenant_id


class TenantInactiveError(TenantError):
    """The tenant is deactivated: it starts nothing and cannot become the current one."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' is deactivated: `llmteam tenants update {tenant_id} --active` activates it"
        )
        self.tenant_id = tenant_id


class TenantConflictError(TenantError):
    """The tenant's record is not as it was read: read it again and repeat the change."""

    def __init__(self, tenant_id: str, version: int) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' was changed by somebody else since its version {version} was read: "
            "read it again and repeat the change"
        )
        self.tenant_id = tenant_id
        self.version = version


class TenantLimitExceededError(TenantError):
    """One more would be over a limit of the tenant.

    ``queues`` says that the tenant's starts wait for their turn instead of being refused.
    """

    retryable = None

    def __init__(self, tenant_id: str, limit_type: str, current: float, maximum: float, queues: bool = False) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' is at its limit of {limit_type}: {current:g} of {maximum:g}; wait until there is "
            f"room, or raise it with `llmteam tenants update {tenant_id}`"
        )
        self.tenant_id = tenant_id
        self.limit_type = limit_type
        self.current = current
        self.maximum = maximum
        self.queues = queues


class TenantFeatureDisabledError(TenantError):
    """The tenant has not got this feature."""

    def __init__(self, tenant_id: str, feature: str) -> None:
        super().__init__(
            f"Tenant '{tenant_id}' has not got the feature '{feature}': give it a higher tier, or enable it with "
            f"`llmteam tenants update {tenant_id} --enable {feature}`"
        )
        self.tenant_id = tenant_id
        self.feature = feature


class UnknownLimitError(TenantError, ValueError):
    """There is no limit of this name."""

    def __init__(self, limit_type: str) -> None:
        super().__init__(
            f"There is no limit {limit_type[:80]!r}; there are agents_per_pipeline, concurrent_pipelines, "
            "requests_per_minute, runs_per_day and storage_gb"
        )
        self.limit_type = limit_type


class InvalidTenantError(TenantError, ValueError):
    """A tenant's record has a value that cannot be used; ``field`` names it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
