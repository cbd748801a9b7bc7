"""What an answer does to the step that waits for it, in Postgres: its next look, its hint, and what it meets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.handlers.human_task import ask_person
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.sweeper import Sweeper
from llmteam.db import Database
from llmteam.dispatch import Hint
from llmteam.errors import LLMTeamError
from llmteam.events.models import EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.human import HumanInteractionManager, InteractionRequest
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import TENANT, Desk, Outbox, at_once
from tests.conformance.ward import in_postgres_passes
from tests.drawing import draw

#: How often what may meet is made to meet.
ROUNDS = 15


@dataclass
class Office:
    """A desk whose people answer through a manager that sends hints into the desk's outbox."""

    desk: Desk
    manager: HumanInteractionManager

    def asks(self, **config: Any) -> tuple[str, InteractionRequest]:
        run_id = self.desk.start(draw("human_1.approved -> b", config={"human_1": config}))
        execution = self.desk.claim(run_id, "human_1")
        self.desk.engine.answered(execution, ask_person(execution.ctx, execution.config, execution.input))
        self.desk.hinted()
        return run_id, self.request(run_id)

    def request(self, run_id: str) -> InteractionRequest:
        case = self.desk.store.interactions.case_of_step(TENANT, run_id, "human_1", 1)
        assert case is not None
        return case.request

    def answer(self, request: InteractionRequest, by: str = "ann", **what: Any) -> bool:
        """Whether the answer was taken."""
        try:
            asyncio.run(self.manager.respond(request.request_id, by, **({"approved": True} | what)))
        except LLMTeamError:
            return False
        return True

    def look(self, run_id: str) -> None:
        """As a worker of its own that got a hint."""
        self.desk.another_engine().begin(Hint(TENANT, run_id, "human_1", 1, ""))

    def soon(self, run_id: str) -> bool:
        """Whether a sweep looks at the step within a second."""
        wake_at = self.desk.rows(run_id)["human_1"].row.wake_at
        return wake_at is not None and wake_at <= self.desk.engine.clock() + timedelta(seconds=1)


@pytest.fixture
def office(database: Database) -> Iterator[Office]:
    """No row is left that breaks a rule."""
    outbox = Outbox()
    people = PostgresInteractionStore(database, tenant_id=TENANT, dispatcher=outbox)
    desk = Desk(PostgresRunStore(database, people.core), PostgresEventStore(database), outbox)
    yield Office(desk, HumanInteractionManager(people))
    found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
    assert found.counts == {}, found.rows


def test_an_answer_hints_at_the_step_and_has_a_sweep_look_if_the_hint_is_lost(office: Office) -> None:
    run_id, request = office.asks()
    assert not office.soon(run_id)

    assert office.answer(request)

    assert office.desk.hinted() == ["human_1"]
    assert office.soon(run_id)


def test_a_vote_that_decides_nothing_hints_at_nothing(office: Office) -> None:
    run_id, request = office.asks(approvers=["bob"], quorum=2)

    assert office.answer(request, by="bob")
    assert (office.desk.hinted(), office.soon(run_id)) == ([], False)
    assert office.answer(request)

    assert (office.desk.hinted(), office.soon(run_id)) == (["human_1"], True)


def test_a_request_that_is_cancelled_hints_at_the_step_that_fails_with_it(office: Office) -> None:
    _, request = office.asks()

    asyncio.run(office.manager.cancel(request.request_id, by="ops"))

    assert office.desk.hinted() == ["human_1"]


def test_an_answer_to_a_paused_run_hints_at_nothing_and_the_resume_does(office: Office) -> None:
    run_id, request = office.asks()
    surgery = Surgery(office.desk.engine, MemoryWakeup())
    surgery.pause(TENANT, run_id, grace=0.0)

    assert office.answer(request)
    assert office.desk.hinted() == []
    surgery.resume(TENANT, run_id)

    assert office.desk.hinted() == ["human_1"]
    assert office.soon(run_id)


def test_an_escalation_moves_the_next_look_at_the_step(office: Office, database: Database) -> None:
    run_id, _ = office.asks(timeout_hours=2, escalation_chain=["boss"])
    sweeper = Sweeper(office.desk.engine, PostgresSweeps(database), office.desk.outbox, _surgery(office))
    in_postgres_passes(database)(2 * 3_600 + 1)

    assert sweeper.sweep("people") == 1

    request = office.request(run_id)
    assert request.assignee_id == "boss"
    assert office.desk.rows(run_id)["human_1"].row.wake_at == request.deadline
    assert office.desk.hinted() == []


def _surgery(office: Office) -> Surgery:
    return Surgery(office.desk.engine, MemoryWakeup())


def test_an_answer_and_the_cancelling_of_the_run_end_in_one_of_both(office: Office) -> None:
    for _ in range(ROUNDS):
        run_id, request = office.asks()

        def cancel(run_id: str = run_id) -> bool:
            return office.desk.another_engine().end(TENANT, run_id, SegmentStatus.CANCELLED)

        def answer(request: InteractionRequest = request, run_id: str = run_id) -> bool:
            taken = office.answer(request)
            office.look(run_id)
            return taken

        cancelled, answered = at_once([cancel, answer])

        assert cancelled
        assert office.desk.status(run_id) is SegmentStatus.CANCELLED
        assert office.request(run_id).status.value == ("completed" if answered else "cancelled")


def test_an_answer_and_a_pause_lose_nothing_of_each_other(office: Office) -> None:
    for _ in range(ROUNDS):
        run_id, request = office.asks()
        surgery = _surgery(office)

        def answer(request: InteractionRequest = request, run_id: str = run_id) -> bool:
            taken = office.answer(request)
            office.look(run_id)
            return taken

        snapshot_id, answered = at_once(
            [lambda run_id=run_id, surgery=surgery: surgery.pause(TENANT, run_id, grace=0.0), answer]  # type: ignore[misc]
        )

        assert answered
        assert snapshot_id
        surgery.resume(TENANT, run_id)
        office.look(run_id)
        assert office.desk.states(run_id) == {"human_1": "completed", "b": "ready"}
        kinds = [event.event_type for event in office.desk.told(run_id)]
        assert kinds.count(EventType.HUMAN_TASK_COMPLETED) == 1


def test_an_answer_and_the_step_that_asks_again_after_a_lost_reply_ask_once(office: Office) -> None:
    run_id = office.desk.start(draw("human_1.approved -> b"))
    execution = office.desk.claim(run_id, "human_1")
    ask = ask_person(execution.ctx, execution.config, execution.input)
    office.desk.engine.answered(execution, ask)
    request = office.request(run_id)

    assert office.answer(request)
    assert office.desk.engine.answered(execution, ask).applied
    office.look(run_id)

    assert len(office.desk.store.interactions.of_run(TENANT, run_id)) == 1
    assert office.desk.states(run_id)["b"] == "ready"
