"""How many snapshots a tenant may keep, and by which digest a copy elsewhere is recognized."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

#: The oldest migration whose package works on the tables that this one makes.
works_with = "0012"

# Whoever changes a document and says nothing of its digest, as earlier versions do, leaves none.
_COLUMNS = """
ALTER TABLE llmteam.snapshots ADD COLUMN digest text;
GRANT UPDATE (digest) ON llmteam.snapshots TO llmteam_app;
CREATE FUNCTION llmteam.snapshot_digest_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.digest IS NOT DISTINCT FROM OLD.digest AND NEW.document::text <> OLD.document::text THEN
        NEW.digest := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER snapshots_digest BEFORE UPDATE ON llmteam.snapshots
    FOR EACH ROW EXECUTE FUNCTION llmteam.snapshot_digest_follows();
"""

# Whether one more may be kept beside those that are there. What a licence allows stands in its document; one that is
# over or was revoked is worth the lowest tier, and a tenant without one has no such limit. Where there is no room,
# snapshots that were taken by themselves make it, the oldest first; the latest of each pipeline that goes on stays.
# Counted under a lock of the tenant's own, which comes after the run's row and before the head of the audit trail.
_ROOM = """
CREATE FUNCTION llmteam.snapshot_has_room(of_tenant text, its_id text, of_run text, demanded boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    most integer;
    kept integer;
    gone integer;
BEGIN
    SELECT CASE WHEN r.license_id IS NOT NULL OR COALESCE(GREATEST(now(), l.seen_at) > l.grace_until, false) THEN 10
                ELSE COALESCE((l.document #>> '{limits,snapshots}')::integer,
                              (l.document #>> '{limits,max_snapshots}')::integer,
                              CASE l.tier WHEN 'community' THEN 10 WHEN 'professional' THEN 100 END) END
      INTO most
      FROM llmteam.tenant_licenses l
      LEFT JOIN llmteam.revoked_licenses r ON r.tenant_id = l.tenant_id AND r.license_id = l.license_id
     WHERE l.tenant_id = of_tenant AND l.valid_to IS NULL;
    IF most IS NULL OR most >= 999999 THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('llmteam.snapshots ' || of_tenant, 0));
    PERFORM FROM llmteam.snapshots WHERE tenant_id = of_tenant AND snapshot_id = its_id;
    IF FOUND THEN
        RETURN true;
    END IF;
    SELECT count(*) INTO kept FROM llmteam.snapshots WHERE tenant_id = of_tenant;
    IF kept < most THEN
        RETURN true;
    END IF;
    DELETE FROM llmteam.snapshots WHERE tenant_id = of_tenant AND snapshot_id IN (
        SELECT n.snapshot_id FROM llmteam.snapshots n
         WHERE n.tenant_id = of_tenant AND n.snapshot_type = 'auto'
           AND (n.run_id = of_run OR llmteam.snapshot_is_spare(n.tenant_id, n.run_id, n.number, n.phase)
                OR EXISTS (SELECT FROM llmteam.runs r
                            WHERE r.tenant_id = of_tenant AND r.run_id = n.run_id AND r.finished_at IS NOT NULL))
         ORDER BY n.number LIMIT kept - most + 1);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF kept - gone < most THEN
        RETURN true;
    ELSIF demanded THEN
        RAISE EXCEPTION 'snapshots % %', kept, most USING ERRCODE = 'LT001';
    END IF;
    RETURN false;
END $$;
"""


def upgrade() -> None:
    op.execute(_COLUMNS)
    op.execute(_ROOM)
