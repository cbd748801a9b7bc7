"""Snapshots as rows, each tenant's behind row security; one round trip each. What pauses take of runs is there too."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any, Protocol

from llmteam.db.engine import Database
from llmteam.persistence.documents import MAX_BYTES, read, written
from llmteam.persistence.models import PipelineSnapshot
from llmteam.persistence.stores import SnapshotStore, reader, tenant_of, with_checksum

__all__ = ["PURGE_SNAPSHOTS", "PostgresSnapshotStore", "write_snapshot"]

_SAVE = """
INSERT INTO llmteam.snapshots (tenant_id, snapshot_id, run_id, segment_id, snapshot_type, phase, document, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, snapshot_id) DO UPDATE
   SET run_id = excluded.run_id, segment_id = excluded.segment_id, snapshot_type = excluded.snapshot_type,
       phase = excluded.phase, document = excluded.document, created_at = excluded.created_at;
"""
_LOAD = "SELECT document FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id = %s"
_LATEST = """
SELECT document FROM llmteam.snapshots WHERE tenant_id = %s AND run_id = %s
 ORDER BY created_at DESC, number DESC LIMIT 1
"""
_LIST = """
SELECT document FROM llmteam.snapshots WHERE tenant_id = %s AND segment_id = %s
 ORDER BY created_at DESC, number DESC LIMIT %s
"""
_DELETE = "DELETE FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id = %s RETURNING 1"

#: As the sweeper. A pipeline that is not over keeps its latest, however old that is; so does a policy of the table.
PURGE_SNAPSHOTS = """
DELETE FROM llmteam.snapshots WHERE (tenant_id, snapshot_id) IN (
  SELECT n.tenant_id, n.snapshot_id FROM llmteam.snapshots n
   WHERE n.created_at < now() - %s::interval AND llmteam.snapshot_is_spare(n.tenant_id, n.run_id, n.number, n.phase)
   ORDER BY n.created_at LIMIT %s)
RETURNING 1
"""


class Script(Protocol):
    """A script of statements that is sent in one round trip."""

    def add(self, statement: str, *params: Any) -> Any: ...


def write_snapshot(script: Script, snapshot: PipelineSnapshot, *, max_bytes: int = MAX_BYTES) -> None:
    """Add the statement that keeps ``snapshot``, for the transaction of something else. Raises as :func:`written`."""
    script.add(_SAVE, *_values(snapshot.tenant_id, snapshot, max_bytes))


def _values(tenant_id: str, snapshot: PipelineSnapshot, max_bytes: int) -> tuple[Any, ...]:
    return (
        tenant_id,
        snapshot.snapshot_id,
        snapshot.run_id,
        snapshot.pipeline_id,
        snapshot.snapshot_type.value,
        snapshot.phase.value,
        written(snapshot, max_bytes),
        snapshot.created_at,
    )


class PostgresSnapshotStore(SnapshotStore):
    """Snapshots in Postgres, which compresses what is large.

    ``database`` is a :class:`~llmteam.db.Database` or its URL; ``max_bytes`` bounds each snapshot, as JSON.
    """

    def __init__(self, database: Database | str, *, max_bytes: int = MAX_BYTES) -> None:
        if isinstance(database, str):
            database = Database(database, application_name="llmteam-snapshots")
        self._database = database
        self.max_bytes = max_bytes

    async def save(self, snapshot: PipelineSnapshot) -> None:
        """As :meth:`SnapshotStore.save`."""
        tenant_id = tenant_of(snapshot)
        values = _values(tenant_id, with_checksum(snapshot), self.max_bytes)
        await asyncio.to_thread(self._run, tenant_id, _SAVE, *values)

    async def load(self, snapshot_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load`."""
        return next(iter(await self._read(_LOAD, snapshot_id)), None)

    async def load_latest(self, run_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load_latest`."""
        return next(iter(await self._read(_LATEST, run_id)), None)

    async def list(self, pipeline_id: str, limit: int = 10) -> builtins.list[PipelineSnapshot]:
        """As :meth:`SnapshotStore.list`."""
        return await self._read(_LIST, pipeline_id, max(limit, 0))

    async def delete(self, snapshot_id: str) -> None:
        """As :meth:`SnapshotStore.delete`."""
        await asyncio.to_thread(self._run, reader(), _DELETE, reader(), snapshot_id)

    def close(self) -> None:
        """Let go of connections; of a database that was given too."""
        self._database.close()

    async def _read(self, statement: str, *params: Any) -> builtins.list[PipelineSnapshot]:
        tenant_id = reader()
        found = await asyncio.to_thread(self._run, tenant_id, statement, tenant_id, *params)
        return [read(document) for (document,) in found]

    def _run(self, tenant_id: str, statement: str, *params: Any) -> builtins.list[tuple[Any, ...]]:
        with self._database.hot(tenant_id) as connection:
            return connection.script(statement, params) or []
