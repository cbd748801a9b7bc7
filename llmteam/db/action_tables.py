"""Tables of actions."""

from __future__ import annotations

from sqlalchemy import Index, PrimaryKeyConstraint, Table

from llmteam.db.columns import integer, json_column, metadata, moment, string

action_attempts = Table(
    "action_attempts",
    metadata,
    string("tenant_id"),
    string("action_id"),
    string("idempotency_key"),
    integer("attempt"),
    string("run_id"),
    string("step_id"),
    integer("visit", default=1),
    string("payload_hash"),
    string("state"),
    string("error_type", default=""),
    json_column("document"),
    moment("started_at", null=False),
    moment("finished_at"),
    PrimaryKeyConstraint("tenant_id", "action_id", "idempotency_key", "attempt"),
    Index("action_attempts_run", "tenant_id", "run_id", "started_at"),
)
