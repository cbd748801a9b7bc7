"""Steps that ask a person, in memory and in Postgres alike: they park, people answer, time passes, runs end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.execution import Execution
from llmteam.canvas.handlers.human_task import ask_person
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.dispatch import Hint
from llmteam.errors import InfrastructureError
from llmteam.events.models import EventType
from llmteam.human import InteractionClosedError, InteractionStatus, ResponderNotAllowedError
from tests.conformance.desk import TENANT, at_once, new_run
from tests.conformance.office import Office
from tests.drawing import draw

HOUR = 3_600.0
PORTS = ("approved", "rejected", "modified", "timeout")
#: Each port leads to a step of its name.
ALL_PORTS = tuple(f"human_1.{port} -> {port}" for port in PORTS)
ONE = draw("human_1.approved -> b")
LOOP = draw("a -> human_1", "human_1.rejected -> a", "human_1.approved -> z")


def asking(*lines: str, **config: Any) -> SegmentDefinition:
    """A segment whose step ``human_1`` is configured so."""
    return draw(*(lines or ("human_1.approved -> b",)), config={"human_1": config})


def given(office: Office, segment: SegmentDefinition, text: str = '{"amount": 700}', **options: Any) -> str:
    """A run with an input."""
    run_id = f"run-{len(office.ward.store.records(TENANT))}"
    assert office.ward.engine.submit(new_run(segment, run_id, input_text=text, **options))
    return run_id


# -- asking


def test_a_step_that_asks_waits_for_a_person_until_the_deadline_and_holds_no_worker(office: Office) -> None:
    run_id = office.ward.start(ONE)

    request = office.park(run_id)

    row, record = office.ward.row(run_id, "human_1"), office.ward.record(run_id)
    assert (row.state, row.owner, row.wake_at, row.deadline) == ("waiting", "person", request.deadline, None)
    assert (record.status, record.running) == (SegmentStatus.RUNNING, 0)
    assert office.ward.rows(run_id)["human_1"].holder is None
    assert request.deadline == request.created_at + timedelta(hours=24)
    assert (request.run_id, request.step_name, request.assignee_id, request.status) == (
        run_id,
        "human_1",
        "ann",
        InteractionStatus.PENDING,
    )
    last = office.ward.last(run_id)
    assert (last.event_type, last.step_id, last.payload["task_id"]) == (
        EventType.HUMAN_TASK_CREATED,
        "human_1",
        request.request_id,
    )


def test_the_person_sees_the_input_of_the_step_in_the_words_of_its_configuration(office: Office) -> None:
    run_id = given(office, asking(title="Pay {amount}?", description="It is {amount} EUR.", assignee_group="finance"))

    request = office.park(run_id)

    assert (request.title, request.description) == ("Pay 700?", "It is 700 EUR.")
    assert (request.context_data, request.assignee_group) == ({"amount": 700}, "finance")


def test_a_request_that_nobody_could_answer_fails_the_step_at_once(office: Office) -> None:
    run_id = office.ward.start(asking(four_eyes=True), max_retries=3)

    change = office.asks(office.ward.claim(run_id, "human_1"))

    assert (change.applied, office.requests(run_id)) == (True, [])
    error = office.ward.row(run_id, "human_1").error
    assert error is not None
    assert (error.error_type, office.ward.status(run_id)) == ("InvalidRequestError", SegmentStatus.FAILED)


def test_a_claim_that_was_lost_asks_nothing_and_the_one_after_it_asks_once(office: Office) -> None:
    run_id = office.ward.start(ONE)
    lost = office.ward.claim(run_id, "human_1")
    assert office.ward.lose(lost)

    late = office.asks(lost)
    request = office.park(run_id)
    later = office.asks(lost)

    assert (late.applied, later.applied) == (False, False)
    assert [one.request_id for one in office.requests(run_id)] == [request.request_id]


def test_a_park_that_is_tried_again_since_its_reply_was_lost_asks_once(office: Office) -> None:
    run_id = office.ward.start(ONE)
    execution = office.ward.claim(run_id, "human_1")

    changes = [office.asks(execution) for _ in range(2)]

    assert [change.applied for change in changes] == [True, True]
    assert len(office.requests(run_id)) == 1
    assert office.ward.kinds(run_id).count(EventType.HUMAN_TASK_CREATED) == 1


# -- going on

_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
_ANSWERS: list[tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = [
    ({}, {"comment": "fine"}, "approved", {"comment": "fine", "responder": "ann"}),
    ({}, {"approved": False, "reason": "too much"}, "rejected", {"reason": "too much", "data": {"amount": 700}}),
    (
        {"task_type": "choice", "choices": ["now", "later"]},
        {"approved": None, "selected_option": "later"},
        "approved",
        {"selected_option": "later", "selected_label": "later"},
    ),
    (
        {"task_type": "input", "input_schema": _SCHEMA},
        {"approved": None, "input_data": {"n": 3}},
        "modified",
        {"data": {"n": 3}, "original_data": {"amount": 700}},
    ),
    (
        {"task_type": "review"},
        {"approved": None, "review_changes": {"amount": 500}},
        "modified",
        {"data": {"amount": 500}, "original_data": {"amount": 700}},
    ),
    ({"task_type": "review"}, {}, "approved", {"data": {"amount": 700}}),
    ({"task_type": "task"}, {"approved": None}, "approved", {"data": {"amount": 700}}),
]


@pytest.mark.parametrize(("config", "answer", "port", "carries"), _ANSWERS)
def test_the_answer_leaves_by_its_port_with_what_was_said(
    office: Office, config: Mapping[str, Any], answer: Mapping[str, Any], port: str, carries: Mapping[str, Any]
) -> None:
    run_id = given(office, asking(*ALL_PORTS, **config))
    request = office.park(run_id)

    office.answer(request, **answer)
    office.hint(run_id)

    states = office.ward.states(run_id)
    assert states["human_1"] == "completed"
    assert {name: states[name] for name in PORTS} == {name: "ready" if name == port else "skipped" for name in PORTS}
    given_to_next = office.ward.claim(run_id, port).input["input"]
    assert given_to_next | carries == given_to_next
    told = office.ward.kinds(run_id)
    assert (told.count(EventType.HUMAN_TASK_COMPLETED), told.count(EventType.STEP_COMPLETED)) == (1, 1)


def test_what_was_entered_leaves_by_approved_when_only_that_port_leads_anywhere(office: Office) -> None:
    run_id = given(office, asking(task_type="input", input_schema=_SCHEMA))
    request = office.park(run_id)

    office.answer(request, approved=None, input_data={"n": 3})
    office.hint(run_id)

    entered = office.ward.claim(run_id, "b").input["input"]
    assert (entered["data"], entered["response_data"]) == ({"amount": 700}, {"n": 3})


def test_what_was_said_in_a_chat_goes_on_with_its_end(office: Office) -> None:
    run_id = office.ward.start(asking(task_type="chat"))
    request = office.park(run_id)

    office.call(office.manager.send_message(request.request_id, "ann", "Which order?"))
    office.call(office.manager.send_message(request.request_id, "human_1", "A-17"))
    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"
    office.call(office.manager.close_chat(request.request_id, "ann"))
    office.hint(run_id)

    said = office.ward.claim(run_id, "b").input["input"]["messages"]
    assert [(one["sender_id"], one["text"]) for one in said] == [("ann", "Which order?"), ("human_1", "A-17")]


def test_a_store_that_does_not_answer_fails_no_step(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise InfrastructureError("the database is away")

    run_id = office.ward.start(asking(task_type="chat"))
    request = office.park(run_id)
    office.call(office.manager.send_message(request.request_id, "ann", "Which order?"))
    office.call(office.manager.close_chat(request.request_id, "ann"))

    with monkeypatch.context() as outage:
        outage.setattr(office.ward.store.interactions, "messages", away)
        with pytest.raises(InfrastructureError):
            office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"

    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "completed"


def test_hints_before_the_answer_change_nothing_and_those_after_it_go_on_once(office: Office) -> None:
    run_id = office.ward.start(ONE)
    request = office.park(run_id)
    before = office.ward.told(run_id)
    for _ in range(3):
        office.hint(run_id)
    assert office.ward.told(run_id) == before

    office.answer(request)
    for _ in range(3):
        office.hint(run_id)

    told = office.ward.kinds(run_id)
    assert told.count(EventType.STEP_COMPLETED) == 1
    assert office.ward.states(run_id)["b"] == "ready"


def test_of_many_workers_that_apply_one_answer_one_does(office: Office) -> None:
    run_id = office.ward.start(ONE)
    office.answer(office.park(run_id))

    def look() -> object:
        return office.ward.another_engine().begin(Hint(TENANT, run_id, "human_1", 1, ""))

    assert at_once([look] * 4) == [None] * 4

    assert office.ward.kinds(run_id).count(EventType.STEP_COMPLETED) == 1
    assert office.ward.hinted().count("b") == 1
    assert office.ward.record(run_id).running == 0


def test_a_join_waits_for_the_branch_that_asks_and_fires_once(office: Office) -> None:
    run_id = office.ward.start(draw("split_1 -> human_1", "split_1 -> b -> all_1", "human_1.approved -> all_1"))
    office.ward.do(run_id, "split_1")
    request = office.park(run_id)
    office.ward.do(run_id, "b")
    assert office.ward.states(run_id)["all_1"] == "pending"

    office.answer(request)
    office.hint(run_id)

    assert office.ward.states(run_id)["all_1"] == "ready"
    assert office.ward.hinted().count("all_1") == 1


def test_each_round_of_a_loop_asks_anew(office: Office) -> None:
    run_id = office.ward.start(LOOP)
    for visit in (1, 2):
        office.ward.engine.answered(office.ward.claim(run_id, "a", visit), 1)
        office.answer(office.park(run_id, visit=visit), approved=False, reason="again")
        office.hint(run_id, visit=visit)
    office.ward.engine.answered(office.ward.claim(run_id, "a", 3), 1)
    office.answer(office.park(run_id, visit=3))
    office.hint(run_id, visit=3)
    office.ward.do(run_id, "z")

    requests = office.requests(run_id)
    assert [(one.visit, one.status.value) for one in requests] == [(1, "rejected"), (2, "rejected"), (3, "completed")]
    assert len({one.request_id for one in requests}) == 3
    assert office.ward.status(run_id) is SegmentStatus.COMPLETED


# -- who may answer


def test_a_quorum_goes_on_when_enough_have_agreed(office: Office) -> None:
    run_id = office.ward.start(asking(approvers=["bob", "cy", "di"], quorum=2))
    request = office.park(run_id)

    office.answer(request, by="bob")
    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"
    office.answer(request, by="cy")
    office.hint(run_id)

    assert office.ward.states(run_id)["b"] == "ready"
    with pytest.raises(InteractionClosedError):
        office.answer(request, by="di")


def test_whoever_started_the_run_may_not_decide_in_it_with_four_eyes(office: Office) -> None:
    run_id = office.ward.start(asking(four_eyes=True, approvers=["bob"]), started_by="ann")
    request = office.park(run_id)

    with pytest.raises(ResponderNotAllowedError, match="four eyes"):
        office.answer(request, by="ann")
    office.answer(request, by="bob")
    office.hint(run_id)

    assert office.ward.states(run_id)["b"] == "ready"


# -- going on in another run


def test_a_retry_keeps_what_people_have_answered(office: Office) -> None:
    run_id = office.ward.start(ONE)
    office.answer(office.park(run_id), comment="once")
    office.hint(run_id)
    office.ward.engine.failed(office.ward.claim(run_id, "b"), ValueError("broken"))

    office.ward.surgery.retry(TENANT, run_id, new_run_id="again")

    assert office.requests("again") == []
    assert office.ward.claim("again", "b").input["input"]["comment"] == "once"


def test_a_retry_of_a_request_that_was_not_answered_asks_again(office: Office) -> None:
    run_id = office.ward.start(asking(timeout_hours=2))
    office.park(run_id)
    office.ward.pass_time(2 * HOUR + 1)
    office.hint(run_id)

    office.ward.surgery.retry(TENANT, run_id, new_run_id="again")
    office.answer(office.park("again"))
    office.hint("again")

    assert office.ward.states("again")["b"] == "ready"
    assert office.request(run_id).status is InteractionStatus.TIMEOUT


def test_another_tenant_sees_and_answers_nothing(office: Office) -> None:
    run_id = office.ward.start(ONE)
    request = office.park(run_id)

    interactions = office.ward.store.interactions
    assert interactions.case("globex", request.request_id) is None
    assert interactions.of_run("globex", run_id) == []
    assert interactions.case_of_step("globex", run_id, "human_1", 1) is None


def _parks(office: Office, execution: Execution) -> Change:
    return office.ward.engine.asking.park(execution, ask_person(execution.ctx, execution.config, execution.input))


def test_of_many_processes_that_park_one_claim_one_asks(office: Office) -> None:
    run_id = office.ward.start(ONE)
    execution = office.ward.claim(run_id, "human_1")

    changes = at_once([lambda: _parks(office, execution) for _ in range(4)])

    assert all(change.applied for change in changes)
    assert len(office.requests(run_id)) == 1
    assert office.ward.record(run_id).running == 0
