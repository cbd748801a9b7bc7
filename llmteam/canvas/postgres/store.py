"""Runs in Postgres: one transaction per transition, two round trips each, everything else of a step in two more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from llmteam import metrics
from llmteam.audit.models import AuditDraft
from llmteam.audit.postgres import PostgresAuditStore, key_changes, write_in
from llmteam.audit.trail import AuditTrail
from llmteam.canvas import transitions
from llmteam.canvas.auditing import change_of, start_of
from llmteam.canvas.capturing import wanted
from llmteam.canvas.exceptions import RunNotFoundError
from llmteam.canvas.graph import Node
from llmteam.canvas.postgres import holds, rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.carrying import PostgresCarrying
from llmteam.canvas.postgres.claiming import Claim, claim_many, claim_one
from llmteam.canvas.postgres.combining import Combining
from llmteam.canvas.postgres.creating import creation
from llmteam.canvas.postgres.finishing import Move, finish_many
from llmteam.canvas.postgres.holds import write_hold
from llmteam.canvas.postgres.reads import PostgresReads
from llmteam.canvas.postgres.scripts import (
    FEW,
    finished_values,
    ids_and_visits,
    insert_steps,
    read_slice,
    run_values,
    write_events,
)
from llmteam.canvas.postgres.settling import settle_unlocked
from llmteam.canvas.records import Claimed, Door, NewRun, RunHeader, Seal, Seen, StoredOutput, Transition, Work
from llmteam.canvas.routing import StepOutput, outputs_payload
from llmteam.canvas.state import Change, Key, NeedRows, RunState, Slice, StepRow
from llmteam.context.postgres import PostgresContextStore
from llmteam.context.runs import Contexts
from llmteam.crypto import MasterKeys
from llmteam.db.engine import Database
from llmteam.db.errors import RefusedError, constraint_of
from llmteam.db.hot import HotConnection, Script
from llmteam.events.models import EventDraft, EventScope
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.postgres.writing import write_new, write_notices, write_withdrawal
from llmteam.human.rulings import withdrawal
from llmteam.keys import TenantKeys
from llmteam.keys.postgres import PostgresKeyStore
from llmteam.persistence.postgres import PostgresSnapshotStore
from llmteam.regions import DEFAULT_REGION, check_region
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.postgres.admission import ADMIT, admit_values, refusal_of

#: Definitions that a process remembers to have written.
_KNOWN = 10_000


class PostgresRunStore(PostgresReads):
    """The :class:`~llmteam.canvas.records.RunStore` in SQL.

    ``unknown_tenants`` is what holds for starts of tenants without a record; by default nothing is counted of them.
    Without ``master_keys``, steps cannot seal anything. Steps of runs of another region than ``region`` are neither
    read nor claimed here.
    """

    def __init__(
        self,
        database: Database,
        interactions: PostgresInteractions | None = None,
        *,
        unknown_tenants: StartLimits | None = None,
        master_keys: MasterKeys | None = None,
        region: str = DEFAULT_REGION,
    ) -> None:
        super().__init__(database, check_region("region", region))
        self._unknown = unknown_tenants or StartLimits()
        keys = TenantKeys(PostgresKeyStore(database, record=key_changes()), master_keys or MasterKeys())
        self.audit = audit = PostgresAuditStore(database)
        self.contexts = Contexts(
            PostgresContextStore(database), keys.vault, lambda tenant_id: AuditTrail(audit, tenant_id=tenant_id)
        )
        self.interactions = interactions or PostgresInteractions(database)
        self.snapshots = PostgresSnapshotStore(database)
        #: The rows of runs that are carried to other installations, or come from them.
        self.carrying = PostgresCarrying(database, self._unknown)
        self._known: set[tuple[str, str]] = set()
        #: The region of a tenant's runs, as this process last saw it.
        self._regions: dict[str, str] = {}
        self._claims = Combining[Claim, Claimed | None](partial(claim_one, database), partial(claim_many, database))
        self._finishes = Combining[Move, Change](self._apply_alone, partial(finish_many, database))

    def create(self, run: NewRun, change: Change, nodes: Mapping[str, Node]) -> bool:
        """As :meth:`RunStore.create`: one round trip; the primary key decides who was first.

        Events that were told of this run before it began keep their numbers.
        """
        known = (run.tenant_id, run.pinned.hash)
        first = 1
        while True:
            guess = self._regions.get(run.tenant_id, DEFAULT_REGION)
            script = creation(run, change, nodes, first, guess, self._unknown, is_known=known in self._known)
            try:
                with self._database.hot(run.tenant_id) as connection:
                    change.run.region = (script.run(connection) or [])[0][0]
                break
            except RefusedError as exc:
                raise refusal_of(run.tenant_id, exc) from None
            except Exception as exc:
                constraint = constraint_of(exc)
                if constraint in ("runs_pkey", "runs_idempotency_key"):
                    return False
                if constraint != "events_pkey":
                    raise
            first = self._read(run.tenant_id, sql.READ_NEXT_SEQ, run.tenant_id, run.run_id)[0][0]
        if len(self._known) >= _KNOWN:
            self._known.clear()
            self._regions.clear()
        if metrics.is_on():
            metrics.AUDIT_RECORDS.add(value=len(start_of(run, change)))
        self._known.add(known)
        self._regions[run.tenant_id] = change.run.region
        return True

    def claim(
        self,
        work: Work,
        claimed: StepRow,
        event: EventDraft,
        lease: timedelta,
        holder: str,
        keys: Sequence[Key] | None = None,
    ) -> Claimed | None:
        """As :meth:`RunStore.claim`: one round trip, which claims of one run that meet here share."""
        header = work.header
        return self._claims(
            (header.tenant_id, header.run_id), Claim(work, claimed, event, lease, holder, keys, self.region)
        )

    def apply(
        self,
        header: RunHeader,
        keys: Sequence[Key],
        transition: Transition,
        nodes: Mapping[str, Node],
        *,
        now: datetime,
        finished: Key | None = None,
        output: StoredOutput | None = None,
        local_state: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
        door: Door | None = None,
    ) -> Change:
        """As :meth:`RunStore.apply`: lock and read in one round trip, write and commit in the next.

        One round trip in all when nothing happened to the run since ``seen``. Moves of one run that meet here share
        both.
        """
        if seen is not None and finished is not None:
            move = Move(header, keys, transition, nodes, now, finished, output, local_state)
            change = settle_unlocked(self._database, move, finished, seen)
            if change is not None:
                return change
        move = Move(header, keys, transition, nodes, now, finished, output, local_state, door)
        return self._apply_alone(move) if finished is None else self._finishes(move.ident, move)

    def _apply_alone(self, move: Move) -> Change:
        header, nodes, ident = move.header, move.nodes, move.ident
        with self._database.hot(header.tenant_id) as connection:
            script = self._admission(move).add(sql.LOCK_RUN, *ident)
            try:
                seq, run, loaded = self._slice(connection, script, ident, move.keys, begin=True)
            except RefusedError as exc:
                raise refusal_of(header.tenant_id, exc) from None
            change = self._attempt(connection, ident, nodes, run, loaded, move.transition, move.now)
            if not change.applied:
                connection.rollback()
                return change
            self._fill_outputs(connection, ident, change, move.finished, move.output)
            script = Script()
            self._write(script, header, change, nodes, move.finished, move.output, move.local_state)
            scope = EventScope(*ident, header.instance_id, header.segment_id)
            write_events(script, scope, change.events, move.now, seq)
            self._write_run(script, ident, change.run, seq + len(change.events))
            told = [*change_of(header, change), *(change.asks.audit if change.asks is not None else ())]
            if change.cancel_open or change.withdrawn:
                told += self._withdrawals(connection, script, header, change)
                script = Script()
            kind = wanted(header.options, run.completed, change)
            if kind is not None:
                script = holds.capture(connection, script, header, change, kind)
            write_in(script, header.tenant_id, told, now=move.now)
            script.add(sql.COMMIT).run(connection)
        metrics.AUDIT_RECORDS.add(value=len(told))
        return change

    def _admission(self, move: Move) -> Script:
        """What comes before the lock of the run."""
        script = Script()
        if move.door is not None:
            script.add(ADMIT, *admit_values(move.header.tenant_id, move.now, move.door, self._unknown))
        return script

    def _withdrawals(
        self, connection: HotConnection, script: Script, header: RunHeader, change: Change
    ) -> list[AuditDraft]:
        """What the trail says of people who need not answer any more: known only when the script has been run."""
        keys = None if change.cancel_open else change.withdrawn
        write_withdrawal(script, (header.tenant_id, header.run_id), keys, change.now)
        return [withdrawal(header.segment_id, header.run_id, *row) for row in script.run(connection) or ()]

    def _attempt(
        self,
        connection: HotConnection,
        ident: tuple[str, str],
        nodes: Mapping[str, Node],
        run: RunState,
        loaded: dict[Key, StepRow],
        transition: Transition,
        now: datetime,
    ) -> Change:
        while True:
            try:
                return transition(Slice(run, loaded.values(), now))
            except NeedRows as missing:
                wanted = transitions.ahead(nodes, missing.keys, loaded)
                loaded |= self._slice(connection, Script(), ident, list(wanted))[2]

    def _slice(
        self,
        connection: HotConnection,
        script: Script,
        ident: tuple[str, str],
        keys: Sequence[Key],
        *,
        begin: bool = False,
    ) -> tuple[int, RunState, dict[Key, StepRow]]:
        script.add(sql.READ_SLICE, *ids_and_visits(keys), *ident)
        found = script.run(connection, begin=begin) or []
        if not found:
            raise RunNotFoundError(ident[1])
        return read_slice(ident[1], found)

    def _fill_outputs(
        self,
        connection: HotConnection,
        ident: tuple[str, str],
        change: Change,
        finished: Key | None,
        output: StoredOutput | None,
    ) -> None:
        """What several last steps gave, for the run's last event; of one alone it is there already."""
        if not change.lacks_outputs:
            return
        found = connection.script(sql.READ_OUTPUTS, ident) or ()
        outputs = {step_id: StepOutput(body or {}, whole) for step_id, whole, body in found}
        if finished is not None and output is not None and change.steps[finished].terminal:
            outputs[finished[0]] = output.parsed()
        change.events[-1].payload.update(outputs_payload(outputs))

    def _write(
        self,
        script: Script,
        header: RunHeader,
        change: Change,
        nodes: Mapping[str, Node],
        finished: Key | None,
        output: StoredOutput | None,
        local_state: Mapping[str, Any] | None,
    ) -> None:
        ident = (header.tenant_id, header.run_id)
        changed = [row for key, row in change.steps.items() if key != finished]
        if finished is not None and finished in change.steps:
            self._write_finished(script, ident, change.steps[finished], output, local_state)
        if len(changed) <= FEW:
            for row in changed:
                script.add(sql.UPDATE_OTHER, *rows.step_values(row), *ident, *row.key)
        else:
            head, tail = sql.UPDATE_STEPS_HEAD, sql.UPDATE_STEPS_TAIL
            values = [value for row in changed for value in (*row.key, *rows.step_values(row))]
            script.add(head + ",".join([sql.UPDATE_STEPS_ROW] * len(changed)) + tail, *values, *ident)
        insert_steps(script, ident, change.added.values(), nodes, change.run.region)
        if change.cancel_open:
            script.add(sql.CANCEL_OPEN, change.now, *ident)
        write_hold(script, ident, change)
        if change.moves_deadline:
            script.add(sql.MOVE_DEADLINE, change.run.deadline, change.run.deadline, *ident)
        if change.asks is not None:
            write_new(script, change.asks.request)
            write_notices(script, change.asks.request, change.asks.notices)

    def _write_finished(
        self,
        script: Script,
        ident: tuple[str, str],
        row: StepRow,
        output: StoredOutput | None,
        local_state: Mapping[str, Any] | None,
    ) -> None:
        if output is not None and output.digest is not None:
            script.add(sql.INSERT_PAYLOAD, ident[0], output.digest, output.text, output.size)
        script.add(sql.UPDATE_STEP, *finished_values(row, output, local_state), *ident, *row.key)

    def _write_run(self, script: Script, ident: tuple[str, str], run: RunState, next_seq: int) -> None:
        script.add(sql.UPDATE_RUN, *run_values(run, next_seq), *ident)

    def take_hold(self, header: RunHeader, seal: Seal, *, now: datetime) -> Change:
        """As :meth:`RunStore.take_hold`: one transaction, which reads every step of the run."""
        ident = (header.tenant_id, header.run_id)
        with self._database.hot(header.tenant_id) as connection:
            seq, run, _ = self._slice(connection, Script().add(sql.LOCK_RUN, *ident), ident, [], begin=True)
            given, steps, asked = holds.read_all(connection, ident)
            change, snapshot = seal(Slice(run, (), now), given, steps)
            if not change.applied or snapshot is None:
                connection.rollback()
                return change
            script = Script()
            holds.write_hold(script, ident, change)
            holds.write_snapshot(script, snapshot, asked)
            scope = EventScope(*ident, header.instance_id, header.segment_id)
            write_events(script, scope, change.events, now, seq)
            self._write_run(script, ident, change.run, seq + len(change.events))
            script.add(sql.COMMIT).run(connection)
        return change
