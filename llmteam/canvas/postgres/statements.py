"""The statements of the run store. Constant texts, bound values; rows are repeated, never names.

Lock order: the run's row first, always; whoever holds it may touch the run's step rows, and nobody else does but
sweeps, which take hint columns with SKIP LOCKED.
"""

from __future__ import annotations

from functools import cache

from llmteam.audit.postgres import CONDITION
from llmteam.db import Prepared
from llmteam.events.postgres import event_statement
from llmteam.tenancy.postgres.admission import QUEUES, REGION

#: First statement of every transition: nothing else of the run is read before this lock is held, since each
#: statement of a READ COMMITTED script sees what was committed when it began.
LOCK_RUN = Prepared(
    "llmteam_lock_run", "SELECT 1 FROM llmteam.runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE"
)

RUN_COLUMNS = (
    "r.status, r.open, r.running, r.completed, r.failed, r.terminals, r.deadline, r.started_at, r.finished_at, "
    "r.error, r.paused_at, r.snapshot_id, r.region"
)

STEP_COLUMNS = (
    "s.step_id, s.visit, s.state, s.undecided, s.live, s.failed_in, s.attempt, s.losses, s.fence, s.owner, s.wake_at, "
    "s.deadline, s.ready_at, s.started_at, s.finished_at, s.decisions, s.terminal, s.error, s.chord_id, s.loop"
)

HEADER_COLUMNS = "r.instance_id, r.segment_id, r.definition_hash, r.config, r.context, r.root_run_id, r.link, r.queues"

READ_SLICE = Prepared(
    "llmteam_read_slice",
    f"""
SELECT r.next_seq, {RUN_COLUMNS}, {STEP_COLUMNS}
  FROM llmteam.runs r
  LEFT JOIN llmteam.run_steps s
    ON s.tenant_id = r.tenant_id AND s.run_id = r.run_id AND s.step_id = ANY(%s) AND s.visit = ANY(%s)
 WHERE r.tenant_id = %s AND r.run_id = %s
""",
)

#: A step's answer. No join: for many steps the planner would read the whole table of large ones.
_OUTPUT = """COALESCE(s.output, (
  SELECT p.body FROM llmteam.payloads p WHERE p.tenant_id = s.tenant_id AND p.hash = s.output_ref))"""

_STEPS = """
SELECT {columns}, s.queue, s.holder, s.lease_until, s.hints, s.held_owner, s.held_wake_at, {output}, s.whole
  FROM llmteam.run_steps s
 WHERE s.tenant_id = %s AND s.run_id = %s
 ORDER BY s.started_at NULLS LAST, s.step_id, s.visit
"""
READ_STEPS = _STEPS.format(columns=STEP_COLUMNS, output=_OUTPUT)
READ_STEPS_WITHOUT_OUTPUTS = _STEPS.format(columns=STEP_COLUMNS, output="NULL::json")

#: A step and everything its input is made of, in one round trip and without a lock: what a source gave does not change
#: once it is over. Of each source the latest visit that is over counts; those of an early join may go on.
GATHER = Prepared(
    "llmteam_gather",
    f"""
SELECT {HEADER_COLUMNS}, {RUN_COLUMNS}, {STEP_COLUMNS}, s.local_state,
       s.given IS NOT NULL OR (s.undecided = 0 AND s.live = 0),
       CASE WHEN s.given IS NOT NULL THEN s.given
            WHEN s.undecided = 0 AND s.live = 0 THEN COALESCE(r.input, p.body) END,
       CASE WHEN s.state IN ('ready', 'waiting') AND s.live > 0 THEN (
         SELECT json_agg(json_build_array(o.step_id, o.decisions, o.whole, o.body, o.error, o.superseded)) FROM (
           SELECT DISTINCT ON (f.step_id) f.step_id, f.decisions, f.whole, COALESCE(f.output, q.body) AS body,
                  CASE WHEN f.state = 'failed' THEN f.error END AS error,
                  f.visit < max(f.visit) OVER (PARTITION BY f.step_id) AS superseded
             FROM llmteam.run_steps f
             LEFT JOIN llmteam.payloads q ON q.tenant_id = f.tenant_id AND q.hash = f.output_ref
            WHERE f.tenant_id = s.tenant_id AND f.run_id = s.run_id AND f.step_id = ANY(s.sources)
            ORDER BY f.step_id, f.decisions IS NULL, f.visit DESC) o
          WHERE o.decisions IS NOT NULL) END
  FROM llmteam.runs r
  JOIN llmteam.run_steps s ON s.tenant_id = r.tenant_id AND s.run_id = r.run_id
  LEFT JOIN llmteam.payloads p ON p.tenant_id = r.tenant_id AND p.hash = r.input_ref
 WHERE r.tenant_id = %s AND r.run_id = %s AND s.step_id = %s AND s.visit = %s AND r.region = %s
""",
)

#: Losing a claim in a crash is harmless, so that it alone need not wait for the disk.
NO_WAIT_FOR_DISK = "SET LOCAL synchronous_commit TO off;"

_CLAIM = """
  UPDATE llmteam.run_steps s
     SET state = 'running', fence = s.fence + 1, owner = 'lease', holder = {holder},
         lease_until = now() + {lease}::interval, wake_at = LEAST(now() + {lease}::interval, {latest}::timestamptz),
         hints = 0, started_at = {started_at}, deadline = {deadline}
"""
_FREE = "(s.state = 'ready' OR (s.state = 'waiting' AND s.owner = 'limit'))"
_RUNS = """
   EXISTS (SELECT 1 FROM llmteam.runs
            WHERE tenant_id = %s AND run_id = %s AND (status = 'running') IS TRUE AND region = %s)
"""

#: Answers the run and the asked rows as they were before the claim, for :func:`settle`. IS TRUE, here and there, keeps
#: the planner from the index by status, which it may prefer in tables that were never analyzed.
CLAIM = Prepared(
    "llmteam_claim",
    f"""
WITH taken AS ({_CLAIM.format(holder="%s", lease="%s", latest="%s", started_at="%s", deadline="%s")}
   WHERE tenant_id = %s AND run_id = %s AND step_id = %s AND visit = %s AND {_FREE} AND fence = %s AND {_RUNS}
  RETURNING 1),
counted AS (
  UPDATE llmteam.runs SET running = running + 1, next_seq = next_seq + 1 FROM taken
   WHERE tenant_id = %s AND run_id = %s
  RETURNING next_seq - 1 AS seq),
told AS (
  INSERT INTO llmteam.events (tenant_id, run_id, seq, event_type, ts, instance_id, segment_id, step_id, step_type,
                              visit, attempt, severity, payload)
  SELECT %s, %s, counted.seq, %s, %s::timestamptz, %s, %s, %s, %s, %s::integer, %s::integer, %s, %s::json FROM counted)
SELECT counted.seq + 1, {RUN_COLUMNS}, {STEP_COLUMNS}
  FROM counted
  JOIN llmteam.runs r ON r.tenant_id = %s AND r.run_id = %s
  LEFT JOIN llmteam.run_steps s
    ON s.tenant_id = r.tenant_id AND s.run_id = r.run_id AND s.step_id = ANY(%s) AND s.visit = ANY(%s)
""",
)

#: The same for several steps of one run, each for itself; answers the places of those that were taken. The keys are
#: given twice, so that rows are found by key also in tables that were never analyzed.
CLAIM_MANY = Prepared(
    "llmteam_claim_many",
    f"""
WITH asked AS (
  SELECT * FROM unnest(%s::text[], %s::integer[], %s::bigint[], %s::text[], %s::interval[], %s::text[], %s::text[],
                       %s::text[], %s::text[], %s::text[], %s::integer[], %s::text[], %s::text[]) WITH ORDINALITY
             AS a(step_id, visit, fence, holder, lease, latest, started_at, deadline,
                  event_type, step_type, attempt, severity, payload, place)),
taken AS ({
        _CLAIM.format(
            holder="a.holder",
            lease="a.lease",
            latest="a.latest",
            started_at="a.started_at::timestamptz",
            deadline="a.deadline::timestamptz",
        )
    }
    FROM asked a
   WHERE s.tenant_id = %s AND s.run_id = %s AND s.step_id = ANY(%s) AND s.visit = ANY(%s)
     AND s.step_id = a.step_id AND s.visit = a.visit AND {_FREE} AND s.fence = a.fence AND {_RUNS}
  RETURNING a.*),
counted AS (
  UPDATE llmteam.runs r SET running = r.running + t.number, next_seq = r.next_seq + t.number
    FROM (SELECT count(*)::integer AS number FROM taken) t
   WHERE r.tenant_id = %s AND r.run_id = %s AND t.number > 0
  RETURNING r.next_seq - t.number AS seq),
told AS (
  INSERT INTO llmteam.events (tenant_id, run_id, seq, event_type, ts, instance_id, segment_id, step_id, step_type,
                              visit, attempt, severity, payload)
  SELECT %s, %s, counted.seq - 1 + row_number() OVER (ORDER BY place), event_type, started_at::timestamptz, %s, %s,
         step_id, step_type, visit, attempt, severity, payload::json
    FROM counted, taken)
SELECT place FROM taken
""",
)

_RUN = """
UPDATE llmteam.runs
   SET status = %s, open = %s, running = %s, completed = %s, failed = %s, terminals = %s, next_seq = %s,
       finished_at = %s, error = %s, wake_at = CASE WHEN %s::boolean THEN NULL ELSE wake_at END
 WHERE tenant_id = %s AND run_id = %s
"""

_FINISHED = """
UPDATE llmteam.run_steps
   SET state = %s, undecided = %s, live = %s, failed_in = %s, attempt = %s, losses = %s, owner = %s, wake_at = %s,
       deadline = %s, ready_at = %s, finished_at = %s, decisions = %s::smallint[], terminal = %s, error = %s,
       chord_id = %s, loop = %s, holder = NULL, lease_until = NULL, hints = 0, whole = %s, output = %s, output_ref = %s,
       local_state = COALESCE(%s, local_state)
"""

_OTHER = """
UPDATE llmteam.run_steps
   SET state = %s, undecided = %s, live = %s, failed_in = %s, attempt = %s, losses = %s, owner = %s, wake_at = %s,
       deadline = %s, ready_at = %s, finished_at = %s, decisions = %s, terminal = %s, error = %s, chord_id = %s,
       loop = %s, holder = NULL, lease_until = NULL, hints = 0
"""

_KEY = "WHERE tenant_id = %s AND run_id = %s AND step_id = %s AND visit = %s"

UPDATE_RUN = Prepared("llmteam_update_run", _RUN)
UPDATE_STEP = Prepared("llmteam_finish_step", _FINISHED + _KEY)
#: One row that a transition changed beside the finished one; many go through the form below.
UPDATE_OTHER = Prepared("llmteam_update_step", _OTHER + _KEY)

#: A run that drains is looked at when the grace of its pause is over.
MOVE_DEADLINE = """
UPDATE llmteam.runs SET deadline = %s, wake_at = CASE WHEN status = 'running' THEN %s::timestamptz ELSE wake_at END
 WHERE tenant_id = %s AND run_id = %s;
"""

UPDATE_STEPS_HEAD = """
UPDATE llmteam.run_steps s
   SET state = v.state, undecided = v.undecided, live = v.live, failed_in = v.failed_in, attempt = v.attempt,
       losses = v.losses, owner = v.owner, wake_at = v.wake_at::timestamptz, deadline = v.deadline::timestamptz,
       ready_at = v.ready_at::timestamptz, finished_at = v.finished_at::timestamptz,
       decisions = v.decisions::smallint[], terminal = v.terminal, error = v.error::json, chord_id = v.chord_id,
       loop = v.loop::json, holder = NULL, lease_until = NULL, hints = 0
  FROM (VALUES """
UPDATE_STEPS_ROW = "(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
UPDATE_STEPS_TAIL = """)
    AS v(step_id, visit, state, undecided, live, failed_in, attempt, losses, owner, wake_at, deadline, ready_at,
         finished_at, decisions, terminal, error, chord_id, loop)
 WHERE s.tenant_id = %s AND s.run_id = %s AND s.step_id = v.step_id AND s.visit = v.visit;
"""

INSERT_STEPS_HEAD = """
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, undecided, live, queue, owner, wake_at,
                               ready_at, finished_at, decisions, sources, loop) VALUES """
INSERT_STEPS_ROW = "(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s::smallint[],%s::text[],%s)"

#: The queues of a new run's steps, which were written for one region, where its tenant is in another one. Most often
#: there is nothing to do, which the planner's one-time filter finds out.
MOVE_STEPS = Prepared(
    "llmteam_move_steps",
    f"""
UPDATE llmteam.run_steps
   SET queue = 'llmteam.' || COALESCE(NULLIF({REGION}, 'default') || '.', '') || regexp_replace(queue, '^.*[.]', '')
 WHERE tenant_id = %s AND run_id = %s AND {REGION} <> %s
""",
)

#: The region that a new run was written with, in its transaction.
READ_REGION = f"SELECT {REGION}"

#: With a run that ends, whatever is still open ends as well.
CANCEL_OPEN = """
UPDATE llmteam.run_steps
   SET state = 'cancelled', owner = NULL, wake_at = NULL, deadline = NULL, holder = NULL, lease_until = NULL,
       finished_at = %s
 WHERE tenant_id = %s AND run_id = %s AND state IN ('pending', 'ready', 'running', 'waiting');
"""

#: One that is there already is marked as used just now, so that no purge takes it before its new user is committed.
INSERT_PAYLOAD = """
INSERT INTO llmteam.payloads (tenant_id, hash, body, size, created_at) VALUES (%s, %s, %s, %s, now())
ON CONFLICT (tenant_id, hash) DO UPDATE SET created_at = excluded.created_at;
"""

INSERT_DEFINITION = """
INSERT INTO llmteam.definitions (tenant_id, definition_hash, segment_id, document, types, created_at)
VALUES (%s, %s, %s, %s, %s, now()) ON CONFLICT DO NOTHING;
"""

INSERT_RUN = f"""
INSERT INTO llmteam.runs (tenant_id, run_id, instance_id, segment_id, definition_hash, status, open, total, next_seq,
                          input, input_ref, config, context, root_run_id, parent_run_id, link, idempotency_key,
                          start_hash, running, completed, failed, terminals, deadline, wake_at, created_at, started_at,
                          queues, region)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
        {QUEUES}, {REGION});
"""

READ_NEXT_SEQ = "SELECT COALESCE(max(seq), 0) + 1 FROM llmteam.events WHERE tenant_id = %s AND run_id = %s"

#: The run of an idempotency key before the one of an id.
READ_TAKEN = """
SELECT run_id, status, start_hash FROM llmteam.runs
 WHERE tenant_id = %s AND (run_id = %s OR idempotency_key = %s)
 ORDER BY idempotency_key IS NOT DISTINCT FROM %s DESC LIMIT 1
"""

READ_READY = f"""
SELECT {STEP_COLUMNS} FROM llmteam.run_steps s
 WHERE s.tenant_id = %s AND s.run_id = %s AND s.state IN ('ready', 'waiting') AND s.owner <> 'pause'
"""

READ_QUEUED = """
SELECT run_id FROM llmteam.runs WHERE tenant_id = %s AND status = 'pending' ORDER BY created_at, run_id LIMIT 1
"""

READ_INPUT = """
SELECT COALESCE(r.input, p.body)::text FROM llmteam.runs r
  LEFT JOIN llmteam.payloads p ON p.tenant_id = r.tenant_id AND p.hash = r.input_ref
 WHERE r.tenant_id = %s AND r.run_id = %s
"""

READ_DEFINITION = """
SELECT document, types FROM llmteam.definitions WHERE tenant_id = %s AND definition_hash = %s
"""

READ_HEADER = f"SELECT {HEADER_COLUMNS} FROM llmteam.runs r WHERE r.tenant_id = %s AND r.run_id = %s"

RECORD_COLUMNS = (
    "r.tenant_id, r.run_id, r.instance_id, r.segment_id, r.definition_hash, r.status, r.completed, r.total, r.error, "
    "r.created_at, r.started_at, r.finished_at, r.deadline, r.running, r.paused_at, r.snapshot_id, r.parent_run_id, "
    "r.root_run_id, r.link, r.idempotency_key, r.wake_at, r.region"
)

READ_RECORD = f"SELECT {RECORD_COLUMNS} FROM llmteam.runs r WHERE r.tenant_id = %s AND r.run_id = %s"

#: The condition on ``run_id`` is that of the indexes for listings.
READ_RECORDS = f"""
SELECT {RECORD_COLUMNS} FROM llmteam.runs r
 WHERE r.tenant_id = %s AND r.run_id <> ''
   AND (%s::text IS NULL OR r.status = %s) AND (%s::text IS NULL OR r.segment_id = %s)
   AND (%s::timestamptz IS NULL OR (r.created_at, r.run_id) < (%s::timestamptz, %s::text))
 ORDER BY r.created_at DESC, r.run_id DESC LIMIT %s
"""

READ_OUTPUTS = f"""
SELECT DISTINCT ON (s.step_id) s.step_id, s.whole, {_OUTPUT}
  FROM llmteam.run_steps s
 WHERE s.tenant_id = %s AND s.run_id = %s AND s.terminal
 ORDER BY s.step_id, s.visit DESC
"""

#: One event; many go through :func:`llmteam.events.postgres.insert_values`.
INSERT_EVENT = Prepared("llmteam_insert_event", event_statement())


@cache
def settle(others: int, events: int) -> Prepared:
    """A whole transition in one statement, if nothing happened to the run since it was looked at.

    For the claims of runs in which nothing else moves: without a lock held over two round trips, the run's row is
    updated only while its event number is the expected one; everything else follows from that row. Answers ``yes``, or
    ``no`` when somebody was faster, also to :data:`READ_SETTLED` and to audit records of the same transaction.
    """
    parts = [f"run AS ({_RUN} AND next_seq = %s AND (status = 'running') IS TRUE RETURNING 1)"]
    parts.append(f"done AS ({_FINISHED} FROM run {_KEY})")
    parts += [f"other{number} AS ({_OTHER} FROM run {_KEY})" for number in range(others)]
    parts += [f"event{number} AS ({event_statement(source='run')})" for number in range(events)]
    answer = f"SELECT set_config('{CONDITION}', CASE WHEN count(*) = 1 THEN 'yes' ELSE 'no' END, true) FROM run"
    return Prepared(f"llmteam_settle_{others}_{events}", f"WITH {', '.join(parts)} {answer}")


#: What :func:`settle` answered in this transaction.
READ_SETTLED = f"SELECT current_setting('{CONDITION}')"

COMMIT = "COMMIT;"
