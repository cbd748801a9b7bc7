"""Snapshots in Postgres, with copies of their documents in Redis or Valkey."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Sequence

from llmteam import codec
from llmteam.persistence.documents import read_text, written
from llmteam.persistence.models import PipelineSnapshot
from llmteam.persistence.postgres import Entry, PostgresSnapshotStore
from llmteam.persistence.redis import RedisSnapshotStore
from llmteam.persistence.stores import SnapshotStore, reader, tenant_of

__all__ = ["HybridSnapshotStore"]


class HybridSnapshotStore(SnapshotStore):
    """Writes both; what there is says Postgres, the documents come from Redis first.

    A read asks Postgres for names and digests, which are small. A document in Redis counts when it fits its digest;
    what is missing there, damaged, changed or of an earlier saving is read from Postgres. So nothing that was deleted
    comes back, whoever deleted it, and a Redis that is away costs time only.
    """

    def __init__(self, redis: RedisSnapshotStore, postgres: PostgresSnapshotStore) -> None:
        self.redis = redis
        self.postgres = postgres

    async def save(self, snapshot: PipelineSnapshot) -> None:
        """As :meth:`SnapshotStore.save`."""
        await self.postgres.save(snapshot)
        text = written(snapshot, self.postgres.max_bytes)
        await asyncio.to_thread(self._copy, tenant_of(snapshot), [(snapshot, text)])

    async def load(self, snapshot_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load`."""
        return next(iter(await self._documents(await self.postgres.entries("snapshot", snapshot_id))), None)

    async def load_latest(self, run_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load_latest`."""
        return next(iter(await self._documents(await self.postgres.entries("run", run_id))), None)

    async def list(self, pipeline_id: str, limit: int = 10) -> builtins.list[PipelineSnapshot]:
        """As :meth:`SnapshotStore.list`."""
        return await self._documents(await self.postgres.entries("pipeline", pipeline_id, limit))

    async def delete(self, snapshot_id: str) -> None:
        """As :meth:`SnapshotStore.delete`. A copy that cannot be deleted is not read any more."""
        await self.postgres.delete(snapshot_id)
        tenant_id, server = reader(), self.redis.server
        await asyncio.to_thread(server.ask, lambda: self.redis.drop(server.client, tenant_id, snapshot_id))

    def close(self) -> None:
        """Let go of the connections of both."""
        self.redis.close()
        self.postgres.close()

    async def _documents(self, entries: Sequence[Entry]) -> builtins.list[PipelineSnapshot]:
        tenant_id = reader()
        texts = await asyncio.to_thread(self._copies, tenant_id, entries)
        missing = [entry.snapshot_id for entry in entries if entry.snapshot_id not in texts]
        fresh = await self.postgres.texts(missing) if missing else {}
        texts |= fresh
        found = [read_text(texts[one.snapshot_id], one.snapshot_id) for one in entries if one.snapshot_id in texts]
        if fresh:
            lacking = [(one, fresh[one.snapshot_id]) for one in found if one.snapshot_id in fresh]
            await asyncio.to_thread(self._copy, tenant_id, lacking)
        return found

    def _copies(self, tenant_id: str, entries: Sequence[Entry]) -> dict[str, str]:
        """The texts in Redis that are what Postgres says."""
        digests = {entry.snapshot_id: entry.digest for entry in entries if entry.digest is not None}
        server = self.redis.server
        texts = server.ask(lambda: self.redis.texts(server.client, tenant_id, [*digests])) if digests else None
        return {name: text for name, text in (texts or {}).items() if codec.digest(text) == digests[name]}

    def _copy(self, tenant_id: str, snapshots: Sequence[tuple[PipelineSnapshot, str]]) -> None:
        def put() -> None:
            for snapshot, text in snapshots:
                if len(text.encode()) <= self.redis.max_bytes:
                    self.redis.put(self.redis.server.client, tenant_id, snapshot, text)

        self.redis.server.ask(put)
