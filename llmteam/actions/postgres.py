"""Attempts as rows, each tenant's behind row security; one round trip each."""

from __future__ import annotations

from datetime import datetime

from llmteam.actions.models import ActionResult, ActionStatus
from llmteam.actions.stores import LOST, AttemptRecord, Begun, Call, document_of, kept_result
from llmteam.db.engine import Database

# Those who begin the same call at once take turns, and each sees what the one before wrote, since a statement reads
# what was committed when it began.
_BEGIN = """
SELECT pg_advisory_xact_lock(hashtextextended(%(tenant)s || E'\\x1f' || %(action)s || E'\\x1f' || %(key)s, 0));
WITH made AS MATERIALIZED (
  SELECT attempt, state, payload_hash, document FROM llmteam.action_attempts
   WHERE tenant_id = %(tenant)s AND action_id = %(action)s AND idempotency_key = %(key)s
), before AS (
  SELECT COALESCE(max(attempt), 0) AS number, COALESCE(min(payload_hash), '') AS hash,
         COALESCE(min(attempt) FILTER (WHERE state = 'completed'), 0) AS done FROM made
), lost AS (
  UPDATE llmteam.action_attempts a SET state = 'failed', error_type = %(lost)s, finished_at = %(now)s
    FROM before b
   WHERE a.tenant_id = %(tenant)s AND a.action_id = %(action)s AND a.idempotency_key = %(key)s
     AND a.state = 'running' AND b.done = 0 AND b.hash = %(hash)s
), added AS (
  INSERT INTO llmteam.action_attempts
         (tenant_id, action_id, idempotency_key, attempt, run_id, step_id, visit, payload_hash, state, started_at)
  SELECT %(tenant)s, %(action)s, %(key)s, number + 1, %(run)s, %(step)s, %(visit)s, %(hash)s, 'running', %(now)s
    FROM before WHERE done = 0 AND hash IN ('', %(hash)s)
  RETURNING attempt
)
SELECT COALESCE((SELECT attempt FROM added), 0), b.hash, b.done, m.document
  FROM before b LEFT JOIN made m ON m.attempt = b.done
"""

_FINISH = """
UPDATE llmteam.action_attempts
   SET state = %s, error_type = %s, document = %s, finished_at = %s
 WHERE tenant_id = %s AND action_id = %s AND idempotency_key = %s AND attempt = %s
"""

_RECORDS = """
SELECT action_id, idempotency_key, attempt, step_id, visit, payload_hash, state, started_at, finished_at, error_type,
       document::text
  FROM llmteam.action_attempts WHERE tenant_id = %s AND run_id = %s
 ORDER BY started_at, action_id COLLATE "C", idempotency_key COLLATE "C", attempt
"""


class PostgresAttemptStore:
    """The :class:`~llmteam.actions.AttemptStore` in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, call: Call, now: datetime) -> Begun:
        """As :meth:`AttemptStore.begin`."""
        named = {
            "tenant": call.tenant_id,
            "action": call.action_id,
            "key": call.idempotency_key,
            "run": call.run_id,
            "step": call.step_id,
            "visit": call.visit,
            "hash": call.payload_hash,
            "lost": LOST,
            "now": now,
        }
        with self._database.hot(call.tenant_id) as connection:
            ((attempt, payload_hash, done, document),) = connection.script(_BEGIN, named) or []
        if done and payload_hash == call.payload_hash:
            return Begun(done, kept_result(document), payload_hash)
        return Begun(attempt, None, payload_hash)

    def finish(self, call: Call, attempt: int, result: ActionResult, now: datetime) -> None:
        """As :meth:`AttemptStore.finish`."""
        row = (call.tenant_id, call.action_id, call.idempotency_key, attempt)
        said = (result.status.value, result.error_type, document_of(result), now)
        with self._database.hot(call.tenant_id) as connection:
            connection.script(_FINISH, (*said, *row))

    def records(self, tenant_id: str, run_id: str) -> list[AttemptRecord]:
        """As :meth:`AttemptStore.records`."""
        with self._database.hot(tenant_id) as connection:
            found = connection.script(_RECORDS, (tenant_id, run_id)) or []
        return [
            AttemptRecord(
                Call(tenant_id, row[0], row[1], run_id, row[3], row[4], row[5]),
                row[2],
                ActionStatus(row[6]),
                row[7],
                row[8],
                row[9],
                row[10],
            )
            for row in found
        ]
