"""What becomes of runs and steps, told to the tracer of the process: after each commit, in one place.

Every change of a run goes through its store, wherever it was decided: :class:`Observed` stands in front of the store
and tells what was written. It decides nothing, and without a tracer it does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from llmteam import tracing
from llmteam.canvas.records import Claimed, NewRun, RunHeader, RunStore, Work
from llmteam.canvas.state import Change, Key, StepRow, StepState
from llmteam.events.models import EventDraft, EventType
from llmteam.ids import utc_now
from llmteam.tracing import Claim, Ident, Run, Tracer

if TYPE_CHECKING:
    from llmteam.canvas.execution import Execution

#: Where a run's context keeps what it was started from.
TRACEPARENT = "traceparent"

#: Events that end an attempt.
_OUTCOMES = {
    EventType.STEP_COMPLETED: "completed",
    EventType.STEP_FAILED: "failed",
    EventType.STEP_RETRYING: "retried",
    EventType.STEP_LOST: "lost",
    EventType.STEP_RELEASED: "released",
}
#: What a step waited for before it was claimed, where the row still says so.
_WAITS = frozenset({"queue", "timer", "limit"})


def observed(store: RunStore) -> RunStore:
    """``store``, with what is written to it told."""
    return cast("RunStore", Observed(store))


class Observed:
    """A :class:`RunStore` that tells of what another one has written."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, run: NewRun, change: Change, nodes: Any) -> bool:
        """As :meth:`RunStore.create`; the run remembers the span that it was started from."""
        tracer = tracing.tracer()
        if tracer is None:
            return self._store.create(run, change, nodes)
        began, traceparent = utc_now(), None
        with tracing.careful():
            traceparent = tracer.origin(run.tenant_id, run.run_id)
        created = self._store.create(_from(run, traceparent), change, nodes)
        with tracing.careful():
            if created and traceparent is not None:
                told = Run(run.tenant_id, run.run_id, _segment(run), "", began, utc_now(), "")
                tracer.started(told, traceparent)
            if created and change.ended:
                header = self._store.header(run.tenant_id, run.run_id)
                if header is not None:
                    _tell_end(tracer, header, change)
        return created

    def claim(self, work: Work, claimed: StepRow, event: EventDraft, *args: Any, **more: Any) -> Claimed | None:
        """As :meth:`RunStore.claim`."""
        taken = self._store.claim(work, claimed, event, *args, **more)
        tracer = tracing.tracer()
        if taken is not None and tracer is not None:
            with tracing.careful():
                tracer.begin(_claim(work.header, claimed, event), _before(work.row, claimed))
        return taken

    def apply(
        self, header: RunHeader, keys: Sequence[Key], *args: Any, finished: Key | None = None, **more: Any
    ) -> Change:
        """As :meth:`RunStore.apply`."""
        change = self._store.apply(header, keys, *args, finished=finished, **more)
        tracer = tracing.tracer()
        if tracer is not None and change.applied:
            with tracing.careful():
                _tell(tracer, header, change, finished)
        return change


def working(execution: Execution) -> AbstractContextManager[None]:
    """The block works for this claim: what it calls is told of under it."""
    tracer = tracing.tracer()
    return nullcontext() if tracer is None else tracer.working(_ident(execution))


def is_open(execution: Execution) -> bool:
    """Whether nobody has told yet what became of this claim, which has left its handler."""
    tracer = tracing.tracer()
    return tracer is not None and tracer.is_open(_ident(execution))


def over(execution: Execution, store: RunStore) -> None:
    """The claim has left its handler and its result was not applied: tell what became of it. Never raises.

    The row says who else has told of it. A result that was applied without us knowing is told here.
    """
    tracer = tracing.tracer()
    if tracer is None or not tracer.is_open(_ident(execution)):
        return
    with tracing.careful():
        header = execution.header
        rows = (one.row for one in store.steps(header.tenant_id, header.run_id, outputs=False))
        row = next((row for row in rows if row.key == execution.key), None)
        outcome = None if row is None else _fate(execution, row)
        if outcome is not None:
            error = None if row is None or row.error is None else row.error.error_type
            tracer.end(_claim_of(execution), outcome, utc_now(), error_type=error)
    tracer.drop(_ident(execution))


def _fate(execution: Execution, row: StepRow) -> str | None:
    """What became of a claim by its step's row; None when whoever did it has told, or nothing is known."""
    attempt = execution.ctx.attempt - 1
    if row.fence != execution.fence:
        # A pause took it back; after a loss or a failure it was told of then.
        return "released" if row.attempt == attempt else None
    late = row.error is not None and row.error.error_type == "StepTimeoutError"
    match row.state:
        case StepState.COMPLETED:
            return "completed"
        case StepState.CANCELLED:
            return "cancelled"
        case StepState.FAILED if not late:
            return "failed"
        case StepState.READY if not late and row.attempt > attempt:
            return "retried"
        case StepState.READY if row.owner == "pause":
            return "released"
    return None


def _tell(tracer: Tracer, header: RunHeader, change: Change, finished: Key | None) -> None:
    told: set[Ident] = set()
    for event in change.events:
        outcome = _OUTCOMES.get(event.event_type)
        if outcome is None:
            continue
        row = change.steps.get((event.step_id or "", event.visit or 1))
        if row is None or not row.fence or row.started_at is None:
            continue  # it was never claimed
        claim = _claim(header, row, event)
        if claim.ident in told:
            continue  # the loss that was one too many is a failure too
        told.add(claim.ident)
        error = None if event.error is None else event.error.error_type
        answered = finished == row.key and not tracer.is_open(claim.ident)
        (tracer.waited if answered else tracer.end)(claim, outcome, change.now, error_type=error)
    if change.asks is not None:
        for row in change.steps.values():
            if row.owner == "person":
                _tell_asked(tracer, header, change, row)
    if change.ended:
        _tell_end(tracer, header, change)


def _tell_asked(tracer: Tracer, header: RunHeader, change: Change, row: StepRow) -> None:
    asking = EventDraft(EventType.HUMAN_TASK_CREATED, step_id=row.step_id, visit=row.visit, attempt=row.attempt + 1)
    claim = _claim(header, row, asking)
    if tracer.is_open(claim.ident):
        tracer.end(claim, "asked", change.now)


def _tell_end(tracer: Tracer, header: RunHeader, change: Change) -> None:
    run = change.run
    finished = run.finished_at or change.now
    tracer.ended(
        Run(
            header.tenant_id,
            header.run_id,
            header.segment_id,
            run.status.value,
            run.started_at or finished,
            finished,
            header.root_run_id,
            error_type=None if run.error is None else run.error.error_type,
            completed=run.completed,
            failed=run.failed,
            traceparent=header.context.get(TRACEPARENT),
        )
    )


def _from(run: NewRun, traceparent: str | None) -> NewRun:
    """``run`` with what it was started from, and not with what its parent was started from."""
    context = {name: value for name, value in run.context.items() if name != TRACEPARENT}
    return replace(run, context=context if traceparent is None else {**context, TRACEPARENT: traceparent})


def _segment(run: NewRun) -> str:
    return run.pinned.definition.segment_id


def _claim(header: RunHeader, row: StepRow, event: EventDraft) -> Claim:
    return Claim(
        header.tenant_id,
        header.run_id,
        header.segment_id,
        row.step_id,
        event.step_type or "",
        row.visit,
        row.fence,
        event.attempt or row.attempt + 1,
        row.started_at or utc_now(),
    )


def _claim_of(execution: Execution) -> Claim:
    header, node = execution.header, execution.node
    return Claim(
        header.tenant_id,
        header.run_id,
        header.segment_id,
        node.step_id,
        node.step.step_type,
        execution.key[1],
        execution.fence,
        execution.ctx.attempt,
        utc_now(),
    )


def _ident(execution: Execution) -> Ident:
    header = execution.header
    return header.tenant_id, header.run_id, *execution.key, execution.fence


def _before(row: StepRow, claimed: StepRow) -> dict[str, str | int | float]:
    """What the step waited for, and how long if this is its first attempt; how often its worker was lost."""
    said: dict[str, str | int | float] = {}
    if row.owner in _WAITS:
        said["llmteam.waited_for"] = row.owner
    if row.ready_at is not None and claimed.started_at is not None and not row.fence:
        said["llmteam.waited_seconds"] = max(0.0, (claimed.started_at - row.ready_at) / timedelta(seconds=1))
    if claimed.losses:
        said["llmteam.losses"] = claimed.losses
    return said
