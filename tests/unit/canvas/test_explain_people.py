"""What `llmteam explain` says of steps that ask people."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from llmteam.canvas.explain import Picture, StepsExplained, explain
from llmteam.canvas.graph import Graph
from llmteam.canvas.state import SegmentStatus, StepState
from llmteam.human import InteractionRequest, InteractionStatus, InteractionType
from llmteam.human.models import InteractionResponse
from llmteam.human.rules import Answer, claim, respond
from llmteam.human.rulings import Case
from tests.drawing import graph
from tests.simulation import EPOCH
from tests.unit.canvas.plays import Play
from tests.unit.canvas.test_explain import CALM, held, record

HOUR = timedelta(hours=1)
ASKS = graph("human_1.approved -> b")


def request(step_id: str = "human_1", **fields: Any) -> InteractionRequest:
    values: dict[str, Any] = {
        "request_id": f"req-{step_id}",
        "interaction_type": InteractionType.APPROVAL,
        "run_id": "r-1",
        "pipeline_id": "drawn",
        "agent_name": step_id,
        "step_name": step_id,
        "tenant_id": "acme",
        "title": "Pay 700?",
        "description": "",
        "assignee_id": "ann",
        "created_at": EPOCH,
        "deadline": EPOCH + 24 * HOUR,
        "parked": True,
    }
    return InteractionRequest(**{**values, **fields})


def told(*cases: Case, drawn: Graph = ASKS, owner: str = "person", **fields: Any) -> tuple[StepsExplained, ...]:
    """The groups of steps that wait, an hour after they asked."""
    run = Play(drawn)
    waiting = {case.request.step_name for case in cases} or {"human_1"}
    waits: dict[str, Any] = {"state": StepState.WAITING, "owner": owner, "wake_at": EPOCH + 24 * HOUR}
    steps = [held(run, replace(row, **waits) if row.step_id in waiting else row) for row in run.rows.values()]
    by_key = {(case.request.step_name, 1): case for case in cases}
    found = explain(Picture(record(run, **fields), steps, drawn, EPOCH + HOUR, fleet=CALM, cases=by_key))
    return tuple(group for group in found.steps if group.state is StepState.WAITING)


def says(*cases: Case, **how: Any) -> str:
    (group,) = told(*cases, **how)
    return "\n".join(group.says)


def test_it_says_who_is_asked_what_since_when_until_when_and_how_to_answer() -> None:
    (group,) = told(Case(request()))

    assert group.says == (
        "Waiting for ann since 00:00:00Z (1 h 00 min ago): Pay 700?",
        "There is time until 2026-01-02 00:00:00Z (in 23 h 00 min); then the step fails with HumanTaskTimeoutError.",
        "Answer request req-human_1: `llmteam inbox respond req-human_1 --as ann --approve|--reject --tenant acme`.",
    )
    assert group.requests == ("req-human_1",)


def test_it_says_what_comes_when_nobody_answers() -> None:
    chain = Case(request(escalation_chain=["boss"]))
    used_up = Case(request(escalation_chain=["boss"], current_escalation_level=1))
    with_port = graph("human_1.approved -> b", "human_1.timeout -> c")

    assert "; then it is escalated to boss." in says(chain)
    assert "; then the step fails with HumanTaskTimeoutError." in says(used_up)
    assert "; then the step goes on by its port timeout." in says(Case(request()), drawn=with_port)


def test_it_says_how_far_a_quorum_is_and_who_works_on_it() -> None:
    asked = request(quorum=2, approvers=["bob", "cy"], four_eyes=True, requester_id="dan")
    taken = claim(Case(asked), "bob", EPOCH).request
    vote = respond(
        Case(taken), Answer(InteractionResponse(request_id="req-human_1", responder_id="bob", approved=True)), EPOCH
    )
    assert vote.vote is not None

    found = says(Case(vote.request, [vote.vote]))

    assert "Waiting for ann, bob, cy since" in found
    assert "1 of 2 have approved." in found
    assert "bob works on it." in found
    assert "dan started the run and may not decide in it." in found


def test_reminders_that_come_before_the_end_are_told() -> None:
    assert "People are reminded or warned next at 02:00:00Z (in 1 h 00 min)." in says(Case(request(reminder=2 * HOUR)))


def test_an_answer_that_is_not_taken_up_yet_is_told_with_what_takes_it_up() -> None:
    answer = InteractionResponse(request_id="req-human_1", responder_id="ann", approved=True, comment="fine")

    found = says(Case(request(status=InteractionStatus.COMPLETED), [answer], answer))

    assert "That is over: approved by ann: fine." in found
    assert "a sweep sends another at" in found
    assert "llmteam inbox respond" not in found


def test_a_step_without_a_request_is_told_as_wrong() -> None:
    (group,) = told()

    assert group.says[0] == "Nothing is known of what human_1 asked: `llmteam explain --check` looks for what is wrong."


def test_a_pause_is_told_with_what_can_be_answered_meanwhile() -> None:
    frozen = Case(request(frozen_at=EPOCH))

    found = says(frozen, owner="pause", status=SegmentStatus.PAUSED, paused_at=EPOCH)

    assert "It asks ann, whose time stands still too: Pay 700?" in found
    assert "An answer now is kept until it goes on: `llmteam inbox respond req-human_1 --as ann" in found


def test_many_that_ask_are_told_together_with_where_to_look() -> None:
    lines = [f"split_1 -> human_{number}" for number in range(1, 9)]
    cases = [Case(request(f"human_{number}", assignee_id=f"p{number}")) for number in range(1, 9)]

    found = says(*cases, drawn=graph(*lines))

    assert "Waiting for the answers to 8 requests, of p1, p2, p3 and 5 more." in found
    assert "Look: `llmteam inbox list --run r-1`." in found
