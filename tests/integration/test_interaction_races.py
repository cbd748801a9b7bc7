"""Many people, sweeps and workers at one request at the same time: exactly one thing becomes of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest

from llmteam.canvas.ports import Ask
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.human import rules
from llmteam.human.deadlines import catch_up
from llmteam.human.exceptions import AnswerLinkError, InteractionClosedError, InteractionError
from llmteam.human.models import InteractionRequest, InteractionStatus, InteractionType, NotificationKind
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.rulings import Case, Rule, Ruling
from llmteam.ids import new_id, utc_now
from tests.conformance.desk import TENANT, Desk, at_once
from tests.drawing import draw
from tests.integration.locks import LOCK_REQUEST, LOCK_RUN, holding, in_background, waits
from tests.unit.human.samples import HOUR, request, response
from tests.waiting import wait_until

T = TypeVar("T")
Status = InteractionStatus
ASKS = draw("a.approved -> b", work="human_task")


@pytest.fixture
def people(database: Database) -> PostgresInteractions:
    return PostgresInteractions(database)


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[PostgresInteractions]:
    """The same requests in another process."""
    database = Database(database_url, application_name="elsewhere")
    yield PostgresInteractions(database)
    database.close()


def ask(
    people: PostgresInteractions, kind: InteractionType = InteractionType.APPROVAL, **fields: Any
) -> InteractionRequest:
    asked = request(kind, **{"request_id": new_id(), "run_id": "", "assignee_id": None, **fields})
    return people.create(rules.open_request(asked, utc_now()))


def park(desk: Desk, run_id: str, **fields: Any) -> InteractionRequest:
    """A run whose first step waits for a person."""
    desk.start(ASKS, run_id=run_id)
    asked = request(**{"request_id": "", "assignee_id": None, **fields})
    assert desk.engine.answered(desk.claim(run_id, "a"), Ask(asked)).applied
    case = desk.store.interactions.case_of_step(TENANT, run_id, "a", 1)
    assert case is not None
    return case.request


def answering(asked: InteractionRequest, person: str, *, after: timedelta = timedelta(), **fields: Any) -> Rule:
    """The rule of an answer that is given some time after the asking."""
    link = fields.pop("link", None)
    given = response(person, **{"approved": True, **fields}).model_copy(update={"request_id": asked.request_id})
    return lambda case: rules.respond(case, rules.Answer(given, link=link), asked.created_at + after)


def looked_at(now: datetime) -> Rule:
    """The rule of a sweep."""
    return lambda case: catch_up(case, now)


def attempt(call: Callable[[], T]) -> T | InteractionError:
    try:
        return call()
    except InteractionError as exc:
        return exc


def apply(people: PostgresInteractions, asked: InteractionRequest, rule: Rule) -> Ruling | InteractionError | None:
    return attempt(lambda: people.apply(asked.tenant_id, asked.request_id, rule))


def stands(people: PostgresInteractions, asked: InteractionRequest) -> Case:
    case = people.case(asked.tenant_id, asked.request_id)
    assert case is not None
    return case


def audited(database: Database, asked: InteractionRequest) -> list[str]:
    with database.hot(TENANT) as hot:
        found = hot.script(
            "SELECT event_type FROM llmteam.audit_log WHERE resource_id = %s ORDER BY sequence_number",
            (asked.request_id,),
        )
    return [row[0] for row in found or ()]


def told(database: Database, asked: InteractionRequest) -> list[str]:
    """Kinds of the notifications about a request."""
    with database.hot(TENANT) as hot:
        found = hot.script("SELECT kind FROM llmteam.notifications WHERE request_id = %s", (asked.request_id,))
    return sorted(row[0] for row in found or ())


# -- answers


def test_of_a_hundred_answers_at_once_one_wins(
    desk: Desk, people: PostgresInteractions, elsewhere: PostgresInteractions, database: Database
) -> None:
    asked = park(desk, "r")
    stores = [people, elsewhere]

    results = at_once(
        [
            lambda number=number: apply(
                stores[number % 2], asked, answering(asked, f"p{number}", approved=number % 3 > 0)
            )
            for number in range(100)
        ]
    )

    (won,) = (ruling for ruling in results if isinstance(ruling, Ruling))
    refusals = [refused for refused in results if isinstance(refused, InteractionClosedError)]
    assert len(refusals) == 99
    assert {refused.status for refused in refusals} == {won.request.status.value}
    case = stands(people, asked)
    assert (case.response, list(case.votes), case.request.status) == (won.vote, [won.vote], won.request.status)
    assert [one.event_type for one in desk.told("r")].count("human.task_completed") == 1
    assert [kind for kind in audited(database, asked) if kind != "approval.requested"] == [
        "approval.granted" if won.request.status is Status.COMPLETED else "approval.rejected"
    ]


def test_votes_at_once_all_count_and_one_of_them_decides(people: PostgresInteractions) -> None:
    for _ in range(10):
        names = ["ann", "bob", "cat", "dan"]
        asked = ask(people, quorum=4, approvers=names)

        results = at_once([partial(apply, people, asked, answering(asked, name)) for name in names])

        assert [isinstance(ruling, Ruling) and ruling.final for ruling in results].count(True) == 1
        case = stands(people, asked)
        assert {vote.responder_id for vote in case.votes} == set(names)
        assert case.request.status is Status.COMPLETED


def test_of_many_answers_through_one_link_one_is_taken(people: PostgresInteractions) -> None:
    asked = [ask(people) for _ in range(8)]
    link = ("link-1", utc_now() + HOUR)

    results = at_once([lambda one=one: apply(people, one, answering(one, "ann", link=link)) for one in asked])

    assert Counter(type(result) for result in results) == {Ruling: 1, AnswerLinkError: 7}
    assert [stands(people, one).request.status for one in asked].count(Status.COMPLETED) == 1


def test_messages_at_once_are_numbered_without_a_gap(people: PostgresInteractions) -> None:
    chat = ask(people, InteractionType.CHAT)

    at_once(
        [
            lambda number=number: people.apply(
                TENANT, chat.request_id, lambda case: rules.send_message(case, f"p{number}", "hi", utc_now())
            )
            for number in range(20)
        ]
    )

    said = people.messages(TENANT, chat.request_id)
    assert [one.seq for one in said] == list(range(1, 21))
    assert len({one.sender_id for one in said}) == 20


# -- against time


def test_an_answer_or_the_end_of_the_time_and_never_both(
    desk: Desk, people: PostgresInteractions, elsewhere: PostgresInteractions, database: Database
) -> None:
    for number in range(40):
        run_id = f"r{number}"
        asked = park(desk, run_id, timeout=HOUR)
        timing = [
            partial(apply, people, asked, answering(asked, "ann", after=HOUR / 2)),
            partial(apply, elsewhere, asked, looked_at(asked.created_at + HOUR)),
        ]

        answered, _ = at_once(timing[:: 1 if number % 2 else -1])[:: 1 if number % 2 else -1]

        case = stands(people, asked)
        won = isinstance(answered, Ruling)
        assert case.request.status is (Status.COMPLETED if won else Status.TIMEOUT)
        assert (case.response is not None) == won
        assert len(case.votes) == won
        assert audited(database, asked)[1:] == ["approval.granted" if won else "approval.timeout"]
        at_once([partial(desk.begin, run_id, "a")] * 3)
        kinds = Counter(one.event_type for one in desk.told(run_id))
        assert desk.states(run_id)["a"] == ("completed" if won else "failed")
        assert kinds["step.completed"] + kinds["step.failed"] == 1
        assert kinds["human.task_completed"] == won


def test_an_answer_or_the_end_of_the_run_and_never_both(desk: Desk, people: PostgresInteractions) -> None:
    for number in range(30):
        run_id = f"r{number}"
        asked = park(desk, run_id)
        calls: list[Callable[[], Any]] = [
            partial(apply, people, asked, answering(asked, "ann")),
            partial(desk.engine.end, TENANT, run_id, SegmentStatus.CANCELLED),
        ]

        answered = at_once(calls)[0]

        case = stands(people, asked)
        won = isinstance(answered, Ruling)
        assert case.request.status is (Status.COMPLETED if won else Status.CANCELLED)
        assert (case.response is not None) == won
        assert desk.status(run_id) is SegmentStatus.CANCELLED
        seen = [one.seq for one in desk.told(run_id)]
        assert seen == list(range(1, len(seen) + 1))


def test_sweeps_at_once_escalate_each_request_once(
    people: PostgresInteractions, elsewhere: PostgresInteractions, database: Database
) -> None:
    asked = [ask(people, timeout=timedelta(microseconds=1), escalation_chain=["boss"]) for _ in range(30)]
    for one in asked:
        stored = stands(people, one).request
        people.replace(stored.changed(timeout=HOUR))

    def sweep(store: PostgresInteractions) -> int:
        swept = 0
        while found := store.take_due(5):
            for due in found:
                store.apply(due.tenant_id, due.request_id, looked_at(utc_now()))
            swept += len(found)
        return swept

    swept = at_once([lambda store=store: sweep(store) for store in (people, elsewhere, people, elsewhere)])

    assert sum(swept) == 30
    for one in asked:
        now = stands(people, one).request
        assert (now.status, now.current_escalation_level, now.assignee_id) == (Status.ESCALATED, 1, "boss")
        assert told(database, one) == [NotificationKind.ESCALATED, NotificationKind.REQUESTED]


def test_a_request_that_two_look_after_at_once_escalates_once(
    people: PostgresInteractions, elsewhere: PostgresInteractions
) -> None:
    for _ in range(20):
        asked = ask(people, timeout=HOUR, escalation_chain=["boss", "ceo"])

        at_once([partial(apply, store, asked, looked_at(asked.created_at + HOUR)) for store in (people, elsewhere)])

        now = stands(people, asked).request
        assert (now.current_escalation_level, now.assignee_id) == (1, "boss")


# -- the order of locks


MOVES = ["answer", "claim", "time", "cancel", "ask"]


def move_of(kind: str, people: PostgresInteractions, asked: InteractionRequest) -> Callable[[], Any]:
    moves: dict[str, Rule] = {
        "answer": answering(asked, "ann"),
        "claim": lambda case: rules.claim(case, "ann", utc_now()),
        "time": looked_at(utc_now() + 1000 * HOUR),
        "cancel": lambda case: rules.cancel(case, utc_now()),
    }
    if kind == "ask":
        return lambda: ask(people, run_id=asked.run_id)
    return lambda: people.apply(TENANT, asked.request_id, moves[kind])


@pytest.mark.parametrize("kind", MOVES)
def test_whatever_happens_to_a_request_waits_for_its_run_first(
    desk: Desk, people: PostgresInteractions, other: Database, kind: str
) -> None:
    asked = park(desk, "r")

    with holding(other, LOCK_RUN, "r") as session, in_background(move_of(kind, people, asked)) as moved:
        wait_until(lambda: waits(other), "the change to wait for the run")
        assert session.script(f"{LOCK_REQUEST} NOWAIT", (TENANT, asked.request_id)), "the request is locked already"
        session.rollback()

        assert moved.result(10)


@pytest.mark.parametrize("kind", ["answer", "claim", "time", "cancel"])
def test_whatever_waits_for_a_request_has_its_run_already(
    desk: Desk, people: PostgresInteractions, other: Database, kind: str
) -> None:
    """A sweep holds a request's row and asks for no run, so that nobody waits for each other for good."""
    asked = park(desk, "r")

    with holding(other, LOCK_REQUEST, asked.request_id) as sweep, in_background(move_of(kind, people, asked)) as moved:
        wait_until(lambda: waits(other), "the change to wait for the request")
        with other.hot(TENANT) as third, pytest.raises(Exception, match="lock"):
            third.script(f"{LOCK_RUN} NOWAIT", (TENANT, "r"))
        sweep.rollback()

        assert moved.result(10)


def test_a_sweep_goes_round_requests_that_a_change_holds(people: PostgresInteractions, other: Database) -> None:
    held, free = (ask(people, timeout=timedelta(microseconds=1)) for _ in range(2))

    with holding(other, LOCK_REQUEST, held.request_id):
        found = people.take_due(10)

    assert [due.request_id for due in found] == [free.request_id]


def test_every_mixture_of_changes_comes_to_an_end(desk: Desk, people: PostgresInteractions, database_url: str) -> None:
    """All kinds at once, many times: a deadlock would be an error of one of them."""
    sweeping = Database(database_url, application_name="sweep", pool_size=1)
    done = threading.Event()

    def sweep() -> int:
        rounds = 0
        while not done.is_set():
            PostgresInteractions(sweeping).take_due(500)
            rounds += 1
        return rounds

    with in_background(sweep) as swept:
        for number in range(15):
            run_id = f"r{number}"
            asked = park(desk, run_id, timeout=HOUR, reminder=timedelta(seconds=1))
            calls = [move_of(kind, people, asked) for kind in MOVES]
            calls.append(partial(desk.begin, run_id, "a"))
            if number % 3 == 0:
                calls.append(partial(desk.engine.end, TENANT, run_id, SegmentStatus.CANCELLED))
            with ThreadPoolExecutor(len(calls)) as pool:
                for result in [pool.submit(attempt, call) for call in calls]:
                    result.result(20)
            seen = [one.seq for one in desk.told(run_id)]
            assert seen == list(range(1, len(seen) + 1))
        done.set()
        assert swept.result(10) > 0
    sweeping.close()
