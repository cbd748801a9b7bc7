"""Tables of what is sealed."""

from __future__ import annotations

from sqlalchemy import Index, PrimaryKeyConstraint, Table, text

from llmteam.db.columns import integer, json_column, metadata, moment, string

tenant_keys = Table(
    "tenant_keys",
    metadata,
    string("tenant_id"),
    integer("generation"),
    # Empty where a first key was ruled out before there was one.
    string("key_id"),
    # Null once the key is destroyed, as is what it wraps.
    string("master_id", null=True),
    string("wrapped", null=True),
    moment("created_at", null=False),
    moment("destroyed_at"),
    PrimaryKeyConstraint("tenant_id", "generation"),
    Index("tenant_keys_master_id", "master_id", "tenant_id", postgresql_where=text("destroyed_at IS NULL")),
    info={"private": True},
)

agent_contexts = Table(
    "agent_contexts",
    metadata,
    string("tenant_id"),
    string("run_id"),
    string("path"),
    integer("version", default=1),
    json_column("document", null=False),
    moment("created_at", null=False),
    moment("updated_at", null=False),
    PrimaryKeyConstraint("tenant_id", "run_id", "path"),
)
