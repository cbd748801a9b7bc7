"""Sweeps that meet each other, die half-way or find very much, and a pool with too few connections.

Ids are those of the failure catalogue in docs/reliability.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import TAKE_DUE, PostgresSweeps
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.sweeper import BATCH, Sweeper
from llmteam.db import Database, DatabaseTimeoutError
from llmteam.dispatch import Hint
from llmteam.events.postgres import PostgresEventStore
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import TENANT, Desk, at_once
from tests.drawing import draw

AGE = "UPDATE llmteam.run_steps SET wake_at = now() - interval '1 minute' WHERE state = 'ready'"


def desk_of(database: Database) -> Desk:
    return Desk(PostgresRunStore(database), PostgresEventStore(database))


def sweeper(desk: Desk, database: Database) -> Sweeper:
    return Sweeper(desk.engine, PostgresSweeps(database), desk.outbox, Surgery(desk.engine, MemoryWakeup()))


def overdue(desk: Desk, database: Database, count: int) -> list[str]:
    """Runs whose hints were lost a minute ago."""
    runs = [desk.start(draw("a")) for _ in range(count)]
    desk.outbox.hints.clear()
    with database.hot(TENANT) as session:
        session.script(AGE)
    return runs


def test_p35_of_many_sweeps_at_once_each_step_is_hinted_at_by_one(desk: Desk, database: Database) -> None:
    runs = overdue(desk, database, 60)
    sweeps = PostgresSweeps(database)

    found = at_once([lambda: sweeps.take_due(20)] * 6)

    hinted = Counter(hint.run_id for hints in found for hint in hints)
    hinted += Counter(hint.run_id for hint in sweeps.take_due(100))
    assert hinted == Counter(runs)


def test_p35_a_lease_that_two_sweeps_find_is_lost_once(desk: Desk, database: Database) -> None:
    run_id = desk.start(draw("a"))
    desk.claim(run_id, "a")
    with database.hot(TENANT) as session:
        session.script("UPDATE llmteam.run_steps SET wake_at = now(), lease_until = now() WHERE state = 'running'")

    at_once([lambda: sweeper(desk, database).sweep("expired")] * 4)

    assert desk.rows(run_id)["a"].row.losses == 1


def test_p39_what_a_sweep_took_that_died_is_found_by_the_next(
    desk: Desk, database: Database, database_url: str
) -> None:
    runs = overdue(desk, database, 5)
    dying = Database(database_url, application_name="dying")

    with dying.hot(None) as session:
        taken = session.script(TAKE_DUE, ([], 3), role="llmteam_sweeper", begin=True) or []
        meanwhile = PostgresSweeps(database).take_due(10)
        session.rollback()
    dying.close()
    afterwards = PostgresSweeps(database).take_due(10)

    assert len(taken) == 3
    assert len(meanwhile) == 2
    assert sorted(hint.run_id for hint in [*meanwhile, *afterwards]) == sorted(runs)


def test_p40_ten_thousand_ready_steps_are_hinted_at_in_batches_and_each_once(desk: Desk, database: Database) -> None:
    branches = [f"split_1 -> b{number} -> all_1" for number in range(10_000)]
    run_id = desk.start(draw("s -> split_1", *branches))
    desk.do(run_id, "s", "split_1")
    with database.hot(TENANT) as session:
        session.script(AGE)
    desk.outbox.hints.clear()
    sweeping = sweeper(desk, database)

    found = [sweeping.sweep("due") for _ in range(21)]

    assert found == [BATCH] * 20 + [0]
    assert set(Counter(hint.step_id for hint in desk.outbox.hints).values()) == {1}
    assert len(desk.outbox.hints) == 10_000


def test_p40_what_waits_longest_is_hinted_at_first(desk: Desk, database: Database) -> None:
    overdue(desk, database, 30)
    late = desk.start(draw("a"))
    with database.hot(TENANT) as session:
        session.script(f"{AGE.replace('1 minute', '2 minutes')} AND run_id = %s", (late,))

    first = PostgresSweeps(database).take_due(1)

    assert [hint.run_id for hint in first] == [late]


@pytest.fixture
def narrow(database_url: str) -> Iterator[Database]:
    """A pool of one connection, for which nobody waits long."""
    database = Database(database_url, pool_size=1, pool_timeout=0.5)
    yield database
    database.close()


def test_p24_twenty_threads_with_one_connection_get_all_their_steps_done(narrow: Database) -> None:
    narrow_desk = desk_of(narrow)
    runs = [narrow_desk.start(draw("a -> b")) for _ in range(20)]

    at_once([lambda run_id=run_id: narrow_desk.do(run_id, "a", "b") for run_id in runs])  # type: ignore[misc]

    assert {narrow_desk.status(run_id) for run_id in runs} == {SegmentStatus.COMPLETED}


def test_p24_a_step_that_got_no_connection_stays_due_and_counts_no_attempt(narrow: Database) -> None:
    desk = desk_of(narrow)
    run_id = desk.start(draw("a"))

    with narrow.hot(TENANT) as session:
        session.script("SELECT 1")
        with pytest.raises(DatabaseTimeoutError, match="stayed busy"):
            at_once([lambda: desk.begin(run_id, "a")])

    row = desk.rows(run_id)["a"].row
    assert (row.state, row.fence, row.attempt) == ("ready", 0, 0)
    assert desk.begin(run_id, "a") is not None


def test_p31_hints_that_come_ten_times_at_once_make_one_claim(desk: Desk) -> None:
    run_id = desk.start(draw("a"))

    claims = at_once([lambda: desk.engine.begin(Hint(TENANT, run_id, "a", 1, ""))] * 10)

    assert sum(claim is not None for claim in claims) == 1
