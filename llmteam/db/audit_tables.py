"""The tables of the audit trail."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from llmteam.db.columns import json_column, metadata, moment, string

audit_log = Table(
    "audit_log",
    metadata,
    string("tenant_id"),
    Column("sequence_number", BigInteger, nullable=False),
    string("record_id"),
    moment("timestamp", null=False),
    string("event_type"),
    string("severity"),
    string("pipeline_id", default=""),
    string("run_id", default=""),
    string("agent_name", default=""),
    string("step_name", default=""),
    string("actor_type", default=""),
    string("actor_id", default=""),
    string("actor_ip", default=""),
    string("actor_user_agent", default=""),
    string("action", default=""),
    string("resource_type", default=""),
    string("resource_id", default=""),
    # The payloads and their salt are null once they are erased; their digests remain.
    json_column("old_value"),
    json_column("new_value"),
    Column("success", Boolean, nullable=False, server_default=text("true")),
    string("error_message", default=""),
    json_column("metadata"),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    string("checksum"),
    string("previous_checksum"),
    string("idempotency_key", null=True),
    Column("hash_version", SmallInteger, nullable=False),
    string("old_digest", default=""),
    string("new_digest", default=""),
    string("metadata_digest", default=""),
    string("salt", null=True),
    PrimaryKeyConstraint("tenant_id", "sequence_number"),
    Index("audit_log_record_id", "tenant_id", "record_id", unique=True),
    Index("audit_log_timestamp", "tenant_id", "timestamp"),
    Index("audit_log_actor", "tenant_id", "actor_id", "timestamp", postgresql_where=text("actor_id <> ''::text")),
    Index("audit_log_run", "tenant_id", "run_id", postgresql_where=text("run_id <> ''::text")),
    Index(
        "audit_log_resource",
        "tenant_id",
        "resource_id",
        "timestamp",
        postgresql_where=text("resource_id <> ''::text"),
    ),
    Index(
        "audit_log_idempotency_key",
        "tenant_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    string("tenant_id"),
    # Number and checksum of the last record; 0 and empty before the first one.
    Column("sequence_number", BigInteger, nullable=False, server_default=text("0")),
    string("checksum", default=""),
    PrimaryKeyConstraint("tenant_id"),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    string("tenant_id"),
    # The last record that retention removed, and the signature of whoever removed it.
    Column("sequence_number", BigInteger, nullable=False),
    string("checksum"),
    moment("issued_at", null=False),
    string("key_id"),
    string("signature"),
    PrimaryKeyConstraint("tenant_id", "sequence_number"),
)
