"""Tenants' records as rows. One tenant's is read and written as that tenant, lists are read as the sweeper."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from llmteam.db.engine import Database
from llmteam.db.errors import constraint_of
from llmteam.db.tenant_tables import tenants as table
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.admission import StartLimits, limits_of
from llmteam.tenancy.exceptions import TenantAlreadyExistsError, TenantConflictError, TenantNotFoundError
from llmteam.tenancy.limits import TenantTier
from llmteam.tenancy.models import TenantConfig
from llmteam.tenancy.stores import TenantStoreFace

T = TypeVar("T")

#: What stands in columns of its own and not in the document.
_COLUMNS = ("tenant_id", "name", "is_active", "data_region", "version", "created_at", "updated_at")


#: Told of a change in the transaction that makes it: what was done, and the record before and after. What it raises
#: undoes the change.
Record = Callable[[Connection, Literal["create", "update", "delete"], TenantConfig | None, TenantConfig | None], object]


class PostgresTenantStore(TenantStoreFace):
    """The :class:`~llmteam.tenancy.stores.TenantStore` in Postgres.

    ``record`` writes changes down, each in its own transaction, as :func:`llmteam.audit.postgres.tenant_changes` does.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now, record: Record | None = None) -> None:
        self._database = database
        self._clock = clock
        self._record = record

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the core in a thread."""
        return await asyncio.to_thread(function, *args)

    def find(self, tenant_id: str) -> TenantConfig | None:
        """As :meth:`TenantStoreFace.find`."""
        row = self._row(tenant_id)
        return None if row is None or row["deleted_at"] is not None else config_of(row)

    def start_limits(self, tenant_id: str) -> StartLimits | None:
        """As :meth:`TenantStoreFace.start_limits`."""
        row = self._row(tenant_id)
        if row is None:
            return None
        counted = (row["max_concurrent"], row["max_per_day"], row["max_per_minute"], row["max_agents"])
        given = (frozenset(row["features"]), frozenset(row["features_off"]), row["max_storage"], row["data_region"])
        return StartLimits(*counted, row["queues"], row["is_active"], row["deleted_at"] is not None, *given)

    def _row(self, tenant_id: str) -> RowMapping | None:
        statement = select(table).where(table.c.tenant_id == tenant_id)
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(statement).mappings().one_or_none()

    def add(self, config: TenantConfig) -> TenantConfig:
        """As :meth:`TenantStoreFace.add`; the primary key decides."""
        kept = config.copy(version=1)
        try:
            with self._database.tenant_transaction(kept.tenant_id) as connection:
                connection.execute(insert(table).values(_values(kept)))
                if self._record is not None:
                    self._record(connection, "create", None, kept)
        except Exception as exc:
            if constraint_of(exc) != "tenants_pkey":
                raise
            raise TenantAlreadyExistsError(config.tenant_id) from None
        return kept

    def put(self, config: TenantConfig) -> TenantConfig:
        """As :meth:`TenantStoreFace.put`: compare and set on the version, in one statement."""
        values = _values(config) | {"version": table.c.version + 1}
        del values["created_at"]
        statement = update(table).where(table.c.tenant_id == config.tenant_id, table.c.deleted_at.is_(None))
        if config.version:
            statement = statement.where(table.c.version == config.version)
        with self._database.tenant_transaction(config.tenant_id) as connection:
            before = self._before(connection, config.tenant_id)
            row = connection.execute(statement.values(values).returning(table)).mappings().one_or_none()
            if row is not None:
                if self._record is not None:
                    self._record(connection, "update", before, config_of(row))
                return config_of(row)
        if self.find(config.tenant_id) is None:
            raise TenantNotFoundError(config.tenant_id)
        raise TenantConflictError(config.tenant_id, config.version)

    def remove(self, tenant_id: str) -> None:
        """As :meth:`TenantStoreFace.remove`."""
        statement = update(table).where(table.c.tenant_id == tenant_id, table.c.deleted_at.is_(None))
        with self._database.tenant_transaction(tenant_id) as connection:
            before = self._before(connection, tenant_id)
            if connection.execute(statement.values(deleted_at=self._clock())).rowcount == 0:
                raise TenantNotFoundError(tenant_id)
            if self._record is not None:
                self._record(connection, "delete", before, None)

    def _before(self, connection: Connection, tenant_id: str) -> TenantConfig | None:
        """The record that is about to be changed, locked; None when there is none, or nobody wants to know."""
        if self._record is None:
            return None
        statement = select(table).where(table.c.tenant_id == tenant_id, table.c.deleted_at.is_(None)).with_for_update()
        row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else config_of(row)

    def forget(self, tenant_id: str) -> bool:
        """As :meth:`TenantStoreFace.forget`."""
        mark = update(table).where(table.c.tenant_id == tenant_id).values(erased_at=self._clock())
        with self._database.tenant_transaction(tenant_id) as connection:
            if connection.execute(mark).rowcount == 0:
                return False
        with self._database.sweeper_transaction() as connection:
            connection.execute(table.delete().where(table.c.tenant_id == tenant_id))
        return True

    def page(
        self, limit: int | None, offset: int, include_inactive: bool, tier: TenantTier | None = None
    ) -> builtins.list[TenantConfig]:
        """As :meth:`TenantStoreFace.page`."""
        statement = _shown(select(table), include_inactive)
        if tier is not None:
            statement = statement.where(table.c.tier == tier.value)
        statement = statement.order_by(table.c.created_at, table.c.tenant_id).limit(limit).offset(offset)
        with self._database.sweeper_transaction() as connection:
            return [config_of(row) for row in connection.execute(statement).mappings()]

    def number(self, include_inactive: bool) -> int:
        """As :meth:`TenantStoreFace.number`."""
        with self._database.sweeper_transaction() as connection:
            statement = _shown(select(func.count()).select_from(table), include_inactive)
            return int(connection.execute(statement).scalar_one())


def _shown(statement: Select[Any], include_inactive: bool) -> Select[Any]:
    statement = statement.where(table.c.deleted_at.is_(None))
    return statement if include_inactive else statement.where(table.c.is_active)


def config_of(row: RowMapping) -> TenantConfig:
    """The record of a row."""
    own = {name: row[name] for name in _COLUMNS}
    return TenantConfig.from_dict({**row["document"], **own, "tier": row["tier"]})


def _values(config: TenantConfig) -> dict[str, Any]:
    own = {name: getattr(config, name) for name in _COLUMNS}
    document = {name: value for name, value in config.to_dict().items() if name not in own and name != "tier"}
    limits = limits_of(config)
    return {
        **own,
        "tier": config.tier.value,
        "document": document,
        "max_concurrent": limits.concurrent,
        "max_per_day": limits.per_day,
        "max_per_minute": limits.per_minute,
        "max_agents": limits.agents,
        "queues": limits.queues,
        "features": sorted(limits.features or ()),
        "features_off": sorted(limits.features_off),
        "max_storage": limits.storage,
    }
