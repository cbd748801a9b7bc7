"""How an installation stands, over all tenants, in one statement: counts and ages, never whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from llmteam.canvas.postgres.sweeps import BY_INDEX
from llmteam.db.engine import Database

#: Counts by name, within kinds of count.
Counts = Mapping[str, Mapping[str, float]]

#: Each part reads one partial index of what is open. Steps that wait for inputs, and those of runs that stand still,
#: have no ``wake_at`` and are in none: runs know how many steps they have open, and the others are taken from that.
#: Sweeps put off the ``wake_at`` of a step that lies ready, so that it does not tell since when it is due.
READ = """
WITH open_runs AS (
  SELECT status, count(*) AS runs, sum(open) AS steps FROM llmteam.runs
   WHERE finished_at IS NULL AND status <> 'pending' GROUP BY status
  UNION ALL
  SELECT 'pending', count(*), coalesce(sum(open), 0) FROM llmteam.runs WHERE status = 'pending'),
moving AS (
  SELECT owner, count(*) AS steps, count(*) FILTER (WHERE state = 'running'
           AND (lease_until IS NULL OR lease_until <= now())) AS expired,
         min(CASE WHEN owner = 'timer' THEN wake_at ELSE greatest(ready_at, started_at) END)
           FILTER (WHERE state = 'ready' AND (owner = 'queue' OR wake_at <= now())) AS due
    FROM llmteam.run_steps WHERE wake_at IS NOT NULL GROUP BY owner),
still AS (
  SELECT CASE WHEN status IN ('paused', 'pending') THEN 'pause' ELSE 'inputs' END AS owner, sum(steps) AS steps
    FROM open_runs GROUP BY 1)
SELECT 'runs', status, runs::float8 FROM open_runs
UNION ALL SELECT 'steps', owner, steps::float8 FROM moving
UNION ALL SELECT 'steps', owner, (steps - CASE WHEN owner = 'inputs' THEN (SELECT coalesce(sum(steps), 0) FROM moving)
                                          ELSE 0 END)::float8 FROM still
UNION ALL SELECT 'leases', 'expired', coalesce(sum(expired), 0)::float8 FROM moving
UNION ALL SELECT 'age', 'due', coalesce(extract(epoch FROM now() - min(due)), 0)::float8 FROM moving
UNION ALL SELECT 'people', 'open', count(*)::float8 FROM llmteam.interactions WHERE closed_at IS NULL
UNION ALL SELECT 'notifications', 'pending', count(*)::float8 FROM llmteam.notifications
           WHERE wake_at IS NOT NULL AND state = 'pending'
UNION ALL SELECT 'notifications', 'dead', count(*)::float8 FROM llmteam.notifications WHERE state = 'dead'
UNION ALL SELECT 'sweeps', name, extract(epoch FROM now() - ended_at)::float8 FROM llmteam.sweeps
"""


def read_counts(database: Database) -> Counts:
    """All counts, as the sweeper; of what is over, nothing is read. Raises :class:`InfrastructureError`."""
    with database.hot(None) as connection:
        found = connection.script(BY_INDEX + READ, role="llmteam_sweeper") or []
    counts: dict[str, dict[str, float]] = defaultdict(dict)
    for kind, name, value in found:
        counts[kind][name] = value
    return counts
