"""What handlers do, drawn for each attempt at each step: the same in whatever order and however often they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any

from llmteam import codec
from llmteam.canvas.exceptions import StepTimeoutError
from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.handlers.document import only_value
from llmteam.canvas.handlers.human_task import answer_ports
from llmteam.canvas.ports import Ask, Ports
from llmteam.canvas.routing import (
    Source,
    StepOutput,
    decide_edges,
    failure_output,
    gather_input,
    run_outputs,
    shape_output,
)
from llmteam.canvas.state import Completed, Failed, Key, Outcome, RetryPolicy, StepRow
from llmteam.canvas.teams import TEAM_TYPE, TURN_PORT
from llmteam.errors import LLMTeamError
from llmteam.events.models import ErrorInfo
from llmteam.human.models import InteractionRequest, InteractionResponse, InteractionType
from llmteam.human.rulings import Case
from tests.simulation import EPOCH, Simulation

#: What every step of a simulated run may take, in seconds: longer than a lease.
STEP_TIMEOUT = 60.0


class BrokenError(LLMTeamError):
    """A handler's failure; ``retryable`` as it pleases."""

    def __init__(self, retryable: bool | None) -> None:
        super().__init__("a handler broke")
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler does, after ``seconds``. One that ``kills`` takes its worker with it."""

    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0
    hangs: bool = False
    kills: bool = False
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Replies:
    """Draws replies. ``failing`` and ``hanging`` are probabilities of an attempt, ``asking`` that a step
    asks a person; ``poison`` names steps that kill."""

    seed: int
    failing: float = 0.0
    hanging: float = 0.0
    asking: float = 0.0
    poison: frozenset[str] = frozenset()

    def __call__(self, node: Node, key: Key, attempt: int, given: Any) -> Reply:
        chance = Random(f"{self.seed}/{key}/{attempt}")
        if key[0] in self.poison:
            return Reply(seconds=0.5, kills=True)
        seconds = chance.choice((0.01, 0.1, 0.5, 2.0, 2.0, 8.0, 40.0))
        if chance.random() < self.failing:
            return Reply(error=BrokenError(chance.choice((None, None, True, False))), seconds=seconds)
        if chance.random() < self.hanging:
            return Reply("too late", seconds=STEP_TIMEOUT + 20.0, hangs=True)
        if node.facts.kind == "step" and Random(f"{self.seed}/{key}/asks").random() < self.asking:
            return Reply(Ask(_request(key, given)), seconds=seconds, asks=True)
        return Reply(_value(node, key, given, chance), seconds=seconds)


def _request(key: Key, given: Any) -> InteractionRequest:
    """What a step asks. Who is asked has so long that only somebody who is never there is too late."""
    fields = dict.fromkeys(("run_id", "pipeline_id", "agent_name", "tenant_id", "request_id", "description"), "")
    chance = Random(f"{key}/request")
    return InteractionRequest(
        interaction_type=InteractionType.REVIEW,
        step_name=key[0],
        title=f"{key[0]}#{key[1]}",
        context_data={"saw": codec.digest(codec.canonical(given))[:12]},
        timeout=timedelta(seconds=chance.choice((15, 40, 10_000))),
        escalation_chain=chance.choice(([], ["bob"], ["bob", "eve"])),
        reminder=timedelta(seconds=chance.choice((7, 300))),
        **fields,
    )


def answer_of(request: InteractionRequest) -> InteractionResponse:
    """What whoever is asked answers; always the same to one request of a step, whoever gives it, however often."""
    chance = Random(f"{request.title}/{request.context_data['saw']}/answer")
    return InteractionResponse(
        request_id=request.request_id,
        responder_id="ann",
        approved=chance.choice((True, False, None)),
        review_changes={"pick": chance.randrange(3)},
        response_time=EPOCH,
    )


def _value(node: Node, key: Key, given: Any, chance: Random) -> Any:
    """An answer that tells what it was made from, so that a wrong input shows in the run's output."""
    saw = codec.digest(codec.canonical(given))[:12]
    told = {"from": f"{key[0]}#{key[1]}", "saw": saw, "pick": chance.randrange(3)}
    if node.step.step_type == TEAM_TYPE:
        return Ports(dict.fromkeys(_ports_of_team(node, chance), told))
    if node.facts.kind == "step" and node.facts.routing:
        return Ports({chance.choice(("true", "false")): told})
    if node.facts.kind == "split" and chance.random() < 0.2:
        return Ports({port: told for port in node.outputs if chance.random() < 0.6})
    return told


def _ports_of_team(node: Node, chance: Random) -> list[str]:
    """Where a decision, or the end of a turn, leads: whoever works in the next turn, or out of the team."""
    agents = [edge.source_port for edge in node.outs if edge.source_port.startswith("agent:")]
    working = [port for port in agents if chance.random() < 0.7]
    return [*working, TURN_PORT] if agents and chance.random() < 0.6 else ["output"]


class Reference(Simulation):
    """The same run by the pure state machine, with nothing that goes wrong."""

    def __init__(self, graph: Graph, replies: Replies, policy: RetryPolicy, given: Any) -> None:
        super().__init__(graph, policy)
        self._replies, self._given = replies, given
        self._inputs: dict[Key, Any] = {}
        self._outputs: dict[Key, StepOutput] = {}

    def finished(self) -> Reference:
        """The run at its end."""
        self.play(self._outcome, lambda count: 0)
        return self

    def claim(self, key: Key) -> StepRow | None:
        claimed = super().claim(key)
        if claimed is not None:
            entry = claimed.undecided == 0 and claimed.live == 0
            sources = self._sources(self.graph.nodes[key[0]])
            gathered = gather_input(self.graph.nodes[key[0]], sources, self.graph.nodes)
            self._inputs[key] = self._given if entry else gathered
        return claimed

    def _sources(self, node: Node) -> list[Source]:
        sources = []
        for step_id in node.sources:
            rows = [row for row in self.rows.values() if row.step_id == step_id]
            over = [row for row in rows if row.decisions is not None]
            if over:
                last = max(over, key=lambda row: row.visit)
                output = self._outputs.get(last.key, StepOutput({}))
                superseded = max(row.visit for row in rows if row.state != "pending" or row.visit == 1) > last.visit
                sources.append(Source(step_id, last.decisions or (), output, superseded))
        return sources

    def _outcome(self, key: Key) -> Outcome:
        node = self.graph.nodes[key[0]]
        reply = self._replies(node, key, self.rows[key].attempt, self._inputs[key])
        if reply.hangs:
            return self._failure(key, StepTimeoutError(key[0], STEP_TIMEOUT))
        if reply.error is not None:
            return self._failure(key, reply.error)
        try:
            output = shape_output(node, self._said(key, reply))
            decisions = decide_edges(node, output)
        except LLMTeamError as exc:
            return self._failure(key, exc)
        self._outputs[key] = output
        return Completed(decisions, {}, {"output": output.as_result})

    def _said(self, key: Key, reply: Reply) -> Any:
        if not isinstance(reply.value, Ask):
            return reply.value
        request = reply.value.request
        given = only_value(self._inputs[key], self.graph.nodes[key[0]].inputs)
        return answer_ports(Case(request, response=answer_of(request)), given)

    def _failure(self, key: Key, exc: Exception) -> Failed:
        retryable = getattr(exc, "retryable", None)
        error = ErrorInfo.from_exception(exc, recoverable=retryable is True)
        self._outputs[key] = failure_output(error)
        return Failed(error, retryable=retryable)

    def results(self) -> dict[str, Any]:
        """The run's outputs."""
        terminal = [row for row in self.rows.values() if row.terminal]
        last = {row.step_id: row for row in sorted(terminal, key=lambda row: row.visit)}
        return run_outputs({row.step_id: self._outputs[row.key] for row in last.values()})


def policy(max_retries: int, delay: float) -> RetryPolicy:
    return RetryPolicy(max_retries, timedelta(seconds=delay))


Handler = Callable[[Node, Key, int, Any], Reply]
