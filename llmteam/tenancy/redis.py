"""Values of tenants in Redis or Valkey: found by SCAN, which lets others through, never by KEYS."""

from __future__ import annotations

import asyncio
import builtins
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from llmteam import codec
from llmteam.wakeup.clients import client_of, redis_url

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

#: What every key begins with that is stored here.
PREFIX = "llmteam:values:"
#: Keys that one SCAN looks at, and that one DEL takes.
_BATCH = 1_000
#: Seconds for connecting and for one command.
_SOCKET_SECONDS = 5.0
_GLOB = re.compile(r"([*?\[\]^\\-])")


class RedisKeyValueStore:
    """The :class:`~llmteam.tenancy.stores.KeyValueStore` in Redis, as JSON text. ``url`` may be Celery's way to say it.

    Connections are made on first use. One object may serve several threads and loops.
    """

    def __init__(self, url: str, *, prefix: str = PREFIX) -> None:
        self._url = redis_url(url)
        self._prefix = prefix
        self._client: Redis | None = None

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        if self._client is not None:
            self._client.close()
            self._client.connection_pool.disconnect()
            self._client = None

    async def get(self, key: str) -> Any:
        """The value of ``key``; None when there is none."""
        return (await self.get_many([key])).get(key)

    async def set(self, key: str, value: Any) -> None:
        """Keep a value. Raises :class:`NotJSONError`."""
        await self.set_many({key: value})

    async def delete(self, key: str) -> bool:
        """Forget a value; False when there is none."""
        return await self.delete_many([key]) > 0

    async def exists(self, key: str) -> bool:
        """Whether there is a value, be it null."""
        return bool(await self._call(lambda client: client.exists(self._prefix + key)))

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, in order."""
        pattern = _GLOB.sub(r"\\\1", self._prefix + prefix) + "*"

        def scan(client: Redis) -> builtins.list[str]:
            found = {key.decode() for key in client.scan_iter(match=pattern, count=_BATCH)}
            return sorted(key[len(self._prefix) :] for key in found)

        return await self._call(scan)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one, at one moment."""
        wanted = list(keys)
        if not wanted:
            return {}
        stored = [self._prefix + key for key in wanted]
        found: Any = await self._call(lambda client: client.mget(stored))
        return {key: codec.loads(text) for key, text in zip(wanted, found, strict=True) if text is not None}

    async def set_many(self, items: Mapping[str, Any]) -> None:
        """Keep all values at once, or none if one of them cannot be kept."""
        texts = {self._prefix + key: codec.dumps(value) for key, value in items.items()}
        if texts:
            await self._call(lambda client: client.mset(texts))

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Forget values; how many there were."""
        stored = [self._prefix + key for key in keys]
        parts = [stored[start : start + _BATCH] for start in range(0, len(stored), _BATCH)]
        return await self._call(lambda client: sum(int(client.delete(*part)) for part in parts))

    async def _call(self, function: Callable[[Redis], T]) -> T:
        return await asyncio.to_thread(self._with_client, function)

    def _with_client(self, function: Callable[[Redis], T]) -> T:
        if self._client is None:
            self._client = client_of(self._url, socket_timeout=_SOCKET_SECONDS, socket_connect_timeout=_SOCKET_SECONDS)
        return function(self._client)
