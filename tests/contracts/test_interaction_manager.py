"""What people are asked and answer through a manager, over both stores alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from llmteam.audit.models import AuditDraft
from llmteam.human import (
    AnswerLinkError,
    HumanInteractionManager,
    InteractionChangedError,
    InteractionClosedError,
    InteractionNotFoundError,
    InteractionRequest,
    InteractionStatus,
    InteractionType,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
)
from llmteam.ids import new_id, utc_now
from llmteam.runtime import RuntimeContext
from llmteam.runtime.context import current_runtime, working_for
from llmteam.tenancy import TenantContext, TenantContextError
from tests.conformance.people import Counter
from tests.unit.human.samples import FITTING, HOUR, request, response

run = asyncio.run
Status = InteractionStatus


@pytest.fixture
def manager(counter: Counter) -> HumanInteractionManager:
    return counter.manager()


def ask(manager: HumanInteractionManager, **fields: Any) -> InteractionRequest:
    """An approval that Ann is asked for."""
    return run(manager.request_approval("Large invoice", "17,000 EUR", **{"assignee": "ann", **fields}))


def ask_each(manager: HumanInteractionManager) -> dict[InteractionType, Awaitable[InteractionRequest]]:
    options = [{"id": "0", "label": "Yes"}, {"id": "1", "label": "No"}]
    return {
        InteractionType.APPROVAL: manager.request_approval("T", "D", assignee="ann"),
        InteractionType.CHOICE: manager.request_choice("T", "D", options, assignee="ann"),
        InteractionType.INPUT: manager.request_input("T", "D", {"required": ["amount"]}, assignee="ann"),
        InteractionType.REVIEW: manager.request_review("T", "D", {"total": 17}, assignee="ann"),
        InteractionType.CHAT: manager.request_chat("D", title="T", assignee="ann"),
    }


# -- asking


def test_an_approval_needs_a_message_and_nothing_else(manager: HumanInteractionManager) -> None:
    before = utc_now()

    asked = run(
        manager.request_approval(
            pipeline_id="pipeline_1", message="Approve data processing?\nAll of it.", assignee="admin@company.com"
        )
    )

    assert (asked.title, asked.description) == ("Approve data processing?", "Approve data processing?\nAll of it.")
    assert asked.message == asked.description
    assert (asked.pipeline_id, asked.run_id, asked.agent_name, asked.step_name) == ("pipeline_1", "", "", "approval")
    assert (asked.assignee_id, asked.status, asked.tenant_id) == ("admin@company.com", Status.PENDING, "acme")
    assert asked.created_at >= before
    assert asked.deadline == asked.created_at + timedelta(hours=24)
    assert run(manager.get_request(asked.request_id)) == asked


def test_a_title_from_a_message_is_short(manager: HumanInteractionManager) -> None:
    asked = run(manager.request_approval(message="  " + "long " * 100))

    assert (len(asked.title), len(asked.description)) == (120, 502)


@pytest.mark.parametrize("number", range(5))
def test_every_type_is_asked_listed_and_answered(manager: HumanInteractionManager, number: int) -> None:
    async def story() -> None:
        waiting = ask_each(manager)
        kind = list(waiting)[number]
        asked = await waiting.pop(kind)
        for other in waiting.values():
            other.close()  # type: ignore[attr-defined]

        assert (asked.interaction_type, asked.title, asked.description) == (kind, "T", "D")
        assert asked.deadline == asked.created_at + timedelta(hours=24)
        assert await manager.list_pending() == [asked]

        given = await manager.respond(asked.request_id, "ann", **FITTING[kind])

        assert await manager.list_pending() == []
        assert await manager.wait_for_response(asked.request_id) == given
        kept = await manager.get_request(asked.request_id)
        assert kept is not None
        assert kept.status is Status.COMPLETED

    run(story())


def test_fields_are_taken_as_they_are_given(manager: HumanInteractionManager) -> None:
    asked = ask(
        manager,
        run_id="run-1",
        pipeline_id="triage",
        agent_name="sorter",
        step_name="sign_off",
        priority="high",
        timeout=90,
        context_data={"a": 1},
        escalation_chain=("boss", "ceo"),
        sla_warning=30,
        sla_breach=timedelta(seconds=60),
        assignee_group="finance",
    )

    assert (asked.run_id, asked.pipeline_id, asked.agent_name, asked.step_name) == (
        "run-1",
        "triage",
        "sorter",
        "sign_off",
    )
    assert (asked.timeout, asked.sla_warning, asked.sla_breach) == tuple(timedelta(seconds=n) for n in (90, 30, 60))
    assert (asked.priority, asked.context_data, asked.escalation_chain) == ("high", {"a": 1}, ["boss", "ceo"])
    assert asked.assignee_group == "finance"


def test_the_run_is_that_of_the_current_runtime(manager: HumanInteractionManager) -> None:
    token = current_runtime.set(RuntimeContext("acme", "", "run-7", "triage"))
    try:
        assert ask(manager).run_id == "run-7"
        assert ask(manager, run_id="run-8").run_id == "run-8"
    finally:
        current_runtime.reset(token)


def test_who_asks_is_the_step_that_the_code_works_for(manager: HumanInteractionManager) -> None:
    runtime = RuntimeContext("acme", "", "run-7", "triage")
    token = current_runtime.set(runtime)
    try:
        with working_for(runtime.child_context("check_invoice")):
            assert ask(manager).agent_name == "check_invoice"
            assert ask(manager, agent_name="sorter").agent_name == "sorter"
        assert ask(manager).agent_name == ""
    finally:
        current_runtime.reset(token)


@pytest.mark.parametrize(
    "asked",
    [
        lambda manager: manager.request_choice("T", "D", ["yes", "no"]),
        lambda manager: manager.request_input("T", "D", "a number"),
        lambda manager: manager.request_review("T", "D", [17]),
    ],
)
def test_what_is_shown_or_offered_in_another_shape_is_refused_by_name(
    manager: HumanInteractionManager, asked: Callable[[HumanInteractionManager], Awaitable[object]]
) -> None:
    with pytest.raises(InvalidRequestError, match=r"(options\.0|input_schema|context_data): Input should be"):
        run(asked(manager))


def test_an_assignee_is_never_lost(manager: HumanInteractionManager) -> None:
    assert run(manager.request_chat("Hello", assignee_id="ann")).assignee_id == "ann"
    assert run(manager.request_approval("T", assignee=None, assignee_id="ann")).assignee_id == "ann"


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": 0},
        {"timeout": float("inf")},
        {"colour": "red"},
        {"tenant_id": "globex"},
        {"request_id": "mine"},
        {"escalation_chain": "boss"},
        {"context_data": "s3cret"},
        {"context_data": {"a": {1}}},
        {"quorum": 2},
        {"four_eyes": True},
    ],
)
def test_what_cannot_be_asked_is_refused_and_not_kept(manager: HumanInteractionManager, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        ask(manager, **fields)

    assert "s3cret" not in str(refused.value)
    assert run(manager.list_pending()) == []


def test_nothing_is_asked_without_words(manager: HumanInteractionManager) -> None:
    with pytest.raises(InvalidRequestError, match="title"):
        run(manager.request_approval())


# -- answering


def test_a_no_rejects(manager: HumanInteractionManager) -> None:
    asked = ask(manager)

    given = run(manager.respond(asked.request_id, "ann", approved=False, reason="too much", comment="sorry"))

    assert (given.approved, given.reason, given.comment, given.responder_id) == (False, "too much", "sorry", "ann")
    kept = run(manager.get_request(asked.request_id))
    assert kept is not None
    assert kept.status is Status.REJECTED


def test_the_first_answer_wins(manager: HumanInteractionManager) -> None:
    asked = ask(manager, assignee=None)
    first = run(manager.respond(asked.request_id, "ann", approved=True))

    with pytest.raises(InteractionClosedError) as refused:
        run(manager.respond(asked.request_id, "bob", approved=False))

    assert refused.value.status == "completed"
    assert run(manager.wait_for_response(asked.request_id)) == first


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, InvalidResponseError),
        ({"responder_id": "eve", "approved": True}, ResponderNotAllowedError),
        ({"responder_id": "eve", "approved": True, "groups": ["ann"]}, ResponderNotAllowedError),
        ({"approved": True, "shown_hash": "0" * 64}, InteractionChangedError),
        ({"approved": "s3cret"}, InvalidResponseError),
        ({"approved": True, "input_data": ["s3cret"]}, InvalidResponseError),
        ({"approved": True, "comment": 17}, InvalidResponseError),
        ({"responder_id": None, "approved": True}, InvalidResponseError),
    ],
)
def test_an_answer_that_is_refused_changes_nothing(
    manager: HumanInteractionManager, fields: dict[str, Any], error: type[Exception]
) -> None:
    asked = ask(manager)

    with pytest.raises(error) as refused:
        run(manager.respond(**{"request_id": asked.request_id, "responder_id": "ann", **fields}))

    assert "s3cret" not in str(refused.value)
    assert run(manager.get_request(asked.request_id)) == asked
    assert run(manager.wait_for_response(asked.request_id, 0)) is None


def test_members_of_the_group_answer(manager: HumanInteractionManager) -> None:
    asked = ask(manager, assignee=None, assignee_group="finance")

    assert run(manager.respond(asked.request_id, "bob", approved=True, groups=["finance"])).responder_id == "bob"


def test_a_link_is_used_up_by_the_answer(manager: HumanInteractionManager) -> None:
    first, second = ask(manager), ask(manager)
    link = ("link-1", utc_now() + HOUR)
    run(manager.respond(first.request_id, "ann", approved=True, link=link))

    with pytest.raises(AnswerLinkError):
        run(manager.respond(second.request_id, "ann", approved=True, link=link))


def test_a_policy_of_ones_own_decides(counter: Counter) -> None:
    manager = counter.manager(policy=lambda request, person, groups: None if person == "root" else "only root")
    asked = ask(manager)

    with pytest.raises(ResponderNotAllowedError, match="only root"):
        run(manager.claim(asked.request_id, "ann"))
    assert run(manager.respond(asked.request_id, "root", approved=True)).responder_id == "root"


# -- everything else


def test_a_request_is_claimed_handed_on_amended_and_cancelled(manager: HumanInteractionManager) -> None:
    asked = ask(manager).request_id

    claimed = run(manager.claim(asked, "ann"))
    assert (claimed.status, claimed.claimed_by) == (Status.IN_PROGRESS, "ann")
    delegated = run(manager.delegate(asked, "ann", "bob"))
    assert (delegated.assignee_id, delegated.claimed_by) == ("bob", None)
    assert run(manager.reassign(asked, "cat", by="ops")).assignee_id == "cat"
    amended = run(manager.amend(asked, title="Larger invoice", by="ops"))
    assert amended.title == "Larger invoice"
    assert amended.shown_hash != claimed.shown_hash
    cancelled = run(manager.cancel(asked, "no longer needed"))
    assert cancelled.status is Status.CANCELLED
    assert run(manager.get_request(asked)) == cancelled
    assert run(manager.wait_for_response(asked)) is None


def test_a_chat_goes_back_and_forth_until_it_is_closed(manager: HumanInteractionManager) -> None:
    chat = run(manager.request_chat("How can I help?", assignee="ann", agent_name="helper")).request_id

    said = [run(manager.send_message(chat, who, text)) for who, text in (("ann", "hello"), ("helper", "hi"))]
    closed = run(manager.close_chat(chat, "ann", comment="bye"))

    assert run(manager.get_messages(chat)) == said
    assert [(one.seq, one.sender_id, one.text) for one in said] == [(1, "ann", "hello"), (2, "helper", "hi")]
    assert run(manager.get_messages(chat, 1)) == said[1:]
    assert run(manager.wait_for_response(chat)) == closed
    with pytest.raises(InteractionClosedError):
        run(manager.send_message(chat, "ann", "one more thing"))


METHODS: dict[str, Callable[[HumanInteractionManager, str], Awaitable[object]]] = {
    "respond": lambda manager, asked: manager.respond(asked, "ann", approved=True),
    "claim": lambda manager, asked: manager.claim(asked, "ann"),
    "delegate": lambda manager, asked: manager.delegate(asked, "ann", "bob"),
    "reassign": lambda manager, asked: manager.reassign(asked, "bob"),
    "amend": lambda manager, asked: manager.amend(asked, title="Another"),
    "cancel": lambda manager, asked: manager.cancel(asked),
    "send_message": lambda manager, asked: manager.send_message(asked, "ann", "hello"),
    "close_chat": lambda manager, asked: manager.close_chat(asked, "ann"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("whose", ["nobody's", "another tenant's"])
def test_what_is_not_ones_own_is_not_found(manager: HumanInteractionManager, method: str, whose: str) -> None:
    asked = run(manager.request_chat("Hello", assignee="ann"))

    async def attempt() -> None:
        with TenantContext("globex" if whose == "another tenant's" else "acme"):
            await METHODS[method](manager, asked.request_id if whose == "another tenant's" else new_id())

    with pytest.raises(InteractionNotFoundError, match="not found") as refused:
        run(attempt())
    assert isinstance(refused.value, ValueError)
    assert run(manager.get_request(asked.request_id)) == asked


def test_another_tenant_sees_nothing(manager: HumanInteractionManager) -> None:
    chat = run(manager.request_chat("Hello", assignee="ann")).request_id
    run(manager.send_message(chat, "ann", "hello"))
    run(manager.close_chat(chat, "ann"))
    ask(manager)

    with TenantContext("globex"):
        assert run(manager.get_request(chat)) is None
        assert run(manager.wait_for_response(chat)) is None
        assert run(manager.get_messages(chat)) == []
        assert run(manager.list_pending()) == []
        with pytest.raises(TenantContextError):
            run(manager.list_pending("acme"))


class Trail:
    """An audit trail that remembers."""

    def __init__(self) -> None:
        self.drafts: list[AuditDraft] = []

    async def record(self, drafts: Sequence[AuditDraft]) -> None:
        self.drafts += drafts


def test_an_audit_trail_is_told_of_what_the_store_does_not_record_itself(counter: Counter) -> None:
    trail = Trail()
    manager = counter.manager(audit_trail=trail)
    asked = ask(manager)
    with pytest.raises(ResponderNotAllowedError):
        run(manager.respond(asked.request_id, "eve", approved=True))
    run(manager.respond(asked.request_id, "ann", approved=True))

    kinds = [] if counter.core.keeps_audit else ["approval.requested", "approval.granted"]
    assert [draft.event_type for draft in trail.drafts] == kinds


# -- the store below


def test_a_store_keeps_and_gives_requests_and_answers(counter: Counter) -> None:
    store = counter.store
    asked = request(request_id=new_id(), run_id="", created_at=utc_now())
    given = response(approved=True, response_time=utc_now()).model_copy(update={"request_id": asked.request_id})

    async def story() -> None:
        await store.save(asked)
        assert await store.get(asked.request_id) == asked
        assert await store.list_pending("acme") == [asked]
        changed = asked.changed(title="Other", updated_at=utc_now())
        await store.update(changed)
        assert await store.get(asked.request_id) == changed
        assert await store.get_response(asked.request_id) is None
        await store.save_response(given)
        assert await store.get_response(asked.request_id) == given
        assert await store.get("nothing") is None
        assert await store.get_response("nothing") is None

    run(story())


@pytest.mark.parametrize("how", ["save", "update", "list_pending"])
def test_a_store_is_not_given_what_another_tenant_owns(counter: Counter, how: str) -> None:
    foreign = request(request_id=new_id(), tenant_id="globex")
    given: object = "globex" if how == "list_pending" else foreign

    with pytest.raises(TenantContextError):
        run(getattr(counter.store, how)(given))
    assert counter.core.case("globex", foreign.request_id) is None


def test_the_clock_is_the_managers(counter: Counter) -> None:
    moment = datetime(2026, 1, 2, tzinfo=utc_now().tzinfo)

    asked = ask(HumanInteractionManager(counter.store, clock=lambda: moment))

    assert (asked.created_at, asked.deadline) == (moment, moment + timedelta(hours=24))
