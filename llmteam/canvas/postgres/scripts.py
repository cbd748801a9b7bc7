"""Scripts of statements, and the values that stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.canvas.graph import Node
from llmteam.canvas.postgres import rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.records import StoredOutput
from llmteam.canvas.state import Key, RunState, StepRow
from llmteam.db.hot import Script
from llmteam.events.models import EventDraft, EventScope
from llmteam.events.postgres import event_values, insert_values
from llmteam.regions import queue_in

#: Rows up to this many are written one by one by a statement that is planned already, more by one that is not.
FEW = 8


def insert_steps(
    script: Script, ident: tuple[str, str], steps: Iterable[StepRow], nodes: Mapping[str, Node], region: str
) -> None:
    """Add the INSERT of new rows, with where each runs and what its input comes from."""
    values: list[Any] = []
    added = list(steps)
    for row in added:
        node = nodes[row.step_id]
        values += [*ident, *row.key, row.state.value, row.undecided, row.live]
        values += [queue_in(node.facts.queue, region), row.owner]
        values += [row.wake_at, row.ready_at, row.finished_at, rows.decisions_list(row), list(node.sources)]
        values.append(rows.loop_text(row.loop))
    if added:
        script.add(sql.INSERT_STEPS_HEAD + ",".join([sql.INSERT_STEPS_ROW] * len(added)) + ";", *values)


def ids_and_visits(keys: Sequence[Key]) -> tuple[list[str], list[int]]:
    """The two arrays that stand for ``keys`` in a statement; rows of other pairs may come along."""
    return list(dict.fromkeys(key[0] for key in keys)), list({key[1] for key in keys})


def read_slice(run_id: str, found: Sequence[Sequence[Any]]) -> tuple[int, RunState, dict[Key, StepRow]]:
    """Next event number, run and rows, from rows of READ_SLICE or CLAIM."""
    first = found[0]
    at = 1 + rows.RUN_WIDTH
    loaded = [rows.step_row(row[at:]) for row in found if row[at] is not None]
    return first[0], rows.run_state(run_id, first[1:at]), {row.key: row for row in loaded}


def run_values(run: RunState, next_seq: int) -> list[Any]:
    """What a transition may have changed about the run, in the order of UPDATE_RUN."""
    counted = [run.status.value, run.open, run.running, run.completed, run.failed, run.terminals]
    return [*counted, next_seq, run.finished_at, rows.error_text(run.error), run.status.is_terminal]


def finished_values(row: StepRow, output: StoredOutput | None, local_state: Mapping[str, Any] | None) -> list[Any]:
    """What UPDATE_STEP writes about the step that is over, its answer included."""
    local = None if local_state is None else codec.dumps(dict(local_state))
    if output is None:
        return [*rows.step_values(row), False, None, None, local]
    inline = output.text if output.digest is None else None
    return [*rows.step_values(row), output.whole, inline, output.digest, local]


def write_events(script: Script, scope: EventScope, drafts: Sequence[EventDraft], now: datetime, first: int) -> None:
    """Add the INSERT of events, numbered from ``first``."""
    if len(drafts) <= FEW:
        for number, draft in enumerate(drafts, first):
            script.add(sql.INSERT_EVENT, *event_values(scope, number, now, draft))
    else:
        text, params = insert_values(scope, first, now, drafts)
        script.add(text + ";", *params)
