"""What a team step carries from turn to turn, and what becomes of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from llmteam.canvas.ports import ANNOTATIONS_PORT, ERROR_PORT
from llmteam.canvas.teams import DEFAULT_MAX_TURNS, PLAIN
from llmteam.roles.models import (
    ESCALATE,
    PARALLEL,
    RETRY,
    ROUTE,
    SKIP,
    START,
    OrchestrationContext,
    OrchestrationDecision,
)
from llmteam.roles.runs import ESCALATION, history_entry

#: Keys of a decision's metadata that later decisions do not see again.
_UNSEEN = ("reply",)
#: Which bound a team stopped at, by the key of its configuration; of several the first.
BOUNDS = {"max_turns": "turns", "max_tokens": "tokens", "max_seconds": "seconds"}


@dataclass(slots=True)
class TeamState:
    """How far a team is, as JSON.

    ``state`` is the input with what agents gave, ``queue`` the agents that go on working before the next decision:
    those of one list at once. ``tokens`` are those that decisions and agents told of; ``seconds`` those from each
    decision to the end of its turn. ``last`` is the last answer.
    """

    state: dict[str, Any]
    step: str = START
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0
    turn_seconds: float = 0.0
    retries: int = 0
    calls: int = 0
    failures: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    queue: list[list[str]] = field(default_factory=list)
    last: Any = None

    def to_dict(self) -> dict[str, Any]:
        """One key per field."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> TeamState:
        """Read :meth:`to_dict`; other keys are left out."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})

    @classmethod
    def begun(cls, document: Any) -> TeamState:
        """The state of a team that is given ``document``; a value that is no object stands under ``input``."""
        if document is None:
            return cls({})
        return cls(dict(document) if isinstance(document, Mapping) else {"input": document})

    @property
    def errors(self) -> dict[str, str]:
        """The kinds of errors of the last turn, by agent."""
        return dict(self.history[-1].get("errors", {})) if self.history else {}

    def context(self, agents: Mapping[str, str]) -> OrchestrationContext:
        """What a strategy decides on; ``agents`` are their descriptions by name."""
        return OrchestrationContext(
            current_step=self.step,
            available_agents=list(agents),
            agent_states=_agent_states(agents, self.history),
            execution_history=self.history,
            global_state=self.state,
            step_duration=timedelta(seconds=self.turn_seconds),
            retry_count=self.retries,
            error_rate=self.failures / self.calls if self.calls else 0.0,
        )

    def bound_reached(self, config: Mapping[str, Any]) -> str | None:
        """Which bound of the configuration the team has come to: "turns", "tokens" or "seconds"."""
        spent = {"max_turns": self.turns, "max_tokens": self.tokens, "max_seconds": self.seconds}
        limits = {"max_turns": DEFAULT_MAX_TURNS, **config}
        return next((BOUNDS[key] for key in BOUNDS if key in limits and spent[key] >= limits[key]), None)

    def follow(self, decision: OrchestrationDecision, targets: list[str], width: int, now: datetime) -> bool:
        """Plan the turns of ``decision``, whose ``targets`` are known agents; False when the team ends with it.

        At most ``width`` agents work at once; the others come in turns after them.
        """
        entry = history_entry(self.step, decision, lambda: now)
        told = entry["decision"]
        told["metadata"] = {key: value for key, value in told["metadata"].items() if key not in _UNSEEN}
        self.history.append(entry)
        kind = decision.decision_type
        if kind == ESCALATE:
            self.state[ESCALATION] = {"reason": decision.reason, "targets": targets, "step": self.step}
        if not goes_on(decision, targets):
            return False
        self.retries = self.retries + 1 if kind == RETRY else 0
        if kind == SKIP:
            entry["completed"] = targets
            self.step = targets[-1]
            self.queue = [[]]
        else:
            size = width if kind == PARALLEL else 1
            self.queue = [targets[place : place + size] for place in range(0, len(targets), size)]
        return True

    def next_turn(self) -> list[str]:
        """Begin the turn that is next in the queue: who works in it."""
        self.turns += 1
        return self.queue.pop(0)

    def end_turn(self, working: list[str], given: Mapping[str, Any], seconds: float) -> None:
        """Merge what the agents of a turn gave, as it arrived on the ports ``name.port``.

        A failure ends the queue, so that the strategy is asked. Keys that two agents wrote differently are told under
        ``conflicts`` of the history.
        """
        entry = self.history[-1]
        before = dict(self.state)
        written: dict[str, Any] = {}
        conflicts: list[str] = list(entry.get("conflicts", ()))
        for name in working:
            answers = dict(_answers(name, given))
            self.calls += 1
            self.tokens += tokens_of(answers.pop(ANNOTATIONS_PORT, None))
            failure = answers.pop(ERROR_PORT, None)
            if failure is not None:
                self.failures += 1
                entry.setdefault("errors", {})[name] = _error_type(failure)
                continue
            entry.setdefault("completed", []).append(name)
            for port, answer in answers.items():
                if port != PLAIN:
                    entry.setdefault("ports", {})[name] = port
                self.last = answer
                values = _merged(name, port, answer, before)
                conflicts += [key for key, value in values.items() if key in written and written[key] != value]
                written |= values
        self.state |= written
        if conflicts:
            entry["conflicts"] = list(dict.fromkeys(conflicts))
        if "errors" in entry:
            self.queue = []
        self.step = working[-1] if working else self.step
        self.turn_seconds = seconds
        self.seconds += seconds


def goes_on(decision: OrchestrationDecision, targets: list[str]) -> bool:
    """Whether a team goes on after a decision, of whose targets these are known."""
    return bool(targets) and decision.decision_type in (ROUTE, RETRY, PARALLEL, SKIP)


def tokens_of(annotations: Any) -> int:
    """The tokens that a step's annotations, or a decision's metadata, tell of."""
    usage = annotations.get("usage") if isinstance(annotations, Mapping) else None
    if not isinstance(usage, Mapping):
        return 0
    counted = (usage.get("input_tokens"), usage.get("output_tokens"))
    return sum(max(0, one) for one in counted if isinstance(one, int) and not isinstance(one, bool))


def _answers(name: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for port, value in given.items():
        owner, dot, own = port.partition(".")
        if dot and owner == name:
            yield own, value


def _merged(name: str, port: str, answer: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """An object is merged by key, anything else stands under the agent's name; so does what came from a port that the
    agent chose, with the port's name, and without the state that it hands on as it was given.
    """
    if port == PLAIN:
        return answer if isinstance(answer, dict) else {name: answer}
    told = {} if answer == before else answer if isinstance(answer, dict) else {"value": answer}
    return {name: {**{key: value for key, value in told.items() if value != before}, "port": port}}


def _error_type(failure: Any) -> str:
    kind = failure.get("error_type") if isinstance(failure, Mapping) else None
    return kind if isinstance(kind, str) else "Error"


def _agent_states(agents: Mapping[str, str], history: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    states: dict[str, dict[str, Any]] = {name: {"status": "available"} for name in agents}
    for entry in history:
        for name in entry.get("completed", ()):
            states.setdefault(name, {})["status"] = "completed"
        for name in entry.get("errors", ()):
            states.setdefault(name, {})["status"] = "failed"
        for name, port in entry.get("ports", {}).items():
            states.setdefault(name, {})["port"] = port
    for name, description in agents.items():
        if description:
            states[name]["description"] = description
    return states
