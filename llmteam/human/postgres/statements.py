"""The statements of requests. Lock order: the run's row, its steps, the request, the head of the audit trail."""

from __future__ import annotations

_COLUMNS = (
    "i.request_id, i.run_id, i.step_id, i.visit, i.parked, i.interaction_type, i.status, i.assignee_group, i.document, "
    "i.deadline, i.frozen_at, i.stood, i.created_at, i.updated_at"
)

LOCK_RUN_OF_REQUEST = """
SELECT 1 FROM llmteam.runs r
 WHERE r.tenant_id = %s AND r.run_id = (
   SELECT i.run_id FROM llmteam.interactions i WHERE i.tenant_id = %s AND i.request_id = %s)
   FOR NO KEY UPDATE;
"""
LOCK_RUN = "SELECT 1 FROM llmteam.runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE;"
LOCK_REQUEST = "SELECT 1 FROM llmteam.interactions WHERE tenant_id = %s AND request_id = %s FOR NO KEY UPDATE;"

_CASE = f"""
SELECT {_COLUMNS},
       (SELECT json_agg(json_build_array(a.document, a.final) ORDER BY a.created_at)
          FROM llmteam.interaction_responses a WHERE a.tenant_id = i.tenant_id AND a.request_id = i.request_id),
       (SELECT COALESCE(max(m.seq), 0)
          FROM llmteam.interaction_messages m WHERE m.tenant_id = i.tenant_id AND m.request_id = i.request_id),
       r.next_seq, r.instance_id, r.segment_id
  FROM llmteam.interactions i
  LEFT JOIN llmteam.runs r ON r.tenant_id = i.tenant_id AND r.run_id = i.run_id
"""
READ_CASE = _CASE + " WHERE i.tenant_id = %s AND i.request_id = %s"
READ_CASE_OF_STEP = _CASE + " WHERE i.tenant_id = %s AND i.run_id = %s AND i.step_id = %s AND i.visit = %s AND i.parked"

READ_OPEN = f"""
SELECT {_COLUMNS} FROM llmteam.interactions i
 WHERE i.tenant_id = %s AND i.closed_at IS NULL
   AND (%s::text IS NULL OR (i.asked = '{{}}' AND i.assignee_group IS NULL) OR %s = ANY(i.asked)
        OR i.assignee_group = ANY(%s))
 ORDER BY i.deadline, i.request_id LIMIT %s
"""

READ_OF_RUN = f"""
SELECT {_COLUMNS} FROM llmteam.interactions i
 WHERE i.tenant_id = %s AND i.run_id = %s AND i.run_id <> '' ORDER BY i.created_at, i.request_id
"""

READ_MESSAGES = """
SELECT request_id, seq, sender_id, body, sent_at FROM llmteam.interaction_messages
 WHERE tenant_id = %s AND request_id = %s AND seq > %s ORDER BY seq
"""

INSERT_REQUEST = """
INSERT INTO llmteam.interactions (tenant_id, request_id, run_id, step_id, visit, parked, interaction_type, status,
                                  asked, assignee_group, document, deadline, wake_at, frozen_at, stood,
                                  created_at, updated_at, closed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s, %s, %s, %s, %s, %s, %s, %s, %s);
"""

_UPDATE_REQUEST = """
UPDATE llmteam.interactions
   SET status = %s, asked = %s::text[], assignee_group = %s, document = %s, deadline = %s, wake_at = %s, frozen_at = %s,
       stood = %s, updated_at = %s, closed_at = %s
 WHERE tenant_id = %s AND request_id = %s
"""
UPDATE_REQUEST = f"{_UPDATE_REQUEST};"
REPLACE_REQUEST = f"{_UPDATE_REQUEST} RETURNING 1"

#: Somebody whose vote does not count any more, since what was shown has changed, may vote again.
PUT_RESPONSE = """
INSERT INTO llmteam.interaction_responses (tenant_id, request_id, responder_id, final, document, created_at)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, request_id, responder_id) DO UPDATE
   SET final = excluded.final, document = excluded.document, created_at = excluded.created_at;
"""

PUT_FINAL = """
INSERT INTO llmteam.interaction_responses (tenant_id, request_id, responder_id, final, document, created_at)
SELECT %s, %s, %s, true, %s, %s
 WHERE NOT EXISTS (SELECT 1 FROM llmteam.interaction_responses
                    WHERE tenant_id = %s AND request_id = %s AND final)
ON CONFLICT (tenant_id, request_id, responder_id) DO UPDATE SET final = true, document = excluded.document;
"""

INSERT_MESSAGE = """
INSERT INTO llmteam.interaction_messages (tenant_id, request_id, seq, sender_id, body, sent_at)
VALUES (%s, %s, %s, %s, %s, %s);
"""

USE_LINK = "INSERT INTO llmteam.used_links (tenant_id, link_id, expires_at) VALUES (%s, %s, %s);"

INSERT_NOTIFICATION = """
INSERT INTO llmteam.notifications (tenant_id, notification_id, request_id, kind, recipients, wake_at, created_at)
VALUES (%s, %s, %s, %s, %s::text[], now(), now());
"""

SET_NEXT_SEQ = "UPDATE llmteam.runs SET next_seq = %s WHERE tenant_id = %s AND run_id = %s;"

#: With a step that will not go on (or, without steps, a whole run) nobody needs to answer what it asked.
WITHDRAW = """
UPDATE llmteam.interactions i
   SET status = 'cancelled', wake_at = NULL, updated_at = %s, closed_at = %s
 WHERE i.tenant_id = %s AND i.run_id = %s AND i.run_id <> '' AND i.closed_at IS NULL
   AND (%s::text[] IS NULL OR (i.parked AND EXISTS (
     SELECT 1 FROM unnest(%s::text[], %s::integer[]) k(step_id, visit)
      WHERE k.step_id = i.step_id AND k.visit = i.visit)))
RETURNING i.step_id, i.request_id;
"""

#: The clocks of a run that stands still do not run; the sweep sets the next look when it goes on.
FREEZE = """
UPDATE llmteam.interactions SET frozen_at = %s, wake_at = NULL
 WHERE tenant_id = %s AND run_id = %s AND run_id <> '' AND closed_at IS NULL;
"""
THAW = """
UPDATE llmteam.interactions
   SET frozen_at = NULL, wake_at = now(), stood = stood + extract(epoch FROM %s::interval)::float8,
       deadline = deadline + %s::interval
 WHERE tenant_id = %s AND run_id = %s AND run_id <> '' AND closed_at IS NULL AND frozen_at IS NOT NULL;
"""

TAKE_DUE = """
WITH due AS (
  SELECT tenant_id, request_id FROM llmteam.interactions
   WHERE wake_at <= now() AND wake_at IS NOT NULL
   ORDER BY wake_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
UPDATE llmteam.interactions i SET wake_at = now() + interval '10 seconds'
  FROM due
 WHERE i.tenant_id = due.tenant_id AND i.request_id = due.request_id
RETURNING i.tenant_id, i.request_id
"""

#: In front of what deletes: without statistics of a table the planner would read all of it.
BY_INDEX = "SET LOCAL enable_seqscan TO off;"

#: Requests that are closed go with all that is theirs, unless a run is still to be told the answer. The run is looked
#: up for each of them: an anti-join would read all runs.
PURGE = """
WITH old AS (
  SELECT i.tenant_id, i.request_id FROM llmteam.interactions i
   WHERE i.closed_at < now() - %s::interval AND i.closed_at IS NOT NULL
     AND (SELECT r.finished_at IS NULL FROM llmteam.runs r
           WHERE r.tenant_id = i.tenant_id AND r.run_id = i.run_id) IS NOT TRUE
   ORDER BY i.closed_at LIMIT %s),
answers AS (
  DELETE FROM llmteam.interaction_responses a USING old
   WHERE a.tenant_id = old.tenant_id AND a.request_id = old.request_id),
said AS (
  DELETE FROM llmteam.interaction_messages m USING old
   WHERE m.tenant_id = old.tenant_id AND m.request_id = old.request_id),
told AS (
  DELETE FROM llmteam.notifications n USING old
   WHERE n.tenant_id = old.tenant_id AND n.request_id = old.request_id)
DELETE FROM llmteam.interactions i USING old
 WHERE i.tenant_id = old.tenant_id AND i.request_id = old.request_id
RETURNING 1
"""

PURGE_LINKS = """
DELETE FROM llmteam.used_links WHERE (tenant_id, link_id) IN (
  SELECT tenant_id, link_id FROM llmteam.used_links WHERE expires_at < now() ORDER BY expires_at LIMIT %s)
RETURNING 1
"""

COMMIT = "COMMIT;"
