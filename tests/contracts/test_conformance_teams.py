"""Teams, wherever a segment runs; and what of a team's run another run takes over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmteam.canvas.handlers.team import TeamHandler
from llmteam.canvas.nets import net_of
from llmteam.canvas.state import SegmentStatus
from llmteam.mining.replay import replay
from tests.conformance.desk import TENANT
from tests.conformance.fleets import Fleet
from tests.conformance.ward import Ward
from tests.contracts.test_people_in_runs import answer, ask
from tests.mined import run_of
from tests.teams import agent, in_order, rule, segment, step, team

USAGE = {"input_tokens": 7, "output_tokens": 3}
TEAM = team(
    [agent("a", answer={"a": 1}, annotate=USAGE), agent("b", answer={"b": 2}, annotate=USAGE), "c"],
    strategy=in_order("a b a"),
)
AROUND = segment(
    step("before", mapping={"topic": "'robots'"}), TEAM, step("after"), edges=["before -> team", "team -> after"]
)


def test_a_team_works_in_turns_of_steps(fleet: Fleet) -> None:
    ran = fleet.run(AROUND)

    found = ran.outputs["output"]
    assert (found["result"], found["stopped_by"]) == ({"topic": "robots", "a": 1, "b": 2}, "end")
    assert (found["turns"], found["tokens"]) == (3, 30)
    completed = [event.step_id for event in ran.events if event.event_type == "step.completed"]
    turns = [("team", f"team__{name}", "team__turn") for name in ("a", "b", "a")]
    assert completed == ["before", *(one for turn in turns for one in turn), "team", "after"]
    assert ran.states["team__c"] == "skipped"
    kinds = {event.step_id: event.step_type for event in ran.events if event.step_id}
    assert (kinds["team"], kinds["team__a"], kinds["team__turn"]) == ("team", "work", "team")


def test_agents_work_at_once_in_a_parallel_turn_and_a_failure_is_one_of_the_turn(fleet: Fleet) -> None:
    rules = (rule("len(execution_history) == 0", "parallel", "a", "b"), rule("true", "end", reason="seen"))
    broken = agent("b", fail=9, retry_count=0)

    ran = fleet.run(segment(team([agent("a", answer=1), broken], *rules)))

    (parallel, ended) = ran.outputs["output"]["history"]
    assert (parallel["completed"], parallel["errors"]) == (["a"], {"b": "ValueError"})
    assert ended["decision"]["reason"] == "seen"
    assert ran.outputs["output"]["result"] == {"a": 1}


def test_an_agent_is_tried_again_as_any_step_is(fleet: Fleet) -> None:
    ran = fleet.run(segment(team([agent("a", fail=1, retry_count=1, answer="done")])))

    assert ran.of("team__a")[:4] == ["step.started", "step.retrying", "step.started", "step.completed"]
    assert ran.outputs["output"]["result"] == {"a": "done"}


def test_a_team_that_fails_fails_the_run(fleet: Fleet) -> None:
    ran = fleet.run(segment(team([agent("a", fail=9, retry_count=0)])))

    assert (ran.status, ran.error_type) == ("failed", "TeamAgentFailedError")
    assert ran.of("team") == ["step.started", "step.completed", "step.started", "step.failed"]


# -- what another run takes over


def decide(ward: Ward, run_id: str, step_id: str, visit: int = 1) -> Any:
    """Have the handler of teams do a step; what it gave."""
    execution = ward.claim(run_id, step_id, visit)
    ports = asyncio.run(TeamHandler()(execution.ctx, execution.config, execution.input))
    ward.engine.answered(execution, ports)
    return ports


def work(ward: Ward, run_id: str, step_id: str, visit: int, answer: Any) -> None:
    """Have an agent answer."""
    ward.engine.answered(ward.claim(run_id, step_id, visit), answer)


def test_a_retry_follows_the_decisions_that_were_taken(ward: Ward) -> None:
    old = ward.start(segment(team(["a", "b"])))
    decide(ward, old, "team")
    work(ward, old, "team__a", 1, {"a": 1})
    decide(ward, old, "team__turn")
    decide(ward, old, "team", 2)
    ward.engine.end(TENANT, old, SegmentStatus.CANCELLED)
    ward.pass_time(3600)

    new = ward.surgery.retry(TENANT, old)

    ready = [key for key, record in ward.all_rows(new).items() if record.row.state == "ready"]
    assert ready == [("team__b", 2)]
    work(ward, new, "team__b", 2, {"b": 2})
    turn = decide(ward, new, "team__turn", 2)["output"]
    assert turn["state"] == {"a": 1, "b": 2}
    assert turn["turn_seconds"] == 0.0
    assert decide(ward, new, "team", 3)["output"]["stopped_by"] == "end"
    assert ward.status(new) is SegmentStatus.COMPLETED


def test_a_person_may_be_an_agent_and_what_they_were_shown_is_not_kept_twice(ward: Ward) -> None:
    run_id = ward.start(segment(team([agent("boss", "human_task", task_type="approval", assignee_ref="ann")])))
    decide(ward, run_id, "team")
    asked = ask(ward, run_id, "team__boss")

    answer(ward, asked, approved=True, comment="Go on")
    assert ward.begin(run_id, "team__boss") is None
    turn = decide(ward, run_id, "team__turn")["output"]

    assert turn["state"]["boss"]["port"] == "approved"
    assert (turn["state"]["boss"]["responder"], turn["state"]["boss"]["comment"]) == ("ann", "Go on")
    assert "data" not in turn["state"]["boss"]
    assert turn["history"][0]["ports"] == {"boss": "approved"}


def test_mining_finds_that_a_run_with_a_team_is_what_its_definition_allows(ward: Ward) -> None:
    run_id = ward.start(segment(team(["a", "b"])))
    for visit, name in enumerate("ab", start=1):
        decide(ward, run_id, "team", visit)
        work(ward, run_id, f"team__{name}", visit, {name: visit})
        decide(ward, run_id, "team__turn", visit)
    decide(ward, run_id, "team", 3)

    header = ward.store.header(TENANT, run_id)
    assert header is not None
    found = replay(net_of(ward.engine.graph_of(header)), run_of(ward, run_id).events, status="completed")

    assert (found.deviations, found.fitness) == ([], 1.0)
    assert found.path == ["team", "team__a", "team__turn", "team", "team__b", "team__turn", "team"]


@pytest.mark.parametrize("visit", [1, 2])
def test_a_fork_may_decide_anew(ward: Ward, visit: int) -> None:
    old = ward.start(segment(team(["a"])))
    decide(ward, old, "team")
    work(ward, old, "team__a", 1, {"a": 1})
    decide(ward, old, "team__turn")
    decide(ward, old, "team", 2)

    new = ward.surgery.fork(TENANT, old, "team", visit)

    (ready,) = [key for key, record in ward.all_rows(new).items() if record.row.state == "ready"]
    assert ready == ("team", visit)
