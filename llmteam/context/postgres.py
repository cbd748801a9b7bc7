"""Contexts of runs as rows, each tenant's behind row security; one round trip each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.context.exceptions import ContextConflictError
from llmteam.context.stores import StoredContext
from llmteam.db.engine import Database
from llmteam.ids import Clock, utc_now

_LOAD = "SELECT path, version, document FROM llmteam.agent_contexts WHERE tenant_id = %s AND run_id = %s"
_INSERT = """
INSERT INTO llmteam.agent_contexts (tenant_id, run_id, path, document, created_at, updated_at)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING version
"""
_UPDATE = """
UPDATE llmteam.agent_contexts SET document = %s, updated_at = %s, version = version + 1
 WHERE tenant_id = %s AND run_id = %s AND path = %s AND version = %s RETURNING version
"""
_DELETE = "DELETE FROM llmteam.agent_contexts WHERE tenant_id = %s AND run_id = %s RETURNING 1"


class PostgresContextStore:
    """The :class:`~llmteam.context.ContextStore` in SQL."""

    durable = True

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def load(self, tenant_id: str, run_id: str, path: str) -> StoredContext | None:
        """As :meth:`ContextStore.load`."""
        found = self._run(tenant_id, f"{_LOAD} AND path = %s", tenant_id, run_id, path)
        return StoredContext(*found[0]) if found else None

    def all(self, tenant_id: str, run_id: str) -> list[StoredContext]:
        """As :meth:`ContextStore.all`."""
        return [
            StoredContext(*row) for row in self._run(tenant_id, f'{_LOAD} ORDER BY path COLLATE "C"', tenant_id, run_id)
        ]

    def save(self, tenant_id: str, run_id: str, path: str, document: Mapping[str, Any], version: int) -> int:
        """As :meth:`ContextStore.save`: a compare-and-set."""
        text, now = codec.dumps(dict(document), path="$.context"), self._clock()
        ident: tuple[str, str, str] = (tenant_id, run_id, path)
        if version:
            written = self._run(tenant_id, _UPDATE, text, now, *ident, version)
        else:
            written = self._run(tenant_id, _INSERT, *ident, text, now, now)
        if not written:
            raise ContextConflictError(path)
        return int(written[0][0])

    def delete(self, tenant_id: str, run_id: str) -> int:
        """As :meth:`ContextStore.delete`."""
        return len(self._run(tenant_id, _DELETE, tenant_id, run_id))

    def _run(self, tenant_id: str, statement: str, *params: str | int | datetime) -> list[tuple[Any, ...]]:
        with self._database.hot(tenant_id) as connection:
            return connection.script(statement, params) or []
