"""The tables of licences: what holds for each tenant and held before, which ones were revoked, places reserved."""

from __future__ import annotations

from sqlalchemy import Index, PrimaryKeyConstraint, Table, text

from llmteam.db.columns import integer, json_column, metadata, moment, string

tenant_licenses = Table(
    "tenant_licenses",
    metadata,
    string("tenant_id"),
    integer("version"),
    string("tier"),
    # Empty where an operator gave the licence without a key.
    string("license_id"),
    json_column("document", null=False),
    # What holds for starts as long as the licence does; NULL is not counted.
    integer("max_concurrent", null=True),
    integer("max_agents", null=True),
    # NULL where it does not expire.
    moment("grace_until"),
    moment("valid_from", null=False),
    moment("valid_to"),
    # The latest time at which anybody looked.
    moment("seen_at", null=False),
    string("set_by"),
    PrimaryKeyConstraint("tenant_id", "version"),
    Index("tenant_licenses_current", "tenant_id", unique=True, postgresql_where=text("valid_to IS NULL")),
)

revoked_licenses = Table(
    "revoked_licenses",
    metadata,
    string("tenant_id"),
    string("license_id"),
    moment("revoked_at", null=False),
    string("revoked_by"),
    PrimaryKeyConstraint("tenant_id", "license_id"),
)

limit_reservations = Table(
    "limit_reservations",
    metadata,
    string("tenant_id"),
    string("limit_name"),
    string("owner"),
    moment("expires_at", null=False),
    PrimaryKeyConstraint("tenant_id", "limit_name", "owner"),
)
