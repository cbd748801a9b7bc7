"""Whatever sweeps, workers and operators do to a notification: one writer at a time, and nothing after its end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from llmteam.db import Database
from llmteam.human import rules
from llmteam.human.deliveries import Delivery, Due
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.postgres.deliveries import PostgresDeliveries
from llmteam.ids import new_id, utc_now
from tests.unit.human.messages import request

MOST = 3


@dataclass
class Known:
    """What a notification should be."""

    state: str = "pending"
    attempts: int = 0


class Histories(RuleBasedStateMachine):
    """Any order of looks, attempts, outcomes (also of claims that are long over) and retries."""

    database: Database
    dues: Bundle[Due] = Bundle("dues")
    claims: Bundle[Delivery] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.deliveries = PostgresDeliveries(self.database)
        self.known: dict[str, Known] = {}
        with self.database.hot("acme") as connection:
            connection.script("DELETE FROM llmteam.notifications")

    @rule()
    def ask(self) -> None:
        asked = request(request_id=new_id(), run_id="", deadline=None)
        PostgresInteractions(self.database).create(rules.open_request(asked, utc_now()))
        found = self.deliveries.records("acme", ["pending"], 1000)
        (fresh,) = {one.notification_id for one in found} - set(self.known)
        self.known[fresh] = Known()

    @rule(target=dues)
    def look(self) -> object:
        """A sweep, after every wait is over."""
        with self.database.hot("acme") as connection:
            connection.script("UPDATE llmteam.notifications SET wake_at = now() WHERE wake_at IS NOT NULL")
        found = self.deliveries.take(100)
        assert {due.notification_id: due.attempts for due in found} == {
            name: known.attempts for name, known in self.known.items() if known.state == "pending"
        }
        assert self.deliveries.take(100) == [], "what was taken is not found again"
        return multiple(*found)

    @rule(target=claims, due=dues)
    def begin(self, due: Due) -> object:
        known = self.known.get(due.notification_id)
        delivery = self.deliveries.begin(due)
        if known is None or known.state != "pending" or known.attempts != due.attempts:
            assert delivery is None
            return multiple()
        known.attempts += 1
        assert delivery is not None
        assert delivery.attempt == known.attempts
        return delivery

    @rule(claim=claims, outcome=st.sampled_from(["delivered", "failed", "dropped"]))
    def end(self, claim: Delivery, outcome: str) -> None:
        """The claim's holder writes what came of it, however late."""
        known = self.known.get(claim.notification_id)
        holds = known is not None and known.state == "pending" and known.attempts == claim.attempt
        if outcome == "delivered":
            self.deliveries.delivered(claim)
        elif outcome == "failed":
            self.deliveries.failed(claim, "no", MOST, 0.0)
        else:
            self.deliveries.drop(claim)
        if known is None or not holds:
            return
        if outcome == "dropped":
            del self.known[claim.notification_id]
        elif outcome == "delivered":
            known.state = "delivered"
        elif claim.attempt >= MOST:
            known.state = "dead"

    @rule()
    def retry(self) -> None:
        dead = {name for name, known in self.known.items() if known.state == "dead"}
        assert set(self.deliveries.retry("acme", None)) == dead
        for name in dead:
            self.known[name] = Known()

    @invariant()
    def rows_are_as_they_should_be(self) -> None:
        found = self.deliveries.records("acme", ["pending", "delivered", "dead"], 1000)

        assert {one.notification_id: (one.state, one.attempts) for one in found} == {
            name: (known.state, known.attempts) for name, known in self.known.items()
        }
        for one in found:
            assert (one.wake_at is not None) == (one.state == "pending"), "somebody looks again, or it is over"
            assert (one.finished_at is None) == (one.state == "pending")


@pytest.mark.timeout(120)
def test_whatever_happens_to_a_notification_its_row_says_what_it_should(database: Database) -> None:
    machine = type("HistoriesHere", (Histories,), {"database": database})
    plan = settings(max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck))

    run_state_machine_as_test(machine, settings=plan)
