"""Team steps spelled out, and what is wrong with them before they run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.features import features_needed
from llmteam.canvas.graph import Graph, compile_graph
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.nets import net_of
from llmteam.canvas.records import NewRun, PinnedDefinition
from llmteam.canvas.teams import expand, step_types_of
from llmteam.canvas.validation import validate_segment
from tests.drawing import WORK
from tests.teams import agent, rule, segment, step, team

CATALOG = StepCatalog()


def facts_of(type_id: str) -> StepTypeFacts | None:
    return WORK if type_id == "work" else CATALOG.facts(type_id)


def graph(definition: SegmentDefinition) -> Graph:
    return compile_graph(definition, facts_of)


def edges(definition: SegmentDefinition) -> set[str]:
    expanded = expand(definition, facts_of).definition
    return {f"{e.source_step}.{e.source_port} -> {e.target_step}.{e.target_port}" for e in expanded.edges}


def problems(*steps: Any, **how: Any) -> dict[str, str]:
    """Codes of the errors by their path."""
    errors = validate_segment(segment(*steps, **how), CATALOG).errors
    return {one.path: one.code for one in errors}


PLAIN: dict[str, Any] = {"step_type": "transform"}
MEMBER = {"name": "a", **PLAIN}


def test_a_definition_without_a_team_is_left_as_it_is() -> None:
    definition = segment(step("a"))

    assert expand(definition, facts_of).definition is definition


def test_each_agent_is_a_step_and_one_more_ends_the_turn() -> None:
    definition = segment(team(["a", agent("b", "human_task")]), step("after"), edges=["team -> after"])

    expanded = expand(definition, facts_of)

    assert [one.step_id for one in expanded.definition.steps] == ["team", "after", "team__a", "team__b", "team__turn"]
    assert expanded.made_of == dict.fromkeys(("team__a", "team__b", "team__turn"), "team")
    assert edges(definition) == {
        "team.output -> after.input",
        "team.agent:a -> team__a.input",
        "team__a.output -> team__turn.a.output",
        "team__a.error -> team__turn.a.error",
        "team__a.@annotations -> team__turn.a.@annotations",
        "team.agent:b -> team__b.data",
        *(f"team__b.{port} -> team__turn.b.{port}" for port in ("approved", "rejected", "modified", "timeout")),
        "team__b.error -> team__turn.b.error",
        "team__b.@annotations -> team__turn.b.@annotations",
        "team.turn -> team__turn.turn",
        "team__turn.output -> team.@team",
    }


def test_the_document_and_its_hash_stay_as_they_were_written() -> None:
    definition = segment(team(["a"]))
    before, digest = definition.to_dict(), definition.content_hash

    found = graph(definition)

    assert (definition.to_dict(), definition.content_hash) == (before, digest)
    assert found.definition is definition


def test_a_team_is_a_loop_whose_limit_is_its_own() -> None:
    found = graph(segment(team(["a", "b"], max_turns=150), max_visits=3))

    assert found.loops["team"].body == {"team", "team__a", "team__b", "team__turn"}
    assert (found.loops["team"].limit, found.max_visits) == (151, 3)
    assert found.problems == ()


def test_the_entry_stays_the_one_that_was_meant_although_the_team_has_a_way_back() -> None:
    definition = segment(team(["a"]), step("after"), edges=["team -> after"]).model_copy(update={"entrypoint": None})

    assert graph(definition).entry == "team"


def test_the_types_and_the_models_of_agents_count_as_those_of_steps() -> None:
    definition = segment(team([agent("a", "llm_agent", model="m"), agent("b", "llm_agent", model="m")]))
    pinned = PinnedDefinition("hash", definition, {})

    assert step_types_of(definition) == {"team": 1, "llm_agent": 2}
    assert NewRun("acme", "run-1", pinned, "null").agents == 2


def test_a_team_needs_the_features_of_its_agents() -> None:
    definition = segment(team([agent("a", "human_task")]))

    assert features_needed(graph(definition).nodes.values()) == ["basic_agents", "human_interaction"]


def test_a_step_that_asks_a_model_is_under_its_limits_when_it_decides() -> None:
    definition = segment(team(["a"], strategy={"llm_ref": "main"}))

    assert graph(definition).nodes["team"].step.config["llm_ref"] == "main"


@pytest.mark.parametrize(
    ("config", "path", "code"),
    [
        ({"agents": []}, "agents", "SCHEMA_VIOLATION"),
        ({"agents": [{"name": "Writer"}]}, "agents[0].name", "SCHEMA_VIOLATION"),
        ({"agents": [MEMBER, MEMBER]}, "agents[1].name", "DUPLICATE_ID"),
        ({"agents": [{"name": "turn", **PLAIN}]}, "agents[0].name", "DUPLICATE_ID"),
        ({"agents": [{"name": "other", **PLAIN}]}, "agents[0].name", "DUPLICATE_ID"),
        ({"agents": [{"name": "a", "step_type": "gone"}]}, "agents[0].step_type", "UNKNOWN_TYPE"),
        ({"agents": [{"name": "a", "step_type": "team"}]}, "agents[0].step_type", "INVALID_VALUE"),
        ({"agents": [{"name": "a", "step_type": "parallel_join"}]}, "agents[0].step_type", "INVALID_VALUE"),
        ({"agents": [{"name": "a", "config": {"temperature": 9}}]}, "agents[0].config.temperature", "SCHEMA_VIOLATION"),
        ({"max_turns": 0}, "max_turns", "SCHEMA_VIOLATION"),
        ({"max_tokens": 0.5}, "max_tokens", "SCHEMA_VIOLATION"),
        ({"max_seconds": 0}, "max_seconds", "SCHEMA_VIOLATION"),
        ({"result": "all"}, "result", "SCHEMA_VIOLATION"),
        ({"strategy": {"rules": [rule("1 +", "end")]}}, "strategy.rules[0].when", "BAD_EXPRESSION"),
        ({"strategy": {"rules": [rule("true", "halt")]}}, "strategy.rules[0].decision", "SCHEMA_VIOLATION"),
        ({"strategy": {"rules": [rule("true", "route", "b")]}}, "strategy.rules[0].targets[0]", "INVALID_REFERENCE"),
        ({"strategy": {"rules": [rule("true", "route", "$1 +")]}}, "strategy.rules[0].targets[0]", "BAD_EXPRESSION"),
        ({"strategy": {"prompt": "Who?"}}, "strategy.prompt", "INVALID_VALUE"),
        ({"strategy": {"llm": "main"}}, "strategy", "SCHEMA_VIOLATION"),
    ],
)
def test_a_team_that_cannot_be_run_is_refused_with_the_place(config: dict[str, Any], path: str, code: str) -> None:
    steps = (team([MEMBER], **config), step("team__other"))

    assert problems(*steps, edges=["team -> team__other"])[f"steps[0].config.{path}"] == code


def test_two_teams_may_not_make_steps_of_one_id() -> None:
    steps = (team([{"name": "b__c", **PLAIN}], step_id="a"), team([{"name": "c", **PLAIN}], step_id="a__b"))

    assert problems(*steps, edges=["a -> a__b"]) == {"steps[1].config.agents[0].name": "DUPLICATE_ID"}


def test_a_step_may_not_have_the_id_of_the_end_of_a_turn() -> None:
    found = problems(team([MEMBER]), step("team__turn"), edges=["team -> team__turn"])

    assert found == {"steps[0].config": "DUPLICATE_ID"}


def test_an_id_that_would_be_too_long_is_refused() -> None:
    found = problems(team([MEMBER], step_id="t" * 250))

    assert found == {"steps[0].config": "INVALID_ID_FORMAT"}


def test_a_loop_of_ones_own_may_not_begin_with_the_team() -> None:
    steps = (team([MEMBER]), step("again", "condition", expression="false"))
    edges = ["team -> again", "again.true -> team"]

    assert problems(*steps, edges=edges) == {"edges[1]": "IRREDUCIBLE_LOOP"}
    around = (step("before"), *steps)
    assert problems(*around, edges=["before -> team", "team -> again", "again.true -> before"]) == {}


@pytest.mark.parametrize("port", ["turn", "agent:a"])
def test_no_edge_of_a_user_leaves_by_a_port_of_the_team_itself(port: str) -> None:
    assert problems(team([MEMBER]), step("x"), edges=[f"team.{port} -> x"]) == {"edges[0].source_port": "UNKNOWN_PORT"}


def test_no_edge_of_a_user_brings_what_a_turn_left() -> None:
    found = problems(step("x"), team([MEMBER]), edges=["x -> team.@team"])

    assert found == {"edges[0].target_port": "UNKNOWN_PORT"}


def test_all_ends_of_a_team_may_lead_to_one_join() -> None:
    join = step("join", "parallel_join", merge_strategy="any")
    ends = ["team -> join.branch_1", "team.limit -> join.branch_2", "team.error -> join.branch_3"]

    assert problems(team([MEMBER]), join, edges=ends) == {}


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "turn")
KINDS = st.sampled_from(["transform", "condition", "http_action", "human_task", "llm_agent", "action"])
CONFIGS: dict[str, dict[str, Any]] = {
    "condition": {"expression": "true"},
    "http_action": {"url": "https://example.com"},
    "human_task": {"task_type": "approval"},
    "llm_agent": {"model": "m"},
    "action": {"action": "notify"},
}
BEFORE_AND_AFTER = st.lists(st.sampled_from(["output", "limit", "escalated", "error"]), unique=True)


@st.composite
def teamed(draw: st.DrawFn) -> SegmentDefinition:
    """Teams one after the other, some in a branch, some in a loop, with whatever ends wired."""
    steps, lines = [step("begin")], []
    for number in range(draw(st.integers(1, 3))):
        names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
        kinds = {name: draw(KINDS) for name in names}
        agents = [agent(name, kind, **CONFIGS.get(kind, {})) for name, kind in kinds.items()]
        rules = draw(st.lists(st.sampled_from(names).map(lambda name: rule("true", "route", name)), max_size=3))
        own, after = f"t{number}", f"after{number}"
        lines.append(f"{steps[-1].step_id} -> {own}")
        steps += [team(agents, *rules, step_id=own, max_turns=draw(st.integers(1, 200))), step(after)]
        lines += [f"{own}.{port} -> {after}" for port in draw(BEFORE_AND_AFTER)] or [f"{own} -> {after}"]
    if draw(st.booleans()):
        again = step("again", "condition", expression="false")
        lines += [f"{steps[-1].step_id} -> again", "again.true -> begin"]
        steps.append(again)
    return segment(*steps, edges=lines, parallel_execution=draw(st.booleans()))


@settings(max_examples=60)
@given(teamed())
def test_every_team_that_is_valid_makes_a_sound_graph(definition: SegmentDefinition) -> None:
    found = validate_segment(definition, CATALOG)
    made = graph(definition)

    assert found.errors == []
    assert (made.problems, made.unreachable) == ((), ())
    assert {header for header in made.loops if header.startswith("t")} == {
        one.step_id for one in definition.steps if one.step_type == "team"
    }
    assert set(net_of(made).steps) == set(made.nodes)
    again = SegmentDefinition.from_json(definition.to_json())
    assert {key: node.step for key, node in graph(again).nodes.items()} == {
        key: node.step for key, node in made.nodes.items()
    }
