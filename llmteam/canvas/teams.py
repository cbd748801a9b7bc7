"""Team steps as the engine runs them: loops of a decision, the agents and what brings their answers together. Pure.

A step of type ``team`` keeps its id: it decides, and is the header of a loop. Each agent becomes a step of its type,
``research__writer`` for the agent ``writer`` of the step ``research``, so that limits, retries, timeouts, secrets and
people work for agents as for any step. ``research__turn`` takes the state from the decision and the answers from the
agents, and leads back to the decision.

What is stored and hashed is the definition as it was written; it is expanded wherever a graph is made of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmteam.canvas.models import EdgeDefinition, PortDefinition, SegmentDefinition, StepDefinition, StepTypeFacts
from llmteam.canvas.ports import ANNOTATIONS_PORT, ERROR_PORT

TEAM_TYPE = "team"
#: What an agent is, unless its ``step_type`` says otherwise.
AGENT_TYPE = "llm_agent"
#: Between a team's id and what is made of it.
SEPARATOR = "__"
#: Name after the separator of the step that ends a turn.
TURN = "turn"

#: Ports of a team step beside ``output``: live instead of it where an edge leaves them.
LIMIT_PORT, ESCALATED_PORT = "limit", "escalated"
#: Port through which a turn begins: into the step that ends it.
TURN_PORT = "turn"
#: Port of an agent's answer that is no choice among ports.
PLAIN = "output"
#: Port on which the decision finds what the turn before it left. No edge of a user leads there.
CARRIED_PORT = "@team"
#: Key of an expanded step's configuration that its handler goes by.
PART = "@team"

#: Turns that a team takes, unless its configuration says otherwise.
DEFAULT_MAX_TURNS = 20

FactsOf = Callable[[str], StepTypeFacts | None]


@dataclass(frozen=True, slots=True)
class TeamAgent:
    """An agent as a team's configuration has it; ``place`` is where in its list."""

    name: str
    step_type: str
    config: Mapping[str, Any]
    place: int


@dataclass(frozen=True, slots=True)
class Expanded:
    """A definition in which every team step is spelled out. Steps and edges of the original keep their places.

    ``bounds`` are the iterations that the loops of teams may take, by header. ``made_of`` says for each step that is
    not in the original which team step it belongs to.
    """

    definition: SegmentDefinition
    bounds: Mapping[str, int] = field(default_factory=dict)
    made_of: Mapping[str, str] = field(default_factory=dict)


def agents_of(step: StepDefinition) -> list[TeamAgent]:
    """The agents of a team step; what does not read as one is left to the check of the configuration."""
    listed = step.config.get("agents")
    found = []
    for place, agent in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(agent, Mapping) and isinstance(agent.get("name"), str):
            kind, config = agent.get("step_type", AGENT_TYPE), agent.get("config", {})
            if isinstance(kind, str) and isinstance(config, Mapping):
                found.append(TeamAgent(agent["name"], kind, config, place))
    return found


def max_turns_of(step: StepDefinition) -> int:
    """Turns that a team step may take."""
    turns = step.config.get("max_turns")
    return turns if isinstance(turns, int) and not isinstance(turns, bool) and turns > 0 else DEFAULT_MAX_TURNS


def part_id(team_id: str, name: str) -> str:
    """The id of the step that is made of a team's agent."""
    return f"{team_id}{SEPARATOR}{name}"


def agent_port(name: str) -> str:
    """The port of the decision that lets this agent work."""
    return f"agent:{name}"


def step_types_of(definition: SegmentDefinition) -> Counter[str]:
    """The types of all steps, those of agents in teams as well, with how many there are."""
    agents = (agent.step_type for step in teams_of(definition) for agent in agents_of(step))
    return Counter([*(step.step_type for step in definition.steps), *agents])


def asking_models(definition: SegmentDefinition) -> int:
    """How many steps and agents ask a model: what the tenant's limit of agents is about."""
    return step_types_of(definition)[AGENT_TYPE]


def teams_of(definition: SegmentDefinition) -> Iterator[StepDefinition]:
    """The team steps of a definition."""
    return (step for step in definition.steps if step.step_type == TEAM_TYPE)


def expand(definition: SegmentDefinition, facts_of: FactsOf) -> Expanded:
    """``definition`` with every team step spelled out; itself where it has none.

    Of one that :func:`~llmteam.canvas.team_checks.team_problems` has something against, what can be spelled out.
    """
    if not any(True for _ in teams_of(definition)):
        return Expanded(definition)
    entry = definition.resolve_entrypoint()
    steps, edges = list(definition.steps), list(definition.edges)
    bounds: dict[str, int] = {}
    made_of: dict[str, str] = {}
    leaving: dict[str, set[str]] = {}
    taken = {step.step_id for step in steps}
    for edge in edges:
        leaving.setdefault(edge.source_step, set()).add(edge.source_port)
    for place, step in enumerate(definition.steps):
        if step.step_type != TEAM_TYPE:
            continue
        team = _Team(step, facts_of, taken)
        steps[place] = team.decision(first=step.step_id == entry, leaving=leaving.get(step.step_id, set()))
        steps += team.parts
        edges += team.edges
        bounds[step.step_id] = max_turns_of(step) + 1
        made_of |= {part.step_id: step.step_id for part in team.parts}
        taken |= made_of.keys()
    update = {"steps": steps, "edges": edges, "entrypoint": entry}
    return Expanded(definition.model_copy(update=update), bounds, made_of)


class _Team:
    """What is made of one team step, beside ids that are ``taken``."""

    def __init__(self, step: StepDefinition, facts_of: FactsOf, taken: set[str]) -> None:
        self.step = step
        self.turn_id = part_id(step.step_id, TURN)
        self.agents: list[TeamAgent] = []
        self.parts: list[StepDefinition] = []
        self.edges: list[EdgeDefinition] = []
        if self.turn_id in taken:
            return
        seen = {*taken, self.turn_id}
        for agent in agents_of(step):
            if part_id(step.step_id, agent.name) not in seen:
                seen.add(part_id(step.step_id, agent.name))
                self._add(agent, facts_of(agent.step_type) or StepTypeFacts(type_id=agent.step_type))
        self._add_turn()

    def decision(self, *, first: bool, leaving: set[str]) -> StepDefinition:
        """The team step itself. ``first``: the run begins with it; ``leaving``: ports that edges of the user leave."""
        part = {
            "first": first,
            "leaving": sorted(leaving & {LIMIT_PORT, ESCALATED_PORT}),
            "agents": [agent.name for agent in self.agents],
        }
        # Whatever a strategy asks is under the limits that hold for a step that asks it.
        strategy = self.step.config.get("strategy")
        asked = {"llm_ref": strategy["llm_ref"]} if isinstance(strategy, Mapping) and "llm_ref" in strategy else {}
        ports = [*self.step.outputs, *_ports(*(agent_port(agent.name) for agent in self.agents), TURN_PORT)]
        inputs = [*self.step.inputs, *_ports(CARRIED_PORT)]
        config = {**self.step.config, **asked, PART: part}
        return self.step.model_copy(update={"config": config, "inputs": inputs, "outputs": ports})

    def _add(self, agent: TeamAgent, facts: StepTypeFacts) -> None:
        self.agents.append(agent)
        own = part_id(self.step.step_id, agent.name)
        entering = "input" if "input" in facts.inputs else facts.inputs[0]
        outputs = [port for port in facts.outputs if port != ERROR_PORT]
        self.parts.append(
            StepDefinition(
                step_id=own,
                step_type=agent.step_type,
                name=f"{self.step.name or self.step.step_id}: {agent.name}",
                config=dict(agent.config),
                inputs=_ports(entering),
                outputs=_ports(*outputs),
            )
        )
        self._edge(self.step.step_id, agent_port(agent.name), own, entering)
        answers = {port: port for port in outputs} if facts.routing else {outputs[0]: PLAIN} if outputs else {}
        for port, arrives in {**answers, ERROR_PORT: ERROR_PORT, ANNOTATIONS_PORT: ANNOTATIONS_PORT}.items():
            self._edge(own, port, self.turn_id, answer_port(agent.name, arrives))

    def _add_turn(self) -> None:
        answers = [edge.target_port for edge in self.edges if edge.target_step == self.turn_id]
        part = {"turn_of": self.step.step_id}
        keep = {key: self.step.config[key] for key in ("result",) if key in self.step.config}
        self.parts.append(
            StepDefinition(
                step_id=self.turn_id,
                step_type=TEAM_TYPE,
                name=f"{self.step.name or self.step.step_id}: end of turn",
                config={**keep, PART: part},
                inputs=_ports(TURN_PORT, *answers),
                outputs=_ports("output"),
            )
        )
        self._edge(self.step.step_id, TURN_PORT, self.turn_id, TURN_PORT)
        self._edge(self.turn_id, "output", self.step.step_id, CARRIED_PORT)

    def _edge(self, source: str, port: str, target: str, target_port: str) -> None:
        self.edges.append(
            EdgeDefinition(source_step=source, source_port=port, target_step=target, target_port=target_port)
        )


def answer_port(name: str, port: str) -> str:
    """The port of the turn's end on which an agent's ``port`` arrives; names of agents have no dot."""
    return f"{name}.{port}"


def _ports(*names: str) -> list[PortDefinition]:
    return [PortDefinition(port_id=name) for name in names]
