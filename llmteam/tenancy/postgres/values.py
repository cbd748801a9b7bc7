"""Values of tenants as rows, each behind the row security of its tenant."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import JSON, Connection, Text, cast, collate, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from llmteam import codec
from llmteam.db.engine import Database
from llmteam.db.tenant_tables import key_values as table
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant

T = TypeVar("T")


class PostgresKeyValueStore:
    """The :class:`~llmteam.tenancy.stores.KeyValueStore` in Postgres.

    Rows belong to the current tenant, without one to ``default``; everybody sees their own only, whatever the key.
    Several values are kept or forgotten in one transaction.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

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
        return key in await self.get_many([key])

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that begin with ``prefix``, in order."""
        return await self._as_tenant(lambda connection: _keys(connection, prefix))

    async def list_everything(self, prefix: str = "") -> builtins.list[str]:
        """The keys of all tenants that begin with ``prefix``, in order."""

        def look() -> builtins.list[str]:
            with self._database.sweeper_transaction() as connection:
                return _keys(connection, prefix)

        return await asyncio.to_thread(look)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one, at one moment."""
        wanted = list(keys)
        statement = select(table.c.key, cast(table.c.value, Text)).where(table.c.key.in_(wanted))

        def look(connection: Connection) -> dict[str, Any]:
            return {key: codec.loads(text) for key, text in connection.execute(statement)}

        return await self._as_tenant(look)

    async def set_many(self, items: Mapping[str, Any]) -> None:
        """Keep all values, or none if one of them cannot be kept."""
        for key, value in items.items():
            codec.check(key, "key")
            codec.check(value)
        if items:
            # In the order of the keys, so that two who set the same ones never wait for each other.
            await self._as_tenant(lambda connection: self._write(connection, sorted(items.items())))

    def _write(self, connection: Connection, items: Sequence[tuple[str, Any]]) -> None:
        tenant_id = get_current_tenant() or DEFAULT_TENANT
        now = self._clock()
        # A null is a value here, not the lack of one.
        given = [(key, JSON.NULL if value is None else value) for key, value in items]
        rows = [{"tenant_id": tenant_id, "key": key, "value": value, "updated_at": now} for key, value in given]
        statement = insert(table)
        new = {"value": statement.excluded.value, "updated_at": statement.excluded.updated_at}
        connection.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "key"], set_=new), rows)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Forget values; how many there were."""
        statement = delete(table).where(table.c.key.in_(list(keys)))
        return await self._as_tenant(lambda connection: connection.execute(statement).rowcount)

    async def _as_tenant(self, function: Callable[[Connection], T]) -> T:
        def call() -> T:
            with self._database.tenant_transaction(get_current_tenant() or DEFAULT_TENANT) as connection:
                return function(connection)

        # The thread runs in a copy of this context, so that the tenant is the caller's.
        return await asyncio.to_thread(call)


def _keys(connection: Connection, prefix: str) -> list[str]:
    statement = select(table.c.key).where(func.starts_with(table.c.key, prefix)).order_by(collate(table.c.key, "C"))
    return list(connection.scalars(statement))
