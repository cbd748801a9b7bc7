"""Looking for what is due and not moving, across all tenants, as the sweeper role."""

from __future__ import annotations

from dataclasses import dataclass

from llmteam.db.engine import Database
from llmteam.dispatch import Hint

#: Hints that one sweep sends at most.
BATCH = 500

#: Rows are taken with SKIP LOCKED: two sweeps at once share the work. The next look is pushed out first, by
#: min(10 s * 2^hints, 5 min), so that a step in a long queue is hinted at a few times and not every sweep. A timer that
#: has run out is none any more: else the claim would take the next look for the moment before which it may not begin.
TAKE_DUE = """
WITH due AS (
  SELECT tenant_id, run_id, step_id, visit FROM llmteam.run_steps
   WHERE wake_at <= now() AND wake_at IS NOT NULL AND state = 'ready'
   ORDER BY wake_at LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE llmteam.run_steps s
   SET wake_at = now() + LEAST(interval '10 seconds' * power(2, LEAST(s.hints, 10)), interval '5 minutes'),
       hints = s.hints + 1, owner = 'queue'
  FROM due
 WHERE s.tenant_id = due.tenant_id AND s.run_id = due.run_id AND s.step_id = due.step_id AND s.visit = due.visit
RETURNING s.tenant_id, s.run_id, s.step_id, s.visit, s.queue
"""

LATE_RUNS = """
SELECT tenant_id, run_id FROM llmteam.runs
 WHERE wake_at <= now() AND wake_at IS NOT NULL AND status IN ('pending', 'running') ORDER BY wake_at LIMIT %s
"""

#: A sweep belongs to the installation, not to a tenant.
RECORD = """
INSERT INTO llmteam.sweeps (tenant_id, name, ended_at, found) VALUES ('*', %s, now(), %s)
ON CONFLICT (tenant_id, name) DO UPDATE SET ended_at = excluded.ended_at, found = excluded.found
"""

AGE = "SELECT extract(epoch FROM now() - max(ended_at))::float8 FROM llmteam.sweeps"


@dataclass(frozen=True, slots=True)
class LateRun:
    """A run whose deadline has passed."""

    tenant_id: str
    run_id: str


class PostgresSweeps:
    """Each method is one indexed statement that costs next to nothing when nothing is due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take_due(self, limit: int = BATCH) -> list[Hint]:
        """Steps that are due and not moving; whoever takes them sends the hints."""
        with self._database.hot(None) as connection:
            found = connection.script(TAKE_DUE, (limit,), role="llmteam_sweeper") or []
        return [Hint(*row) for row in found]

    def late_runs(self, limit: int = BATCH) -> list[LateRun]:
        """Runs whose deadline has passed."""
        with self._database.hot(None) as connection:
            found = connection.script(LATE_RUNS, (limit,), role="llmteam_sweeper") or []
        return [LateRun(*row) for row in found]

    def record(self, name: str, found: int) -> None:
        """Note that a sweep has ended, and how much it found."""
        with self._database.hot(None) as connection:
            connection.script(RECORD, (name, found), role="llmteam_sweeper")

    def age(self) -> float | None:
        """Seconds since a sweep last ended; None when none ever did."""
        with self._database.hot(None) as connection:
            found = connection.script(AGE, (), role="llmteam_sweeper") or [(None,)]
        seconds: float | None = found[0][0]
        return seconds
