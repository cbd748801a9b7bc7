"""Steps of one run that many threads claim and finish at the same moment: one transaction, and every promise kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.execution import Execution
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.combining import Combining
from llmteam.canvas.state import Change, SegmentStatus, Slice
from llmteam.db import Database
from llmteam.events import EventType
from llmteam.events.postgres import PostgresEventStore
from tests.conformance.desk import TENANT, Desk, at_once
from tests.drawing import draw
from tests.waiting import wait_until

BRANCHES = [f"b{number}" for number in range(12)]
FAN = draw("s -> split_1", *(f"split_1 -> {branch} -> all_1" for branch in BRANCHES), "all_1 -> end")
SOMETIME = datetime(2026, 1, 1, tzinfo=UTC)
LOCK_RUN = "SELECT 1 FROM llmteam.runs WHERE tenant_id = %s AND run_id = %s FOR NO KEY UPDATE"
LOCK_STEP = "SELECT 1 FROM llmteam.run_steps WHERE tenant_id = %s AND run_id = %s AND step_id = %s FOR UPDATE"
WAITING = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'llmteam'"


class Meeting:
    """Has calls of one run meet: while another session holds the run, the first waits for it and the rest for that."""

    def __init__(self, desk: Desk, other: Database) -> None:
        assert isinstance(desk.store, PostgresRunStore)
        self._other = other
        self._sides: tuple[Combining[Any, Any], ...] = (desk.store._claims, desk.store._finishes)

    def _queued(self, run_id: str) -> int:
        return sum(len(side._waiting.get((TENANT, run_id), ())) for side in self._sides)

    def waits(self) -> bool:
        """Whether a session of the store waits for a lock."""
        with self._other.login_transaction() as connection:
            return bool(connection.execute(text(f"SELECT count(*) {WAITING}")).scalar_one())

    def cut_off(self) -> None:
        """End the sessions of the store that wait for a lock."""
        with self._other.login_transaction() as connection:
            connection.execute(text(f"SELECT pg_terminate_backend(pid) {WAITING}"))

    @contextmanager
    def of(self, run_id: str, calls: Sequence[Callable[[], Any]]) -> Iterator[list[Future[Any]]]:
        """``calls`` under way, all of them behind the first."""
        with ThreadPoolExecutor(len(calls)) as pool, self._other.hot(TENANT) as session:
            assert session.script(LOCK_RUN, (TENANT, run_id), begin=True)
            begun = [pool.submit(calls[0])]
            wait_until(self.waits, "the first call to wait for the run")
            begun += [pool.submit(call) for call in calls[1:]]
            wait_until(lambda: self._queued(run_id) == len(calls) - 1, "the others to wait for the first")
            session.rollback()
            yield begun

    def results(self, run_id: str, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What ``calls`` give, errors included."""
        with self.of(run_id, calls) as begun:
            return [call.exception(20) or call.result() for call in begun]


@pytest.fixture
def meeting(desk: Desk, other: Database) -> Meeting:
    return Meeting(desk, other)


def at_the_branches(desk: Desk, segment: SegmentDefinition = FAN, **options: Any) -> str:
    run_id = desk.start(segment, **options)
    desk.do(run_id, "s", "split_1")
    desk.hinted()
    return run_id


def claimed(desk: Desk, run_id: str, branches: Sequence[str] = BRANCHES) -> list[Execution]:
    return [desk.claim(run_id, branch) for branch in branches]


def answering(desk: Desk, executions: Sequence[Execution], answer: Any = 1) -> list[Callable[[], Change]]:
    return [lambda execution=execution: desk.engine.answered(execution, answer) for execution in executions]


def transactions(database: Database, run_id: str) -> int:
    """How many transactions wrote the events of a run."""
    counted = text("SELECT count(DISTINCT xmin::text) FROM llmteam.events WHERE run_id = :run_id")
    with database.tenant_transaction(TENANT) as connection:
        return int(connection.execute(counted, {"run_id": run_id}).scalar_one())


def assert_gap_free(desk: Desk, run_id: str) -> None:
    seen = [event.seq for event in desk.told(run_id)]
    assert seen == list(range(1, len(seen) + 1))


def told_of(desk: Desk, run_id: str, kind: EventType) -> Counter[str | None]:
    return Counter(event.step_id for event in desk.told(run_id) if event.event_type is kind)


def end_well(desk: Desk, run_id: str) -> None:
    """Take the run from its join to its end; the join is ready, once, and everything of the branches is there once."""
    assert desk.hinted() == ["all_1"]
    desk.do(run_id, "all_1", "end")
    assert desk.status(run_id) is SegmentStatus.COMPLETED
    record = desk.store.record(TENANT, run_id)
    assert record is not None
    assert record.running == 0
    assert all(count == 1 for count in told_of(desk, run_id, EventType.STEP_COMPLETED).values())
    assert_gap_free(desk, run_id)


# -- claims


def test_claims_that_meet_share_one_transaction(desk: Desk, meeting: Meeting, database: Database) -> None:
    run_id = at_the_branches(desk)
    before = transactions(database, run_id)

    found = meeting.results(run_id, [lambda branch=branch: desk.begin(run_id, branch) for branch in BRANCHES])

    # That of the first, and that of the others.
    assert transactions(database, run_id) - before == 2
    assert [execution.node.step_id for execution in found] == BRANCHES
    assert told_of(desk, run_id, EventType.STEP_STARTED) == Counter(["s", "split_1", *BRANCHES])
    assert_gap_free(desk, run_id)
    rows = desk.rows(run_id)
    assert {(rows[branch].row.state, rows[branch].row.fence, rows[branch].holder) for branch in BRANCHES} == {
        ("running", 1, "desk")
    }
    for execution in found:
        desk.engine.answered(execution, 1)
    end_well(desk, run_id)


def test_a_claim_says_the_same_of_its_step_whether_it_met_others_or_not(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk, step_timeout=5.0)

    meeting.results(run_id, [lambda branch=branch: desk.begin(run_id, branch) for branch in BRANCHES[:3]])

    alone, *others = (step_as_claimed(desk, run_id, branch) for branch in BRANCHES[:3])
    assert others == [alone, alone]


def step_as_claimed(desk: Desk, run_id: str, branch: str) -> tuple[Any, ...]:
    """What a claim wrote about a branch, its name and the moment apart."""
    record = desk.rows(run_id)[branch]
    row, (event,) = record.row, (one for one in desk.told(run_id) if one.step_id == branch)
    assert row.started_at is not None
    assert row.deadline is not None
    assert row.wake_at is not None
    assert event.timestamp == row.started_at
    assert record.lease_until is not None
    return (
        replace(row, step_id="", started_at=None, deadline=None, wake_at=None),
        row.deadline - row.started_at,
        record.lease_until - row.wake_at if row.wake_at < row.deadline else row.wake_at - row.deadline,
        record.holder,
        event.model_copy(update={"event_id": "", "seq": 0, "step_id": "", "timestamp": SOMETIME}),
    )


def test_of_claims_for_one_step_that_meet_one_gets_it(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    asked = ["b0", "b1", "b1", "b1", "b2"]

    found = meeting.results(run_id, [lambda branch=branch: desk.begin(run_id, branch) for branch in asked])

    assert [one.node.step_id for one in found if one is not None] == ["b0", "b1", "b2"]
    assert told_of(desk, run_id, EventType.STEP_STARTED) == Counter(["s", "split_1", "b0", "b1", "b2"])
    assert_gap_free(desk, run_id)


def test_claims_of_a_run_that_ended_meanwhile_take_nothing(desk: Desk, meeting: Meeting) -> None:
    """The process still has the input of the branches, and believes that they are due."""
    run_id = at_the_branches(desk)
    desk.another_engine().end(TENANT, run_id, SegmentStatus.CANCELLED)

    found = meeting.results(run_id, [lambda branch=branch: desk.begin(run_id, branch) for branch in BRANCHES])

    assert found == [None] * len(BRANCHES)
    assert set(desk.states(run_id).values()) == {"completed", "cancelled"}
    assert_gap_free(desk, run_id)


# -- outcomes


def test_outcomes_that_meet_share_one_transaction(desk: Desk, meeting: Meeting, database: Database) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)
    before = transactions(database, run_id)

    changes = meeting.results(
        run_id, [lambda one=one: desk.engine.answered(one, one.node.step_id) for one in executions]
    )

    assert transactions(database, run_id) - before == 2
    assert all(change.applied for change in changes)
    rows = desk.rows(run_id)
    assert {branch: rows[branch].output for branch in BRANCHES} == {branch: branch for branch in BRANCHES}
    assert [key for change in changes for key in change.ready] == [("all_1", 1)]
    assert desk.claim(run_id, "all_1").input == {f"branch_{n + 1}": branch for n, branch in enumerate(BRANCHES)}
    assert_gap_free(desk, run_id)


def test_a_result_without_its_claim_is_refused_among_others_that_have_theirs(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    first, stale, *others = claimed(desk, run_id)
    stale = replace(stale, fence=stale.fence + 1)

    changes = meeting.results(run_id, answering(desk, [first, stale, *others]))

    assert [change.applied for change in changes] == [True, False, *[True] * len(others)]
    assert desk.states(run_id)["b1"] == "running"
    assert desk.hinted() == []
    assert_gap_free(desk, run_id)


def test_a_result_that_is_brought_twice_at_once_counts_once(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)

    changes = meeting.results(run_id, answering(desk, [*executions, *executions[1:]]))

    assert all(change.applied for change in changes)
    assert sum(bool(change.events) for change in changes) == len(BRANCHES)
    assert told_of(desk, run_id, EventType.STEP_COMPLETED) == Counter(["s", "split_1", *BRANCHES])
    desk.do(run_id, "all_1", "end")
    assert desk.status(run_id) is SegmentStatus.COMPLETED
    assert_gap_free(desk, run_id)


def test_a_transition_that_raises_takes_no_other_with_it(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)
    header = executions[0].header

    def broken(moment: Slice) -> Change:
        moment.edit(("b0", 1)).attempt = 77
        raise ValueError("broken")

    def move() -> Change:
        return desk.store.apply(header, [("b0", 1)], broken, {}, now=desk.engine.clock(), finished=("b0", 1))

    first, *rest = answering(desk, executions)
    found = meeting.results(run_id, [first, move, *rest, move])

    assert [str(one) for one in found if isinstance(one, Exception)] == ["broken", "broken"]
    assert desk.rows(run_id)["b0"].row.attempt == 0
    end_well(desk, run_id)


def test_an_outcome_that_needs_more_rows_takes_no_other_with_it(desk: Desk, meeting: Meeting) -> None:
    far = " -> ".join(f"d{number}" for number in range(30))
    lines = [f"split_1 -> {branch} -> all_1" for branch in BRANCHES]
    run_id = at_the_branches(desk, draw("s -> split_1", *lines, f"b3 -[n > 1]-> {far}", "all_1 -> end"))
    executions = claimed(desk, run_id)

    changes = meeting.results(run_id, answering(desk, executions, {"n": 1}))

    assert all(change.applied for change in changes)
    assert desk.states(run_id)["d29"] == "skipped"
    assert_gap_free(desk, run_id)


def test_a_failure_among_answers_fails_the_run_once(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)
    calls = answering(desk, executions)
    calls[4] = lambda: desk.engine.failed(executions[4], ValueError("no"))
    calls[7] = lambda: desk.engine.failed(executions[7], ValueError("no"))

    changes = meeting.results(run_id, calls)

    assert desk.status(run_id) is SegmentStatus.FAILED
    assert sum(change.ended for change in changes) == 1
    assert len([one for one in desk.told(run_id) if one.event_type is EventType.SEGMENT_FAILED]) == 1
    assert not {"ready", "running", "pending"} & set(desk.states(run_id).values())
    assert_gap_free(desk, run_id)


def test_retries_among_answers_are_written_as_ever(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk, max_retries=1)
    executions = claimed(desk, run_id)
    calls = answering(desk, executions)
    calls[5] = lambda: desk.engine.failed(executions[5], ValueError("no"))

    meeting.results(run_id, calls)

    row = desk.rows(run_id)["b5"].row
    assert (row.state, row.owner, row.attempt) == ("ready", "timer", 1)
    assert desk.hinted() == []
    assert_gap_free(desk, run_id)


def test_large_answers_among_small_ones_are_all_kept(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)
    sizes = [10 if number % 3 else 50_000 for number in range(len(executions))]

    meeting.results(
        run_id,
        [
            lambda one=one, size=size: desk.engine.answered(one, "x" * size)
            for one, size in zip(executions, sizes, strict=True)
        ],
    )

    assert [len(desk.rows(run_id)[branch].output) for branch in BRANCHES] == sizes
    end_well(desk, run_id)


def test_the_last_steps_of_a_run_end_it_once_with_all_that_they_gave(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk, draw("s -> split_1 -> a", "split_1 -> b", "split_1 -> c"))
    executions = claimed(desk, run_id, ["a", "b", "c"])

    changes = meeting.results(
        run_id, [lambda one=one: desk.engine.answered(one, one.node.step_id) for one in executions]
    )

    assert sum(change.ended for change in changes) == 1
    assert desk.status(run_id) is SegmentStatus.COMPLETED
    last = desk.told(run_id)[-1]
    assert last.event_type is EventType.SEGMENT_COMPLETED
    assert last.payload["output"] == {"a": "a", "b": "b", "c": "c"}
    assert_gap_free(desk, run_id)


def test_what_a_handler_remembers_is_kept_for_each_of_those_that_meet(desk: Desk, meeting: Meeting) -> None:
    run_id = at_the_branches(desk, max_retries=1)
    executions = claimed(desk, run_id)
    for execution in executions:
        execution.ctx.set_state("who", execution.node.step_id)

    meeting.results(run_id, [lambda one=one: desk.engine.failed(one, ValueError("again")) for one in executions])

    works = [desk.store.gather(TENANT, run_id, (branch, 1)) for branch in BRANCHES]
    assert [work and work.local_state for work in works] == [{"who": branch} for branch in BRANCHES]


def test_a_lost_connection_costs_those_who_shared_it_one_more_attempt(
    desk: Desk, meeting: Meeting, other: Database
) -> None:
    run_id = at_the_branches(desk)
    executions = claimed(desk, run_id)

    with other.hot(TENANT) as sweep:
        assert sweep.script(LOCK_STEP, (TENANT, run_id, "b9"), begin=True)
        with meeting.of(run_id, answering(desk, executions)) as begun:
            begun[0].result(20)
            wait_until(meeting.waits, "the others to wait for a step")
            meeting.cut_off()
            sweep.rollback()
            changes = [call.result(20) for call in begun]

    assert all(change.applied for change in changes)
    end_well(desk, run_id)


# -- two processes


def test_however_threads_and_processes_meet_each_result_counts_once(database: Database, database_url: str) -> None:
    """Two stores stand for two processes; each branch is claimed and answered by whoever gets there first."""
    second = Database(database_url, application_name="second")
    desks = [Desk(PostgresRunStore(one), PostgresEventStore(one)) for one in (database, second)]
    wide = [f"b{number}" for number in range(40)]
    segment = draw("s -> split_1", *(f"split_1 -> {branch} -> all_1" for branch in wide), "all_1 -> end")

    for _ in range(3):
        run_id = at_the_branches(desks[0], segment)

        def take_all(desk: Desk, run_id: str = run_id) -> Counter[str]:
            answered: Counter[str] = Counter()
            for branch in wide:
                execution = desk.begin(run_id, branch)
                if execution is not None:
                    assert desk.engine.answered(execution, branch).applied
                    answered[branch] += 1
            return answered

        done = at_once([lambda desk=desk: take_all(desk) for desk in desks for _ in range(6)])

        assert sum(done, Counter()) == Counter(wide)
        assert [step for desk in desks for step in desk.hinted()] == ["all_1"]
        desks[1].do(run_id, "all_1", "end")
        assert desks[0].status(run_id) is SegmentStatus.COMPLETED
        assert told_of(desks[0], run_id, EventType.STEP_STARTED) == Counter(["s", "split_1", *wide, "all_1", "end"])
        assert told_of(desks[0], run_id, EventType.STEP_COMPLETED) == Counter(["s", "split_1", *wide, "all_1", "end"])
        assert_gap_free(desks[0], run_id)
        desks[1].hinted()
    second.close()
