"""What every store of requests promises, in memory and in Postgres alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.human import rules
from llmteam.human.exceptions import (
    AnswerLinkError,
    InteractionClosedError,
    InteractionNotFoundError,
    InvalidResponseError,
)
from llmteam.human.interactions import request_channel
from llmteam.human.models import InteractionStatus, InteractionType
from llmteam.human.rulings import Case, Rule, Ruling
from llmteam.ids import new_id, utc_now
from tests.conformance.desk import at_once
from tests.conformance.people import Counter, ident, ids
from tests.unit.events.samples import json_values
from tests.unit.human.samples import HOUR, NEEDED, request, response

Status = InteractionStatus
STEP = {"run_id": "run-1", "step_name": "sign_off", "parked": True}
TWO = {"quorum": 2, "assignee_id": None, "approvers": ["ann", "bob", "cat"]}


# -- asking


@pytest.mark.parametrize("kind", InteractionType)
def test_a_request_is_kept_with_every_field(counter: Counter, kind: InteractionType) -> None:
    asked = request(
        kind,
        request_id=new_id(),
        **{
            "options": [{"id": 1, "label": "ü"}],
            "context_data": {"b": [1, 2.5, None], "a": {}},
            "input_schema": {"type": "object"},
            **NEEDED.get(kind, {}),
        },
        assignee_group="finance",
        approvers=["bob"],
        priority="critical",
        timeout=timedelta(days=3, microseconds=1),
        sla_warning=1.5,
        sla_breach=HOUR,
        reminder=HOUR / 7,
        escalation_chain=["boss", "ceo"],
        four_eyes=True,
        requester_id="eve",
        visit=3,
    )

    kept = counter.core.create(rules.open_request(asked, counter.clock()))

    case = counter.case(kept)
    assert (case.request, list(case.votes), case.response, case.messages) == (kept, [], None, 0)
    assert case.request.to_dict() == kept.to_dict()
    assert list(case.request.context_data) == list(asked.context_data)
    assert case.request.shown_hash == asked.shown_hash


@given(data=st.dictionaries(st.text("abc", max_size=3), json_values, max_size=3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_json_is_shown_comes_back_with_the_same_hash(counter: Counter, data: dict[str, Any]) -> None:
    kept = counter.ask(context_data=data)

    assert counter.now(kept).context_data == data
    assert counter.now(kept).shown_hash == kept.shown_hash


def test_a_step_asks_once_in_one_visit(counter: Counter) -> None:
    first = counter.ask(**STEP)

    assert counter.ask(**STEP, title="Again") == first
    assert counter.ask(**STEP, visit=2) != first
    assert counter.ask(**{**STEP, "step_name": "other"}) != first
    assert counter.ask(**{**STEP, "tenant_id": "globex"}).tenant_id == "globex"
    assert len(counter.core.open_requests("acme")) == 3


def test_a_step_that_asks_again_after_the_answer_gets_the_answered_request(counter: Counter) -> None:
    asked = counter.ask(**STEP)
    counter.answer(asked)

    assert counter.ask(**STEP).status is Status.COMPLETED


def test_what_no_step_waits_for_can_be_asked_again_and_again(counter: Counter) -> None:
    assert counter.ask(run_id="run-1") != counter.ask(run_id="run-1")


def test_of_many_attempts_of_one_step_at_once_one_asks(counter: Counter) -> None:
    kept = at_once([lambda: counter.ask(**STEP) for _ in range(8)])

    assert len({one.request_id for one in kept}) == 1
    assert ids(counter.core.of_run("acme", "run-1")) == [kept[0].request_id]


def test_what_a_step_asked_is_found_by_its_visit(counter: Counter) -> None:
    asked = counter.ask(**STEP, visit=2)
    counter.ask(run_id="run-1", step_name="sign_off", visit=3)

    found = counter.core.case_of_step("acme", "run-1", "sign_off", 2)

    assert found is not None
    assert found.request == asked
    for run, step, visit in (("run-1", "sign_off", 1), ("run-1", "sign_off", 3), ("run-2", "sign_off", 2)):
        assert counter.core.case_of_step("acme", run, step, visit) is None


# -- changing


def test_a_rule_sees_the_request_as_it_stands_and_what_it_gives_is_written(counter: Counter) -> None:
    asked = counter.ask()
    seen: list[Case] = []

    def claim(case: Case) -> Ruling:
        seen.append(case)
        return rules.claim(case, "ann", counter.clock())

    ruling = counter.apply(asked, claim)

    assert seen[0].request == asked
    assert counter.now(asked) == ruling.request
    assert (ruling.request.status, ruling.request.claimed_by) == (Status.IN_PROGRESS, "ann")


def test_a_rule_that_gives_nothing_changes_nothing(counter: Counter) -> None:
    asked = counter.ask()

    assert counter.core.apply(*ident(asked), lambda case: None) is None
    assert counter.now(asked) == asked


def test_an_answer_is_kept_with_its_request(counter: Counter) -> None:
    asked = counter.ask()

    ruling = counter.answer(asked, approved=True, comment="fine", input_data={"a": [None]})

    case = counter.case(asked)
    assert case.request.status is Status.COMPLETED
    assert case.response == ruling.vote
    assert list(case.votes) == [ruling.vote]


def test_votes_are_kept_until_they_decide(counter: Counter) -> None:
    asked = counter.ask(**TWO)

    counter.answer(asked, "ann", approved=False)
    assert (counter.now(asked).status, counter.case(asked).response) == (Status.IN_PROGRESS, None)
    counter.answer(asked, "bob")
    counter.answer(asked, "cat")

    case = counter.case(asked)
    assert [(vote.responder_id, vote.approved) for vote in case.votes] == [
        ("ann", False),
        ("bob", True),
        ("cat", True),
    ]
    assert case.response == case.votes[-1]
    assert case.request.status is Status.COMPLETED


def test_a_vote_about_what_is_shown_now_takes_the_place_of_that_persons_old_one(counter: Counter) -> None:
    asked = counter.ask(**TWO)
    counter.answer(asked, "ann", approved=False)
    counter.apply(asked, lambda case: rules.amend(case, counter.clock(), title="Larger"))

    counter.answer(asked, "ann", approved=True)

    (vote,) = counter.case(asked).votes
    assert (vote.approved, vote.shown_hash) == (True, counter.now(asked).shown_hash)


REFUSED: dict[str, Callable[[Counter], Rule]] = {
    "an error of the rule": lambda counter: (
        lambda case: rules.respond(case, rules.Answer(response("ann")), counter.clock())
    ),
    "a used link": lambda counter: (
        lambda case: rules.respond(
            case, rules.Answer(response("ann", approved=True), link=("used", utc_now() + HOUR)), counter.clock()
        )
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_leaves_everything_as_it_was(counter: Counter, why: str) -> None:
    counter.answer(counter.ask(), link=("used", utc_now() + HOUR))
    asked = counter.ask()

    with pytest.raises((InvalidResponseError, AnswerLinkError)):
        counter.apply(asked, REFUSED[why](counter))

    case = counter.case(asked)
    assert (case.request, list(case.votes), case.response, case.messages) == (asked, [], None, 0)
    assert ids(counter.core.open_requests("acme")) == [asked.request_id]
    assert counter.answer(asked).final


def test_an_error_of_the_rule_is_raised_as_it_is(counter: Counter) -> None:
    class BrokenError(Exception):
        pass

    def breaks(case: Case) -> Ruling:
        raise BrokenError

    with pytest.raises(BrokenError):
        counter.apply(counter.ask(), breaks)


def test_a_link_works_once_whatever_request_it_is_used_for(counter: Counter) -> None:
    link = ("link-1", utc_now() + HOUR)
    counter.answer(counter.ask(**TWO), "ann", link=link)

    for asked in (counter.ask(), counter.ask(**TWO)):
        with pytest.raises(AnswerLinkError) as refused:
            counter.answer(asked, link=link)
        assert refused.value.reason == "used"
    assert counter.answer(counter.ask(tenant_id="globex"), link=link).final


def test_nothing_is_changed_after_the_answer(counter: Counter) -> None:
    asked = counter.ask()
    counter.answer(asked)
    before = counter.case(asked)

    with pytest.raises(InteractionClosedError):
        counter.answer(asked, approved=False)

    assert counter.case(asked) == before


# -- messages


def test_messages_are_numbered_and_read_in_order(counter: Counter) -> None:
    chat, other = counter.ask(InteractionType.CHAT), counter.ask(InteractionType.CHAT)
    for asked, text in ((chat, "one"), (other, "uno"), (chat, "two"), (chat, "three")):
        counter.apply(asked, lambda case, text=text: rules.send_message(case, "ann", text, counter.clock()))

    said = counter.core.messages(*ident(chat))

    assert [(one.seq, one.text, one.sender_id) for one in said] == [
        (1, "one", "ann"),
        (2, "two", "ann"),
        (3, "three", "ann"),
    ]
    assert [one.request_id for one in said] == [chat.request_id] * 3
    assert [one.text for one in counter.core.messages(*ident(chat), 2)] == ["three"]
    assert counter.core.messages(*ident(chat), 3) == []
    assert (counter.case(chat).messages, counter.case(other).messages) == (3, 1)


# -- the engine's side


def test_another_tenants_request_looks_as_if_there_were_none(counter: Counter) -> None:
    asked = counter.ask(InteractionType.CHAT, **STEP)
    counter.apply(asked, lambda case: rules.send_message(case, "ann", "hello", counter.clock()))
    core = counter.core

    assert core.case("globex", asked.request_id) is None
    assert core.case_of_step("globex", "run-1", "sign_off", 1) is None
    assert core.open_requests("globex") == []
    assert core.of_run("globex", "run-1") == []
    assert core.messages("globex", asked.request_id) == []
    with pytest.raises(InteractionNotFoundError):
        core.apply("globex", asked.request_id, lambda case: rules.cancel(case, counter.clock()))
    with pytest.raises(InteractionNotFoundError):
        core.put_response("globex", response(approved=True).model_copy(update={"request_id": asked.request_id}))
    with pytest.raises(InteractionNotFoundError):
        core.replace(asked.changed(tenant_id="globex", title="Stolen"))
    assert counter.now(asked).title == asked.title
    assert core.case("globex", asked.request_id) is None


def test_an_unknown_request_is_not_found(counter: Counter) -> None:
    with pytest.raises(InteractionNotFoundError, match="not found"):
        counter.core.apply("acme", "nothing", lambda case: None)
    with pytest.raises(InteractionNotFoundError):
        counter.core.put_response("acme", response(approved=True))
    with pytest.raises(InteractionNotFoundError):
        counter.core.replace(request())
    assert counter.core.case("acme", "nothing") is None
    assert counter.core.messages("acme", "nothing") == []


def test_a_request_can_be_written_past_the_rules(counter: Counter) -> None:
    asked = counter.ask()
    changed = asked.changed(status=Status.TIMEOUT, description="else", updated_at=counter.clock(), deadline=None)

    counter.core.replace(changed)

    assert counter.now(asked) == changed
    assert counter.core.open_requests("acme") == []


def test_the_first_answer_that_is_written_past_the_rules_stays(counter: Counter) -> None:
    asked = counter.ask(**TWO)
    counter.answer(asked, "ann", approved=False)
    yes, no = (
        response(person, approved=approved).model_copy(update={"request_id": asked.request_id})
        for person, approved in (("ann", True), ("bob", False))
    )

    counter.core.put_response("acme", yes)
    counter.core.put_response("acme", no)

    case = counter.case(asked)
    assert case.response == yes
    assert list(case.votes) == [yes]


def test_a_change_wakes_those_who_watch_the_request(counter: Counter) -> None:
    asked = counter.ask()

    with counter.core.wakeup.subscribe(request_channel(*ident(asked))) as watch:
        watch.wait(0)
        counter.answer(asked)

        assert watch.wait(5)


# -- copies


def test_what_was_given_and_what_was_got_are_copies(counter: Counter) -> None:
    shown = {"lines": [1]}
    asked = request(request_id=new_id(), run_id="r", context_data=shown)
    counter.core.create(rules.open_request(asked, counter.clock()))
    counter.answer(asked, approved=True, input_data={"a": [1]})

    asked.context_data["lines"].append(2)
    shown["lines"].append(3)
    for got in (counter.now(asked), *counter.core.of_run("acme", "r")):
        got.context_data["lines"].append(4)
        got.escalation_chain.append("eve")
    got_response = counter.case(asked).response
    assert got_response is not None
    got_response.input_data["a"].append(5)

    case = counter.case(asked)
    assert (case.request.context_data, case.request.escalation_chain) == ({"lines": [1]}, [])
    assert case.response is not None
    assert case.response.input_data == {"a": [1]}
