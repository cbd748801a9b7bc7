"""Admission in SQL: a statement of the transaction that starts a run, before its row is written or locked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from llmteam.db.errors import RefusedError
from llmteam.db.hot import Prepared
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.exceptions import (
    TenantError,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
)
from llmteam.tenancy.limits import gigabytes

#: Start a run at once, start one that waits for its turn, or let one begin that waited.
#: ``standing`` asks only whether the tenant is there and active.
Kind = Literal["start", "queue", "admit", "standing"]

#: Takes the lock of the tenant's starts if there is anything to count, and counts; raises when the answer is no.
#: Whether the tenant's starts wait for their turn, and its region, are left for :data:`QUEUES` and :data:`REGION` until
#: the transaction ends.
ADMIT = Prepared(
    "llmteam_admit",
    """
SELECT llmteam.admit_start(
         %s, %s, %s, %s::text[], %s, %s::integer, %s::integer, %s::integer, %s::integer, %s)
""",
)

#: An expression: what :data:`ADMIT` said in this transaction.
QUEUES = "COALESCE(current_setting('llmteam.queues', true), '') = 'true'"
#: Likewise: where the tenant's runs begin.
REGION = "COALESCE(NULLIF(current_setting('llmteam.region', true), ''), 'default')"


def admit_values(
    tenant_id: str, now: datetime, kind: Kind, unknown: StartLimits, *, agents: int = 0, features: Sequence[str] = ()
) -> tuple[Any, ...]:
    """The values of :data:`ADMIT`: what the run needs, and what holds for a tenant without a record."""
    limits = (unknown.concurrent, unknown.per_day, unknown.per_minute, unknown.agents, unknown.queues)
    return (tenant_id, now, agents, list(features), kind, *limits)


def refusal_of(tenant_id: str, exc: RefusedError) -> TenantError:
    """What :data:`ADMIT` said, as an error of this package."""
    name, *rest = exc.reason.split()
    if name == "deleted":
        return TenantNotFoundError(tenant_id)
    if name == "inactive":
        return TenantInactiveError(tenant_id)
    if name == "feature":
        return TenantFeatureDisabledError(tenant_id, rest[0])
    current, most, queues = rest
    if name == "storage_gb":
        return TenantLimitExceededError(tenant_id, name, gigabytes(int(current)), gigabytes(int(most)))
    return TenantLimitExceededError(tenant_id, name, int(current), int(most), queues in {"t", "true"})
