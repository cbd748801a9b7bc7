"""Requests to people: their answers, messages and notifications, and links that were used."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.interactions (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    run_id text NOT NULL DEFAULT '',
    step_id text NOT NULL DEFAULT '',
    visit integer NOT NULL DEFAULT 1,
    parked boolean NOT NULL DEFAULT false,
    interaction_type text NOT NULL,
    status text NOT NULL,
    asked text[] NOT NULL DEFAULT '{}',
    assignee_group text,
    document json NOT NULL,
    deadline timestamptz,
    wake_at timestamptz,
    frozen_at timestamptz,
    stood double precision NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz,
    closed_at timestamptz,
    PRIMARY KEY (tenant_id, request_id)
);
CREATE INDEX interactions_wake_at ON llmteam.interactions (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX interactions_open ON llmteam.interactions (tenant_id, deadline) WHERE closed_at IS NULL;
CREATE INDEX interactions_closed_at ON llmteam.interactions (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX interactions_run ON llmteam.interactions (tenant_id, run_id) WHERE run_id <> '';
CREATE UNIQUE INDEX interactions_step ON llmteam.interactions (tenant_id, run_id, step_id, visit) WHERE parked;

CREATE TABLE llmteam.interaction_responses (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    responder_id text NOT NULL,
    final boolean NOT NULL DEFAULT false,
    document json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, request_id, responder_id)
);
CREATE UNIQUE INDEX interaction_responses_final ON llmteam.interaction_responses (tenant_id, request_id) WHERE final;

CREATE TABLE llmteam.interaction_messages (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    seq integer NOT NULL,
    sender_id text NOT NULL,
    body text NOT NULL,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, request_id, seq)
);

CREATE TABLE llmteam.used_links (
    tenant_id text NOT NULL,
    link_id text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, link_id)
);
CREATE INDEX used_links_expires_at ON llmteam.used_links (expires_at);

CREATE TABLE llmteam.notifications (
    tenant_id text NOT NULL,
    notification_id text NOT NULL,
    request_id text NOT NULL,
    kind text NOT NULL,
    channel text NOT NULL DEFAULT '',
    recipients text[] NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'pending',
    attempts integer NOT NULL DEFAULT 0,
    wake_at timestamptz,
    last_error text,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, notification_id),
    CONSTRAINT notifications_state_known CHECK (state IN ('pending', 'delivered', 'dead'))
);
CREATE INDEX notifications_wake_at ON llmteam.notifications (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX notifications_request ON llmteam.notifications (tenant_id, request_id);
CREATE INDEX notifications_dead ON llmteam.notifications (tenant_id, created_at DESC) WHERE state = 'dead';
"""

#: What the tenants' role may do with each table. Answers, messages and used links are not taken back.
_RIGHTS = {
    "interactions": "SELECT, INSERT, UPDATE",
    "interaction_responses": "SELECT, INSERT, UPDATE",
    "interaction_messages": "SELECT, INSERT",
    "used_links": "SELECT, INSERT",
    "notifications": "SELECT, INSERT, UPDATE, DELETE",
}

_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT {rights} ON llmteam.{table} TO llmteam_app;
CREATE POLICY sweeper_looks ON llmteam.{table} FOR SELECT TO llmteam_sweeper USING (true);
"""

# Sweeps push the next look at what they found, and delete what is over; what they found is then moved as its tenant.
_SWEEPER = """
CREATE FUNCTION llmteam.interaction_is_over(of_tenant text, of_request text) RETURNS boolean LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM llmteam.interactions i
                        WHERE i.tenant_id = of_tenant AND i.request_id = of_request AND i.closed_at IS NULL);
END $$;

GRANT SELECT (tenant_id, request_id, run_id, wake_at, closed_at), UPDATE (wake_at), DELETE
    ON llmteam.interactions TO llmteam_sweeper;
GRANT SELECT (tenant_id, request_id), DELETE ON llmteam.interaction_responses TO llmteam_sweeper;
GRANT SELECT (tenant_id, request_id), DELETE ON llmteam.interaction_messages TO llmteam_sweeper;
GRANT SELECT (tenant_id, link_id, expires_at), DELETE ON llmteam.used_links TO llmteam_sweeper;
GRANT SELECT (tenant_id, notification_id, request_id, wake_at, attempts, state), UPDATE (wake_at), DELETE
    ON llmteam.notifications TO llmteam_sweeper;

CREATE POLICY sweeper_pushes ON llmteam.interactions FOR UPDATE TO llmteam_sweeper USING (closed_at IS NULL);
CREATE POLICY sweeper_pushes ON llmteam.notifications FOR UPDATE TO llmteam_sweeper USING (state = 'pending');
CREATE POLICY sweeper_purges ON llmteam.interactions FOR DELETE TO llmteam_sweeper USING (closed_at IS NOT NULL);
CREATE POLICY sweeper_purges ON llmteam.interaction_responses FOR DELETE TO llmteam_sweeper
    USING (llmteam.interaction_is_over(tenant_id, request_id));
CREATE POLICY sweeper_purges ON llmteam.interaction_messages FOR DELETE TO llmteam_sweeper
    USING (llmteam.interaction_is_over(tenant_id, request_id));
CREATE POLICY sweeper_purges ON llmteam.notifications FOR DELETE TO llmteam_sweeper
    USING (llmteam.interaction_is_over(tenant_id, request_id));
CREATE POLICY sweeper_purges ON llmteam.used_links FOR DELETE TO llmteam_sweeper USING (expires_at < now());
"""


def upgrade() -> None:
    op.execute(_TABLES)
    for table, rights in _RIGHTS.items():
        op.execute(_SECURE.format(table=table, rights=rights))
    op.execute(_SWEEPER)
