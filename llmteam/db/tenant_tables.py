"""The tables of tenants: their records, what is counted of their starts, and the values that they keep."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Date, Index, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY

from llmteam.db.columns import integer, json_column, metadata, moment, string

tenants = Table(
    "tenants",
    metadata,
    string("tenant_id"),
    string("name"),
    string("tier"),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    string("data_region"),
    json_column("document", null=False),
    integer("version", default=1),
    # What holds for starts, as the tier and the document say; NULL is not counted.
    integer("max_concurrent", null=True),
    integer("max_per_day", null=True),
    integer("max_per_minute", null=True),
    integer("max_agents", null=True),
    Column("queues", Boolean, nullable=False, server_default=text("false")),
    # What the tier and the record give, with `*` for all, and what is off even then.
    Column("features", ARRAY(Text), nullable=False, server_default=text("'{*}'")),
    Column("features_off", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Bytes; NULL is not counted.
    Column("max_storage", BigInteger),
    moment("created_at", null=False),
    moment("updated_at", null=False),
    moment("deleted_at"),
    # Since when everything of the tenant is being deleted.
    moment("erased_at"),
    PrimaryKeyConstraint("tenant_id"),
    Index("tenants_created_at", "created_at", "tenant_id"),
)

tenant_starts = Table(
    "tenant_starts",
    metadata,
    string("tenant_id"),
    # The UTC day in which so many runs were started; its row is the lock of the tenant's starts.
    Column("day", Date, nullable=False),
    integer("started", default=0),
    PrimaryKeyConstraint("tenant_id"),
)

tenant_storage = Table(
    "tenant_storage",
    metadata,
    string("tenant_id"),
    # Bytes of the tenant's rows when they were last metered.
    Column("stored", BigInteger, nullable=False),
    moment("metered_at", null=False),
    PrimaryKeyConstraint("tenant_id"),
)

key_values = Table(
    "key_values",
    metadata,
    string("tenant_id"),
    string("key"),
    json_column("value", null=False),
    moment("updated_at", null=False),
    PrimaryKeyConstraint("tenant_id", "key"),
)
