"""One hint to two transactions: claim the step, call its handler, apply what came of it, then send the hints.

The engine is synchronous and leaves the call of the handler to others: :meth:`Engine.begin` and what follows stand
around it, so that a worker's thread and an event loop can each make it in their own way.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from llmteam import codec
from llmteam.audit.denials import Denials
from llmteam.canvas import counting, transitions
from llmteam.canvas.admitting import Admitting
from llmteam.canvas.asking import Asking
from llmteam.canvas.exceptions import AlreadyRunningError, StepTimeoutError
from llmteam.canvas.execution import (
    Execution,
    GraphCache,
    HandedOn,
    Limits,
    bounded,
    failure_of,
    idempotency_key,
    inline,
)
from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.limiting import Entry, Limiting
from llmteam.canvas.observed import observed
from llmteam.canvas.outbox import Alarm, Notify, Outbox, hint_of
from llmteam.canvas.outputs import completion
from llmteam.canvas.ports import Ask, StepHandler
from llmteam.canvas.queueing import queue_up
from llmteam.canvas.records import NewRun, RunHeader, RunStore, Seen, StoredOutput, Work
from llmteam.canvas.routing import gather_input
from llmteam.canvas.state import (
    MAX_RETRY_DELAY,
    Change,
    Outcome,
    RetryPolicy,
    RunState,
    SegmentStatus,
    Slice,
    StepRow,
    StepState,
)
from llmteam.dispatch import QUARANTINE_QUEUE, Dispatcher, Hint
from llmteam.errors import InfrastructureError
from llmteam.events.models import ErrorInfo, EventDraft, EventType
from llmteam.ids import Clock, new_id, utc_now
from llmteam.ratelimit.gate import Gate
from llmteam.regions import plain
from llmteam.runtime.context import RuntimeContext, StepContext
from llmteam.tenancy.exceptions import TenantLimitExceededError

logger = logging.getLogger(__name__)

#: Rows that a claim looks at for the transition to come; wider steps look when they are done.
LOOK_AHEAD = 8

#: Steps whose input is kept when one step makes them ready; of more, most are taken by other processes anyway.
HANDED_ON_AT_ONCE = 64

HandlerOf = Callable[[str], StepHandler | None]


class Engine:
    """Runs steps of the runs in one store.

    Args:
        store: where runs live.
        handler_of: the handler of a step type, or None.
        runtime_of: the runtime context that a run's handlers see.
        dispatcher: sends hints after each commit.
        notify: told (tenant, run, whether the run ended) after each commit that wrote events.
        alarm: asked to send a hint at a moment that lies ahead.
        gate: lets steps in to what is limited.
        holder: name of this process, kept with its claims.
        chance: numbers in [0, 1) that spread retries.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        handler_of: HandlerOf,
        runtime_of: Callable[[RunHeader], RuntimeContext],
        dispatcher: Dispatcher,
        notify: Notify = lambda tenant_id, run_id, ended: None,
        alarm: Alarm = lambda moment, hint: None,
        limits: Limits | None = None,
        gate: Gate | None = None,
        holder: str = "",
        clock: Clock = utc_now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        store = self.store = observed(store)
        self.limits = limits or Limits()
        self.clock = clock
        self.holder = holder
        self.outbox = Outbox(dispatcher, notify=self._noticed(notify), alarm=alarm, clock=clock)
        self._handler_of = handler_of
        self._runtime_of = runtime_of
        self.chance = chance
        self._graphs = GraphCache(store)
        self.asking = Asking(store, self._graphs, self.outbox, lambda: self.limits, clock)
        self.admitting = Admitting(store, self._graphs, self.outbox, clock)
        self.denials = Denials(store.audit.add)
        self.limiting = Limiting(store, self.outbox, gate, clock)
        self._handed_on = HandedOn()

    def _noticed(self, notify: Notify) -> Notify:
        """``notify``; a run that is over also makes room for one that waits for its turn."""

        def noticed(tenant_id: str, run_id: str, ended: bool) -> None:
            notify(tenant_id, run_id, ended)
            if ended:
                self.admitting.run_ended(tenant_id)

        return noticed

    # -- runs

    def submit(self, run: NewRun) -> bool:
        """Write a run and hint at its entry step; False when its id or idempotency key is taken.

        Where its tenant has no room for it, it waits for its turn if the tenant's starts do. Raises
        :class:`TenantError` kinds when the tenant may not start it.
        """
        graph = self._graphs.put(run.pinned)
        now = self.clock()
        change = transitions.start(graph, run.run_id, now, self.deadline_of(run, now))
        return self._create(run, graph, change)

    def begin_run(self, run: NewRun, change: Change) -> None:
        """Write a run that begins as ``change`` says. Raises :class:`AlreadyRunningError`, and as :meth:`submit`."""
        if not self._create(run, self._graphs.put(run.pinned), change):
            raise AlreadyRunningError(run.run_id)

    def _create(self, run: NewRun, graph: Graph, change: Change) -> bool:
        change.events[0].payload.update(inline({"input": codec.loads(run.input)}, self.limits))
        try:
            created = self.store.create(run, change, graph.nodes)
        except TenantLimitExceededError as exc:
            if not exc.queues:
                raise
            queue_up(change)
            created = self.store.create(run, change, graph.nodes)
        if not created:
            return False
        self.outbox.send(run.tenant_id, graph, change)
        if change.run.deadline is not None:
            # Whoever looks at a step of a run that is over time ends the run.
            self.outbox.alarm(change.run.deadline, hint_of(run.tenant_id, change.run, graph, (graph.entry, 1)))
        if change.run.status is SegmentStatus.PENDING:
            # Whatever ended while it was written has not seen it.
            self.admitting.admit(run.tenant_id)
        return True

    def deadline_of(self, run: NewRun, now: datetime) -> datetime | None:
        """When a run that starts now has taken too long."""
        limit = run.options.timeout_seconds
        return None if limit is None else now + bounded(limit)

    def end(
        self, tenant_id: str, run_id: str, status: SegmentStatus, error: ErrorInfo | None = None, by: str = ""
    ) -> bool:
        """Cancel a run, or end it otherwise, as ``by`` wants, if known; False when it is unknown or over."""
        return self._transform(tenant_id, run_id, lambda moment: transitions.end_run(moment, status, error, by))

    def expire(self, tenant_id: str, run_id: str) -> bool:
        """End a run whose deadline has passed; False when it has not, or the run is over."""

        def late(moment: Slice) -> Change:
            deadline = moment.run.deadline
            if moment.run.status is SegmentStatus.RUNNING and deadline is not None and deadline <= moment.change.now:
                return transitions.time_out(moment)
            moment.change.applied = False
            return moment.change

        return self._transform(tenant_id, run_id, late)

    def _transform(self, tenant_id: str, run_id: str, transition: Callable[[Slice], Change]) -> bool:
        header = self.store.header(tenant_id, run_id)
        if header is None:
            return False
        self.admitting.note(header)
        change = self.store.apply(header, [], transition, {}, now=self.clock())
        if change.applied:
            self.outbox.tell(tenant_id, change)
            self.limiting.abandon(header, self.graph_of(header), change)
        return change.applied

    # -- steps

    def begin(self, hint: Hint, delivered_chord: str | None = None) -> Execution | None:
        """Claim the step of a hint; None when there is nothing to do."""
        handed = self._handed_on.take(hint)
        if handed is not None:
            execution = self._claim(hint, handed, delivered_chord)
            if execution is not None:
                return execution
        work = self.store.gather(hint.tenant_id, hint.run_id, (hint.step_id, hint.visit))
        return None if work is None else self._claim(hint, work, delivered_chord)

    def _claim(self, hint: Hint, work: Work, delivered_chord: str | None) -> Execution | None:
        key = (hint.step_id, hint.visit)
        now = self.clock()
        if work.run.deadline is not None and now >= work.run.deadline and work.run.status is SegmentStatus.RUNNING:
            self.expire(hint.tenant_id, hint.run_id)
            return None
        self.admitting.note(work.header)
        graph = self.graph_of(work.header)
        node = graph.nodes[hint.step_id]
        timeout = self._timeout(node, work)
        if work.row.state is StepState.WAITING and work.row.owner != "limit":
            self.asking.reply(hint, work)
            return None
        claimed = transitions.claim(work.run, work.row, now, timeout)
        if claimed is None:
            if work.row.state is StepState.READY and work.row.owner == "timer" and work.row.wake_at is not None:
                self.outbox.alarm(work.row.wake_at, hint_of(hint.tenant_id, work.run, graph, key, work.row))
            return None
        if claimed.quarantined and hint.queue and plain(hint.queue) != QUARANTINE_QUEUE:
            self.outbox.send_hints([hint_of(hint.tenant_id, work.run, graph, key, work.row)])
            return None
        input_data = work.input if work.takes_run_input else gather_input(node, work.sources, graph.nodes)
        entry = self.limiting.enter(work, graph, node, input_data)
        if entry is None:
            return None
        event = EventDraft(
            EventType.STEP_STARTED,
            step_id=key[0],
            step_type=node.step.step_type,
            visit=key[1],
            attempt=claimed.attempt + 1,
            payload=inline({"input": input_data}, self.limits),
        )
        keys = transitions.prefetch(graph, key)[1:]
        taken = self.store.claim(
            work, claimed, event, self.limits.lease, self.holder, keys if len(keys) <= LOOK_AHEAD else None
        )
        if taken is None:
            counting.claim_refused()
            return None
        counting.claimed(node.step.step_type, node.facts.queue, work.row, now)
        self.outbox.notify(hint.tenant_id, hint.run_id, False)
        return self._execution(work, node, graph, claimed, timeout, input_data, delivered_chord, taken.seen, entry)

    def still_asks(self, hint: Hint) -> bool:
        """Whether the step waits for a person; if they have answered, or their time is over, it goes on with that."""
        key = (hint.step_id, hint.visit)
        work = self.store.gather(hint.tenant_id, hint.run_id, key)
        waits = work is not None and not work.run.status.is_terminal and work.row.state is StepState.WAITING
        return work is not None and waits and not self.asking.reply(hint, work)

    def _timeout(self, node: Node, work: Work) -> timedelta | None:
        own = node.step.timeout_seconds or work.header.options.step_timeout
        return self.limits.step_timeout if own is None else bounded(own)

    def _execution(
        self,
        work: Work,
        node: Node,
        graph: Graph,
        claimed: StepRow,
        timeout: timedelta | None,
        input_data: Any,
        delivered_chord: str | None,
        seen: Seen | None,
        entry: Entry,
    ) -> Execution:
        header = work.header
        runtime, refusal = self._runtime(header)
        ctx = StepContext(
            runtime,
            node.step_id,
            visit=claimed.visit,
            attempt=claimed.attempt + 1,
            idempotency_key=idempotency_key(header, claimed.key),
            # By the clock that handlers look at; that of the store may be another one.
            deadline=None if timeout is None else utc_now() + timeout,
            inputs=node.inputs,
            outputs=node.outputs,
            local_state=dict(work.local_state or {}),
        )
        return Execution(
            header=header,
            node=node,
            graph=graph,
            key=claimed.key,
            fence=claimed.fence,
            ctx=ctx,
            handler=self._handler_of(node.step.step_type),
            config=copy.deepcopy(node.step.config),
            input=input_data,
            delivered_chord=delivered_chord,
            timeout=None if timeout is None else timeout.total_seconds(),
            refusal=refusal or entry.refusal,
            passed=entry.passed,
            seen=seen,
        )

    def _runtime(self, header: RunHeader) -> tuple[RuntimeContext, Exception | None]:
        """The run's runtime; when it cannot be made, an empty one and why: the claimed step then fails with that."""
        try:
            return self._runtime_of(header), None
        except Exception as exc:  # noqa: BLE001  # hooks of users take part in making it
            return RuntimeContext(header.tenant_id, header.instance_id, header.run_id, header.segment_id), exc

    def answered(self, execution: Execution, answer: Any) -> Change:
        """The handler returned: store what it gave, decide its edges, go on."""
        self.limiting.leave(execution)
        try:
            if isinstance(answer, Ask):
                return self.asking.park(execution, answer)
            outcome, stored = completion(execution.node, answer, self.limits, execution.ctx.annotations)
            execution.ctx.check_shows_no_secret("output", stored.text)
        except InfrastructureError:
            raise
        except Exception as exc:  # noqa: BLE001  # whatever an answer is made of, its step gets an outcome
            return self.failed(execution, exc)
        return self._finish(execution, outcome, stored)

    def failed(self, execution: Execution, exc: BaseException) -> Change:
        """The handler raised: try again or fail, as its error and the run's policy say.

        Of a handler that was stopped because its claim is gone nothing is written: it has not failed, it was lost.
        """
        self.limiting.leave(execution, exc)
        if execution.revoked.is_set():
            return Change(RunState(execution.header.run_id), self.clock(), applied=False)
        return self._finish(execution, failure_of(execution, exc, self.limits), None)

    def timed_out(self, execution: Execution) -> Change:
        """The handler was not done in time. It is told only then: what it gives on being told must not count."""
        try:
            return self.failed(execution, StepTimeoutError(execution.node.step_id, execution.timeout or 0.0))
        finally:
            execution.ctx.cancelled.set()

    def _finish(self, execution: Execution, outcome: Outcome, output: StoredOutput | None) -> Change:
        header, graph, key = execution.header, execution.graph, execution.key
        policy, chance, ctx = self.policy_of(header), self.chance(), execution.ctx
        chord_id = new_id() if key[0] in graph.chords else None

        def transition(moment: Slice) -> Change:
            change = transitions.finish(
                graph,
                moment,
                key,
                execution.fence,
                outcome,
                policy=policy,
                chance=chance,
                delivered_chord=execution.delivered_chord,
                chord_id=chord_id,
            )
            over = change.steps.get(key)
            change.checkpoint = ctx.wants_snapshot and over is not None and over.state is StepState.COMPLETED
            return change

        change = self.store.apply(
            header,
            transitions.prefetch(graph, key),
            transition,
            graph.nodes,
            now=self.clock(),
            finished=key,
            output=output,
            local_state=ctx.local_state if ctx.dirty else None,
            seen=execution.seen,
        )
        if not change.applied:
            counting.result_refused()
        if output is not None and output.digest is None and len(change.ready) <= HANDED_ON_AT_ONCE:
            self._handed_on.follow(execution, change, output)
        self.outbox.send(header.tenant_id, graph, change)
        self.limiting.abandon(header, graph, change)
        return change

    def policy_of(self, header: RunHeader) -> RetryPolicy:
        """How the steps of a run are tried again, unless they say otherwise themselves."""
        options = header.options
        return RetryPolicy(options.max_retries, min(bounded(options.retry_delay), MAX_RETRY_DELAY))

    def graph_of(self, header: RunHeader) -> Graph:
        """The compiled definition of a run."""
        return self._graphs.get(header.tenant_id, header.definition_hash)
