"""Retention of the audit trail: checkpoints of what was removed, and the one door through which records go."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE llmteam.audit_checkpoints (
    tenant_id text NOT NULL,
    sequence_number bigint NOT NULL,
    checksum text NOT NULL,
    issued_at timestamptz NOT NULL,
    key_id text NOT NULL,
    signature text NOT NULL,
    PRIMARY KEY (tenant_id, sequence_number)
);
"""

# Functions, so that their look-ups stay out of the plans of what they guard.
_RULES = """
CREATE FUNCTION llmteam.audit_is_held(of_tenant text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM llmteam.tenants t
                    WHERE t.tenant_id = of_tenant AND t.document ->> 'legal_hold' = 'true');
END $$;
CREATE FUNCTION llmteam.audit_may_end(of_tenant text, number bigint, hash text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT llmteam.audit_is_held(of_tenant)
       AND EXISTS (SELECT FROM llmteam.audit_log l
                    WHERE l.tenant_id = of_tenant AND l.sequence_number = number AND l.checksum = hash);
END $$;
CREATE FUNCTION llmteam.audit_is_released(of_tenant text, number bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN NOT llmteam.audit_is_held(of_tenant)
       AND EXISTS (SELECT FROM llmteam.audit_checkpoints c
                    WHERE c.tenant_id = of_tenant AND c.sequence_number >= number);
END $$;
"""

# The tenants' role reads checkpoints. The sweeper keeps one of a record that is there, and removes what is before it.
_SECURE = """
ALTER TABLE llmteam.audit_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.audit_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.audit_checkpoints FOR SELECT TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
CREATE POLICY sweeper_looks ON llmteam.audit_checkpoints FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_releases ON llmteam.audit_checkpoints FOR INSERT TO llmteam_sweeper
    WITH CHECK (signature <> '' AND llmteam.audit_may_end(tenant_id, sequence_number, checksum));
GRANT SELECT ON llmteam.audit_checkpoints TO llmteam_app;
GRANT SELECT, INSERT ON llmteam.audit_checkpoints TO llmteam_sweeper;
CREATE TRIGGER audit_checkpoints_are_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON llmteam.audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION llmteam.audit_refuses();

CREATE POLICY sweeper_looks ON llmteam.audit_heads FOR SELECT TO llmteam_sweeper USING (true);
GRANT SELECT (tenant_id) ON llmteam.audit_heads TO llmteam_sweeper;

DROP POLICY sweeper_looks ON llmteam.audit_log;
CREATE POLICY sweeper_looks ON llmteam.audit_log FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_prunes ON llmteam.audit_log FOR DELETE TO llmteam_sweeper
    USING (llmteam.audit_is_released(tenant_id, sequence_number));
GRANT SELECT ("timestamp", checksum), DELETE ON llmteam.audit_log TO llmteam_sweeper;

DROP TRIGGER audit_log_is_kept ON llmteam.audit_log;
CREATE TRIGGER audit_log_is_kept BEFORE TRUNCATE ON llmteam.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION llmteam.audit_refuses();
-- Row security says which rows the sweeper removes; whoever else deletes is refused as before.
CREATE TRIGGER audit_log_is_not_deleted BEFORE DELETE ON llmteam.audit_log
    FOR EACH STATEMENT WHEN (current_user <> 'llmteam_sweeper') EXECUTE FUNCTION llmteam.audit_refuses();
"""


def upgrade() -> None:
    op.execute(_TABLE)
    op.execute(_RULES)
    op.execute(_SECURE)
