"""All that a tenant owns, over all tables: given out line by line, or deleted in batches.

What there is, is read from the tables themselves, so that a new one cannot be forgotten: a test asks each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Table

from llmteam.db import tables
from llmteam.db.engine import Database

#: Rows that are read, or deleted, in one transaction.
BATCH = 1_000

#: Audit records are kept for their chain, without what they carry; the tenant's own record says that it is gone, and
#: those of its keys that they are destroyed.
_KEPT = frozenset({"audit_log", "audit_heads", "audit_checkpoints", "tenants", "tenant_keys"})

_BY_INDEX = "SET LOCAL enable_seqscan TO off;"

_MARK = """
INSERT INTO llmteam.tenants (tenant_id, name, tier, is_active, data_region, document, created_at, updated_at,
                             deleted_at, erased_at)
VALUES (%(tenant)s, 'erased', 'free', false, 'default', '{}', %(now)s, %(now)s, %(now)s, %(now)s)
ON CONFLICT (tenant_id) DO UPDATE
   SET name = excluded.name, is_active = false, document = '{}', updated_at = excluded.updated_at,
       deleted_at = COALESCE(tenants.deleted_at, excluded.deleted_at),
       erased_at = COALESCE(tenants.erased_at, excluded.erased_at)
RETURNING erased_at
"""

_EMPTY_AUDIT = """
UPDATE llmteam.audit_log SET old_value = NULL, new_value = NULL, metadata = NULL, salt = NULL
 WHERE (tenant_id, sequence_number) IN (
   SELECT tenant_id, sequence_number FROM llmteam.audit_log WHERE tenant_id = %s AND salt IS NOT NULL LIMIT %s)
RETURNING 1
"""


def owned_tables() -> list[Table]:
    """The tables that hold what belongs to tenants, but for what is private to the installation."""
    return [table for table in tables.metadata.sorted_tables if not table.info.get("private")]


def erased_tables() -> list[Table]:
    """Those of which nothing is left of a tenant that is erased."""
    return [table for table in tables.metadata.sorted_tables if table.name not in _KEPT and table.name != "sweeps"]


def export_lines(database: Database, tenant_id: str) -> Iterator[str]:
    """Every row of the tenant as a line of JSON: ``{"table": …, "row": {…}}``, table by table, in the order of keys.

    Each batch is read in a transaction of its own, as the tenant; what changes meanwhile may be told of as it was or
    as it is. At most one batch is in memory.
    """
    for table in owned_tables():
        keys = [column.name for column in table.primary_key.columns]
        after: tuple[Any, ...] | None = None
        while True:
            rows = _read_batch(database, tenant_id, table, keys, after)
            for row in rows:
                yield f'{{"table": {json.dumps(table.name)}, "row": {row[0]}}}'
            if len(rows) < BATCH:
                break
            after = tuple(rows[-1][1:])


def _read_batch(
    database: Database, tenant_id: str, table: Table, keys: list[str], after: tuple[Any, ...] | None
) -> list[tuple[Any, ...]]:
    listed = ", ".join(f"t.{key}" for key in keys)
    behind = "" if after is None else f"AND ({listed}) > ({', '.join(['%s'] * len(keys))})"
    statement = f"""
SELECT row_to_json(t)::text, {listed} FROM {table.fullname} t
 WHERE t.tenant_id = %s {behind} ORDER BY {listed} LIMIT {BATCH}
"""
    with database.hot(tenant_id) as connection:
        return connection.script(statement, (tenant_id, *(after or ()))) or []


def mark_erased(database: Database, tenant_id: str, now: datetime) -> datetime:
    """Say that everything of the tenant may be deleted, whether it has a record or not; since when that is so."""
    with database.hot(tenant_id) as connection:
        found = connection.script(_MARK, {"tenant": tenant_id, "now": now}) or []
    moment: datetime = found[0][0]
    return moment


def delete_batch(database: Database, tenant_id: str, table: Table) -> int:
    """Delete some rows of a tenant that is marked; how many."""
    keys = ", ".join(column.name for column in table.primary_key.columns)
    statement = f"""
DELETE FROM {table.fullname}
 WHERE ({keys}) IN (SELECT {keys} FROM {table.fullname} WHERE tenant_id = %s LIMIT %s) RETURNING 1
"""
    return _as_sweeper(database, statement, tenant_id)


def empty_audit_batch(database: Database, tenant_id: str) -> int:
    """Take what some audit records carry out of them; how many. Their checksums go on to hold."""
    return _as_sweeper(database, _EMPTY_AUDIT, tenant_id)


def _as_sweeper(database: Database, statement: str, tenant_id: str) -> int:
    with database.hot(None) as connection:
        return len(connection.script(_BY_INDEX + statement, (tenant_id, BATCH), role="llmteam_sweeper") or ())
