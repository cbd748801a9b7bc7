"""Segments, runs, steps, events, payloads and sweeps, each with forced row security

Definitions, events and payloads are written once: nobody has the right to change or delete them.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.definitions (
    tenant_id text NOT NULL,
    definition_hash text NOT NULL,
    segment_id text NOT NULL,
    document json NOT NULL,
    types json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, definition_hash)
);

CREATE TABLE llmteam.segments (
    tenant_id text NOT NULL,
    segment_id text NOT NULL,
    version text NOT NULL,
    content_hash text NOT NULL,
    definition_hash text NOT NULL,
    archived_at timestamptz,
    published_at timestamptz NOT NULL,
    published_by text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, segment_id, version)
);

CREATE TABLE llmteam.runs (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    instance_id text NOT NULL DEFAULT '',
    segment_id text NOT NULL,
    definition_hash text NOT NULL,
    status text NOT NULL,
    open integer NOT NULL DEFAULT 0,
    running integer NOT NULL DEFAULT 0,
    completed integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    total integer NOT NULL DEFAULT 0,
    terminals integer NOT NULL DEFAULT 0,
    next_seq integer NOT NULL DEFAULT 1,
    input json,
    input_ref text,
    config json NOT NULL,
    context json NOT NULL,
    error json,
    parent_run_id text,
    root_run_id text NOT NULL,
    link text,
    idempotency_key text,
    deadline timestamptz,
    wake_at timestamptz,
    hints integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    outputs json,
    PRIMARY KEY (tenant_id, run_id)
) WITH (fillfactor = 80);

CREATE TABLE llmteam.run_steps (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    step_id text NOT NULL,
    visit integer NOT NULL DEFAULT 1,
    state text NOT NULL,
    undecided integer NOT NULL DEFAULT 0,
    live integer NOT NULL DEFAULT 0,
    failed_in integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    losses integer NOT NULL DEFAULT 0,
    fence integer NOT NULL DEFAULT 0,
    queue text NOT NULL,
    owner text CONSTRAINT run_steps_owner_known
        CHECK (owner IN ('inputs', 'queue', 'lease', 'timer', 'person', 'limit', 'pause')),
    holder text,
    lease_until timestamptz,
    wake_at timestamptz,
    hints integer NOT NULL DEFAULT 0,
    deadline timestamptz,
    ready_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    decisions smallint[],
    sources text[] NOT NULL DEFAULT '{}',
    whole boolean NOT NULL DEFAULT false,
    output json,
    output_ref text,
    terminal boolean NOT NULL DEFAULT false,
    error json,
    chord_id text,
    loop json,
    local_state json,
    PRIMARY KEY (tenant_id, run_id, step_id, visit)
) WITH (fillfactor = 80);

CREATE TABLE llmteam.events (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    seq integer NOT NULL,
    event_type text NOT NULL,
    ts timestamptz NOT NULL,
    instance_id text NOT NULL DEFAULT '',
    segment_id text NOT NULL,
    step_id text,
    step_type text,
    visit integer,
    attempt integer,
    severity text NOT NULL,
    correlation_id text,
    parent_event_id text,
    payload json NOT NULL,
    error json,
    duration_ms integer,
    PRIMARY KEY (tenant_id, run_id, seq)
);

CREATE TABLE llmteam.payloads (
    tenant_id text NOT NULL,
    hash text NOT NULL,
    body json NOT NULL,
    size integer NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, hash)
);

CREATE TABLE llmteam.sweeps (
    tenant_id text NOT NULL DEFAULT '*',
    name text NOT NULL,
    ended_at timestamptz NOT NULL,
    found integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, name)
);
"""

_INDEXES = """
CREATE INDEX runs_wake_at ON llmteam.runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_created ON llmteam.runs (tenant_id, created_at DESC);
CREATE INDEX runs_status_created ON llmteam.runs (tenant_id, status, created_at DESC);
CREATE UNIQUE INDEX runs_idempotency_key ON llmteam.runs (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX run_steps_wake_at ON llmteam.run_steps (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX events_type_ts ON llmteam.events (tenant_id, event_type, ts);
CREATE INDEX events_ts ON llmteam.events (tenant_id, ts);
"""

# nullif: a session that once had a tenant has '' afterwards, which must match no row and admit none.
_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
"""

_APP = """
GRANT SELECT, INSERT ON llmteam.definitions, llmteam.events, llmteam.payloads TO llmteam_app;
GRANT SELECT, INSERT, UPDATE (archived_at) ON llmteam.segments TO llmteam_app;
GRANT SELECT, INSERT, UPDATE ON llmteam.runs, llmteam.run_steps TO llmteam_app;
GRANT SELECT ON llmteam.alembic_version TO llmteam_app, llmteam_sweeper;
"""

# The sweeper sees when and where, never what: no column that holds a document.
_SWEEPER = """
CREATE POLICY sweeper_looks ON llmteam.runs FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_wakes ON llmteam.runs FOR UPDATE TO llmteam_sweeper USING (true) WITH CHECK (true);
CREATE POLICY sweeper_looks ON llmteam.run_steps FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_wakes ON llmteam.run_steps FOR UPDATE TO llmteam_sweeper USING (true) WITH CHECK (true);
CREATE POLICY sweeper_records ON llmteam.sweeps TO llmteam_sweeper USING (true) WITH CHECK (true);

GRANT SELECT (tenant_id, run_id, instance_id, segment_id, definition_hash, status, open, running, completed, failed,
              total, terminals, next_seq, parent_run_id, root_run_id, deadline, wake_at, hints, created_at, started_at,
              finished_at),
      UPDATE (wake_at, hints) ON llmteam.runs TO llmteam_sweeper;
GRANT SELECT (tenant_id, run_id, step_id, visit, state, undecided, live, failed_in, attempt, losses, fence, queue,
              owner, holder, lease_until, wake_at, hints, deadline, ready_at, started_at, finished_at, terminal,
              chord_id),
      UPDATE (wake_at, hints, owner, holder, lease_until) ON llmteam.run_steps TO llmteam_sweeper;
GRANT SELECT, INSERT, UPDATE ON llmteam.sweeps TO llmteam_sweeper;
"""


def upgrade() -> None:
    op.execute(_TABLES)
    op.execute(_INDEXES)
    for table in ("definitions", "segments", "runs", "run_steps", "events", "payloads", "sweeps"):
        op.execute(_SECURE.format(table=table))
    op.execute(_APP)
    op.execute(_SWEEPER)
