"""Leases in SQL: renewed for all claims of a process at once, as the sweeper, on the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from llmteam.canvas.records import Holding
from llmteam.canvas.state import DEADLINE_GRACE
from llmteam.db.engine import Database

_WANTED = """
WITH wanted AS (
  SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::integer[], %s::integer[])
    AS w(tenant_id, run_id, step_id, visit, fence))"""

#: Rows in whose way a transition is, are left out until the next time; a renewal never waits.
_RENEW = f"""
{_WANTED},
held AS (
  SELECT s.tenant_id, s.run_id, s.step_id, s.visit FROM wanted w
    JOIN llmteam.run_steps s USING (tenant_id, run_id, step_id, visit)
   WHERE s.state = 'running' AND s.fence = w.fence AND s.lease_until IS NOT NULL
     FOR NO KEY UPDATE OF s SKIP LOCKED),
renewed AS (
  UPDATE llmteam.run_steps s
     SET lease_until = now() + %s::interval,
         wake_at = LEAST(now() + %s::interval, s.deadline + %s::interval)
    FROM held h
   WHERE s.tenant_id = h.tenant_id AND s.run_id = h.run_id AND s.step_id = h.step_id AND s.visit = h.visit)
"""

#: Those that lost their step.
_LOST = """
SELECT w.tenant_id, w.run_id, w.step_id, w.visit, w.fence
  FROM wanted w
  LEFT JOIN llmteam.run_steps s USING (tenant_id, run_id, step_id, visit)
 WHERE (s.state = 'running' AND s.fence = w.fence AND s.lease_until IS NOT NULL) IS NOT TRUE
"""


RENEW = _RENEW + _LOST
LOST = _WANTED + _LOST


def renew(database: Database, holdings: Sequence[Holding], lease: timedelta) -> set[Holding]:
    """As :meth:`RunStore.renew`."""
    return _ask(database, RENEW, holdings, (lease, lease, DEADLINE_GRACE))


def lost(database: Database, holdings: Sequence[Holding]) -> set[Holding]:
    """As :meth:`RunStore.lost`."""
    return _ask(database, LOST, holdings, ())


def _ask(database: Database, statement: str, holdings: Sequence[Holding], more: tuple[timedelta, ...]) -> set[Holding]:
    columns = (
        [one.tenant_id for one in holdings],
        [one.run_id for one in holdings],
        [one.key[0] for one in holdings],
        [one.key[1] for one in holdings],
        [one.fence for one in holdings],
    )
    with database.hot(None) as connection:
        found = connection.script(statement, (*columns, *more), role="llmteam_sweeper") or []
    return {Holding(row[0], row[1], (row[2], row[3]), row[4]) for row in found}
