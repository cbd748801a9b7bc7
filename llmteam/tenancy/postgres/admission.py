"""Admission in SQL: a statement of the transaction that starts a run, before its row is written or locked."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from llmteam.db.errors import RefusedError
from llmteam.db.hot import Prepared
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.exceptions import (
    TenantError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
)

#: Start a run at once, start one that waits for its turn, or let one begin that waited.
Kind = Literal["start", "queue", "admit"]

#: Takes the lock of the tenant's starts if there is anything to count, and counts; raises when the answer is no.
#: Whether the tenant's starts wait for their turn is left for :data:`QUEUES` until the transaction ends.
ADMIT = Prepared(
    "llmteam_admit",
    """
SELECT set_config('llmteam.queues', llmteam.admit_start(
         %s, %s, %s, %s, %s::integer, %s::integer, %s::integer, %s::integer, %s)::text, true)
""",
)

#: An expression: what :data:`ADMIT` said in this transaction.
QUEUES = "COALESCE(current_setting('llmteam.queues', true), '') = 'true'"


def admit_values(tenant_id: str, now: datetime, agents: int, kind: Kind, unknown: StartLimits) -> tuple[Any, ...]:
    """The values of :data:`ADMIT`; ``unknown`` holds for a tenant without a record."""
    limits = (unknown.concurrent, unknown.per_day, unknown.per_minute, unknown.agents, unknown.queues)
    return (tenant_id, now, agents, kind, *limits)


def refusal_of(tenant_id: str, exc: RefusedError) -> TenantError:
    """What :data:`ADMIT` said, as an error of this package."""
    name, *rest = exc.reason.split()
    if name == "deleted":
        return TenantNotFoundError(tenant_id)
    if name == "inactive":
        return TenantInactiveError(tenant_id)
    current, most, queues = rest
    return TenantLimitExceededError(tenant_id, name, int(current), int(most), queues in {"t", "true"})
