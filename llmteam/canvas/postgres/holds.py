"""Pauses in SQL: all open steps of a run at once, and the snapshot that goes with it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from llmteam.canvas.capturing import captured
from llmteam.canvas.exceptions import SnapshotIntegrityError
from llmteam.canvas.postgres import rows
from llmteam.canvas.postgres.statements import STEP_COLUMNS
from llmteam.canvas.records import RunHeader, StepRecord
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import HINT_AFTER, Change
from llmteam.db.hot import HotConnection, Script
from llmteam.human.postgres.writing import write_freeze, write_thaw
from llmteam.persistence import documents
from llmteam.persistence import postgres as kept
from llmteam.persistence.exceptions import PersistenceError, SnapshotTooLargeError
from llmteam.persistence.models import SnapshotType

logger = logging.getLogger(__name__)

_RUN = """
UPDATE llmteam.runs SET wake_at = %s, deadline = %s, paused_at = %s, snapshot_id = %s, started_at = %s
 WHERE tenant_id = %s AND run_id = %s;
"""

#: What still runs loses its claim: its fence no longer belongs to a running step.
FREEZE = """
UPDATE llmteam.run_steps
   SET held_owner = CASE WHEN state = 'running' THEN 'queue' ELSE owner END,
       held_wake_at = CASE WHEN state = 'running' THEN NULL ELSE wake_at END,
       deadline = CASE WHEN state = 'running' THEN NULL ELSE deadline END,
       state = CASE WHEN state = 'running' THEN 'ready' ELSE state END,
       owner = 'pause', wake_at = NULL, holder = NULL, lease_until = NULL, hints = 0
 WHERE tenant_id = %s AND run_id = %s AND state IN ('ready', 'running', 'waiting');
"""

THAW = """
UPDATE llmteam.run_steps
   SET owner = COALESCE(held_owner, 'queue'),
       wake_at = CASE WHEN COALESCE(held_owner, 'queue') = 'queue' THEN %s::timestamptz
                      ELSE held_wake_at + %s::interval END,
       deadline = deadline + %s::interval, held_owner = NULL, held_wake_at = NULL
 WHERE tenant_id = %s AND run_id = %s AND owner = 'pause';
"""

#: Everything for a snapshot; outputs that stand elsewhere as references.
_ALL_STEPS = f"""
SELECT {STEP_COLUMNS}, s.queue, s.holder, s.lease_until, s.hints, s.held_owner, s.held_wake_at,
       COALESCE(s.output, json_build_object('$ref', s.output_ref)), s.whole AND s.output_ref IS NULL
  FROM llmteam.run_steps s
 WHERE s.tenant_id = %s AND s.run_id = %s
 ORDER BY s.started_at NULLS LAST, s.step_id, s.visit
"""

_INPUT = """
SELECT COALESCE(r.input, json_build_object('$ref', r.input_ref)),
       ARRAY(SELECT i.request_id FROM llmteam.interactions i
              WHERE i.tenant_id = r.tenant_id AND i.run_id = r.run_id AND i.run_id <> '' AND i.closed_at IS NULL
              ORDER BY i.request_id)
  FROM llmteam.runs r
 WHERE r.tenant_id = %s AND r.run_id = %s
"""

READ_SNAPSHOT = "SELECT document FROM llmteam.snapshots WHERE tenant_id = %s AND snapshot_id = %s"


def write_hold(script: Script, ident: tuple[str, str], change: Change) -> None:
    """Add what a pause, or its end, does to the run and to all its steps; also the end of waiting for one's turn."""
    hold, run = change.hold, change.run
    if hold is None:
        return
    script.add(_RUN, hold.wake_at, run.deadline, run.paused_at, run.snapshot_id, run.started_at, *ident)
    if hold.freeze:
        script.add(FREEZE, *ident)
        write_freeze(script, ident, change.now)
    if hold.thaw is not None:
        thaw: timedelta = hold.thaw
        script.add(THAW, change.now + HINT_AFTER, thaw, thaw, *ident)
        write_thaw(script, ident, thaw)


def read_all(
    connection: HotConnection, ident: tuple[str, str], after: Script | None = None
) -> tuple[Any, Sequence[StepRecord], list[str]]:
    """The run's input and all its steps, large values as references; and the requests that nobody has answered.

    As they are when the script ``after`` has been run.
    """
    script = after or Script()
    found = script.add(_ALL_STEPS, *ident).run(connection) or []
    given, asked = (connection.script(_INPUT, ident) or [(None, [])])[0]
    return given, [rows.step_record(row) for row in found], asked


def write_snapshot(script: Script, snapshot: SegmentSnapshot, asked: Sequence[str]) -> None:
    """Add the INSERT of a snapshot. However large it is, the run has to come to a stand."""
    kept.write_snapshot(script, snapshot.as_pipeline(asked), max_bytes=sys.maxsize)


def capture(connection: HotConnection, script: Script, header: RunHeader, change: Change, kind: SnapshotType) -> Script:
    """Run ``script``, which writes ``change``; give one that keeps a snapshot of what the run then is, if it can.

    A step is over whether or not a copy of its run can be kept.
    """
    given, steps, asked = read_all(connection, (header.tenant_id, header.run_id), script)
    fresh = Script()
    try:
        kept.keep_snapshot(fresh, captured(header, change, kind, given, steps, asked))
    except SnapshotTooLargeError as exc:
        logger.warning("run %s: no snapshot is kept: %s", header.run_id, exc)
    return fresh


def read_snapshot(snapshot_id: str, document: Mapping[str, Any]) -> SegmentSnapshot | None:
    """The snapshot of a run, whichever version has kept it; None for one of something else.

    Raises :class:`SnapshotIntegrityError`.
    """
    try:
        return SegmentSnapshot.of_pipeline(documents.read(document))
    except PersistenceError:
        raise SnapshotIntegrityError(snapshot_id) from None
