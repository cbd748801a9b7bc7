"""Letting a step that waits go on: one statement, for whoever knows that what it waited for is there."""

from __future__ import annotations

#: Sets when a sweep looks at a step that waits for a person: a given moment, or (NULL) now. The caller holds the lock
#: of the run's row, and sends the step's hint to the queue that this answers, after its commit. While the run stands
#: still the moment is kept for its resume, which adds the time that it stood. Values: the moment twice, then tenant,
#: run, step and visit.
WAKE_STEP = """
UPDATE llmteam.run_steps s
   SET wake_at = CASE WHEN s.owner <> 'pause' THEN COALESCE(%s::timestamptz, LEAST(now(), r.paused_at)) END,
       held_wake_at = CASE WHEN s.owner = 'pause' THEN COALESCE(%s::timestamptz, r.paused_at) END,
       hints = 0
  FROM llmteam.runs r
 WHERE s.tenant_id = %s AND s.run_id = %s AND s.step_id = %s AND s.visit = %s
   AND r.tenant_id = s.tenant_id AND r.run_id = s.run_id
   AND s.state = 'waiting' AND (s.owner = 'person' OR (s.owner = 'pause' AND s.held_owner = 'person'))
RETURNING CASE WHEN r.status = 'running' THEN s.queue END;
"""
