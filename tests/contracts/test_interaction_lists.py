"""Which requests a store lists, and which a sweep finds, in memory and in Postgres alike."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.human import rules
from llmteam.human.deadlines import catch_up, next_wake
from llmteam.human.models import InteractionStatus
from llmteam.human.rulings import Ruling
from tests.conformance.people import Counter, ident, ids
from tests.unit.human.samples import HOUR

Status = InteractionStatus


# -- listing


def test_open_requests_come_by_deadline_and_closed_ones_do_not(counter: Counter) -> None:
    late, soon, middle, done = (counter.ask(timeout=hours * HOUR) for hours in (9, 1, 5, 3))
    counter.answer(done)

    assert ids(counter.core.open_requests("acme")) == [one.request_id for one in (soon, middle, late)]
    assert ids(counter.core.open_requests("acme", limit=2)) == [one.request_id for one in (soon, middle)]


def test_what_is_escalated_is_listed_by_its_new_deadline(counter: Counter) -> None:
    first, second = counter.ask(timeout=60, escalation_chain=["boss"]), counter.ask(timeout=100)
    counter.pass_time(61)

    counter.apply(first, lambda case: catch_up(case, counter.clock()))

    assert ids(counter.core.open_requests("acme")) == [second.request_id, first.request_id]
    assert ids(counter.core.open_requests("acme", person="boss")) == [first.request_id]
    assert ids(counter.core.open_requests("acme", person="ann")) == [second.request_id]


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, {"ann"}),
        ({"assignee_id": None}, {"ann", "bob", "cat"}),
        ({"assignee_id": ""}, {"ann", "bob", "cat"}),
        ({"assignee_id": None, "assignee_group": "finance"}, {"bob"}),
        ({"assignee_group": "finance"}, {"ann", "bob"}),
        ({"assignee_group": ""}, {"ann"}),
        ({"assignee_id": None, "approvers": ["cat", "ann"]}, {"cat", "ann"}),
        ({"escalation_chain": ["cat"]}, {"ann"}),
    ],
)
def test_people_are_shown_what_they_are_asked(counter: Counter, fields: dict[str, Any], asked: set[str]) -> None:
    counter.ask(**fields)
    groups = {"ann": (), "bob": ("finance", "legal"), "cat": ("legal",)}

    assert {one for one in groups if counter.core.open_requests("acme", person=one, groups=groups[one])} == asked


def test_who_it_is_handed_to_is_shown_it_instead(counter: Counter) -> None:
    asked = counter.ask()

    counter.apply(asked, lambda case: rules.delegate(case, "ann", "bob", counter.clock()))

    assert counter.core.open_requests("acme", person="ann") == []
    assert ids(counter.core.open_requests("acme", person="bob")) == [asked.request_id]


def test_all_requests_of_a_run_come_in_the_order_of_asking(counter: Counter) -> None:
    first, second = counter.ask(run_id="run-1", timeout=9 * HOUR), counter.ask(run_id="run-1")
    counter.ask(run_id="run-2")
    counter.ask()
    counter.answer(first)

    assert counter.core.of_run("acme", "run-1") == [counter.now(first), second]
    assert counter.core.of_run("acme", "") == []


# -- time


def test_a_sweep_finds_what_is_due_of_every_tenant_and_looks_again_later(counter: Counter) -> None:
    due, foreign = counter.ask(timeout=60), counter.ask(timeout=61, tenant_id="globex")
    counter.ask(timeout=3600)
    assert counter.due() == []

    counter.pass_time(90)

    assert sorted(counter.due()) == sorted([ident(due), ident(foreign)])
    assert counter.due() == []
    counter.pass_time(30)
    assert len(counter.due()) == 2


def test_a_sweep_takes_no_more_than_it_was_told_to_beginning_with_the_oldest(counter: Counter) -> None:
    asked = [counter.ask(timeout=60 + number) for number in (2, 0, 1)]
    counter.pass_time(90)

    assert sorted(counter.due(2)) == sorted([ident(asked[1]), ident(asked[2])])
    assert counter.due(2) == [ident(asked[0])]


@pytest.mark.parametrize("fields", [{"reminder": 60}, {"sla_warning": 60}, {"sla_breach": 60}, {"timeout": 60}])
def test_a_sweep_finds_whatever_is_due_first_and_once(counter: Counter, fields: dict[str, Any]) -> None:
    asked = counter.ask(**{"timeout": 3600, **fields})
    assert counter.due() == []

    counter.pass_time(61)

    assert counter.due() == [ident(asked)]
    counter.apply(asked, lambda case: catch_up(case, counter.clock()))
    wake = next_wake(counter.now(asked))
    assert wake is None or wake > counter.clock()
    counter.pass_time(30)
    assert counter.due() == []


def test_nothing_is_due_about_what_is_closed_or_stands_still(counter: Counter) -> None:
    asked = [counter.ask(timeout=60) for _ in range(3)]
    answered, frozen, written = asked
    counter.answer(answered)
    counter.apply(frozen, lambda case: Ruling(case.request.changed(frozen_at=counter.clock())))
    counter.pass_time(90)
    assert counter.due() == [ident(written)]

    counter.core.replace(counter.now(written).changed(status=Status.CANCELLED, updated_at=counter.clock()))

    counter.pass_time(90)
    assert counter.due() == []
