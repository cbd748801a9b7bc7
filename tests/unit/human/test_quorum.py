"""Several people decide together."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.human import rules
from llmteam.human.deadlines import tick
from llmteam.human.exceptions import InvalidRequestError, InvalidResponseError
from llmteam.human.models import InteractionStatus, InteractionType
from llmteam.human.rulings import Case
from tests.unit.human.samples import HOUR, NOW, answer, opened, request, then

Status = InteractionStatus
THREE = {"assignee_id": None, "approvers": ["ann", "bob", "cat"]}


def vote(case: Case, votes: str, groups: tuple[str, ...] = ()) -> Case:
    """The case after votes such as ``ann+ bob-``."""
    for word in votes.split():
        given = answer(word[:-1], approved=word[-1] == "+", groups=groups)
        case = then(case, rules.respond(case, given, NOW))
    return case


@pytest.mark.parametrize(
    ("votes", "status"),
    [
        ("ann+", Status.IN_PROGRESS),
        ("ann+ bob+", Status.COMPLETED),
        ("ann- bob+", Status.IN_PROGRESS),
        ("ann- bob+ cat+", Status.COMPLETED),
        ("ann+ bob- cat-", Status.REJECTED),
        ("ann- bob-", Status.REJECTED),
    ],
)
def test_two_of_three_decide(votes: str, status: InteractionStatus) -> None:
    case = vote(opened(quorum=2, **THREE), votes)

    assert case.request.status is status
    assert (case.response is None) is status.is_open
    assert len(case.votes) == len(votes.split())


def test_one_of_several_approvers_is_enough_when_no_quorum_is_asked_for() -> None:
    assert vote(opened(**THREE), "bob-").request.status is Status.REJECTED


def test_nobody_votes_twice_about_the_same() -> None:
    case = vote(opened(quorum=2, **THREE), "ann+")

    with pytest.raises(InvalidResponseError, match="answered already"):
        rules.respond(case, answer("ann"), NOW)


def test_votes_about_what_was_shown_before_do_not_count_and_can_be_given_again() -> None:
    case = vote(opened(quorum=2, **THREE), "ann+ bob-")
    amended = then(case, rules.amend(case, NOW, title="Larger invoice"))

    assert vote(amended, "cat+").request.status is Status.IN_PROGRESS
    assert vote(amended, "cat+ ann+").request.status is Status.COMPLETED
    assert vote(amended, "ann- bob-").request.status is Status.REJECTED


def test_whoever_started_the_run_is_no_approver_that_is_left() -> None:
    case = opened(quorum=2, four_eyes=True, requester_id="cat", **THREE)

    assert vote(case, "ann-").request.status is Status.REJECTED
    assert vote(case, "ann+ bob+").request.status is Status.COMPLETED


def test_an_approver_who_is_named_twice_counts_once() -> None:
    case = opened(quorum=2, assignee_id=None, approvers=["ann", "ann", "bob"])

    assert vote(case, "ann+").request.status is Status.IN_PROGRESS
    assert vote(case, "ann-").request.status is Status.REJECTED


def test_whom_an_approver_hands_it_to_counts_as_one_who_is_left() -> None:
    case = opened(quorum=2, assignee_id=None, approvers=["ann", "bob"])
    handed = then(case, rules.delegate(case, "ann", "dan", NOW))

    assert vote(handed, "bob- dan+").request.status is Status.IN_PROGRESS
    assert vote(handed, "bob+ dan+").request.status is Status.COMPLETED


def test_whom_the_escalation_reaches_counts_as_one_who_is_left() -> None:
    case = opened(quorum=2, assignee_id=None, approvers=["ann", "bob"], timeout=HOUR, escalation_chain=["boss"])
    late = then(case, tick(case, NOW + HOUR))

    assert vote(case, "ann-").request.status is Status.REJECTED
    assert vote(late, "ann- boss+").request.status is Status.IN_PROGRESS


def test_in_a_group_as_many_as_the_quorum_approve_and_the_first_no_rejects() -> None:
    case = opened(quorum=2, assignee_id=None, assignee_group="finance")

    assert vote(case, "ann+", ("finance",)).request.status is Status.IN_PROGRESS
    assert vote(case, "ann+ bob+", ("finance",)).request.status is Status.COMPLETED
    assert vote(case, "ann+ bob-", ("finance",)).request.status is Status.REJECTED


def test_a_vote_that_decides_nothing_yet_is_recorded_and_tells_the_run_nothing() -> None:
    ruling = rules.respond(opened(quorum=2, **THREE), answer("ann"), NOW)

    assert not ruling.final
    assert not ruling.closes
    assert ruling.events == []
    assert [draft.metadata and draft.metadata["final"] for draft in ruling.audit] == [False]


@pytest.mark.parametrize(
    "fields",
    [
        {"quorum": 4, **THREE},
        {"quorum": 2, "assignee_id": None, "approvers": ["ann", "ann"]},
        {"quorum": 2},
        {"quorum": 3, **THREE, "four_eyes": True, "requester_id": "ann"},
        {"four_eyes": True, "requester_id": "ann"},
        {"four_eyes": True, "requester_id": "ann", "assignee_id": None, "approvers": ["ann"]},
        {"four_eyes": True},
    ],
)
def test_a_quorum_that_can_never_be_reached_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        rules.open_request(request(**fields), NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"quorum": 3, **THREE},
        {"quorum": 2, "escalation_chain": ["boss"]},
        {"quorum": 2, "assignee_id": None},
        {"quorum": 5, "assignee_id": None, "assignee_group": "finance"},
        {"quorum": 2, **THREE, "four_eyes": True, "requester_id": "ann"},
    ],
)
def test_a_quorum_that_can_be_reached_is_asked_for(fields: dict[str, Any]) -> None:
    assert rules.open_request(request(**fields), NOW).request.status is Status.PENDING


@pytest.mark.parametrize("kind", [kind for kind in InteractionType if kind is not InteractionType.APPROVAL])
def test_only_approvals_have_a_quorum(kind: InteractionType) -> None:
    with pytest.raises(InvalidRequestError, match="quorum"):
        rules.open_request(request(kind, quorum=2, approvers=["bob"]), NOW)
