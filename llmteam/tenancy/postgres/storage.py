"""What a tenant stores: the bytes of its rows over all tables, metered now and then.

Nothing is counted when rows are written or deleted, so that there is no count that could be wrong: what is stored is
read from the rows, at most once an hour for each tenant that has a limit. What was added since is not seen until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Table

from llmteam.db import tables
from llmteam.db.engine import Database

#: How long a figure holds.
METER_EVERY = timedelta(hours=1)
#: Tenants that one sweep meters at most.
BATCH = 20
#: Bytes of a row beside its columns: its header and its place in the page.
_ROW_BYTES = 28

#: What is private to the installation, or only says something about the tenant.
_NOT_COUNTED = frozenset({"sweeps", "tenants", "tenant_starts", "tenant_storage"})

#: Tenants with a limit whose figure is the oldest.
_STALE = """
SELECT t.tenant_id FROM llmteam.tenants t
  LEFT JOIN llmteam.tenant_storage s ON s.tenant_id = t.tenant_id
 WHERE t.max_storage IS NOT NULL AND t.deleted_at IS NULL
   AND (s.metered_at IS NULL OR s.metered_at < now() - %s::interval)
 ORDER BY s.metered_at NULLS FIRST, t.tenant_id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that a tenant stores, and when they were metered."""

    size: int
    metered_at: datetime


def counted_tables() -> list[Table]:
    """The tables whose rows count."""
    return [table for table in tables.metadata.sorted_tables if table.name not in _NOT_COUNTED]


def _size_of(table: Table) -> str:
    """The bytes of a tenant's rows. Of a large value its size as it is stored is read, not the value."""
    columns = " + ".join(f"COALESCE(pg_column_size({column.name}), 0)" for column in table.columns)
    return f"SELECT COALESCE(sum({_ROW_BYTES} + {columns}), 0) AS size FROM {table.fullname} WHERE tenant_id = %s"


def _meter(tables_read: Sequence[Table]) -> str:
    parts = "\nUNION ALL ".join(_size_of(table) for table in tables_read)
    return f"""
INSERT INTO llmteam.tenant_storage (tenant_id, stored, metered_at)
SELECT %s, sum(size), now() FROM ({parts}) sizes
ON CONFLICT (tenant_id) DO UPDATE SET stored = excluded.stored, metered_at = excluded.metered_at
RETURNING stored, metered_at
"""


class StorageMeter:
    """Meters what tenants store, each as that tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tables = counted_tables()
        self._statement = _meter(self._tables)

    def meter(self, tenant_id: str) -> Stored:
        """Read what the tenant stores now, and keep the figure: starts are refused by it."""
        values: list[Any] = [tenant_id] * (1 + len(self._tables))
        with self._database.hot(tenant_id) as connection:
            found = connection.script(self._statement, values) or []
        return Stored(int(found[0][0]), found[0][1])

    def meter_due(self, limit: int = BATCH) -> int:
        """Meter those tenants with a limit whose figure is older than :data:`METER_EVERY`; how many."""
        with self._database.hot(None) as connection:
            stale = connection.script(_STALE, (METER_EVERY, limit), role="llmteam_sweeper") or []
        for (tenant_id,) in stale:
            self.meter(tenant_id)
        return len(stale)
