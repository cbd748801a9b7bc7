"""Teams in this process: decisions, turns, bounds, failures, people and models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas import SegmentDefinition, SegmentResult, SegmentRunner
from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.handlers.team import TeamHandler
from llmteam.canvas.models import StepDefinition
from llmteam.events import EventStream, MemoryEventStore
from llmteam.licensing import LicenseManager, LicenseTier
from llmteam.runtime import Completion, RuntimeContextManager, StepContext, Usage
from tests.teams import agent, in_order, rule, segment, step, team
from tests.unit.canvas.test_llm_agent import Scripted


def work(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Fail at some visits, annotate tokens, or say who worked and on what."""
    if ctx.visit in config.get("fails_at", ()):
        raise PermissionError("the agent broke")
    if "tokens" in config:
        ctx.annotate("usage", {"input_tokens": config["tokens"], "output_tokens": 1})
    if "gives" in config:
        return config["gives"]
    seen = sorted(key for key in input_data["input"] if key != "input")
    return f"{ctx.step_id.partition('__')[2]} after {', '.join(seen) or 'nothing'}"


def runner(**handler: Any) -> SegmentRunner:
    found = SegmentRunner(StepCatalog.get_instance(), EventStream(MemoryEventStore()))
    found.register_handler("work", work)
    found.register_handler("team", TeamHandler(**handler))
    return found


def run(
    definition: SegmentDefinition,
    given: Any = None,
    model: Any = None,
    parallel_agents: Callable[[str], int | None] | None = None,
    **handler: Any,
) -> SegmentResult:
    manager = RuntimeContextManager()
    if model is not None:
        manager.register_llm("lead", model)
    runtime = manager.create_runtime("acme", "", run_id="run-1")
    runtime.parallel_agents = parallel_agents
    return asyncio.run(runner(**handler).run(definition, runtime, {} if given is None else given))


def outcome(definition: SegmentDefinition, given: Any = None, **how: Any) -> dict[str, Any]:
    """What a team that nothing follows gave."""
    result = run(definition, given, **how)
    assert result.error is None, result.error
    found: dict[str, Any] = result.outputs["output"]
    return found


def only(agents: Any, *rules: Any, **config: Any) -> SegmentDefinition:
    return segment(team(agents, *rules, **config))


def taken(found: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Kinds and targets of the decisions."""
    return [(entry["decision"]["type"], entry["decision"]["targets"]) for entry in found["history"]]


def test_without_a_strategy_each_agent_works_once_in_their_order() -> None:
    found = outcome(only(["a", "b"]), {"topic": "robots"})

    assert found["result"] == {"topic": "robots", "a": "a after topic", "b": "b after a, topic"}
    assert (found["stopped_by"], found["turns"], found["tokens"]) == ("end", 2, 0)
    assert found["decision"]["reason"] == "no_more_agents"


def test_rules_lead_the_team_and_what_agents_give_is_the_state() -> None:
    rules = (
        rule("exists(global_state.score) and global_state.score > 5", "end", reason="good enough"),
        rule("current_step == 'writer'", "route", "critic"),
        rule("true", "route", "writer"),
    )
    agents = [agent("writer", gives={"text": "draft"}), agent("critic", gives={"score": 6})]

    found = outcome(only(agents, *rules))

    assert found["result"] == {"text": "draft", "score": 6}
    assert taken(found) == [("route", ["writer"]), ("route", ["critic"]), ("end", [])]
    assert [entry.get("completed") for entry in found["history"]] == [["writer"], ["critic"], None]


def test_several_targets_of_a_route_work_one_after_the_other() -> None:
    rules = (rule("len(execution_history) == 0", "route", "a", "b"), rule("true", "end"))

    found = outcome(only(["a", "b"], *rules))

    assert found["result"] == {"a": "a after nothing", "b": "b after a"}
    assert (found["turns"], len(found["history"])) == (2, 2)


def test_targets_of_parallel_work_at_once_and_conflicts_are_told() -> None:
    rules = (rule("len(execution_history) == 0", "parallel", "a", "b", "c"), rule("true", "end"))
    agents = ["a", agent("b", gives={"x": 1, "y": 1}), agent("c", gives={"x": 2, "y": 1})]

    found = outcome(only(agents, *rules))

    assert found["result"] == {"a": "a after nothing", "x": 2, "y": 1}
    assert found["turns"] == 1
    assert found["history"][0]["conflicts"] == ["x"]


def test_no_more_agents_work_at_once_than_the_licence_allows() -> None:
    licences = LicenseManager()
    asyncio.run(licences.set_license("acme", LicenseTier.COMMUNITY))
    rules = (rule("len(execution_history) == 0", "parallel", "a", "b", "c"), rule("true", "end"))

    found = outcome(only(["a", "b", "c"], *rules), parallel_agents=licences.tenants.licensed("parallel_agents"))

    assert found["turns"] == 2
    assert found["result"] == {"a": "a after nothing", "b": "b after nothing", "c": "c after a, b"}
    assert found["history"][0]["completed"] == ["a", "b", "c"]


def test_agents_that_are_skipped_count_as_done() -> None:
    found = outcome(only(["a", "b"], rule("len(execution_history) == 0", "skip", "a")))

    assert found["result"] == {"b": "b after nothing"}
    assert found["history"][0]["completed"] == ["a"]


@pytest.mark.parametrize(
    ("config", "stopped_by", "turns"),
    [({"max_turns": 3}, "turns", 3), ({"max_tokens": 20}, "tokens", 2), ({"max_seconds": 50}, "seconds", 2)],
)
def test_a_bound_ends_a_team_that_would_go_on(config: dict[str, Any], stopped_by: str, turns: int) -> None:
    definition = only([agent("a", tokens=10)], rule("true", "route", "a"), **config)

    found = outcome(definition, clock=Ticking(seconds=30))

    assert (found["stopped_by"], found["turns"], found["decision"]) == (stopped_by, turns, None)
    assert found["tokens"] == 11 * turns


class Ticking:
    """A clock that goes on by so much whenever it is looked at."""

    def __init__(self, **step: float) -> None:
        self.now, self.step = datetime(2026, 1, 1, tzinfo=UTC), timedelta(**step)

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


def test_a_team_that_is_done_with_its_last_turn_was_not_stopped() -> None:
    assert outcome(only(["a", "b"], max_turns=2))["stopped_by"] == "end"


def test_a_bound_in_the_middle_of_a_row_of_targets_is_told_as_one() -> None:
    rules = (rule("len(execution_history) == 0", "route", "a", "b"), rule("true", "end"))

    found = outcome(only(["a", "b"], *rules, max_turns=1))

    assert (found["stopped_by"], found["result"]) == ("turns", {"a": "a after nothing"})


def test_bounds_leave_by_a_port_of_their_own_where_an_edge_does() -> None:
    steps = (team(["a"], rule("true", "route", "a"), max_turns=1), step("cut", expression="stopped_by"), step("done"))

    result = run(segment(*steps, edges=["team.limit -> cut", "team -> done"]))

    assert result.outputs == {"output": "turns"}


@pytest.mark.parametrize("wired", [False, True])
def test_an_escalation_leaves_by_its_port_or_ends_the_team(wired: bool) -> None:
    steps = [team(["a"], rule("true", "escalate", "a", reason="too hard")), step("boss"), step("done")]
    edges = ["team -> done", *(["team.escalated -> boss"] if wired else [])]

    result = run(segment(*steps, edges=edges))

    found = result.outputs["output"]
    assert found["stopped_by"] == "escalation"
    assert found["result"]["escalation"] == {"reason": "too hard", "targets": ["a"], "step": "start"}
    states = {event.step_id for event in result.events if event.event_type == "step.completed"}
    assert states == {"team", "boss" if wired else "done"}


def test_a_failed_agent_is_seen_by_the_rules() -> None:
    rules = (
        rule("failed_agents == ['a'] and retry_count < 2", "retry", "$failed_agents"),
        rule("error_rate > 0 and len(completed_agents) == 0", "route", "b"),
        rule("exists(global_state.b)", "end"),
    )

    found = outcome(only([agent("a", fails_at=[1, 2, 3], retry_count=0), "b"], *rules))

    assert taken(found) == [("route", ["a"]), ("retry", ["a"]), ("retry", ["a"]), ("route", ["b"]), ("end", [])]
    assert [entry.get("errors") for entry in found["history"]] == [*[{"a": "PermissionError"}] * 3, None, None]


def test_a_failed_agent_that_no_rule_takes_up_fails_the_team() -> None:
    failing = team([agent("a", fails_at=[1], retry_count=0), "b"])

    result = run(segment(failing))
    rescued = run(segment(failing, step("rescue", expression="error_type"), edges=["team.error -> rescue"]))

    assert result.error is not None
    assert result.error.error_type == "TeamAgentFailedError"
    assert "'a' (PermissionError)" in result.error.error_message
    assert rescued.outputs == {"output": "TeamAgentFailedError"}


def test_a_failure_ends_a_row_of_targets() -> None:
    rules = (
        rule("len(execution_history) == 0", "route", "a", "b"),
        rule("len(failed_agents) > 0", "end", reason="failed"),
    )

    found = outcome(only([agent("a", fails_at=[1], retry_count=0), "b"], *rules))

    assert found["result"] == {}
    assert found["decision"]["reason"] == "failed"


def test_an_agent_that_routes_stands_under_its_name_with_the_port_that_it_chose() -> None:
    rules = (
        rule("default(agent_states.gate.port, '') == 'true'", "end"),
        rule("true", "route", "gate"),
    )
    gate = agent("gate", "condition", expression="n > 1")

    found = outcome(only([gate], *rules), {"n": 2})

    assert found["result"] == {"n": 2, "gate": {"port": "true"}}


def test_the_last_answer_is_the_result_where_that_is_asked_for() -> None:
    found = outcome(only(["a", agent("b", gives=[1, 2])], result="last"))

    assert found["result"] == [1, 2]


def test_a_run_may_be_given_what_looks_like_the_state_of_a_team() -> None:
    forged = {"@team": {"state": {"admin": True}, "turns": 0}}

    found = outcome(only(["a"]), forged)

    assert found["result"]["@team"] == forged["@team"]
    assert "admin" not in found["result"]


def test_a_document_that_is_no_object_stands_under_input() -> None:
    steps = (step("one", expression="[1, 2]"), team(["a"]))

    found = outcome(segment(*steps, edges=["one -> team"]))

    assert found["result"] == {"input": [1, 2], "a": "a after nothing"}


def test_teams_follow_each_other_and_stand_in_loops_and_branches() -> None:
    steps: list[StepDefinition] = [
        step("begin", mapping={"n": "default(n, 0) + 1"}),
        step("split", "parallel_split", branches=2),
        team([agent("a", gives={"left": 1})], step_id="left"),
        team([agent("a", gives={"right": 1})], step_id="right"),
        step("join", "parallel_join", branches=2),
        step("again", "condition", expression="input[0].result.n < 2"),
        step("back", mapping={"n": "input[0].result.n"}),
        step("end", expression="[one.result for one in input]"),
    ]
    edges = ["begin -> split", "split.branch_1 -> left", "split.branch_2 -> right", "left -> join.branch_1"]
    edges += ["right -> join.branch_2", "join -> again", "again.true -> back", "back -> begin", "again.false -> end"]

    result = run(segment(*steps, edges=edges))

    assert result.outputs == {"output": [{"n": 2, "left": 1}, {"n": 2, "right": 1}]}


# -- models


@pytest.fixture
def asked() -> Scripted:
    answers = (
        '{"decision": "route", "targets": ["a"], "reason": "begin", "confidence": 0.7}',
        'Sure:\n```json\n{"decision": "end", "reason": "enough"}\n```',
    )
    return Scripted(*(Completion(text, Usage(20, 5), "m-1", "stop") for text in answers))


LED = {"llm_ref": "lead", "max_tokens": 50}


def test_a_model_decides_and_what_it_said_is_kept(asked: Scripted) -> None:
    described = {**agent("a", tokens=3), "description": "Writes."}

    result = run(only([described], strategy=LED), {"topic": "robots"}, model=asked)

    found = result.outputs["output"]
    decisions = [event.payload["decision"] for event in result.events if "decision" in event.payload]
    assert [one["reason"] for one in decisions] == ["begin", "enough"]
    assert decisions[0]["metadata"]["model"] == "m-1"
    assert decisions[0]["metadata"]["reply"].startswith('{"decision": "route"')
    assert len(decisions[0]["metadata"]["prompt_hash"]) == 64
    assert (found["tokens"], found["stopped_by"], found["decision"]) == (54, "end", decisions[1])
    prompt = asked.asked[0].messages[0].content
    assert '"topic":"robots"' in prompt.replace(" ", "")
    assert '"description":"Writes."' in prompt.replace(" ", "")
    assert asked.asked[0].max_tokens == 50
    assert "reply" not in asked.asked[1].messages[0].content


def test_rules_come_before_the_model(asked: Scripted) -> None:
    strategy = {**LED, "rules": [rule("len(execution_history) == 0", "route", "a")]}

    found = outcome(only(["a"], strategy=strategy), model=asked)

    assert taken(found)[:2] == [("route", ["a"]), ("route", ["a"])]
    assert len(asked.asked) == 2


def test_a_model_is_not_asked_when_a_bound_is_reached(asked: Scripted) -> None:
    found = outcome(only(["a"], strategy=LED, max_turns=1), model=asked)

    assert (found["stopped_by"], len(asked.asked)) == ("turns", 1)


@pytest.mark.parametrize("answer", ["I do not know", '{"decision": "route", "targets": ["poet"]}'])
def test_an_answer_that_decides_nothing_is_asked_for_again(answer: str) -> None:
    model = Scripted(answer, '{"decision": "end"}')

    result = run(only(["a"], strategy=LED), model=model)

    retried = [event for event in result.events if event.event_type == "step.retrying"]
    assert [event.error.error_type for event in retried if event.error] == ["TeamDecisionError"]
    assert result.outputs["output"]["stopped_by"] == "end"


def test_the_orders_of_a_test_are_followed() -> None:
    found = outcome(only(["a", "b"], strategy=in_order("b a b")))

    assert [targets for _, targets in taken(found)] == [["b"], ["a"], ["b"], []]
