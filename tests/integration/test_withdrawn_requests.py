"""With a run that ends, or a branch that is not needed any more, people need not answer; the audit trail says so."""

from __future__ import annotations

from llmteam.audit import PostgresAuditStore
from llmteam.canvas.handlers import ask_person
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.human import InteractionStatus
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw

BRANCHES = draw("split_1 -> human_1 -> first_1", "split_1 -> b -> first_1", "first_1 -> z")


def asked(desk: Desk) -> str:
    """A run in which a person is asked in one branch."""
    run_id = desk.start(BRANCHES)
    desk.do(run_id, "split_1")
    execution = desk.claim(run_id, "human_1")
    desk.engine.answered(execution, ask_person(execution.ctx, {"task_type": "approval"}, {}))
    return run_id


def actions(database: Database) -> list[str]:
    """What the audit trail has, in order."""
    store = PostgresAuditStore(database)
    last = store.ends(TENANT).last
    return [getattr(record, "action", "") for record in store.links(TENANT, 1, last)]


def test_a_run_that_is_cancelled_asks_nobody_any_more(desk: Desk, database: Database) -> None:
    run_id = asked(desk)

    desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    (request,) = desk.store.interactions.of_run(TENANT, run_id)
    assert request.status is InteractionStatus.CANCELLED
    assert actions(database) == ["start", "request", "cancel", "withdraw"]


def test_a_branch_that_is_not_needed_any_more_asks_nobody(desk: Desk, database: Database) -> None:
    run_id = asked(desk)

    desk.do(run_id, "b")

    (request,) = desk.store.interactions.of_run(TENANT, run_id)
    assert request.status is InteractionStatus.CANCELLED
    assert desk.states(run_id)["human_1"] == "cancelled"
    assert actions(database) == ["start", "request", "withdraw"]
