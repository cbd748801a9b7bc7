"""Operations on whole runs: pause and go on, retry from where it failed, fork from where it could go otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from llmteam import codec
from llmteam.canvas import pauses
from llmteam.canvas.auditing import resume_refusal, start_refusal
from llmteam.canvas.capturing import segment_snapshot
from llmteam.canvas.engine import Engine
from llmteam.canvas.exceptions import (
    RunNotFoundError,
    RunStateError,
    SnapshotNotFoundError,
    SnapshotStaleError,
)
from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.outputs import store_output
from llmteam.canvas.records import (
    Door,
    Link,
    LinkKind,
    NewRun,
    RunHeader,
    RunRecord,
    StepRecord,
    StoredOutput,
    Transition,
)
from llmteam.canvas.replay import behind, replay, reusable_rows
from llmteam.canvas.routing import LIVE, decide_edges, shape_output
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Change, Key, RunState, SegmentStatus, Slice, StepRow, StepState
from llmteam.ids import new_id
from llmteam.tenancy.exceptions import TenantError
from llmteam.wakeup import Wakeup, channel

__all__ = ["Effect", "Plan", "Surgery"]

#: Seconds that running steps get to finish before a pause takes hold.
PAUSE_GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.5
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Step types of ours that do nothing outside the run.
_HARMLESS = frozenset({"transform", "condition", "parallel_split", "parallel_join", "llm_agent", "team"})


@dataclass(frozen=True, slots=True)
class Effect:
    """Something outside that a step did, or may have done, and would do again."""

    step_id: str
    visit: int
    what: str
    same_key: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a retry or a fork would take over, run again and repeat outside."""

    kind: LinkKind
    record: RunRecord
    reused: Sequence[StepRow]
    again: Sequence[StepRow]
    effects: Sequence[Effect]


class Surgery:
    """Pauses, resumes, retries and forks the runs of one installation; from any process."""

    def __init__(self, engine: Engine, wakeup: Wakeup) -> None:
        self._engine = engine
        self._store = engine.store
        self._wakeup = wakeup

    # -- pause and resume

    def pause(self, tenant_id: str, run_id: str, grace: float = PAUSE_GRACE_SECONDS, *, by: str = "") -> str | None:
        """Pause a run and return the id of its snapshot; None when it is unknown or over.

        Nothing new is claimed from now on. Running steps get ``grace`` seconds to finish; what then still runs is
        fenced and runs again after the resume. A run that is paused already gives the snapshot that it has. ``by`` is,
        here and below, who wants that, for the audit trail.
        """
        header = self._store.header(tenant_id, run_id)
        if header is None:
            return None
        until = self._engine.clock() + timedelta(seconds=grace)
        self._apply(header, lambda moment: pauses.begin_pause(moment, until, by))
        give_up = time.monotonic() + grace
        with self._wakeup.subscribe(channel(tenant_id, run_id)) as watch:
            while True:
                record = self._record(tenant_id, run_id)
                left = give_up - time.monotonic()
                if record.status is not SegmentStatus.PAUSING or record.running == 0 or left <= 0:
                    break
                watch.wait(min(left, _POLL_SECONDS))
        self.take_hold(tenant_id, run_id)
        record = self._record(tenant_id, run_id)
        return record.snapshot_id if record.status is SegmentStatus.PAUSED else None

    def take_hold(self, tenant_id: str, run_id: str) -> bool:
        """Let the pause of a run that is PAUSING take hold now, whoever began it; False when there is none."""
        header = self._store.header(tenant_id, run_id)
        if header is None:
            return False
        now, snapshot_id = self._engine.clock(), new_id()

        def seal(moment: Slice, given: Any, steps: Sequence[StepRecord]) -> tuple[Change, SegmentSnapshot | None]:
            running = [step.row.step_id for step in steps if step.row.state is StepState.RUNNING]
            change = pauses.take_hold(moment, snapshot_id, running)
            if not change.applied:
                return change, None
            return change, segment_snapshot(header, moment.run, moment.change.now, snapshot_id, given, steps)

        change = self._store.take_hold(header, seal, now=now)
        if change.applied:
            self._engine.outbox.tell(tenant_id, change)
        return change.applied

    def resume(self, tenant_id: str, name: str, *, by: str = "") -> str:
        """Go on with a paused run, named by its id or by its snapshot's; the run's id.

        Raises:
            SnapshotNotFoundError: there is neither such a run nor such a snapshot.
            SnapshotStaleError: the snapshot is not that of the current pause.
            RunStateError: the run is not paused.
            TenantInactiveError: the tenant is deactivated, so that what stands still stays so.
        """
        record = self._store.record(tenant_id, name)
        if record is None:
            snapshot = self._store.snapshot(tenant_id, name)
            if snapshot is None:
                raise SnapshotNotFoundError(name)
            record, snapshot_id = self._record(tenant_id, snapshot.run_id), name
        else:
            snapshot_id = record.snapshot_id or ""
        if record.status is not SegmentStatus.PAUSED and record.run_id == name:
            raise RunStateError(name, f"is {record.status.value}, not paused: only a paused run can be resumed")
        header = self._header(tenant_id, record.run_id)
        try:
            change = self._apply(header, lambda moment: pauses.resume(moment, snapshot_id, by), door="standing")
        except TenantError as exc:
            self._engine.denials.note(tenant_id, resume_refusal(header, by, exc))
            raise
        if not change.applied:
            now = self._record(tenant_id, record.run_id).status
            raise SnapshotStaleError(record.run_id, snapshot_id, now.value)
        self._hint_all(header, change.run)
        return record.run_id

    def _hint_all(self, header: RunHeader, run: RunState) -> None:
        """Hint at everything that the resumed run has lying ready."""
        rows = self._store.ready(header.tenant_id, header.run_id)
        self._engine.outbox.send_ready(header.tenant_id, run, self._engine.graph_of(header), rows)

    def _apply(self, header: RunHeader, transition: Transition, door: Door | None = None) -> Change:
        change = self._store.apply(header, [], transition, {}, now=self._engine.clock(), door=door)
        if change.applied:
            self._engine.outbox.tell(header.tenant_id, change)
        return change

    # -- retry and fork

    def plan_retry(self, tenant_id: str, run_id: str, *, new_keys: bool = False) -> Plan:
        """What :meth:`retry` would do. Raises :class:`RunNotFoundError`, :class:`RunStateError`."""
        record = self._over(tenant_id, run_id, "retried")
        if record.status is SegmentStatus.COMPLETED:
            raise RunStateError(run_id, "has completed, so there is nothing to retry: fork it to run parts of it again")
        rows = self._rows(tenant_id, run_id)
        reused = reusable_rows(self._engine.graph_of(self._header(tenant_id, run_id)), rows)
        return self._plan("retry", record, rows, reused, same_key=not new_keys)

    def retry(
        self, tenant_id: str, run_id: str, *, new_run_id: str | None = None, new_keys: bool = False, by: str = ""
    ) -> str:
        """Start a new run that takes over what is over in a failed one and goes on from what failed; its id.

        Steps get the idempotency keys that they had, unless ``new_keys``. Raises as :meth:`plan_retry`, and
        :class:`AlreadyRunningError`.
        """
        plan = self.plan_retry(tenant_id, run_id, new_keys=new_keys)
        header = self._header(tenant_id, run_id)
        made = new_run_id or new_id()
        link = Link("retry", run_id, made if new_keys else header.root_run_id)
        return self._begin(header, made, link, plan.reused, by)

    def plan_fork(
        self, tenant_id: str, run_id: str, step_id: str, visit: int | None = None, *, edited: Sequence[str] = ()
    ) -> Plan:
        """What :meth:`fork` would do with the answers of the steps ``edited`` replaced.

        Raises :class:`RunNotFoundError`, :class:`RunStateError`.
        """
        record = self._over(tenant_id, run_id, "forked")
        rows = self._rows(tenant_id, run_id)
        graph = self._engine.graph_of(self._header(tenant_id, run_id))
        replaced = [_begun(record, rows, name, None) for name in edited]
        dropped = behind(graph, _begun(record, rows, step_id, visit), rows)
        dropped |= {key for row in replaced for key in behind(graph, row, rows)}
        dropped -= {row.key for row in replaced}
        reused = [row for row in reusable_rows(graph, rows) if row.key not in dropped]
        return self._plan("fork", record, rows, reused, same_key=False)

    def fork(
        self,
        tenant_id: str,
        run_id: str,
        step_id: str,
        visit: int | None = None,
        *,
        given: Any = None,
        state: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
        by: str = "",
    ) -> str:
        """Start a new run that goes on from one step of a finished one; its id.

        ``given`` (anything but None) is what that step gets instead of its input; ``state`` replaces what earlier
        steps gave, by step id, and whatever depends on them runs again too. Raises as :meth:`plan_fork`,
        :class:`NotJSONError`, :class:`AlreadyRunningError`.
        """
        self._over(tenant_id, run_id, "forked")
        header = self._header(tenant_id, run_id)
        graph, rows = self._engine.graph_of(header), self._rows(tenant_id, run_id)
        record = self._record(tenant_id, run_id)
        start = _begun(record, rows, step_id, visit)
        dropped = behind(graph, start, rows)
        edited: dict[Key, tuple[StepRow, StoredOutput]] = {}
        for name, value in (state or {}).items():
            row = _begun(record, rows, name, None)
            dropped |= behind(graph, row, rows)
            edited[row.key] = self._edited(graph.nodes[name], row, value)
        reused = [edited[row.key][0] if row.key in edited else row for row in reusable_rows(graph, rows)]
        reused = [row for row in reused if row.key not in dropped or row.key in edited]
        made = new_run_id or new_id()
        outputs = {key: output for key, (_, output) in edited.items()}
        inputs = {} if given is None else {start.key: codec.dumps(given, path="$")}
        return self._begin(header, made, Link("fork", run_id, made, outputs, inputs), reused, by)

    def _edited(self, node: Node, row: StepRow, value: Any) -> tuple[StepRow, StoredOutput]:
        """The row and the output of a step as if it had answered ``value``."""
        output = shape_output(node, value)
        decisions = decide_edges(node, output)
        answered = replace(
            row, state=StepState.COMPLETED, decisions=decisions, terminal=LIVE not in decisions, error=None
        )
        return answered, store_output(node, output, self._engine.limits)

    def _begin(self, header: RunHeader, run_id: str, link: Link, reused: Sequence[StepRow], by: str) -> str:
        engine, store = self._engine, self._store
        pinned = store.definition(header.tenant_id, header.definition_hash)
        graph = engine.graph_of(header)
        run = NewRun(
            tenant_id=header.tenant_id,
            run_id=run_id,
            pinned=pinned,
            input=store.input(header.tenant_id, link.parent_run_id) or "null",
            options=header.options,
            instance_id=header.instance_id,
            context={**header.context, "run_id": run_id},
            link=link,
            by=by,
        )
        now = engine.clock()
        change = replay(graph, run_id, reused, now, engine.deadline_of(run, now))
        change.events[0].payload.update(
            {"link": link.kind, "parent_run_id": link.parent_run_id, "reused_steps": len(reused)}
        )
        try:
            engine.begin_run(run, change)
        except TenantError as exc:
            engine.denials.note(run.tenant_id, start_refusal(run, exc))
            raise
        return run_id

    def _plan(
        self, kind: LinkKind, record: RunRecord, rows: Sequence[StepRow], reused: Sequence[StepRow], *, same_key: bool
    ) -> Plan:
        kept = {row.key for row in reused}
        again = [row for row in rows if row.fence > 0 and row.key not in kept]
        graph = self._engine.graph_of(self._header(record.tenant_id, record.run_id))
        effects = [effect for row in again if (effect := _effect(graph, row, same_key)) is not None]
        return Plan(kind, record, reused, again, effects)

    # -- looking

    def _rows(self, tenant_id: str, run_id: str) -> list[StepRow]:
        return [record.row for record in self._store.steps(tenant_id, run_id)]

    def _over(self, tenant_id: str, run_id: str, done: str) -> RunRecord:
        record = self._record(tenant_id, run_id)
        if not record.status.is_terminal:
            raise RunStateError(run_id, f"is {record.status.value}: only a run that is over can be {done}")
        return record

    def _record(self, tenant_id: str, run_id: str) -> RunRecord:
        record = self._store.record(tenant_id, run_id)
        if record is None:
            raise RunNotFoundError(run_id)
        return record

    def _header(self, tenant_id: str, run_id: str) -> RunHeader:
        header = self._store.header(tenant_id, run_id)
        if header is None:
            raise RunNotFoundError(run_id)
        return header


def _begun(record: RunRecord, rows: Iterable[StepRow], step_id: str, visit: int | None) -> StepRow:
    """The execution of a step that the caller names; the latest that began when no visit is said."""
    known = [row for row in rows if row.step_id == step_id]
    begun = [row for row in known if row.started_at is not None and visit in (None, row.visit)]
    if not begun:
        what = "has no step" if not known else "never came to step"
        shown = step_id if visit is None else f"{step_id}#{visit}"
        raise RunStateError(record.run_id, f"{what} '{shown[:120]}': see its steps with `llmteam runs show`")
    return max(begun, key=lambda row: row.visit)


def _effect(graph: Graph, row: StepRow, same_key: bool) -> Effect | None:
    step = graph.nodes[row.step_id].step
    if step.step_type in _HARMLESS:
        return None
    what = f"{step.step_type}: whatever its handler does outside"
    if step.step_type == "http_action":
        method = str(step.config.get("method", "POST")).upper()
        if method in _SAFE_METHODS:
            return None
        what = f"HTTP {method} {step.config.get('url') or step.config.get('path') or ''}".rstrip()
    if step.step_type == "human_task":
        what = "asks a person again"
    return Effect(row.step_id, row.visit, what, same_key)
