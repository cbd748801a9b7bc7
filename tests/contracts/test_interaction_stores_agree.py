"""Whatever people and time do to requests, both stores of them come to the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.db import Database
from llmteam.human import rules
from llmteam.human.deadlines import catch_up
from llmteam.human.exceptions import InteractionError
from llmteam.human.interactions import Interactions
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionType
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.rulings import Case, Ruling
from llmteam.ids import new_id
from tests.unit.human.samples import HOUR, NOW, request, response

PEOPLE = ["ann", "bob", "eve"]
#: What somebody does at some minute: the deed, who, to whom, and a number that settles the rest.
Deed = tuple[str, str, str, int, int]

deeds = st.tuples(
    st.sampled_from(["answer", "answer", "claim", "delegate", "amend", "say", "look", "freeze", "thaw", "cancel"]),
    st.sampled_from(PEOPLE),
    st.sampled_from(PEOPLE),
    st.integers(0, 3),
    st.integers(0, 40),
)
wishes = st.fixed_dictionaries(
    {
        "quorum": st.integers(1, 2),
        "approvers": st.sampled_from([[], ["ann", "bob"], ["eve", "ann", "bob"]]),
        "assignee_id": st.none() | st.sampled_from(PEOPLE),
        "assignee_group": st.sampled_from([None, "finance"]),
        "escalation_chain": st.sampled_from([[], ["bob"], ["eve", "bob"]]),
        "reminder": st.sampled_from([None, HOUR / 7]),
        "sla_warning": st.sampled_from([None, HOUR / 2]),
        "timeout": st.sampled_from([HOUR, 3 * HOUR]),
        "parked": st.booleans(),
    }
)


def rule_of(deed: Deed, request_id: str, now: datetime, link: str) -> Callable[[Case], Ruling | None]:
    """What ``deed`` means for a case."""
    kind, person, to, number, _ = deed
    given = response(person, approved=number > 0, comment="ü" * number).model_copy(update={"request_id": request_id})
    answer = rules.Answer(given, ["finance"] if number % 2 else [], (link, now + HOUR) if number == 3 else None)

    def thaw(case: Case) -> Ruling | None:
        stood = case.request.frozen_at and now - case.request.frozen_at
        if stood is None or case.request.deadline is None:
            return None
        later = {"deadline": case.request.deadline + stood, "stood": case.request.stood + stood}
        return Ruling(case.request.changed(frozen_at=None, **later))

    acts: dict[str, Callable[[Case], Ruling | None]] = {
        "answer": lambda case: rules.respond(case, answer, now),
        "claim": lambda case: rules.claim(case, person, now),
        "delegate": lambda case: rules.delegate(case, person, to, now),
        "amend": lambda case: rules.amend(case, now, context_data={"n": [number, None, "ü"]}),
        "say": lambda case: rules.send_message(case, person, "hello", now),
        "look": lambda case: catch_up(case, now),
        "freeze": lambda case: None if case.request.frozen_at else Ruling(case.request.changed(frozen_at=now)),
        "thaw": thaw,
        "cancel": lambda case: rules.cancel(case, now) if number == 0 else None,
    }
    return acts[kind]


def done(store: Interactions, tenant: str, request_id: str, rule: Callable[[Case], Ruling | None]) -> str:
    """What became of it, in a word."""
    try:
        return "nothing" if store.apply(tenant, request_id, rule) is None else "done"
    except InteractionError as exc:
        return f"{type(exc).__name__}: {exc}"


def seen(store: Interactions, tenant: str, request_id: str) -> dict[str, Any]:
    """All that can be read about a request and its tenant."""
    case = store.case(tenant, request_id)
    assert case is not None
    of_step = store.case_of_step(tenant, case.request.run_id, case.request.step_name, case.request.visit)
    return {
        "request": case.request,
        "hash": case.request.shown_hash,
        "votes": sorted(case.votes, key=lambda vote: vote.responder_id),
        "response": case.response,
        "messages": (case.messages, store.messages(tenant, request_id)),
        "of step": of_step and of_step.request,
        "open": store.open_requests(tenant),
        "open for": [store.open_requests(tenant, person=person, groups=["finance"]) for person in PEOPLE],
        "open for nobody in a group": [store.open_requests(tenant, person=person) for person in PEOPLE],
        "of run": store.of_run(tenant, case.request.run_id),
    }


@pytest.fixture
def stores(database: Database) -> tuple[Interactions, Interactions]:
    return MemoryInteractions(), PostgresInteractions(database)


@given(
    kind=st.sampled_from([InteractionType.APPROVAL, InteractionType.CHAT]),
    wish=wishes,
    history=st.lists(deeds, max_size=12),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_stores_come_to_the_same(
    stores: tuple[Interactions, Interactions], kind: InteractionType, wish: dict[str, Any], history: list[Deed]
) -> None:
    tenant, ids = f"t-{new_id()}", [new_id(), new_id()]
    for request_id in ids:
        asked = request(kind, **{**wish, "request_id": request_id, "tenant_id": tenant, "quorum": 1})
        if kind is InteractionType.APPROVAL and wish["approvers"]:
            asked = asked.changed(quorum=wish["quorum"])
        kept = [store.create(rules.open_request(asked, NOW)) for store in stores]
        assert kept[0] == kept[1]
    ids = list(dict.fromkeys([ids[0], kept[0].request_id]))

    now = NOW
    for number, deed in enumerate(history):
        now += timedelta(minutes=deed[-1])
        request_id = ids[number % len(ids)]
        rule = rule_of(deed, request_id, now, f"{tenant}-link")
        outcomes = [done(store, tenant, request_id, rule) for store in stores]
        assert outcomes[0] == outcomes[1]

    for request_id in ids:
        in_memory, in_postgres = (seen(store, tenant, request_id) for store in stores)
        assert in_memory == in_postgres
