"""Wrapped data keys as rows, each tenant's behind row security."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from llmteam.crypto import WrappedKey
from llmteam.db.engine import Database
from llmteam.db.tables import tenant_keys as table
from llmteam.ids import as_utc
from llmteam.keys.stores import MasterKeyUse, StoredKey

_LIVE = table.c.destroyed_at.is_(None)


#: Told of a change in the transaction that makes it: the tenant, what was done, the key's id (empty for all keys), and
#: the master keys that wrapped it before and wrap it now. What it raises undoes the change.
Record = Callable[[Connection, str, Literal["create", "renew", "rewrap", "destroy"], str, str, str], object]


class PostgresKeyStore:
    """The :class:`~llmteam.keys.KeyStore` in SQL.

    ``record`` writes changes down, each in its own transaction, as :func:`llmteam.audit.postgres.key_changes` does.
    """

    def __init__(self, database: Database, *, record: Record | None = None) -> None:
        self._database = database
        self._record = record

    def _told(
        self,
        connection: Connection,
        tenant_id: str,
        action: Literal["create", "renew", "rewrap", "destroy"],
        key: WrappedKey | None,
        was: str = "",
    ) -> None:
        if self._record is not None:
            key_id, master_id = ("", "") if key is None else (key.key_id, key.master_id)
            self._record(connection, tenant_id, action, key_id, was, master_id)

    def all(self, tenant_id: str) -> list[StoredKey]:
        """As :meth:`KeyStore.all`."""
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.generation.desc())
        with self._database.tenant_transaction(tenant_id) as connection:
            return [_stored(row) for row in connection.execute(query)]

    def add_first(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """As :meth:`KeyStore.add_first`: the primary key decides who was first."""
        row = {"tenant_id": tenant_id, "generation": 1, "created_at": now, **_values(key)}
        with self._database.tenant_transaction(tenant_id) as connection:
            if connection.execute(insert(table).values(row).on_conflict_do_nothing()).rowcount > 0:
                self._told(connection, tenant_id, "create", key)

    def add_next(self, tenant_id: str, key: WrappedKey, now: datetime) -> None:
        """As :meth:`KeyStore.add_next`."""
        with self._database.tenant_transaction(tenant_id) as connection:
            _lock(connection, tenant_id)
            last = select(func.coalesce(func.max(table.c.generation), 0)).where(table.c.tenant_id == tenant_id)
            generation = connection.scalar(last) or 0
            row = {"tenant_id": tenant_id, "generation": generation + 1, "created_at": now, **_values(key)}
            connection.execute(insert(table).values(row))
            self._told(connection, tenant_id, "renew", key)

    def rewrap(self, tenant_id: str, generation: int, was: str, key: WrappedKey) -> bool:
        """As :meth:`KeyStore.rewrap`."""
        change = (
            update(table)
            .where(table.c.tenant_id == tenant_id, table.c.generation == generation, table.c.master_id == was)
            .where(_LIVE)
            .values(master_id=key.master_id, wrapped=key.wrapped)
        )
        with self._database.tenant_transaction(tenant_id) as connection:
            changed = connection.execute(change).rowcount > 0
            if changed:
                self._told(connection, tenant_id, "rewrap", key, was)
            return changed

    def destroy(self, tenant_id: str, now: datetime) -> int:
        """As :meth:`KeyStore.destroy`."""
        with self._database.tenant_transaction(tenant_id) as connection:
            _lock(connection, tenant_id)
            tombstone = {"tenant_id": tenant_id, "generation": 1, "key_id": "", "created_at": now, "destroyed_at": now}
            connection.execute(insert(table).values(tombstone).on_conflict_do_nothing())
            gone = update(table).where(table.c.tenant_id == tenant_id, _LIVE)
            destroyed = connection.execute(gone.values(master_id=None, wrapped=None, destroyed_at=now)).rowcount
            if destroyed:
                self._told(connection, tenant_id, "destroy", None)
            return destroyed

    def wrapped_by_others(self, master_id: str, limit: int) -> list[str]:
        """As :meth:`KeyStore.wrapped_by_others`."""
        query = (
            select(table.c.tenant_id)
            .where(_LIVE, table.c.master_id != master_id)
            .distinct()
            .order_by(table.c.tenant_id)
            .limit(limit)
        )
        with self._database.sweeper_transaction() as connection:
            return list(connection.scalars(query))

    def uses(self) -> list[MasterKeyUse]:
        """As :meth:`KeyStore.uses`."""
        query = select(table.c.master_id, func.count()).where(_LIVE).group_by(table.c.master_id)
        with self._database.sweeper_transaction() as connection:
            return [MasterKeyUse(*row) for row in connection.execute(query.order_by(table.c.master_id))]


def _lock(connection: Connection, tenant_id: str) -> None:
    """Let those who add to a tenant's keys and who destroy them take turns, also before there is a row."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"llmteam.keys.{tenant_id}", 0))))


def _values(key: WrappedKey) -> dict[str, str]:
    return {"key_id": key.key_id, "master_id": key.master_id, "wrapped": key.wrapped}


def _stored(row: Any) -> StoredKey:
    wrapped = None if row.wrapped is None else WrappedKey(row.key_id, row.master_id, row.wrapped)
    destroyed = None if row.destroyed_at is None else as_utc(row.destroyed_at)
    return StoredKey(row.generation, row.key_id, wrapped, as_utc(row.created_at), destroyed)
