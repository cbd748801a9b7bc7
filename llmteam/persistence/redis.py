"""Snapshots in Redis or Valkey, for a time: by themselves, or as copies of those in Postgres."""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from llmteam.ids import check_identifier
from llmteam.persistence.documents import MAX_BYTES, packed, read_text, unpacked, written
from llmteam.persistence.exceptions import PersistenceError, SnapshotIntegrityError
from llmteam.persistence.models import PipelineSnapshot
from llmteam.persistence.stores import SnapshotStore, reader, tenant_of, with_checksum
from llmteam.ratelimit.redis import SharedServer
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

__all__ = ["DAY", "RedisSnapshotStore"]

DAY = timedelta(hours=24)

#: What every key begins with that is stored here. Braces keep the keys of a tenant together in a cluster.
_PREFIX = "llmteam:snapshots:{{{tenant}}}:"
#: Names of an index that are looked at in one go.
_PAGE = 32
#: Keys that one SCAN looks at.
_SCAN = 1_000
_GLOB = re.compile(r"([*?\[\]^\\-])")

#: Keeps a text under its name and in two indices by moment; of one moment the later one is the newer one. An index
#: outlives what it names.
_SAVE = """
local number = redis.call('HGET', KEYS[1], 'number') or redis.call('INCR', KEYS[4])
redis.call('HSET', KEYS[1], 'number', number, 'text', ARGV[2])
local member = string.format('%020d', number) .. ' ' .. ARGV[1]
redis.call('ZADD', KEYS[2], ARGV[3], member)
redis.call('ZADD', KEYS[3], ARGV[3], member)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
for place = 2, 4 do
  if redis.call('PTTL', KEYS[place]) < tonumber(ARGV[4]) then
    redis.call('PEXPIRE', KEYS[place], ARGV[4])
  end
end
"""


class RedisSnapshotStore(SnapshotStore):
    """Snapshots that are gone after ``ttl`` (seconds, or a timedelta), and whenever the server loses its memory.

    JSON, compressed; ``max_bytes`` bounds each, as JSON. ``url`` may be Celery's way to write it. Each method raises
    :class:`InfrastructureError` while the server does not answer. A licence's limit is not looked at here: what is kept
    for good is counted, in Postgres.
    """

    def __init__(self, url: str, ttl: timedelta | float = DAY, *, max_bytes: int = MAX_BYTES) -> None:
        self.ttl = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
        if self.ttl < timedelta(milliseconds=1):
            raise ValueError(f"ttl is {self.ttl.total_seconds():g} seconds: more than 0 are needed")
        self.max_bytes = max_bytes
        self.server = SharedServer(url, "snapshots", meanwhile="they are read from where they are kept for good")

    async def save(self, snapshot: PipelineSnapshot) -> None:
        """As :meth:`SnapshotStore.save`."""
        tenant_id = tenant_of(snapshot)
        text = written(with_checksum(snapshot), self.max_bytes)
        await self._required(lambda client: self.put(client, tenant_id, snapshot, text))

    async def load(self, snapshot_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load`."""
        tenant_id = reader()

        def find(client: Redis) -> PipelineSnapshot | None:
            data = next(iter(self._get(client, tenant_id, [snapshot_id]).values()), None)
            return None if data is None else self._read(tenant_id, snapshot_id, data)

        return await self._required(find)

    async def load_latest(self, run_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load_latest`."""
        tenant_id = reader()
        found = await self._required(
            lambda client: [*islice(self._newest_first(client, tenant_id, "run", run_id), 1)],
        )
        return next(iter(found), None)

    async def list(self, pipeline_id: str, limit: int = 10) -> builtins.list[PipelineSnapshot]:
        """As :meth:`SnapshotStore.list`."""
        tenant_id = reader()
        return await self._required(
            lambda client: [*islice(self._newest_first(client, tenant_id, "pipeline", pipeline_id), max(limit, 0))]
        )

    async def delete(self, snapshot_id: str) -> None:
        """As :meth:`SnapshotStore.delete`."""
        tenant_id = reader()
        await self._required(lambda client: self.drop(client, tenant_id, snapshot_id))

    async def erase(self, tenant_id: str) -> int:
        """Forget everything of a tenant; how many keys there were. Raises :class:`TenantContextError` for others'."""
        check_identifier("tenant_id", tenant_id)
        if get_current_tenant() not in ("", tenant_id):
            raise TenantContextError(f"Snapshots of tenant '{tenant_id}' cannot be erased while another is current")
        pattern = _GLOB.sub(r"\\\1", _PREFIX.format(tenant=tenant_id)) + "*"
        return await self._required(
            lambda client: sum(int(client.unlink(key)) for key in client.scan_iter(match=pattern, count=_SCAN))
        )

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self.server.close()

    # -- for whoever keeps them elsewhere, too; each blocks

    def put(self, client: Redis, tenant_id: str, snapshot: PipelineSnapshot, text: str) -> None:
        """Keep ``text``, which is that of ``snapshot``."""
        places = [("snapshot", snapshot.snapshot_id), ("run", snapshot.run_id), ("pipeline", snapshot.pipeline_id)]
        keys = [_key(tenant_id, kind, name) for kind, name in [*places, ("count", "")]]
        moment = round(snapshot.created_at.timestamp() * 1_000_000)
        values: list[Any] = [snapshot.snapshot_id, packed(text), moment, self.ttl // timedelta(milliseconds=1)]
        client.register_script(_SAVE)(keys=keys, args=values)

    def texts(self, client: Redis, tenant_id: str, snapshot_ids: Sequence[str]) -> dict[str, str]:
        """The texts of those that are there and whole."""
        found = {}
        for snapshot_id, data in self._get(client, tenant_id, snapshot_ids).items():
            try:
                found[snapshot_id] = unpacked(data, self.max_bytes)
            except PersistenceError:
                continue
        return found

    def drop(self, client: Redis, tenant_id: str, snapshot_id: str) -> None:
        """Forget a snapshot; the indices are cleared of its name when they are read next."""
        client.delete(_key(tenant_id, "snapshot", snapshot_id))

    async def _required(self, question: Callable[[Redis], T]) -> T:
        def asked() -> T:
            with self.server.required() as client:
                return question(client)

        return await asyncio.to_thread(asked)

    def _get(self, client: Redis, tenant_id: str, snapshot_ids: Sequence[str]) -> Mapping[str, bytes]:
        asked = client.pipeline(transaction=False)
        for snapshot_id in snapshot_ids:
            asked.hget(_key(tenant_id, "snapshot", snapshot_id), "text")
        found = zip(snapshot_ids, asked.execute(), strict=True)
        return {snapshot_id: data for snapshot_id, data in found if data is not None}

    def _newest_first(self, client: Redis, tenant_id: str, kind: str, name: str) -> Iterator[PipelineSnapshot]:
        """Snapshots of a run or a pipeline. Names of what is gone, or is another's by now, are taken out."""
        index, start = _key(tenant_id, kind, name), 0
        while members := self._members(client, index, start):
            ids = {member: member.decode().partition(" ")[2] for member in members}
            found = self._get(client, tenant_id, [*ids.values()])
            for member, snapshot_id in ids.items():
                snapshot = self._read(tenant_id, snapshot_id, found[snapshot_id]) if snapshot_id in found else None
                if snapshot is not None and name == (snapshot.run_id if kind == "run" else snapshot.pipeline_id):
                    start += 1
                    yield snapshot
                else:
                    client.zrem(index, member)

    def _members(self, client: Redis, index: str, start: int) -> builtins.list[bytes]:
        found: Any = client.zrevrange(index, start, start + _PAGE - 1)
        return [*found]

    def _read(self, tenant_id: str, snapshot_id: str, data: bytes) -> PipelineSnapshot:
        snapshot = read_text(unpacked(data, self.max_bytes), snapshot_id)
        if (snapshot.snapshot_id, snapshot.tenant_id or DEFAULT_TENANT) != (snapshot_id, tenant_id):
            raise SnapshotIntegrityError(snapshot_id, "it stands under the name of another one")
        return snapshot


def _key(tenant_id: str, kind: str, name: str) -> str:
    return f"{_PREFIX.format(tenant=tenant_id)}{kind}:{name}"
