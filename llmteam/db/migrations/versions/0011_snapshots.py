"""Snapshots of pipelines beside those of pauses, in one table and one format, and what may go of them."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE llmteam.snapshots
    ADD COLUMN snapshot_type text NOT NULL DEFAULT 'pause',
    ADD COLUMN phase text NOT NULL DEFAULT 'paused',
    ADD COLUMN number bigint NOT NULL GENERATED ALWAYS AS IDENTITY;

DROP INDEX llmteam.snapshots_run;
CREATE INDEX snapshots_run ON llmteam.snapshots (tenant_id, run_id, created_at DESC, number DESC);
CREATE INDEX snapshots_pipeline ON llmteam.snapshots (tenant_id, segment_id, created_at DESC, number DESC);
CREATE INDEX snapshots_created_at ON llmteam.snapshots (created_at);
"""

# A pipeline that is not over keeps its latest snapshot, whatever a statement asks for. A function, as for other
# retention.
_RIGHTS = """
CREATE FUNCTION llmteam.snapshot_is_spare(of_tenant text, of_run text, its_number bigint, its_phase text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN its_phase IN ('completed', 'failed')
        OR EXISTS (SELECT FROM llmteam.snapshots n
                    WHERE n.tenant_id = of_tenant AND n.run_id = of_run AND n.number > its_number);
END $$;
CREATE POLICY sweeper_prunes ON llmteam.snapshots FOR DELETE TO llmteam_sweeper
    USING (llmteam.snapshot_is_spare(tenant_id, run_id, number, phase));
GRANT SELECT (phase, number, created_at) ON llmteam.snapshots TO llmteam_sweeper;
GRANT UPDATE (run_id, segment_id, snapshot_type, phase, document, created_at), DELETE
    ON llmteam.snapshots TO llmteam_app;
"""


def upgrade() -> None:
    op.execute(_COLUMNS)
    op.execute(_RIGHTS)
