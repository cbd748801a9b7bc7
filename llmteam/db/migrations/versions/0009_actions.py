"""Attempts at actions: written down before they are made, so that what was done is not done again."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.action_attempts (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    idempotency_key text NOT NULL,
    attempt integer NOT NULL,
    run_id text NOT NULL,
    step_id text NOT NULL,
    visit integer NOT NULL DEFAULT 1,
    payload_hash text NOT NULL,
    state text NOT NULL,
    error_type text NOT NULL DEFAULT '',
    document json,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, action_id, idempotency_key, attempt)
);
CREATE INDEX action_attempts_run ON llmteam.action_attempts (tenant_id, run_id, started_at);
"""

_SECURE = """
ALTER TABLE llmteam.action_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.action_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.action_attempts TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT SELECT, INSERT, UPDATE (state, error_type, document, finished_at) ON llmteam.action_attempts TO llmteam_app;
CREATE POLICY sweeper_looks ON llmteam.action_attempts FOR SELECT TO llmteam_sweeper USING (true);
GRANT SELECT (tenant_id, action_id, idempotency_key, attempt, run_id), DELETE
    ON llmteam.action_attempts TO llmteam_sweeper;
CREATE POLICY sweeper_purges ON llmteam.action_attempts FOR DELETE TO llmteam_sweeper
    USING (llmteam.run_is_over(tenant_id, run_id));
CREATE POLICY sweeper_erases ON llmteam.action_attempts FOR DELETE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
"""


def upgrade() -> None:
    op.execute(_TABLES)
    op.execute(_SECURE)
