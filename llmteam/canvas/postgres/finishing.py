"""Several steps of one run finished in one transaction, each on what the ones before it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmteam.canvas.capturing import wanted
from llmteam.canvas.graph import Node
from llmteam.canvas.postgres import rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.combining import ALONE, Alone
from llmteam.canvas.postgres.scripts import FEW, finished_values, ids_and_visits, read_slice, run_values
from llmteam.canvas.records import Door, RunHeader, StoredOutput, Transition
from llmteam.canvas.state import Change, Key, RunState, Slice, StepRow
from llmteam.db.engine import Database
from llmteam.db.hot import Script
from llmteam.events.models import EventScope
from llmteam.events.postgres import event_values


@dataclass(frozen=True, slots=True)
class Move:
    """What :meth:`RunStore.apply` is given."""

    header: RunHeader
    keys: Sequence[Key]
    transition: Transition
    nodes: Mapping[str, Node]
    now: datetime
    finished: Key | None
    output: StoredOutput | None
    local_state: Mapping[str, Any] | None
    door: Door | None = None

    @property
    def ident(self) -> tuple[str, str]:
        return (self.header.tenant_id, self.header.run_id)


@dataclass(slots=True)
class _Batch:
    """The run as the moves that were made so far left it."""

    run: RunState
    rows: dict[Key, StepRow]
    made: list[tuple[Move, Change]] = field(default_factory=list)

    def make(self, move: Move) -> Change | Alone:
        """Make ``move``, unless it fails or is one of those that are better written by themselves."""
        try:
            change = move.transition(Slice(self.run, self.rows.values(), move.now))
        except Exception:  # noqa: BLE001  # rows that are missing, or what its caller gets to see when it goes alone
            return ALONE
        if not change.applied:
            return change
        if _is_more(move, change) or wanted(move.header.options, self.run.completed, change) is not None:
            return ALONE
        if change.events or change.steps:
            self.made.append((move, change))
            self.run = change.run
            self.rows.update(change.steps)
        return change


def _is_more(move: Move, change: Change) -> bool:
    """Whether ``change`` is more than some rows that change, with some events."""
    large = move.output is not None and move.output.digest is not None
    whole = change.ended or change.cancel_open or change.hold is not None or bool(change.withdrawn)
    whole = whole or change.moves_deadline
    return large or whole or bool(change.added) or len(change.steps) > FEW or len(change.events) > FEW


def finish_many(database: Database, moves: Sequence[Move]) -> list[Change | Alone]:
    """Moves of one run in one transaction: lock and read in one round trip, write and commit in the next."""
    first = moves[0]
    keys = list(dict.fromkeys(key for move in moves for key in move.keys))
    script = Script().add(sql.LOCK_RUN, *first.ident).add(sql.READ_SLICE, *ids_and_visits(keys), *first.ident)
    with database.hot(first.header.tenant_id) as connection:
        found = script.run(connection, begin=True)
        if not found:
            return [ALONE] * len(moves)
        seq, run, loaded = read_slice(first.header.run_id, found)
        batch = _Batch(run, loaded)
        answers = [batch.make(move) for move in moves]
        if batch.made:
            _written(batch, first.header, seq).add(sql.COMMIT).run(connection)
    return answers


def _written(batch: _Batch, header: RunHeader, seq: int) -> Script:
    """Each row once, as it is after all moves, in the order of the keys; the events one move after the other."""
    ident = (header.tenant_id, header.run_id)
    scope = EventScope(*ident, header.instance_id, header.segment_id)
    finished = {move.finished: move for move, _ in batch.made}
    script = Script()
    for key in sorted({key for _, change in batch.made for key in change.steps}):
        row, move = batch.rows[key], finished.get(key)
        if move is None:
            script.add(sql.UPDATE_OTHER, *rows.step_values(row), *ident, *key)
        else:
            script.add(sql.UPDATE_STEP, *finished_values(row, move.output, move.local_state), *ident, *key)
    for _, change in batch.made:
        for draft in change.events:
            script.add(sql.INSERT_EVENT, *event_values(scope, seq, change.now, draft))
            seq += 1
    return script.add(sql.UPDATE_RUN, *run_values(batch.run, seq), *ident)
