"""The transition of a run in which nothing else moves: one statement, without a lock held over two round trips."""

from __future__ import annotations

from llmteam import metrics
from llmteam.audit.postgres import write_in
from llmteam.canvas.auditing import change_of
from llmteam.canvas.capturing import wanted
from llmteam.canvas.postgres import rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.finishing import Move
from llmteam.canvas.postgres.scripts import FEW, finished_values, run_values
from llmteam.canvas.records import Seen
from llmteam.canvas.state import Change, Key, NeedRows, Slice
from llmteam.db.engine import Database
from llmteam.db.hot import Script
from llmteam.events.models import EventScope
from llmteam.events.postgres import event_values


def settle_unlocked(database: Database, move: Move, finished: Key, seen: Seen) -> Change | None:
    """Make ``move`` if the run is as it was seen, and it is no more than some rows and events; else None."""
    try:
        change = move.transition(Slice(seen.run, seen.rows, move.now))
    except NeedRows:
        return None
    others = [row for key, row in change.steps.items() if key != finished]
    few = len(others) <= FEW and 0 < len(change.events) <= FEW
    large = move.output is not None and move.output.digest is not None
    more = change.added or change.cancel_open or change.lacks_outputs or change.withdrawn or change.moves_deadline
    if not few or large or more or not change.applied:
        return None
    header, ident = move.header, move.ident
    if wanted(header.options, seen.run.completed, change) is not None:
        return None
    values = [*run_values(change.run, seen.next_seq + len(change.events)), *ident, seen.next_seq]
    values += finished_values(change.steps[finished], move.output, move.local_state)
    values += [*ident, *finished]
    for row in others:
        values += [*rows.step_values(row), *ident, *row.key]
    scope = EventScope(*ident, header.instance_id, header.segment_id)
    for number, draft in enumerate(change.events, seen.next_seq):
        values += event_values(scope, number, move.now, draft)
    script = Script().add(sql.settle(len(others), len(change.events)), *values)
    told = change_of(header, change)
    if told:
        write_in(script, header.tenant_id, told, now=move.now, conditional=True)
        script.add(sql.READ_SETTLED)
    with database.hot(header.tenant_id) as connection:
        found = script.run(connection) or []
    if found[0][0] != "yes":
        return None
    metrics.AUDIT_RECORDS.add(value=len(told))
    return change
