"""Retention as the database allows it: the sweeper removes records up to a checkpoint that is kept, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.db.engine import Database
from llmteam.db.hot import HotConnection

_SWEEPER: Literal["llmteam_sweeper"] = "llmteam_sweeper"

_RELEASE = """
INSERT INTO llmteam.audit_checkpoints (tenant_id, sequence_number, checksum, issued_at, key_id, signature)
SELECT %(tenant)s, %(number)s, %(checksum)s, %(issued_at)s, %(key_id)s, %(signature)s
 WHERE NOT EXISTS (SELECT FROM llmteam.audit_checkpoints
                    WHERE tenant_id = %(tenant)s AND sequence_number >= %(number)s)
RETURNING 1
"""

# By the primary key, whatever the statistics say: the oldest records first.
_REMOVE = """
SET LOCAL enable_seqscan TO off;
DELETE FROM llmteam.audit_log WHERE tenant_id = %(tenant)s AND sequence_number IN (
  SELECT l.sequence_number FROM llmteam.audit_log l
   WHERE l.tenant_id = %(tenant)s AND l.sequence_number <= (
     SELECT max(c.sequence_number) FROM llmteam.audit_checkpoints c WHERE c.tenant_id = %(tenant)s)
   ORDER BY l.sequence_number LIMIT %(limit)s)
RETURNING 1
"""

# Days of a tenant with a record are the record's, where 0 means for ever; of others, the installation's.
_KEPT = """
SELECT tenant_id, days, held, oldest FROM (
  SELECT h.tenant_id, COALESCE(t.document ->> 'legal_hold' = 'true', false) AS held,
         CASE WHEN t.document ->> 'audit_retention_days' IS NULL THEN %(days)s::double precision
              ELSE NULLIF((t.document ->> 'audit_retention_days')::double precision, 0) END AS days,
         (SELECT l."timestamp" FROM llmteam.audit_log l WHERE l.tenant_id = h.tenant_id
           ORDER BY l.sequence_number LIMIT 1) AS oldest
    FROM llmteam.audit_heads h LEFT JOIN llmteam.tenants t ON t.tenant_id = h.tenant_id
   WHERE %(tenant)s::text IS NULL OR h.tenant_id = %(tenant)s) kept
"""

# In no order that stays the same: tenants whose chains do not hold, which come every time, keep nobody out.
_DUE = f"""
{_KEPT} WHERE NOT held AND oldest < date_trunc('day', %(now)s::timestamptz - make_interval(secs => days * 86400), 'UTC')
 ORDER BY random() LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long a tenant's records are kept: ``days``, for ever when None, or as long as the tenant is ``held``."""

    tenant_id: str
    days: float | None
    held: bool
    oldest: datetime | None


def keeping_of(database: Database, tenant_id: str, default_days: float | None) -> Keeping:
    """How long the tenant's records are kept; ``default_days`` holds for tenants without a record."""
    found = _read(database, _KEPT, {"tenant": tenant_id, "days": default_days})
    return found[0] if found else Keeping(tenant_id, default_days, False, None)


def due(database: Database, default_days: float | None, now: datetime, limit: int) -> list[Keeping]:
    """Tenants, at most ``limit`` of them, whose oldest record has been kept long enough, and that are not held."""
    return _read(database, _DUE, {"tenant": None, "days": default_days, "now": now, "limit": limit})


def _read(database: Database, statement: str, params: Mapping[str, Any]) -> list[Keeping]:
    with database.hot(None) as connection:
        return [Keeping(*row) for row in connection.script(statement, params, role=_SWEEPER) or ()]


def release_in(connection: HotConnection, checkpoint: AuditCheckpoint) -> bool:
    """Keep ``checkpoint``, unless there is one that goes as far; the transaction has begun and ends elsewhere."""
    params = {
        "tenant": checkpoint.tenant_id,
        "number": checkpoint.sequence_number,
        "checksum": checkpoint.checksum,
        "issued_at": checkpoint.issued_at,
        "key_id": checkpoint.key_id,
        "signature": checkpoint.signature,
    }
    return bool(connection.script(_RELEASE, params, role=_SWEEPER))


def remove_batch(database: Database, tenant_id: str, limit: int) -> int:
    """Remove the oldest records that are released, at most ``limit``; how many."""
    with database.hot(None) as connection:
        params = {"tenant": tenant_id, "limit": limit}
        return len(connection.script(_REMOVE, params, role=_SWEEPER) or ())
