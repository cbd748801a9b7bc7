"""Pauses with their snapshots, idempotent starts, forks with edited input, and retention."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE llmteam.runs
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN snapshot_id text,
    ADD COLUMN start_hash text;

ALTER TABLE llmteam.run_steps
    ADD COLUMN held_owner text,
    ADD COLUMN held_wake_at timestamptz,
    ADD COLUMN given json;

CREATE TABLE llmteam.snapshots (
    tenant_id text NOT NULL,
    snapshot_id text NOT NULL,
    run_id text NOT NULL,
    segment_id text NOT NULL,
    document json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, snapshot_id)
);

CREATE INDEX snapshots_run ON llmteam.snapshots (tenant_id, run_id, created_at DESC);
CREATE INDEX runs_finished_at ON llmteam.runs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX run_steps_output_ref ON llmteam.run_steps (tenant_id, output_ref) WHERE output_ref IS NOT NULL;
CREATE INDEX runs_input_ref ON llmteam.runs (tenant_id, input_ref) WHERE input_ref IS NOT NULL;
CREATE INDEX payloads_created_at ON llmteam.payloads (created_at);
"""

_SECURE = """
ALTER TABLE llmteam.snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.snapshots FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.snapshots TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT SELECT, INSERT ON llmteam.snapshots TO llmteam_app;
GRANT UPDATE (created_at) ON llmteam.payloads TO llmteam_app;
"""

# Retention deletes what is over, and nothing else: the policies say so, whatever a statement asks for. Functions,
# because the planner would answer a subquery in a policy by reading all runs.
_SWEEPER = """
CREATE FUNCTION llmteam.run_is_over(of_tenant text, of_run text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM llmteam.runs r
                    WHERE r.tenant_id = of_tenant AND r.run_id = of_run AND r.finished_at IS NOT NULL);
END $$;
CREATE FUNCTION llmteam.payload_is_unused(of_tenant text, of_hash text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM llmteam.run_steps s WHERE s.tenant_id = of_tenant AND s.output_ref = of_hash)
       AND NOT EXISTS (SELECT FROM llmteam.runs r WHERE r.tenant_id = of_tenant AND r.input_ref = of_hash);
END $$;

GRANT SELECT (paused_at, snapshot_id, input_ref), DELETE ON llmteam.runs TO llmteam_sweeper;
GRANT SELECT (held_owner, held_wake_at, output_ref), DELETE ON llmteam.run_steps TO llmteam_sweeper;
GRANT SELECT (tenant_id, run_id), DELETE ON llmteam.events TO llmteam_sweeper;
GRANT SELECT (tenant_id, run_id), DELETE ON llmteam.snapshots TO llmteam_sweeper;
GRANT SELECT (tenant_id, hash, created_at), DELETE ON llmteam.payloads TO llmteam_sweeper;

CREATE POLICY sweeper_purges ON llmteam.runs FOR DELETE TO llmteam_sweeper USING (finished_at IS NOT NULL);
CREATE POLICY sweeper_purges ON llmteam.run_steps FOR DELETE TO llmteam_sweeper USING (owner IS NULL);
CREATE POLICY sweeper_looks ON llmteam.events FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_purges ON llmteam.events FOR DELETE TO llmteam_sweeper
    USING (llmteam.run_is_over(tenant_id, run_id));
CREATE POLICY sweeper_looks ON llmteam.snapshots FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_purges ON llmteam.snapshots FOR DELETE TO llmteam_sweeper
    USING (llmteam.run_is_over(tenant_id, run_id));
CREATE POLICY sweeper_looks ON llmteam.payloads FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_purges ON llmteam.payloads FOR DELETE TO llmteam_sweeper
    USING (llmteam.payload_is_unused(tenant_id, hash));
"""


def upgrade() -> None:
    op.execute(_COLUMNS)
    op.execute(_SECURE)
    op.execute(_SWEEPER)
