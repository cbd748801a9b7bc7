"""Every table as SQLAlchemy Core metadata; ``tenant_id`` stands first in each key.

The migrations make these tables, their row security and their grants; an integration test compares the two.
Documents are ``json``, not ``jsonb``: they are read whole and written often, and their key order is kept.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Identity,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from llmteam.db.action_tables import action_attempts
from llmteam.db.audit_tables import audit_checkpoints, audit_heads, audit_log
from llmteam.db.columns import SCHEMA, metadata
from llmteam.db.columns import flag as _flag
from llmteam.db.columns import integer as _int
from llmteam.db.columns import json_column as _json
from llmteam.db.columns import moment as _time
from llmteam.db.columns import string as _text
from llmteam.db.key_tables import agent_contexts, tenant_keys
from llmteam.db.license_tables import limit_reservations, revoked_licenses, tenant_licenses
from llmteam.db.tenant_tables import key_values, tenant_starts, tenant_storage, tenants

__all__ = [
    "SCHEMA",
    "action_attempts",
    "agent_contexts",
    "audit_checkpoints",
    "audit_heads",
    "audit_log",
    "definitions",
    "events",
    "interaction_messages",
    "interaction_responses",
    "interactions",
    "key_values",
    "limit_reservations",
    "metadata",
    "notifications",
    "payloads",
    "revoked_licenses",
    "run_steps",
    "runs",
    "segments",
    "snapshots",
    "sweeps",
    "tenant_keys",
    "tenant_licenses",
    "tenant_starts",
    "tenant_storage",
    "tenants",
    "used_links",
]

definitions = Table(
    "definitions",
    metadata,
    _text("tenant_id"),
    _text("definition_hash"),
    _text("segment_id"),
    _json("document", null=False),
    _json("types", null=False),
    _time("created_at", null=False),
    PrimaryKeyConstraint("tenant_id", "definition_hash"),
)

segments = Table(
    "segments",
    metadata,
    _text("tenant_id"),
    _text("segment_id"),
    _text("version"),
    _text("content_hash"),
    _text("definition_hash"),
    _time("archived_at"),
    _time("published_at", null=False),
    _text("published_by", default=""),
    PrimaryKeyConstraint("tenant_id", "segment_id", "version"),
)

runs = Table(
    "runs",
    metadata,
    _text("tenant_id"),
    _text("run_id"),
    _text("instance_id", default=""),
    _text("segment_id"),
    _text("definition_hash"),
    _text("status"),
    _int("open", default=0),
    _int("running", default=0),
    _int("completed", default=0),
    _int("failed", default=0),
    _int("total", default=0),
    _int("terminals", default=0),
    _int("next_seq", default=1),
    _json("input"),
    _text("input_ref", null=True),
    _json("config", null=False),
    _json("context", null=False),
    _json("error"),
    _text("parent_run_id", null=True),
    _text("root_run_id"),
    _text("link", null=True),
    _text("idempotency_key", null=True),
    _time("deadline"),
    _time("wake_at"),
    _int("hints", default=0),
    _time("created_at", null=False),
    _time("started_at"),
    _time("finished_at"),
    _json("outputs"),
    _time("paused_at"),
    _text("snapshot_id", null=True),
    _text("start_hash", null=True),
    # Whether the tenant's starts wait for their turn, so that the end of this run lets another one begin.
    _flag("queues"),
    # Where its steps run; the tenant's when it was started.
    _text("region", default="default"),
    PrimaryKeyConstraint("tenant_id", "run_id"),
    Index("runs_admitted", "tenant_id", postgresql_where=text("finished_at IS NULL AND status <> 'pending'::text")),
    Index("runs_queued", "tenant_id", "created_at", "run_id", postgresql_where=text("status = 'pending'::text")),
    Index("runs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    Index("runs_input_ref", "tenant_id", "input_ref", postgresql_where=text("input_ref IS NOT NULL")),
    Index("runs_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    # With a condition that only listings say: no plan for one run can take an index that finds all of its tenant.
    Index("runs_listed", "tenant_id", text("created_at DESC"), postgresql_where=text("run_id <> ''::text")),
    Index(
        "runs_listed_by_status",
        "tenant_id",
        "status",
        text("created_at DESC"),
        postgresql_where=text("run_id <> ''::text"),
    ),
    Index(
        "runs_idempotency_key",
        "tenant_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

run_steps = Table(
    "run_steps",
    metadata,
    _text("tenant_id"),
    _text("run_id"),
    _text("step_id"),
    _int("visit", default=1),
    _text("state"),
    _int("undecided", default=0),
    _int("live", default=0),
    _int("failed_in", default=0),
    _int("attempt", default=0),
    _int("losses", default=0),
    _int("fence", default=0),
    _text("queue"),
    _text("owner", null=True),
    _text("holder", null=True),
    _time("lease_until"),
    _time("wake_at"),
    _int("hints", default=0),
    _time("deadline"),
    _time("ready_at"),
    _time("started_at"),
    _time("finished_at"),
    Column("decisions", ARRAY(SmallInteger), nullable=True),
    Column("sources", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _flag("whole"),
    _json("output"),
    _text("output_ref", null=True),
    _flag("terminal"),
    _json("error"),
    _text("chord_id", null=True),
    _json("loop"),
    _json("local_state"),
    _text("held_owner", null=True),
    _time("held_wake_at"),
    _json("given"),
    PrimaryKeyConstraint("tenant_id", "run_id", "step_id", "visit"),
    CheckConstraint("owner IN ('inputs', 'queue', 'lease', 'timer', 'person', 'limit', 'pause')", name="owner_known"),
    Index("run_steps_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("run_steps_output_ref", "tenant_id", "output_ref", postgresql_where=text("output_ref IS NOT NULL")),
)

events = Table(
    "events",
    metadata,
    _text("tenant_id"),
    _text("run_id"),
    _int("seq"),
    _text("event_type"),
    _time("ts", null=False),
    _text("instance_id", default=""),
    _text("segment_id"),
    _text("step_id", null=True),
    _text("step_type", null=True),
    _int("visit", null=True),
    _int("attempt", null=True),
    _text("severity"),
    _text("correlation_id", null=True),
    _text("parent_event_id", null=True),
    _json("payload", null=False),
    _json("error"),
    _int("duration_ms", null=True),
    PrimaryKeyConstraint("tenant_id", "run_id", "seq"),
    # Nine of ten events say that a step began or is done; who asks for those, asks for most of the table.
    Index(
        "events_rare",
        "tenant_id",
        "event_type",
        "ts",
        postgresql_where=text("event_type <> 'step.started'::text AND event_type <> 'step.completed'::text"),
    ),
    Index("events_ts", "tenant_id", "ts"),
)

payloads = Table(
    "payloads",
    metadata,
    _text("tenant_id"),
    _text("hash"),
    _json("body", null=False),
    _int("size"),
    _time("created_at", null=False),
    PrimaryKeyConstraint("tenant_id", "hash"),
    Index("payloads_created_at", "created_at"),
)

snapshots = Table(
    "snapshots",
    metadata,
    _text("tenant_id"),
    _text("snapshot_id"),
    _text("run_id"),
    _text("segment_id"),
    _json("document", null=False),
    _time("created_at", null=False),
    _text("snapshot_type", default="pause"),
    _text("phase", default="paused"),
    # Of two of one moment the one with the higher number is the later one.
    Column("number", BigInteger, Identity(always=True), nullable=False),
    # SHA-256 of the document's text, as hexadecimal digits: what a copy of it elsewhere is held against.
    _text("digest", null=True),
    PrimaryKeyConstraint("tenant_id", "snapshot_id"),
    Index("snapshots_run", "tenant_id", "run_id", text("created_at DESC"), text("number DESC")),
    Index("snapshots_pipeline", "tenant_id", "segment_id", text("created_at DESC"), text("number DESC")),
    Index("snapshots_created_at", "created_at"),
)

sweeps = Table(
    "sweeps",
    metadata,
    # Sweeps belong to the installation; the column is there because every table has it.
    _text("tenant_id", default="*"),
    _text("name"),
    _time("ended_at", null=False),
    _int("found", default=0),
    PrimaryKeyConstraint("tenant_id", "name"),
    # Nothing that belongs to a tenant.
    info={"private": True},
)

interactions = Table(
    "interactions",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _text("run_id", default=""),
    _text("step_id", default=""),
    _int("visit", default=1),
    # Whether a step of a run waits for the answer.
    _flag("parked"),
    _text("interaction_type"),
    _text("status"),
    # Everybody who is asked by name; with them the group. Nobody and no group: anybody.
    Column("asked", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _text("assignee_group", null=True),
    _json("document", null=False),
    _time("deadline"),
    _time("wake_at"),
    # Since when the run stands still, and for how long it did before, in seconds.
    _time("frozen_at"),
    Column("stood", Float(53), nullable=False, server_default=text("0")),
    _time("created_at", null=False),
    _time("updated_at"),
    _time("closed_at"),
    PrimaryKeyConstraint("tenant_id", "request_id"),
    Index("interactions_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("interactions_open", "tenant_id", "deadline", postgresql_where=text("closed_at IS NULL")),
    Index("interactions_closed_at", "closed_at", postgresql_where=text("closed_at IS NOT NULL")),
    Index("interactions_run", "tenant_id", "run_id", postgresql_where=text("run_id <> ''::text")),
    Index(
        "interactions_step",
        "tenant_id",
        "run_id",
        "step_id",
        "visit",
        unique=True,
        postgresql_where=text("parked"),
    ),
)

interaction_responses = Table(
    "interaction_responses",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _text("responder_id"),
    # The answer that closed the request; others are votes towards it.
    _flag("final"),
    _json("document", null=False),
    _time("created_at", null=False),
    PrimaryKeyConstraint("tenant_id", "request_id", "responder_id"),
    Index("interaction_responses_final", "tenant_id", "request_id", unique=True, postgresql_where=text("final")),
)

interaction_messages = Table(
    "interaction_messages",
    metadata,
    _text("tenant_id"),
    _text("request_id"),
    _int("seq"),
    _text("sender_id"),
    _text("body"),
    _time("sent_at", null=False),
    PrimaryKeyConstraint("tenant_id", "request_id", "seq"),
)

used_links = Table(
    "used_links",
    metadata,
    _text("tenant_id"),
    _text("link_id"),
    _time("expires_at", null=False),
    PrimaryKeyConstraint("tenant_id", "link_id"),
    Index("used_links_expires_at", "expires_at"),
)

notifications = Table(
    "notifications",
    metadata,
    _text("tenant_id"),
    _text("notification_id"),
    _text("request_id"),
    _text("kind"),
    # Empty until it is directed at each channel that is set up.
    _text("channel", default=""),
    Column("recipients", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _text("state", default="pending"),
    _int("attempts", default=0),
    _time("wake_at"),
    _text("last_error", null=True),
    _time("created_at", null=False),
    _time("finished_at"),
    PrimaryKeyConstraint("tenant_id", "notification_id"),
    CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state_known"),
    Index("notifications_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("notifications_request", "tenant_id", "request_id"),
    Index("notifications_dead", "tenant_id", text("created_at DESC"), postgresql_where=text("state = 'dead'::text")),
)
