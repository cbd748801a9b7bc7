"""What doors other than a run's start ask of tenants' records."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from llmteam.db.engine import Database
from llmteam.db.tenant_tables import tenants
from llmteam.regions import DEFAULT_REGION
from llmteam.tenancy.admission import StartLimits, standing


def check_standing(connection: Connection, tenant_id: str) -> None:
    """Raise :class:`TenantNotFoundError` or :class:`TenantInactiveError` unless something may be begun for the tenant.

    ``connection`` is in a transaction of the tenant. A tenant without a record may.
    """
    query = select(tenants.c.is_active, tenants.c.deleted_at).where(tenants.c.tenant_id == tenant_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return
    refused = standing(tenant_id, StartLimits(is_active=row.is_active, is_deleted=row.deleted_at is not None))
    if refused is not None:
        raise refused


def region_of_tenant(database: Database, tenant_id: str) -> str:
    """Where runs of the tenant would begin now."""
    query = select(tenants.c.data_region).where(tenants.c.tenant_id == tenant_id)
    with database.tenant_transaction(tenant_id) as connection:
        region: str | None = connection.execute(query).scalar_one_or_none()
    return region or DEFAULT_REGION


def tenants_by_region(database: Database) -> dict[str, int]:
    """How many active tenants each region has."""
    query = (
        select(tenants.c.data_region, func.count())
        .where(tenants.c.is_active, tenants.c.deleted_at.is_(None))
        .group_by(tenants.c.data_region)
    )
    with database.sweeper_transaction() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}
