"""The audit trail: records that are only ever added, and where each tenant's chain ends."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.audit_log (
    tenant_id text NOT NULL,
    sequence_number bigint NOT NULL,
    record_id text NOT NULL,
    "timestamp" timestamptz NOT NULL,
    event_type text NOT NULL,
    severity text NOT NULL,
    pipeline_id text NOT NULL DEFAULT '',
    run_id text NOT NULL DEFAULT '',
    agent_name text NOT NULL DEFAULT '',
    step_name text NOT NULL DEFAULT '',
    actor_type text NOT NULL DEFAULT '',
    actor_id text NOT NULL DEFAULT '',
    actor_ip text NOT NULL DEFAULT '',
    actor_user_agent text NOT NULL DEFAULT '',
    action text NOT NULL DEFAULT '',
    resource_type text NOT NULL DEFAULT '',
    resource_id text NOT NULL DEFAULT '',
    old_value json,
    new_value json,
    success boolean NOT NULL DEFAULT true,
    error_message text NOT NULL DEFAULT '',
    metadata json,
    tags text[] NOT NULL DEFAULT '{}',
    checksum text NOT NULL,
    previous_checksum text NOT NULL,
    idempotency_key text,
    hash_version smallint NOT NULL,
    old_digest text NOT NULL DEFAULT '',
    new_digest text NOT NULL DEFAULT '',
    metadata_digest text NOT NULL DEFAULT '',
    salt text,
    PRIMARY KEY (tenant_id, sequence_number)
);
CREATE UNIQUE INDEX audit_log_record_id ON llmteam.audit_log (tenant_id, record_id);
CREATE INDEX audit_log_timestamp ON llmteam.audit_log (tenant_id, "timestamp");
CREATE INDEX audit_log_actor ON llmteam.audit_log (tenant_id, actor_id, "timestamp") WHERE actor_id <> '';
CREATE INDEX audit_log_run ON llmteam.audit_log (tenant_id, run_id) WHERE run_id <> '';
CREATE INDEX audit_log_resource ON llmteam.audit_log (tenant_id, resource_id, "timestamp") WHERE resource_id <> '';
CREATE UNIQUE INDEX audit_log_idempotency_key ON llmteam.audit_log (tenant_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE llmteam.audit_heads (
    tenant_id text NOT NULL,
    sequence_number bigint NOT NULL DEFAULT 0,
    checksum text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);
"""

_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT SELECT, INSERT ON llmteam.{table} TO llmteam_app;
"""

# Rights bind the roles, triggers bind the owner too. A chain that ends earlier than it did would hide what was cut off.
_GUARDS = """
GRANT UPDATE (sequence_number, checksum) ON llmteam.audit_heads TO llmteam_app;

CREATE FUNCTION llmteam.audit_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit records are only ever added: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION llmteam.audit_head_advances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant_id <> OLD.tenant_id OR NEW.sequence_number <= OLD.sequence_number THEN
        RAISE EXCEPTION 'the end of an audit chain only moves on' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

-- For each statement: row security hides every row from the owner, so that a trigger for rows would never see one.
CREATE TRIGGER audit_log_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON llmteam.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION llmteam.audit_refuses();
CREATE TRIGGER audit_heads_are_kept BEFORE DELETE OR TRUNCATE ON llmteam.audit_heads
    FOR EACH STATEMENT EXECUTE FUNCTION llmteam.audit_refuses();
CREATE TRIGGER audit_head_advances BEFORE UPDATE ON llmteam.audit_heads
    FOR EACH ROW EXECUTE FUNCTION llmteam.audit_head_advances();
"""


def upgrade() -> None:
    op.execute(_TABLES)
    for table in ("audit_log", "audit_heads"):
        op.execute(_SECURE.format(table=table))
    op.execute(_GUARDS)
