"""Tables of what is sealed."""

from __future__ import annotations

from sqlalchemy import Index, PrimaryKeyConstraint, Table
from sqlalchemy import text as sql_text

from llmteam.db.columns import integer, json, metadata, text, time

tenant_keys = Table(
    "tenant_keys",
    metadata,
    text("tenant_id"),
    integer("generation"),
    # Empty where a first key was ruled out before there was one.
    text("key_id"),
    # Null once the key is destroyed, as is what it wraps.
    text("master_id", null=True),
    text("wrapped", null=True),
    time("created_at", null=False),
    time("destroyed_at"),
    PrimaryKeyConstraint("tenant_id", "generation"),
    Index("tenant_keys_master_id", "master_id", "tenant_id", postgresql_where=sql_text("destroyed_at IS NULL")),
)

agent_contexts = Table(
    "agent_contexts",
    metadata,
    text("tenant_id"),
    text("run_id"),
    text("path"),
    integer("version", default=1),
    json("document", null=False),
    time("created_at", null=False),
    time("updated_at", null=False),
    PrimaryKeyConstraint("tenant_id", "run_id", "path"),
)
