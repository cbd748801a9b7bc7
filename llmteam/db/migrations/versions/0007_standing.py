"""A tenant's standing at every door: the region of its runs, its features, and what it stores."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLES = """
ALTER TABLE llmteam.runs ADD COLUMN region text NOT NULL DEFAULT 'default';

ALTER TABLE llmteam.tenants ADD COLUMN features text[] NOT NULL DEFAULT '{*}';
ALTER TABLE llmteam.tenants ADD COLUMN features_off text[] NOT NULL DEFAULT '{}';
ALTER TABLE llmteam.tenants ADD COLUMN max_storage bigint;

CREATE TABLE llmteam.tenant_storage (
    tenant_id text NOT NULL,
    stored bigint NOT NULL,
    metered_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);
"""

# What a record's tier gives, in the columns that starts look at. The owner of a table is bound by its row security.
# Regions had no effect before: what cannot name one now is written as near to it as can be.
_RECORDS = """
ALTER TABLE llmteam.tenants NO FORCE ROW LEVEL SECURITY;
UPDATE llmteam.tenants t
   SET features = ARRAY(
         SELECT unnest(v.features)
         UNION SELECT json_array_elements_text(COALESCE(t.document->'features_enabled', '[]'))
         EXCEPT SELECT json_array_elements_text(COALESCE(t.document->'features_disabled', '[]'))),
       features_off = ARRAY(SELECT json_array_elements_text(COALESCE(t.document->'features_disabled', '[]'))),
       max_storage = v.max_storage,
       data_region = COALESCE(NULLIF(trim(both '-' FROM
         left(regexp_replace(t.data_region, '[^A-Za-z0-9-]', '-', 'g'), 63)), ''), 'default')
  FROM (VALUES
         ('free', '{basic_agents,simple_pipelines}'::text[], 1000000000),
         ('starter', '{basic_agents,simple_pipelines,parallel_execution}', 10000000000),
         ('professional', '{basic_agents,simple_pipelines,parallel_execution,external_actions,human_interaction,
                            persistence}', 100000000000),
         ('enterprise', '{*}', NULL)) AS v(tier, features, max_storage)
 WHERE t.tier = v.tier;
ALTER TABLE llmteam.tenants FORCE ROW LEVEL SECURITY;
"""

_SECURE = """
ALTER TABLE llmteam.tenant_storage ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.tenant_storage FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.tenant_storage TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
CREATE POLICY sweeper_looks ON llmteam.tenant_storage FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_erases ON llmteam.tenant_storage FOR DELETE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
GRANT SELECT, INSERT, UPDATE ON llmteam.tenant_storage TO llmteam_app;
GRANT SELECT, DELETE ON llmteam.tenant_storage TO llmteam_sweeper;
"""

# As before, and beside the limits: the features that the run needs and a record does not give, what the tenant stores
# as it was last metered, and doors that ask for the standing alone. What holds for the transaction is left in two
# settings: whether starts wait for their turn, and the region that the tenant's runs begin in.
_ADMIT = """
DROP FUNCTION llmteam.admit_start(
    text, timestamptz, integer, text, integer, integer, integer, integer, boolean);
CREATE FUNCTION llmteam.admit_start(
    of_tenant text, starts_at timestamptz, agents integer, needed text[], kind text,
    d_concurrent integer, d_per_day integer, d_per_minute integer, d_agents integer, d_queues boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t llmteam.tenants;
    number bigint;
    missing text;
BEGIN
    SELECT * INTO t FROM llmteam.tenants WHERE tenant_id = of_tenant;
    IF NOT FOUND THEN
        t.is_active := true;
        t.data_region := 'default';
        t.max_concurrent := d_concurrent;
        t.max_per_day := d_per_day;
        t.max_per_minute := d_per_minute;
        t.max_agents := d_agents;
        t.queues := d_queues;
    END IF;
    PERFORM set_config('llmteam.queues', t.queues::text, true), set_config('llmteam.region', t.data_region, true);
    IF t.deleted_at IS NOT NULL THEN
        RAISE EXCEPTION 'deleted' USING ERRCODE = 'LT001';
    ELSIF NOT t.is_active THEN
        RAISE EXCEPTION 'inactive' USING ERRCODE = 'LT001';
    ELSIF kind = 'standing' THEN
        RETURN;
    END IF;
    IF t.features IS NOT NULL AND cardinality(needed) > 0 THEN
        SELECT f INTO missing FROM unnest(needed) f
         WHERE NOT (t.features && ARRAY[f, '*']) OR t.features_off && ARRAY[f, '*'] LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'feature %', missing USING ERRCODE = 'LT001';
        END IF;
    END IF;
    IF agents > t.max_agents THEN
        RAISE EXCEPTION 'agents_per_pipeline % % false', agents, t.max_agents USING ERRCODE = 'LT001';
    END IF;
    IF kind <> 'admit' AND t.max_storage IS NOT NULL THEN
        SELECT stored INTO number FROM llmteam.tenant_storage WHERE tenant_id = of_tenant;
        IF COALESCE(number, 0) >= t.max_storage THEN
            RAISE EXCEPTION 'storage_gb % % false', COALESCE(number, 0), t.max_storage USING ERRCODE = 'LT001';
        END IF;
    END IF;
    IF t.max_concurrent IS NULL AND t.max_per_day IS NULL AND t.max_per_minute IS NULL THEN
        RETURN;
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
END $$;
"""


def upgrade() -> None:
    for statements in (_TABLES, _RECORDS, _SECURE, _ADMIT):
        op.execute(statements)
