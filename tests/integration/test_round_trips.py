"""What a step costs: round trips and transactions in Postgres, whatever the segment looks like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from llmteam.audit import PostgresAuditStore
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw

#: The budget of one step: claim and complete, at most two round trips each.
ROUND_TRIPS = 4
TRANSACTIONS = 2


@contextmanager
def counted(database: Database) -> Iterator[list[int]]:
    """The round trips of the block, in a list of one."""
    found = [0]
    before = database.round_trips
    yield found
    found[0] = database.round_trips - before


def plan_statements(desk: Desk) -> None:
    """Runs ahead, so that the connection has planned its statements: each costs one more round trip, once."""
    for segment in (draw("s -> a -> b -> c"), draw("s -> split_1 -> a -> all_1", "split_1 -> b -> all_1")):
        run_id = desk.start(segment)
        if "split_1" in desk.states(run_id):
            desk.do(run_id, "s", "split_1")
            claims = [desk.claim(run_id, "a"), desk.claim(run_id, "b")]
            for claim in claims:
                desk.engine.answered(claim, 1)
        else:
            desk.do(run_id, "s", "a", "b", "c")


def test_a_step_of_a_row_costs_at_most_four_round_trips(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    run_id = desk.start(draw(" -> ".join(f"s{number}" for number in range(12))))

    spent = []
    for number in range(12):
        with counted(database) as trips:
            desk.do(run_id, f"s{number}")
        spent.append(trips[0])

    assert max(spent) <= ROUND_TRIPS


@pytest.mark.parametrize("branches", [2, 50, 400])
def test_a_branch_costs_the_same_however_many_there_are(desk: Desk, database: Database, branches: int) -> None:
    plan_statements(desk)
    lines = [f"split_1 -> b{number} -> all_1" for number in range(branches)]
    run_id = desk.start(draw("s -> split_1", *lines, "all_1 -> end"))

    with counted(database) as begin:
        desk.do(run_id, "s", "split_1")
    with counted(database) as one:
        desk.do(run_id, "b0")
    for number in range(1, branches - 1):
        desk.do(run_id, f"b{number}")
    with counted(database) as last:
        desk.do(run_id, f"b{branches - 1}")
    with counted(database) as join:
        desk.do(run_id, "all_1")

    assert begin[0] <= 2 * ROUND_TRIPS
    assert max(one[0], last[0], join[0]) <= ROUND_TRIPS


def test_branches_that_run_at_once_cost_no_more(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    run_id = desk.start(draw("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(20))))
    desk.do(run_id, "s", "split_1")

    with counted(database) as trips:
        claims = [desk.claim(run_id, f"b{number}") for number in range(20)]
        for claim in claims:
            desk.engine.answered(claim, 1)

    # The first claim hoped to be alone in the run, which costs one look in vain.
    assert trips[0] <= 20 * ROUND_TRIPS + 1


def test_a_loop_costs_the_same_in_each_iteration(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    segment = draw("h -> a -> count_1 -[n < 3]-> h", "count_1 -> end")
    run_id = desk.start(segment)

    for visit in (1, 2, 3):
        for step_id in ("h", "a", "count_1"):
            with counted(database) as trips:
                desk.engine.answered(desk.claim(run_id, step_id, visit), {"n": visit})
            assert trips[0] <= ROUND_TRIPS + 1, f"{step_id} in iteration {visit}"


@pytest.mark.parametrize(("length", "looks"), [(1, 1), (20, 5), (600, 10)])
def test_a_dead_path_is_read_in_looks_that_double(desk: Desk, database: Database, length: int, looks: int) -> None:
    plan_statements(desk)
    path = " -> ".join(f"s{number}" for number in range(length))
    run_id = desk.start(draw("a -[n > 1]-> end", f"a -> {path}"))

    with counted(database) as trips:
        desk.do(run_id, "a", answer={"n": 2})

    assert trips[0] <= ROUND_TRIPS + looks
    assert desk.states(run_id)[f"s{length - 1}"] == "skipped"


def test_a_step_takes_two_transactions(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    run_id = desk.start(draw("a -> b -> c"))

    before = transactions(database)
    desk.do(run_id, "a", "b")
    spent = transactions(database) - before

    assert spent <= 2 * (TRANSACTIONS + 1), "a look before each claim is a transaction too, but writes nothing"


def test_starting_a_run_is_one_round_trip_whatever_its_size(desk: Desk, database: Database) -> None:
    desk.start(draw("a"))

    with counted(database) as trips:
        desk.start(draw(" -> ".join(f"s{number}" for number in range(300))))

    assert trips[0] == 1


def test_the_end_of_a_run_costs_what_any_step_costs_and_its_audit_record_no_round_trip(
    desk: Desk, database: Database
) -> None:
    desk.do(desk.start(draw("a -> b")), "a", "b")
    plain, run_id = [], desk.start(draw("a -> b -> c"))
    for step_id in ("a", "b", "c"):
        with counted(database) as trips:
            desk.do(run_id, step_id)
        plain.append(trips[0])
    for _ in range(2):
        forked = desk.start(draw("split_1 -> b", "split_1 -> c"))
        desk.do(forked, "split_1", "b")
        with counted(database) as last:
            desk.do(forked, "c")

    assert desk.status(run_id) == desk.status(forked) == "completed"
    assert plain[2] <= plain[1] <= ROUND_TRIPS
    assert last[0] <= ROUND_TRIPS + 1, "what several last steps gave is read for the last event"
    assert PostgresAuditStore(database).check(TENANT).checked == 8


def test_cancelling_a_run_is_four_round_trips_with_its_audit_record(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    for _ in range(2):
        run_id = desk.start(draw("a -> b"))
        with counted(database) as trips:
            desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert trips[0] <= 4, "its header, the lock, who need not answer any more, and all the rest with the commit"


def transactions(database: Database) -> int:
    """Transaction ids given out so far: one per transaction that wrote."""
    with database.login_transaction() as connection:
        return int(connection.execute(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")).scalar_one())


def test_a_step_that_leaves_a_snapshot_costs_three_more_and_the_others_none(desk: Desk, database: Database) -> None:
    plan_statements(desk)
    steps = [f"s{number}" for number in range(12)]
    plain, snapped = desk.start(draw(" -> ".join(steps))), desk.start(draw(" -> ".join(steps)), snapshot_interval=3)

    spent: dict[str, list[int]] = {plain: [], snapped: []}
    for run_id, step_id in [(run_id, step_id) for step_id in steps for run_id in (plain, snapped)]:
        with counted(database) as trips:
            desk.do(run_id, step_id)
        spent[run_id].append(trips[0])

    more = [with_it - without for with_it, without in zip(spent[snapped], spent[plain], strict=True)]
    assert more[:2] == more[3:5] == more[6:8] == [0, 0]
    assert max(more) <= 3
