"""Licences: what holds for each tenant beside its tier, what was revoked, and places reserved under a limit."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A range of one number stands for the tenant, as text has no operator class for such a constraint without an extension.
_TABLES = """
CREATE TABLE llmteam.tenant_licenses (
    tenant_id text NOT NULL,
    version integer NOT NULL,
    tier text NOT NULL,
    license_id text NOT NULL,
    document json NOT NULL,
    max_concurrent integer,
    max_agents integer,
    grace_until timestamptz,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    seen_at timestamptz NOT NULL,
    set_by text NOT NULL,
    PRIMARY KEY (tenant_id, version),
    CONSTRAINT tenant_licenses_one_at_a_time EXCLUDE USING gist (
        numrange(hashtextextended(tenant_id, 0)::numeric, hashtextextended(tenant_id, 0)::numeric, '[]') WITH &&,
        tstzrange(valid_from, valid_to) WITH &&)
);
CREATE UNIQUE INDEX tenant_licenses_current ON llmteam.tenant_licenses (tenant_id) WHERE valid_to IS NULL;

CREATE TABLE llmteam.revoked_licenses (
    tenant_id text NOT NULL,
    license_id text NOT NULL,
    revoked_at timestamptz NOT NULL,
    revoked_by text NOT NULL,
    PRIMARY KEY (tenant_id, license_id)
);

CREATE TABLE llmteam.limit_reservations (
    tenant_id text NOT NULL,
    limit_name text NOT NULL,
    owner text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, limit_name, owner)
);
"""

#: What the tenants' role may do with each table. History is not changed, and nothing that was revoked comes back.
_RIGHTS = {
    "tenant_licenses": "SELECT, INSERT, UPDATE (valid_to, seen_at)",
    "revoked_licenses": "SELECT, INSERT",
    "limit_reservations": "SELECT, INSERT, UPDATE (expires_at), DELETE",
}

_KEYS = {
    "tenant_licenses": "tenant_id, version",
    "revoked_licenses": "tenant_id, license_id",
    "limit_reservations": "tenant_id, limit_name, owner",
}

_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT {rights} ON llmteam.{table} TO llmteam_app;
CREATE POLICY sweeper_looks ON llmteam.{table} FOR SELECT TO llmteam_sweeper USING (true);
CREATE POLICY sweeper_erases ON llmteam.{table} FOR DELETE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
GRANT SELECT ({key}), DELETE ON llmteam.{table} TO llmteam_sweeper;
"""

_PAST = """
CREATE POLICY past_stays ON llmteam.tenant_licenses AS RESTRICTIVE FOR UPDATE TO llmteam_app
    USING (valid_to IS NULL) WITH CHECK (true);
"""

# As before, with the tenant's licence beside its tier: of two limits the lower one counts, and LEAST leaves out what is
# not counted. A licence that is over or was revoked is worth the lowest tier. Time that was seen does not come back.
_ADMIT = """
CREATE OR REPLACE FUNCTION llmteam.admit_start(
    of_tenant text, starts_at timestamptz, agents integer, needed text[], kind text,
    d_concurrent integer, d_per_day integer, d_per_minute integer, d_agents integer, d_queues boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t record;
    number bigint;
    missing text;
    reserved integer;
BEGIN
    SELECT o.deleted_at, COALESCE(o.is_active, true) AS is_active,
           COALESCE(o.data_region, 'default') AS data_region, COALESCE(o.queues, d_queues) AS queues,
           LEAST(CASE WHEN o.tenant_id IS NULL THEN d_concurrent ELSE o.max_concurrent END,
                 CASE WHEN k.lapsed THEN 1 ELSE l.max_concurrent END) AS max_concurrent,
           LEAST(CASE WHEN o.tenant_id IS NULL THEN d_agents ELSE o.max_agents END,
                 CASE WHEN k.lapsed THEN 5 ELSE l.max_agents END) AS max_agents,
           CASE WHEN o.tenant_id IS NULL THEN d_per_day ELSE o.max_per_day END AS max_per_day,
           CASE WHEN o.tenant_id IS NULL THEN d_per_minute ELSE o.max_per_minute END AS max_per_minute,
           o.features, o.features_off, o.max_storage, l.version AS licence, l.seen_at
      INTO t
      FROM (SELECT of_tenant AS tenant_id) asked
      LEFT JOIN llmteam.tenants o ON o.tenant_id = asked.tenant_id
      LEFT JOIN llmteam.tenant_licenses l ON l.tenant_id = asked.tenant_id AND l.valid_to IS NULL
      LEFT JOIN llmteam.revoked_licenses r ON r.tenant_id = l.tenant_id AND r.license_id = l.license_id
     CROSS JOIN LATERAL (SELECT l.version IS NOT NULL AND (
             r.license_id IS NOT NULL OR COALESCE(GREATEST(starts_at, l.seen_at) > l.grace_until, false)) AS lapsed) k;
    PERFORM set_config('llmteam.queues', t.queues::text, true), set_config('llmteam.region', t.data_region, true);
    IF t.deleted_at IS NOT NULL THEN
        RAISE EXCEPTION 'deleted' USING ERRCODE = 'LT001';
    ELSIF NOT t.is_active THEN
        RAISE EXCEPTION 'inactive' USING ERRCODE = 'LT001';
    ELSIF kind = 'standing' THEN
        RETURN;
    END IF;
    IF t.seen_at < starts_at - interval '1 hour' THEN
        UPDATE llmteam.tenant_licenses SET seen_at = starts_at
         WHERE tenant_id = of_tenant AND version = t.licence AND valid_to IS NULL AND seen_at < starts_at;
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
        SELECT count(*) INTO reserved FROM llmteam.limit_reservations
         WHERE tenant_id = of_tenant AND limit_name = 'concurrent_pipelines' AND expires_at > starts_at;
        SELECT count(*) + reserved INTO number FROM (
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
    op.execute(_TABLES)
    for table, rights in _RIGHTS.items():
        op.execute(_SECURE.format(table=table, rights=rights, key=_KEYS[table]))
    op.execute(_PAST)
    op.execute(_ADMIT)
