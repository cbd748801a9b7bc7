"""Tenants: their records, admission of their runs, the values that they keep, and the erasure of all that is theirs."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.tenants (
    tenant_id text NOT NULL,
    name text NOT NULL,
    tier text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    data_region text NOT NULL,
    document json NOT NULL,
    version integer NOT NULL DEFAULT 1,
    max_concurrent integer,
    max_per_day integer,
    max_per_minute integer,
    max_agents integer,
    queues boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    erased_at timestamptz,
    PRIMARY KEY (tenant_id)
);
CREATE INDEX tenants_created_at ON llmteam.tenants (created_at, tenant_id);

CREATE TABLE llmteam.tenant_starts (
    tenant_id text NOT NULL,
    day date NOT NULL,
    started integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);

CREATE TABLE llmteam.key_values (
    tenant_id text NOT NULL,
    key text NOT NULL,
    value json NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key)
);

ALTER TABLE llmteam.runs ADD COLUMN queues boolean NOT NULL DEFAULT false;
CREATE INDEX runs_admitted ON llmteam.runs (tenant_id) WHERE finished_at IS NULL AND status <> 'pending';
CREATE INDEX runs_queued ON llmteam.runs (tenant_id, created_at, run_id) WHERE status = 'pending';
"""

_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
CREATE POLICY sweeper_looks ON llmteam.{table} FOR SELECT TO llmteam_sweeper USING (true);
GRANT SELECT, INSERT, UPDATE ON llmteam.{table} TO llmteam_app;
"""

# Of values the sweeper sees the names. Records of tenants are the operator's own, which is who asks for all of them.
_RIGHTS = """
GRANT DELETE ON llmteam.key_values TO llmteam_app;
GRANT SELECT (tenant_id, key) ON llmteam.key_values TO llmteam_sweeper;
GRANT SELECT ON llmteam.tenants, llmteam.tenant_starts TO llmteam_sweeper;
GRANT SELECT (queues) ON llmteam.runs TO llmteam_sweeper;
"""

# Who refuses says why in the message: a word for what it is, and for a limit its name, how many there are and may be,
# and whether one too many waits. What is counted is read under the lock of the tenant's row, which everyone takes who
# starts or admits one of its runs; the end of a run needs no lock, it only makes room. The open runs themselves are
# counted, so that there is no count that could be wrong. ORDER BY keeps the planner to the index by time.
_ADMIT = """
CREATE FUNCTION llmteam.admit_start(
    of_tenant text, starts_at timestamptz, agents integer, kind text,
    d_concurrent integer, d_per_day integer, d_per_minute integer, d_agents integer, d_queues boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    t llmteam.tenants;
    number integer;
BEGIN
    SELECT * INTO t FROM llmteam.tenants WHERE tenant_id = of_tenant;
    IF NOT FOUND THEN
        t.is_active := true;
        t.max_concurrent := d_concurrent;
        t.max_per_day := d_per_day;
        t.max_per_minute := d_per_minute;
        t.max_agents := d_agents;
        t.queues := d_queues;
    END IF;
    IF t.deleted_at IS NOT NULL THEN
        RAISE EXCEPTION 'deleted' USING ERRCODE = 'LT001';
    ELSIF NOT t.is_active THEN
        RAISE EXCEPTION 'inactive' USING ERRCODE = 'LT001';
    ELSIF agents > t.max_agents THEN
        RAISE EXCEPTION 'agents_per_pipeline % % false', agents, t.max_agents USING ERRCODE = 'LT001';
    ELSIF t.max_concurrent IS NULL AND t.max_per_day IS NULL AND t.max_per_minute IS NULL THEN
        RETURN t.queues;
    END IF;

    INSERT INTO llmteam.tenant_starts AS s (tenant_id, day, started)
    VALUES (of_tenant, (starts_at AT TIME ZONE 'UTC')::date, (kind <> 'admit')::integer)
    ON CONFLICT (tenant_id) DO UPDATE
       SET started = CASE WHEN s.day = excluded.day THEN s.started + excluded.started ELSE excluded.started END,
           day = excluded.day
    RETURNING started INTO number;

    IF kind <> 'admit' THEN
        IF t.max_per_minute IS NOT NULL THEN
            PERFORM FROM llmteam.runs
              WHERE tenant_id = of_tenant AND created_at > starts_at - interval '1 minute'
              ORDER BY created_at DESC OFFSET GREATEST(t.max_per_minute - 1, 0) LIMIT 1;
            IF FOUND OR t.max_per_minute = 0 THEN
                RAISE EXCEPTION 'requests_per_minute % % false', t.max_per_minute, t.max_per_minute
                      USING ERRCODE = 'LT001';
            END IF;
        END IF;
        IF number > t.max_per_day THEN
            RAISE EXCEPTION 'runs_per_day % % false', number - 1, t.max_per_day USING ERRCODE = 'LT001';
        END IF;
    END IF;
    IF kind <> 'queue' AND t.max_concurrent IS NOT NULL THEN
        SELECT count(*) INTO number FROM (
          SELECT FROM llmteam.runs WHERE tenant_id = of_tenant AND finished_at IS NULL AND status <> 'pending'
           LIMIT t.max_concurrent) open;
        IF number >= t.max_concurrent OR (kind = 'start' AND EXISTS (
             SELECT FROM llmteam.runs WHERE tenant_id = of_tenant AND status = 'pending')) THEN
            RAISE EXCEPTION 'concurrent_pipelines % % %', number, t.max_concurrent, t.queues USING ERRCODE = 'LT001';
        END IF;
    END IF;
    RETURN t.queues;
END $$;
"""

# Nothing of a tenant is deleted as long as its record does not say so. A function, as for retention.
_ERASE = """
CREATE FUNCTION llmteam.tenant_is_erased(of_tenant text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM llmteam.tenants t WHERE t.tenant_id = of_tenant AND t.erased_at IS NOT NULL);
END $$;
"""

_ERASABLE = """
CREATE POLICY sweeper_erases ON llmteam.{table} FOR DELETE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
GRANT SELECT ({key}), DELETE ON llmteam.{table} TO llmteam_sweeper;
"""
_SEEN = """
CREATE POLICY sweeper_looks ON llmteam.{table} FOR SELECT TO llmteam_sweeper USING (true);
"""

# Audit records stay, for the chain; what they carry goes, as their digests allow.
_AUDIT = """
CREATE POLICY sweeper_looks ON llmteam.audit_log FOR SELECT TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
CREATE POLICY sweeper_erases ON llmteam.audit_log FOR UPDATE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id)) WITH CHECK (llmteam.tenant_is_erased(tenant_id));
GRANT SELECT (tenant_id, sequence_number, salt), UPDATE (old_value, new_value, metadata, salt)
   ON llmteam.audit_log TO llmteam_sweeper;

CREATE FUNCTION llmteam.audit_erases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT llmteam.tenant_is_erased(OLD.tenant_id)
       OR num_nonnulls(NEW.old_value, NEW.new_value, NEW.metadata, NEW.salt) > 0 THEN
        RAISE EXCEPTION 'audit records are only ever added: only what those of an erased tenant carry is taken out'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

DROP TRIGGER audit_log_is_kept ON llmteam.audit_log;
CREATE TRIGGER audit_log_is_kept BEFORE DELETE OR TRUNCATE ON llmteam.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION llmteam.audit_refuses();
-- The sweeper has no right to other columns than those of a payload; whoever else updates is refused as before.
CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE ON llmteam.audit_log
    FOR EACH STATEMENT WHEN (current_user <> 'llmteam_sweeper') EXECUTE FUNCTION llmteam.audit_refuses();
CREATE TRIGGER audit_log_is_erased BEFORE UPDATE ON llmteam.audit_log
    FOR EACH ROW EXECUTE FUNCTION llmteam.audit_erases();
"""

#: The key of each table of a tenant's data, by which batches of rows are deleted.
_KEYS = {
    "definitions": "tenant_id, definition_hash",
    "segments": "tenant_id, segment_id, version",
    "runs": "tenant_id, run_id",
    "run_steps": "tenant_id, run_id, step_id, visit",
    "events": "tenant_id, run_id, seq",
    "payloads": "tenant_id, hash",
    "snapshots": "tenant_id, snapshot_id",
    "interactions": "tenant_id, request_id",
    "interaction_responses": "tenant_id, request_id, responder_id",
    "interaction_messages": "tenant_id, request_id, seq",
    "used_links": "tenant_id, link_id",
    "notifications": "tenant_id, notification_id",
    "tenants": "tenant_id",
    "tenant_starts": "tenant_id",
    "key_values": "tenant_id, key",
}
#: Those of which the sweeper had seen nothing before.
_UNSEEN = ("definitions", "segments")


def upgrade() -> None:
    op.execute(_TABLES)
    for table in ("tenants", "tenant_starts", "key_values"):
        op.execute(_SECURE.format(table=table))
    op.execute(_RIGHTS)
    op.execute(_ADMIT)
    op.execute(_ERASE)
    for table, key in _KEYS.items():
        op.execute(_ERASABLE.format(table=table, key=key))
    for table in _UNSEEN:
        op.execute(_SEEN.format(table=table))
    op.execute(_AUDIT)
