"""Licences of tenants as rows, each behind the row security of its tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Select, and_, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from llmteam.db.engine import Database
from llmteam.db.errors import constraint_of
from llmteam.db.license_tables import limit_reservations as places
from llmteam.db.license_tables import revoked_licenses as revocations
from llmteam.db.license_tables import tenant_licenses as table
from llmteam.ids import as_utc
from llmteam.licensing.exceptions import LicenseConflictError
from llmteam.licensing.models import NEVER, License, LicenseRecord, starts_of

T = TypeVar("T")

#: What refuses two licences of a tenant at the same time.
_ONE_AT_A_TIME = {"tenant_licenses_one_at_a_time", "tenant_licenses_current", "tenant_licenses_pkey"}

#: How often a change that lost against another one is tried.
_TRIES = 5

#: The lock of everything that takes a place of the tenant, as it is when a run starts.
_LOCK = text("""
INSERT INTO llmteam.tenant_starts AS s (tenant_id, day, started)
VALUES (:tenant_id, (CAST(:now AS timestamptz) AT TIME ZONE 'UTC')::date, 0)
ON CONFLICT (tenant_id) DO UPDATE SET started = s.started
""")

_OPEN_RUNS = text("""
SELECT count(*) FROM llmteam.runs WHERE tenant_id = :tenant_id AND finished_at IS NULL AND status <> 'pending'
""")


class PostgresLicenseStore:
    """The :class:`~llmteam.licensing.stores.LicenseStore` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of this store in a thread."""
        return await asyncio.to_thread(function, *args)

    def current(self, tenant_id: str) -> LicenseRecord | None:
        """As :meth:`LicenseStore.current`."""
        return next(iter(self._records(tenant_id, _records(tenant_id).where(table.c.valid_to.is_(None)))), None)

    def history(self, tenant_id: str) -> list[LicenseRecord]:
        """As :meth:`LicenseStore.history`."""
        return self._records(tenant_id, _records(tenant_id).order_by(table.c.version.desc()))

    def _records(self, tenant_id: str, statement: Select[Any]) -> list[LicenseRecord]:
        with self._database.tenant_transaction(tenant_id) as connection:
            return [_record_of(row) for row in connection.execute(statement).mappings()]

    def put(
        self, tenant_id: str, license_: License | None, by: str, now: datetime, version: int | None = None
    ) -> LicenseRecord | None:
        """As :meth:`LicenseStore.put`: the constraint of the table refuses whoever comes second."""
        # Without a version to hold it against, whoever comes second is not refused but follows.
        for _ in range(0 if version is not None else _TRIES - 1):
            try:
                return self._put(tenant_id, license_, by, now, version)
            except LicenseConflictError:
                continue
        return self._put(tenant_id, license_, by, now, version)

    def _put(
        self, tenant_id: str, license_: License | None, by: str, now: datetime, version: int | None
    ) -> LicenseRecord | None:
        try:
            with self._database.tenant_transaction(tenant_id) as connection:
                _replace(connection, tenant_id, license_, by, now, version)
        except Exception as exc:
            if constraint_of(exc) not in _ONE_AT_A_TIME:
                raise
            raise LicenseConflictError(tenant_id, version or 0) from None
        return None if license_ is None else self.current(tenant_id)

    def see(self, tenant_id: str, now: datetime) -> None:
        """As :meth:`LicenseStore.see`."""
        seen = update(table).where(table.c.tenant_id == tenant_id, table.c.valid_to.is_(None), table.c.seen_at < now)
        with self._database.tenant_transaction(tenant_id) as connection:
            connection.execute(seen.values(seen_at=now))

    def revoke(self, tenant_id: str, license_id: str, by: str, now: datetime) -> bool:
        """As :meth:`LicenseStore.revoke`."""
        row = {"tenant_id": tenant_id, "license_id": license_id, "revoked_at": now, "revoked_by": by}
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(upsert(revocations).values(row).on_conflict_do_nothing()).rowcount > 0

    def is_revoked(self, tenant_id: str, license_id: str) -> bool:
        """As :meth:`LicenseStore.is_revoked`."""
        found = select(revocations.c.license_id).where(
            revocations.c.tenant_id == tenant_id, revocations.c.license_id == license_id
        )
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(found).one_or_none() is not None

    def reserve(
        self, tenant_id: str, limit: str, owner: str, expires_at: datetime, most: int | None, now: datetime
    ) -> int | None:
        """As :meth:`LicenseStore.reserve`, under the lock that starts of the tenant's runs take."""
        mine = (places.c.tenant_id == tenant_id, places.c.limit_name == limit)
        others = select(func.count()).select_from(places).where(*mine, places.c.owner != owner)
        row = {"tenant_id": tenant_id, "limit_name": limit, "owner": owner, "expires_at": expires_at}
        with self._database.tenant_transaction(tenant_id) as connection:
            connection.execute(_LOCK, {"tenant_id": tenant_id, "now": now})
            connection.execute(delete(places).where(*mine, places.c.expires_at <= now))
            if most is not None:
                taken = int(connection.execute(others).scalar_one())
                if limit == "concurrent_pipelines":
                    taken += int(connection.execute(_OPEN_RUNS, {"tenant_id": tenant_id}).scalar_one())
                if taken >= most:
                    return taken
            place = (
                upsert(places).values(row).on_conflict_do_update(places.primary_key, set_={"expires_at": expires_at})
            )
            connection.execute(place)
        return None

    def release(self, tenant_id: str, limit: str, owner: str) -> bool:
        """As :meth:`LicenseStore.release`."""
        gone = delete(places).where(
            places.c.tenant_id == tenant_id, places.c.limit_name == limit, places.c.owner == owner
        )
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(gone).rowcount > 0


def _replace(
    connection: Connection, tenant_id: str, license_: License | None, by: str, now: datetime, version: int | None
) -> None:
    last = select(table.c.version, table.c.valid_from, table.c.valid_to, table.c.seen_at)
    row = connection.execute(
        last.where(table.c.tenant_id == tenant_id).order_by(table.c.version.desc()).limit(1)
    ).one_or_none()
    held = 0 if row is None or row.valid_to is not None else int(row.version)
    if version is not None and version != held:
        raise LicenseConflictError(tenant_id, version)
    # A clock that was set back makes no two of them hold at once.
    moment = now if row is None else max(now, as_utc(row.valid_to or row.valid_from))
    if held:
        ended = update(table).where(table.c.tenant_id == tenant_id, table.c.version == held)
        if connection.execute(ended.values(valid_to=moment)).rowcount == 0:
            raise LicenseConflictError(tenant_id, held)
    if license_ is None:
        return
    seen = now if row is None else max(now, as_utc(row.seen_at))
    values = _values(tenant_id, 1 if row is None else int(row.version) + 1, license_)
    connection.execute(insert(table).values(**values, valid_from=moment, seen_at=seen, set_by=by))


def _records(tenant_id: str) -> Select[Any]:
    same = and_(revocations.c.tenant_id == table.c.tenant_id, revocations.c.license_id == table.c.license_id)
    joined = table.outerjoin(revocations, same)
    revoked = revocations.c.license_id.is_not(None).label("revoked")
    return select(table, revoked).select_from(joined).where(table.c.tenant_id == tenant_id)


def _record_of(row: RowMapping) -> LicenseRecord:
    return LicenseRecord(
        row["tenant_id"],
        row["version"],
        License.of_document(row["document"]),
        as_utc(row["valid_from"]),
        row["set_by"],
        as_utc(row["seen_at"]),
        None if row["valid_to"] is None else as_utc(row["valid_to"]),
        row["revoked"],
    )


def _values(tenant_id: str, version: int, license_: License) -> dict[str, Any]:
    starts = starts_of(license_.allowed)
    return {
        "tenant_id": tenant_id,
        "version": version,
        "tier": license_.tier.value,
        "license_id": license_.license_id,
        "document": license_.document(),
        "max_concurrent": starts.concurrent,
        "max_agents": starts.agents,
        "grace_until": None if license_.grace_until == NEVER else license_.grace_until,
    }
