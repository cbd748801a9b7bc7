"""Indexes that no look-up of one run can be answered with, and one without the events that every step has."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

#: The oldest migration whose package works on the tables that this one makes.
works_with = "0012"

# On empty tables all indexes that begin with the tenant look equally good for a look-up by tenant and run, and the
# plan that a connection makes then is kept until statistics are made: it would read every run of the tenant. An index
# with a condition is only taken by statements that say the same, which listings do.
_RUNS = """
CREATE INDEX runs_listed ON llmteam.runs (tenant_id, created_at DESC) WHERE run_id <> '';
CREATE INDEX runs_listed_by_status ON llmteam.runs (tenant_id, status, created_at DESC) WHERE run_id <> '';
DROP INDEX llmteam.runs_created;
DROP INDEX llmteam.runs_status_created;
"""

# Nine of ten events say that a step began or is done. Who asks for those, asks for most of what there is.
_EVENTS = """
CREATE INDEX events_rare ON llmteam.events (tenant_id, event_type, ts)
 WHERE event_type <> 'step.started' AND event_type <> 'step.completed';
DROP INDEX llmteam.events_type_ts;
"""

# The function as it is, which counts the tenant's latest runs by that index.
_ADMIT = """
DO $$
DECLARE
    found text := pg_get_functiondef('llmteam.admit_start'::regproc);
    counted text := 'WHERE tenant_id = of_tenant AND created_at > starts_at';
BEGIN
    IF strpos(found, counted) = 0 THEN
        RAISE EXCEPTION 'llmteam.admit_start is not that of migration 0008';
    END IF;
    EXECUTE replace(found, counted, replace(counted, 'WHERE', 'WHERE run_id <> '''' AND'));
END $$;
"""


def upgrade() -> None:
    op.execute(_RUNS)
    op.execute(_EVENTS)
    op.execute(_ADMIT)
