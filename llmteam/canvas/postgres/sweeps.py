"""Looking for what is due and not moving, across all tenants, as the sweeper role.

Rows are taken with SKIP LOCKED, so that two sweeps at once share the work and never wait, and their next look is pushed
out in the same statement, so that a sweep that dies half-way costs one look. What is found is then moved by one
transaction per run, which takes the run's row first and looks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from llmteam.canvas.state import QUARANTINE_AFTER
from llmteam.canvas.sweeping import Expired, LateRun
from llmteam.db.engine import Database
from llmteam.dispatch import Hint
from llmteam.persistence.postgres import PURGE_SNAPSHOTS

#: A step in a long queue is hinted at a few times and not every sweep: after 10 s, 20 s, 40 s … up to 5 minutes. A
#: timer that ran out is none any more: else the claim would take the next look for the moment before which it may not
#: begin.
TAKE_DUE = f"""
WITH due AS (
  SELECT tenant_id, run_id, step_id, visit FROM llmteam.run_steps
   WHERE wake_at <= now() AND wake_at IS NOT NULL AND state IN ('ready', 'waiting') AND queue <> ALL(%s)
   ORDER BY wake_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
UPDATE llmteam.run_steps s
   SET wake_at = now() + LEAST(interval '10 seconds' * power(2, LEAST(s.hints, 10)), interval '5 minutes'),
       hints = s.hints + 1, owner = CASE WHEN s.state = 'ready' THEN 'queue' ELSE s.owner END
  FROM due
 WHERE s.tenant_id = due.tenant_id AND s.run_id = due.run_id AND s.step_id = due.step_id AND s.visit = due.visit
RETURNING s.tenant_id, s.run_id, s.step_id, s.visit,
          CASE WHEN s.losses >= {QUARANTINE_AFTER} THEN regexp_replace(s.queue, '[^.]*$', 'quarantine') ELSE s.queue END
"""

#: A lease that has run out is taken away here, so that it cannot be renewed between this look and the transition.
TAKE_EXPIRED = """
WITH due AS (
  SELECT tenant_id, run_id, step_id, visit FROM llmteam.run_steps
   WHERE wake_at <= now() AND wake_at IS NOT NULL AND state = 'running'
   ORDER BY wake_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
UPDATE llmteam.run_steps s
   SET wake_at = now() + interval '5 seconds',
       lease_until = CASE WHEN s.lease_until > now() THEN s.lease_until END
  FROM due
 WHERE s.tenant_id = due.tenant_id AND s.run_id = due.run_id AND s.step_id = due.step_id AND s.visit = due.visit
RETURNING s.tenant_id, s.run_id, s.step_id, s.visit, s.fence, s.lease_until IS NULL
"""

LATE_RUNS = """
SELECT tenant_id, run_id, status = 'pausing' FROM llmteam.runs
 WHERE wake_at <= now() AND wake_at IS NOT NULL AND status IN ('pending', 'running', 'pausing')
 ORDER BY wake_at LIMIT %s
"""

#: From one tenant to the next: of none are all queued runs read.
QUEUED_TENANTS = """
WITH RECURSIVE found AS (
  (SELECT tenant_id FROM llmteam.runs WHERE status = 'pending' AND tenant_id > '' ORDER BY tenant_id LIMIT 1)
  UNION ALL
  SELECT (SELECT r.tenant_id FROM llmteam.runs r WHERE r.status = 'pending' AND r.tenant_id > f.tenant_id
           ORDER BY r.tenant_id LIMIT 1)
    FROM found f WHERE f.tenant_id IS NOT NULL)
SELECT tenant_id FROM found WHERE tenant_id IS NOT NULL LIMIT %s
"""

#: Before tables are analyzed the planner may prefer to read all of them for a batch.
BY_INDEX = "SET LOCAL enable_seqscan TO off;"

#: Oldest first, in one transaction for a batch: a run goes with everything that is its own.
PURGE = """
WITH old AS (
  SELECT tenant_id, run_id FROM llmteam.runs
   WHERE finished_at < now() - %s::interval AND finished_at IS NOT NULL
   ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED),
steps AS (
  DELETE FROM llmteam.run_steps s USING old WHERE s.tenant_id = old.tenant_id AND s.run_id = old.run_id),
told AS (
  DELETE FROM llmteam.events e USING old WHERE e.tenant_id = old.tenant_id AND e.run_id = old.run_id),
pauses AS (
  DELETE FROM llmteam.snapshots n USING old WHERE n.tenant_id = old.tenant_id AND n.run_id = old.run_id),
contexts AS (
  DELETE FROM llmteam.agent_contexts c USING old WHERE c.tenant_id = old.tenant_id AND c.run_id = old.run_id),
calls AS (
  DELETE FROM llmteam.action_attempts a USING old WHERE a.tenant_id = old.tenant_id AND a.run_id = old.run_id)
DELETE FROM llmteam.runs r USING old WHERE r.tenant_id = old.tenant_id AND r.run_id = old.run_id
RETURNING 1
"""

#: Large values that are deleted beside each run at most, so that they keep up with runs that have several.
PAYLOADS_EACH = 10

#: Large values that nobody refers to; the policy of the table keeps all others. A day is longer than any transaction
#: that is about to refer to one.
PURGE_PAYLOADS = """
DELETE FROM llmteam.payloads WHERE (tenant_id, hash) IN (
  SELECT p.tenant_id, p.hash FROM llmteam.payloads p
   WHERE p.created_at < now() - GREATEST(%s::interval, interval '1 day')
     AND llmteam.payload_is_unused(p.tenant_id, p.hash)
   ORDER BY p.created_at LIMIT %s)
RETURNING 1
"""

#: A sweep belongs to the installation, not to a tenant.
_RECORD = """
INSERT INTO llmteam.sweeps (tenant_id, name, ended_at, found) VALUES ('*', %s, now(), %s)
ON CONFLICT (tenant_id, name) DO UPDATE SET ended_at = excluded.ended_at, found = excluded.found
"""

_AGES = "SELECT name, extract(epoch FROM now() - ended_at)::float8 FROM llmteam.sweeps"

#: Key of the advisory lock of a worker that sweeps because nobody else does.
_STAND_IN = 0x6C6C6D7377656570


class PostgresSweeps:
    """Each method is one indexed statement that costs next to nothing when nothing is due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take_due(self, limit: int, skip_queues: Sequence[str] = ()) -> list[Hint]:
        """As :meth:`Sweeps.take_due`."""
        return [Hint(*row) for row in self._run(TAKE_DUE, list(skip_queues), limit)]

    def take_expired(self, limit: int) -> list[Expired]:
        """As :meth:`Sweeps.take_expired`."""
        return [Expired(row[0], row[1], (row[2], row[3]), row[4], row[5]) for row in self._run(TAKE_EXPIRED, limit)]

    def late_runs(self, limit: int) -> list[LateRun]:
        """As :meth:`Sweeps.late_runs`."""
        return [LateRun(*row) for row in self._run(LATE_RUNS, limit)]

    def queued_tenants(self, limit: int) -> list[str]:
        """As :meth:`Sweeps.queued_tenants`."""
        return [tenant_id for (tenant_id,) in self._run(QUEUED_TENANTS, limit)]

    def purge(self, older_than: timedelta, limit: int) -> int:
        """As :meth:`Sweeps.purge`."""
        purged = len(self._run(BY_INDEX + PURGE, older_than, limit))
        self._run(BY_INDEX + PURGE_PAYLOADS, older_than, PAYLOADS_EACH * limit)
        self._run(BY_INDEX + PURGE_SNAPSHOTS, older_than, limit)
        return purged

    def record(self, name: str, found: int) -> None:
        """As :meth:`Sweeps.record`."""
        self._run(_RECORD, name, found)

    def ages(self) -> dict[str, float]:
        """Seconds since each sweep last ended, by its name; one that never did is not there."""
        return dict(self._run(_AGES))

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether the block may sweep in beat's place: of several processes at once, one may. Holds a connection."""
        with self._database.hot(None) as connection:
            lock = "SELECT pg_try_advisory_xact_lock(%s)"
            found = connection.script(lock, (_STAND_IN,), role="llmteam_sweeper", begin=True)
            yield bool(found and found[0][0])

    def _run(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with self._database.hot(None) as connection:
            return connection.script(statement, params, role="llmteam_sweeper") or []
