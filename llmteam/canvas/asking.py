"""Steps that ask a person, on the engine's side: parking them, and going on with what was answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmteam.canvas import transitions, waits
from llmteam.canvas.execution import Execution, GraphCache, Limits
from llmteam.canvas.graph import Node
from llmteam.canvas.handlers.document import only_value
from llmteam.canvas.handlers.human_task import answer_ports
from llmteam.canvas.outbox import Outbox
from llmteam.canvas.outputs import completion
from llmteam.canvas.ports import Ask
from llmteam.canvas.records import RunStore, StoredOutput, Work
from llmteam.canvas.routing import gather_input
from llmteam.canvas.state import Change, Failed, Outcome, Slice, StepState
from llmteam.dispatch import Hint
from llmteam.events.models import ErrorInfo
from llmteam.human import deadlines, rules
from llmteam.human.models import InteractionMessage
from llmteam.human.rulings import Case
from llmteam.ids import Clock, new_id


class Asking:
    """Parks steps and goes on with them. Each call is one transaction at most, beside the look at the request."""

    def __init__(
        self, store: RunStore, graphs: GraphCache, outbox: Outbox, limits: Callable[[], Limits], clock: Clock
    ) -> None:
        self._store = store
        self._graphs = graphs
        self._outbox = outbox
        self._limits = limits
        self._clock = clock

    def park(self, execution: Execution, ask: Ask) -> Change:
        """The step waits for a person from now on; request, row, event and audit record in one transaction.

        Raises :class:`InvalidRequestError` for a request that nobody could answer.
        """
        header, key, now = execution.header, execution.key, self._clock()
        request = ask.request.changed(
            request_id=new_id(),
            tenant_id=header.tenant_id,
            run_id=header.run_id,
            pipeline_id=header.segment_id,
            agent_name=key[0],
            step_name=key[0],
            visit=key[1],
            parked=True,
            requester_id=header.options.started_by,
        )
        asked = rules.open_request(request, now)
        change = self._store.apply(
            header,
            [key],
            lambda moment: waits.park(moment, key, execution.fence, asked),
            execution.graph.nodes,
            now=now,
        )
        self._outbox.send(header.tenant_id, execution.graph, change)
        return change

    def reply(self, hint: Hint, work: Work) -> bool:
        """Go on with a step that waits for a person, if they have answered or their time is over.

        False while it goes on waiting. An answer that somebody else applies at the same time counts once.
        """
        header, key, interactions = work.header, work.row.key, self._store.interactions
        case = interactions.case_of_step(header.tenant_id, header.run_id, *key)
        if case is None or work.row.state is not StepState.WAITING or work.row.owner != "person":
            return False
        if case.request.status.is_open:
            moment = deadlines.next_wake(case.request)
            if moment is None or moment > self._clock():
                return False
            interactions.apply(
                header.tenant_id, case.request.request_id, lambda found: deadlines.catch_up(found, self._clock())
            )
            case = interactions.case_of_step(header.tenant_id, header.run_id, *key)
            if case is None or case.request.status.is_open:
                return False
        return self._go_on(work, case)

    def _go_on(self, work: Work, case: Case) -> bool:
        header, key = work.header, work.row.key
        graph = self._graphs.get(header.tenant_id, header.definition_hash)
        node = graph.nodes[key[0]]
        given = work.input if work.takes_run_input else gather_input(node, work.sources, graph.nodes)
        request = case.request
        said = self._store.interactions.messages(request.tenant_id, request.request_id) if case.messages else []
        outcome, output = self._outcome(node, case, only_value(given, node.inputs), said)

        def transition(moment: Slice) -> Change:
            return waits.go_on(graph, moment, key, work.row.fence, outcome)

        change = self._store.apply(
            header,
            transitions.prefetch(graph, key),
            transition,
            graph.nodes,
            now=self._clock(),
            finished=key,
            output=output,
        )
        if change.applied:
            self._outbox.send(header.tenant_id, graph, change)
        return change.applied

    def _outcome(
        self, node: Node, case: Case, given: Any, said: Sequence[InteractionMessage]
    ) -> tuple[Outcome, StoredOutput | None]:
        try:
            ports = answer_ports(case, given, said, leaving={edge.source_port for edge in node.outs})
            return completion(node, ports, self._limits())
        except Exception as exc:  # noqa: BLE001  # whatever an answer is made of, its step gets an outcome
            return Failed(ErrorInfo.from_exception(exc), retryable=False), None
