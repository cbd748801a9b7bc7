"""Snapshots as rows, each tenant's behind row security; one round trip each. What pauses take of runs is there too."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llmteam import codec
from llmteam.db.engine import Database
from llmteam.db.errors import RefusedError
from llmteam.licensing.exceptions import LicenseLimitExceededError
from llmteam.persistence.documents import MAX_BYTES, read, written
from llmteam.persistence.models import PipelineSnapshot
from llmteam.persistence.stores import AUTO_KEPT, SnapshotStore, reader, tenant_of, with_checksum

__all__ = ["PURGE_SNAPSHOTS", "Entry", "PostgresSnapshotStore", "keep_snapshot", "write_snapshot"]

_COLUMNS = "tenant_id, snapshot_id, run_id, segment_id, snapshot_type, phase, document, digest, created_at"
_VALUES = "%s, %s, %s, %s, %s, %s, %s::json, %s, %s::timestamptz"
_REPLACE = """
ON CONFLICT (tenant_id, snapshot_id) DO UPDATE
   SET run_id = excluded.run_id, segment_id = excluded.segment_id, snapshot_type = excluded.snapshot_type,
       phase = excluded.phase, document = excluded.document, digest = excluded.digest, created_at = excluded.created_at
"""
_WRITE = f"INSERT INTO llmteam.snapshots ({_COLUMNS}) VALUES ({_VALUES}) {_REPLACE};"
_SAVE = f"""
INSERT INTO llmteam.snapshots ({_COLUMNS})
SELECT {_VALUES} WHERE llmteam.snapshot_has_room(%s, %s, %s, %s) {_REPLACE}
"""
_PRUNE = """
DELETE FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id IN (
  SELECT snapshot_id FROM llmteam.snapshots
   WHERE tenant_id = %s AND run_id = %s AND snapshot_type = 'auto'
   ORDER BY created_at DESC, number DESC OFFSET %s);
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
_ENTRIES = {
    "snapshot": "SELECT snapshot_id, digest FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id = %s LIMIT %s",
    "run": """
SELECT snapshot_id, digest FROM llmteam.snapshots WHERE tenant_id = %s AND run_id = %s
 ORDER BY created_at DESC, number DESC LIMIT %s
""",
    "pipeline": """
SELECT snapshot_id, digest FROM llmteam.snapshots WHERE tenant_id = %s AND segment_id = %s
 ORDER BY created_at DESC, number DESC LIMIT %s
""",
}
_TEXTS = "SELECT snapshot_id, document::text FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id = ANY(%s)"

#: What entries are looked for by.
Of = Literal["snapshot", "run", "pipeline"]

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
    """Add the statement that keeps ``snapshot``, for the transaction of something else; whatever the tenant has.

    Raises as :func:`written`.
    """
    script.add(_WRITE, *_values(snapshot.tenant_id, snapshot, max_bytes))


def keep_snapshot(script: Script, snapshot: PipelineSnapshot, *, max_bytes: int = MAX_BYTES) -> None:
    """As :func:`write_snapshot`, if the tenant has room for it; of those that runs take by themselves some are kept.

    Raises as :func:`written`.
    """
    tenant_id, run_id = snapshot.tenant_id, snapshot.run_id
    values = _values(tenant_id, snapshot, max_bytes)
    script.add(f"{_SAVE};", *values, tenant_id, snapshot.snapshot_id, run_id, False)
    script.add(_PRUNE, tenant_id, tenant_id, run_id, AUTO_KEPT)


def _values(tenant_id: str, snapshot: PipelineSnapshot, max_bytes: int) -> tuple[Any, ...]:
    text = written(snapshot, max_bytes)
    return (
        tenant_id,
        snapshot.snapshot_id,
        snapshot.run_id,
        snapshot.pipeline_id,
        snapshot.snapshot_type.value,
        snapshot.phase.value,
        text,
        codec.digest(text),
        snapshot.created_at,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A snapshot that is kept. ``digest`` is the SHA-256 of its text; None where nobody noted it."""

    snapshot_id: str
    digest: str | None


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
        asked = (tenant_id, snapshot.snapshot_id, snapshot.run_id, True)
        try:
            await asyncio.to_thread(self._run, tenant_id, _SAVE, *values, *asked)
        except RefusedError as exc:
            name, kept, most = exc.reason.split()
            raise LicenseLimitExceededError(tenant_id, name, int(kept), int(most)) from None

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

    async def entries(self, of: Of, name: str, limit: int = 1) -> builtins.list[Entry]:
        """What is kept of one snapshot, of a run or of a pipeline, newest first, without the documents."""
        tenant_id = reader()
        found = await asyncio.to_thread(self._run, tenant_id, _ENTRIES[of], tenant_id, name, max(limit, 0))
        return [Entry(*row) for row in found]

    async def texts(self, snapshot_ids: Sequence[str]) -> dict[str, str]:
        """The documents of those that are there, as text; nothing is verified."""
        tenant_id = reader()
        return dict(await asyncio.to_thread(self._run, tenant_id, _TEXTS, tenant_id, [*snapshot_ids]))

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
