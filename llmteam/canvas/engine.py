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
from llmteam.canvas import transitions
from llmteam.canvas.exceptions import InvalidOutputError, StepTimeoutError
from llmteam.canvas.execution import Execution, GraphCache, HandedOn, Limits, idempotency_key, inline
from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.records import NewRun, RunHeader, RunStore, Seen, StoredOutput, Work
from llmteam.canvas.routing import Source, StepOutput, decide_edges, gather_input, shape_output
from llmteam.canvas.state import (
    MAX_RETRY_DELAY,
    Change,
    Completed,
    Failed,
    Key,
    Outcome,
    RetryPolicy,
    SegmentStatus,
    Slice,
    StepRow,
    StepState,
)
from llmteam.dispatch import Chord, Dispatcher, Hint
from llmteam.errors import NotJSONError
from llmteam.events.models import ErrorInfo, EventDraft, EventType
from llmteam.events.payloads import reference
from llmteam.ids import Clock, new_id, utc_now
from llmteam.runtime.context import RuntimeContext, StepContext

logger = logging.getLogger(__name__)

#: Rows that a claim looks at for the transition to come; wider steps look when they are done.
LOOK_AHEAD = 8

#: Steps whose input is kept when one step makes them ready; of more, most are taken by other processes anyway.
HANDED_ON_AT_ONCE = 64

#: The longest duration that counts; what is meant as "never" may be longer than there are dates.
LONGEST = timedelta(days=3650)
#: What an error may ask for at most before the next attempt.
MAX_RETRY_AFTER = timedelta(days=1)

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
        notify: Callable[[str, str, bool], None] = lambda tenant_id, run_id, ended: None,
        alarm: Callable[[datetime, Hint], None] = lambda moment, hint: None,
        limits: Limits | None = None,
        holder: str = "",
        clock: Clock = utc_now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.clock = clock
        self.holder = holder
        self._handler_of = handler_of
        self._runtime_of = runtime_of
        self._dispatcher = dispatcher
        self._notify = notify
        self._alarm = alarm
        self._chance = chance
        self._graphs = GraphCache(store)
        self._handed_on = HandedOn()

    # -- runs

    def submit(self, run: NewRun) -> bool:
        """Write a run and hint at its entry step; False when the id is taken."""
        graph = self._graphs.put(run.pinned)
        now = self.clock()
        limit = run.options.timeout_seconds
        deadline = None if limit is None else now + _bounded(limit)
        change = transitions.start(graph, run.run_id, now, deadline)
        change.events[0].payload.update(inline({"input": codec.loads(run.input)}, self.limits))
        if not self.store.create(run, change, graph.nodes):
            return False
        self._after(run.tenant_id, graph, change)
        if deadline is not None:
            # Whoever looks at a step of a run that is over time ends the run.
            self._alarm(deadline, self._hint(run.tenant_id, run.run_id, graph, (graph.entry, 1)))
        return True

    def end(self, tenant_id: str, run_id: str, status: SegmentStatus, error: ErrorInfo | None = None) -> bool:
        """Cancel a run, or end it otherwise; False when it is unknown or over."""
        return self._transform(tenant_id, run_id, lambda moment: transitions.end_run(moment, status, error))

    def expire(self, tenant_id: str, run_id: str) -> bool:
        """End a run whose deadline has passed; False when it has not, or the run is over."""

        def late(moment: Slice) -> Change:
            deadline = moment.run.deadline
            if deadline is not None and deadline <= moment.change.now:
                return transitions.time_out(moment)
            moment.change.applied = False
            return moment.change

        return self._transform(tenant_id, run_id, late)

    def _transform(self, tenant_id: str, run_id: str, transition: Callable[[Slice], Change]) -> bool:
        header = self.store.header(tenant_id, run_id)
        if header is None:
            return False
        change = self.store.apply(header, [], transition, {}, now=self.clock())
        if change.applied and change.events:
            self._notify(tenant_id, run_id, change.ended)
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
        if work.run.deadline is not None and now >= work.run.deadline and not work.run.status.is_terminal:
            self.expire(hint.tenant_id, hint.run_id)
            return None
        graph = self._graphs.get(hint.tenant_id, work.header.definition_hash)
        node = graph.nodes[hint.step_id]
        timeout = self._timeout(node, work)
        claimed = transitions.claim(work.run, work.row, now, timeout)
        if claimed is None:
            if work.row.state is StepState.READY and work.row.owner == "timer" and work.row.wake_at is not None:
                self._alarm(work.row.wake_at, self._hint(hint.tenant_id, hint.run_id, graph, key))
            return None
        input_data = work.input if work.takes_run_input else gather_input(node, work.sources, graph.nodes)
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
            return None
        self._notify(hint.tenant_id, hint.run_id, False)
        return self._execution(work, node, graph, claimed, timeout, input_data, delivered_chord, taken.seen)

    def _timeout(self, node: Node, work: Work) -> timedelta | None:
        own = node.step.timeout_seconds or work.header.options.step_timeout
        return self.limits.step_timeout if own is None else _bounded(own)

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
    ) -> Execution:
        header = work.header
        runtime, refusal = self._runtime(header)
        ctx = StepContext(
            runtime,
            node.step_id,
            visit=claimed.visit,
            attempt=claimed.attempt + 1,
            idempotency_key=idempotency_key(header, claimed.key),
            deadline=claimed.deadline,
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
            refusal=refusal,
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
        try:
            output = shape_output(execution.node, answer)
            stored = self._store_output(execution.node, output)
            decisions = decide_edges(execution.node, output)
        except Exception as exc:  # noqa: BLE001  # whatever an answer is made of, its step gets an outcome
            return self.failed(execution, _output_error(execution.node, exc))
        if stored.digest is None:
            shown = inline({"output": output.value}, self.limits)
            result = inline({"output": output.as_result}, self.limits) if output.whole else shown
        else:
            shown = result = {"output": reference(stored.digest, stored.size)}
        payload = inline(execution.ctx.annotations, self.limits) | shown
        return self._finish(execution, Completed(decisions, payload, result), stored)

    def failed(self, execution: Execution, exc: BaseException) -> Change:
        """The handler raised: try again or fail, as its error and the run's policy say."""
        retryable = getattr(exc, "retryable", None)
        error = ErrorInfo.from_exception(exc, recoverable=retryable is True)
        outcome = Failed(
            error.model_copy(update={"error_message": execution.ctx.redact(error.error_message)}),
            retryable=retryable if isinstance(retryable, bool) else None,
            retry_after=_retry_after(exc),
            payload=inline(execution.ctx.annotations, self.limits),
        )
        return self._finish(execution, outcome, None)

    def timed_out(self, execution: Execution) -> Change:
        """The handler was not done in time."""
        execution.ctx.cancelled.set()
        return self.failed(execution, StepTimeoutError(execution.node.step_id, execution.timeout or 0.0))

    def _finish(self, execution: Execution, outcome: Outcome, output: StoredOutput | None) -> Change:
        header, graph, key = execution.header, execution.graph, execution.key
        options = header.options
        policy = RetryPolicy(options.max_retries, min(_bounded(options.retry_delay), MAX_RETRY_DELAY))
        chance = self._chance()
        chord_id = new_id() if key[0] in graph.chords else None

        def transition(moment: Slice) -> Change:
            return transitions.finish(
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

        ctx = execution.ctx
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
        if output is not None and output.digest is None and len(change.ready) <= HANDED_ON_AT_ONCE:
            self._hand_on(execution, change, output)
        self._after(header.tenant_id, graph, change)
        return change

    def _hand_on(self, execution: Execution, change: Change, output: StoredOutput) -> None:
        """Keep what the next step takes as input, for the case that this process is asked to run it."""
        header, graph, (step_id, _) = execution.header, execution.graph, execution.key
        finished = change.steps.get(execution.key)
        for key in change.ready:
            row = change.steps.get(key)
            if row is None or finished is None or graph.nodes[key[0]].sources != (step_id,):
                continue
            source = Source(step_id, finished.decisions or (), output.parsed())
            self._handed_on.put(Work(header, change.run, row, (source,)), key)

    # -- after the commit

    def _after(self, tenant_id: str, graph: Graph, change: Change) -> None:
        run_id = change.run.run_id
        if change.events:
            self._notify(tenant_id, run_id, change.ended)
        for row in change.steps.values():
            if row.wake_at is not None and row.key not in change.ready and row.state is StepState.READY:
                self._alarm(row.wake_at, self._hint(tenant_id, run_id, graph, row.key))
        hints = {key: self._hint(tenant_id, run_id, graph, key) for key in change.ready}
        try:
            if change.chord is not None:
                self._dispatcher.send_chord(self._chord(tenant_id, graph, change, hints))
            if hints:
                self._dispatcher.send(list(hints.values()))
        except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises, the step's result is written
            logger.warning("run %s: %d hints not sent (%s); a sweep sends them again", run_id, len(change.ready), exc)

    def _chord(self, tenant_id: str, graph: Graph, change: Change, hints: dict[Key, Hint]) -> Chord:
        """The chord of the split that is over; takes its heads out of ``hints``."""
        assert change.chord is not None
        marked = [key for key, row in change.steps.items() if row.chord_id == change.chord]
        split = next(key for key in marked if key[0] in graph.chords)
        body = self._hint(tenant_id, change.run.run_id, graph, (graph.chords[split[0]], split[1]))
        return Chord(change.chord, [hints.pop(key) for key in marked if key in hints], body)

    def _hint(self, tenant_id: str, run_id: str, graph: Graph, key: Key) -> Hint:
        return Hint(tenant_id, run_id, key[0], key[1], graph.nodes[key[0]].facts.queue)

    def _store_output(self, node: Node, output: StepOutput) -> StoredOutput:
        text = codec.dumps(output.ports, path="$")
        size = codec.check_size(f"output of step '{node.step_id}'", text, self.limits.max_output_bytes)
        digest = codec.digest(text) if size > self.limits.inline_bytes else None
        return StoredOutput(text, output.whole, digest, size)


def _retry_after(exc: BaseException) -> timedelta:
    """The least delay before the next attempt, as the error asks for it."""
    asked = getattr(exc, "retry_after", None)
    if not isinstance(asked, int | float) or not asked > 0:
        return timedelta()
    return min(_bounded(asked), MAX_RETRY_AFTER)


def _bounded(seconds: float) -> timedelta:
    """A duration after which there is still a date."""
    return min(timedelta(seconds=min(seconds, 1e9)), LONGEST)


def _output_error(node: Node, exc: Exception) -> Exception:
    if isinstance(exc, NotJSONError):
        return InvalidOutputError(node.step_id, str(exc))
    return exc
