"""What every run store promises, in memory and in Postgres alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from llmteam.canvas.exceptions import UnknownSegmentError
from llmteam.canvas.records import RunRecord
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.dispatch import Hint
from llmteam.events import ErrorInfo, EventQuery, EventType, MemoryEventStore, WorktrailEvent
from llmteam.ids import utc_now
from tests.conformance.desk import TENANT, Desk, at_once, new_run
from tests.drawing import draw
from tests.unit.events.samples import event

BRANCHES = 20
WIDE = draw("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(BRANCHES)), "all_1 -> end")
ROW = draw("a -> b -> c")


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    if request.param == "memory":
        events = MemoryEventStore()
        return Desk(MemoryRunStore(sink=events.add), events)
    from llmteam.canvas.postgres import PostgresRunStore
    from llmteam.events.postgres import PostgresEventStore

    database: Database = request.getfixturevalue("database")
    return Desk(PostgresRunStore(database), PostgresEventStore(database))


def numbers(desk: Desk, run_id: str) -> list[int | None]:
    return [one.seq for one in desk.told(run_id)]


def gap_free(desk: Desk, run_id: str) -> bool:
    found = numbers(desk, run_id)
    return found == list(range(1, len(found) + 1))


# -- creating


def test_an_id_is_given_to_one_run(desk: Desk) -> None:
    run_id = desk.start(ROW)

    assert not desk.engine.submit(new_run(WIDE, run_id))

    assert set(desk.states(run_id)) == {"a", "b", "c"}
    assert numbers(desk, run_id) == [1]
    assert desk.hinted() == ["a"]


def test_of_many_who_start_one_id_one_starts_it(desk: Desk) -> None:
    started = at_once([lambda: desk.another_engine().submit(new_run(ROW, "r")) for _ in range(8)])

    assert sum(started) == 1
    assert desk.hinted() == ["a"]


def test_a_run_goes_on_behind_what_was_told_of_it_before_it_began(desk: Desk) -> None:
    desk.events.add([told("r"), told("r")])

    desk.start(ROW, run_id="r")
    desk.do("r", "a", "b", "c")

    assert desk.status("r") is SegmentStatus.COMPLETED
    assert gap_free(desk, "r")
    assert len(numbers(desk, "r")) == 2 + 2 + 2 * 3


def told(run_id: str) -> WorktrailEvent:
    """An event that is not the engine's."""
    return event(run_id, event_type=EventType.CUSTOM, tenant_id=TENANT)


def test_the_definition_comes_back_as_it_was_pinned(desk: Desk) -> None:
    run_id = desk.start(WIDE)
    header = desk.store.header(TENANT, run_id)
    assert header is not None

    pinned = desk.store.definition(TENANT, header.definition_hash)

    assert pinned.definition == WIDE
    assert pinned.facts["parallel_join"].kind == "join"


def test_a_definition_that_nobody_ran_is_unknown(desk: Desk) -> None:
    with pytest.raises(UnknownSegmentError):
        desk.store.definition(TENANT, "0" * 64)


# -- claiming


def test_of_many_who_claim_a_step_one_gets_it(desk: Desk) -> None:
    run_id = desk.start(ROW)

    claims = at_once([lambda: desk.begin(run_id, "a") for _ in range(8)])

    assert sum(claim is not None for claim in claims) == 1
    assert [one.event_type for one in desk.told(run_id)] == ["segment.started", "step.started"]


def test_what_is_not_due_cannot_be_claimed(desk: Desk) -> None:
    run_id = desk.start(ROW)

    assert desk.begin(run_id, "b") is None
    assert desk.begin(run_id, "a", visit=2) is None
    assert desk.begin("unknown", "a") is None
    desk.do(run_id, "a")
    assert desk.begin(run_id, "a") is None


def test_a_claim_holds_a_lease(desk: Desk) -> None:
    run_id = desk.start(ROW)
    desk.claim(run_id, "a")

    held = desk.rows(run_id)["a"]

    assert (held.holder, held.row.owner, held.row.fence) == ("desk", "lease", 1)
    assert held.lease_until is not None
    assert held.row.wake_at == held.lease_until
    assert held.row.started_at is not None
    assert abs(held.lease_until - held.row.started_at - timedelta(seconds=30)) < timedelta(seconds=5)


def test_a_step_of_a_run_that_is_over_cannot_be_claimed(desk: Desk) -> None:
    run_id = desk.start(ROW)
    work = desk.store.gather(TENANT, run_id, ("a", 1))
    assert work is not None
    desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert desk.begin(run_id, "a") is None


# -- finishing


def test_an_answer_counts_for_the_latest_claim_only(desk: Desk) -> None:
    run_id = desk.start(ROW, max_retries=2, retry_delay=0.0)
    late = desk.claim(run_id, "a")
    desk.engine.failed(late, ValueError("broken"))
    again = desk.claim(run_id, "a")
    before = numbers(desk, run_id)

    refused = desk.engine.answered(late, "late")

    assert not refused.applied
    assert numbers(desk, run_id) == before
    assert desk.states(run_id)["a"] == "running"
    assert desk.engine.answered(again, "in time").applied
    assert desk.rows(run_id)["a"].output == "in time"


def test_an_answer_that_comes_twice_sends_its_hints_again_and_changes_nothing(desk: Desk) -> None:
    run_id = desk.start(ROW)
    execution = desk.claim(run_id, "a")
    desk.engine.answered(execution, 1)
    desk.hinted()
    before = numbers(desk, run_id)

    again = desk.engine.answered(execution, 1)

    assert again.applied
    assert desk.hinted() == ["b"]
    assert numbers(desk, run_id) == before
    assert desk.rows(run_id)["a"].row.state == "completed"


def test_an_answer_to_a_cancelled_run_is_refused(desk: Desk) -> None:
    run_id = desk.start(ROW)
    execution = desk.claim(run_id, "a")
    assert desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    refused = desk.engine.answered(execution, 1)

    assert not refused.applied
    assert set(desk.states(run_id).values()) == {"cancelled"}
    assert [one.event_type for one in desk.told(run_id)][-1] == "segment.cancelled"
    assert not desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    rows = [record.row for record in desk.rows(run_id).values()]
    assert {(row.owner, row.wake_at) for row in rows} == {(None, None)}


def test_an_event_told_while_a_step_runs_is_not_lost_to_its_answer(desk: Desk) -> None:
    run_id = desk.start(ROW)
    execution = desk.claim(run_id, "a")
    desk.events.add([told(run_id)])

    assert desk.engine.answered(execution, 1).applied

    assert [one.event_type for one in desk.told(run_id)] == [
        *("segment.started", "step.started", "custom", "step.completed")
    ]
    assert gap_free(desk, run_id)


def test_what_a_handler_keeps_is_there_for_the_next_attempt(desk: Desk) -> None:
    run_id = desk.start(ROW, max_retries=1, retry_delay=0.0)
    first = desk.claim(run_id, "a")
    first.ctx.set_state("page", 3)
    desk.engine.failed(first, ValueError("broken"))

    assert desk.claim(run_id, "a").ctx.get_state("page") == 3


def test_the_failure_of_an_attempt_stands_in_the_row(desk: Desk) -> None:
    run_id = desk.start(ROW, max_retries=1, retry_delay=60.0)

    desk.engine.failed(desk.claim(run_id, "a"), ValueError("broken"))

    row = desk.rows(run_id)["a"].row
    assert row.error == ErrorInfo(error_type="ValueError", error_message="broken")
    assert (row.state, row.owner, row.attempt) == ("ready", "timer", 1)
    assert desk.begin(run_id, "a") is None, "the time of the next attempt has not come"


# -- many at once


def test_a_join_is_due_once_however_its_branches_finish(desk: Desk) -> None:
    run_id = desk.start(WIDE)
    desk.do(run_id, "s", "split_1")
    engines = [desk.another_engine() for _ in range(8)]
    claims = at_once([lambda n=n: desk.claim(run_id, f"b{n}") for n in range(BRANCHES)])
    desk.hinted()

    at_once([lambda n=n: engines[n % 8].answered(claims[n], n) for n in range(BRANCHES)])

    assert desk.hinted() == ["all_1"]
    join = desk.claim(run_id, "all_1")
    assert join.input == {f"branch_{n + 1}": n for n in range(BRANCHES)}
    assert gap_free(desk, run_id)
    record = desk.store.record(TENANT, run_id)
    assert record is not None
    assert record.steps_completed == BRANCHES + 2


def test_doubled_hints_and_doubled_answers_at_once_count_once(desk: Desk) -> None:
    run_id = desk.start(WIDE)
    desk.do(run_id, "s", "split_1")
    heads = [f"b{number}" for number in range(10)] * 2

    claims = [claim for claim in at_once([lambda b=b: desk.begin(run_id, b) for b in heads]) if claim is not None]
    at_once([lambda c=c: desk.engine.answered(c, 1) for c in claims * 2])

    assert len(claims) == 10
    told = Counter((one.event_type, one.step_id) for one in desk.told(run_id))
    assert max(told.values()) == 1
    assert gap_free(desk, run_id)


def test_a_run_ends_once_when_answers_and_a_cancel_meet(desk: Desk) -> None:
    run_id = desk.start(WIDE)
    desk.do(run_id, "s", "split_1")
    claims = [desk.claim(run_id, f"b{number}") for number in range(7)]
    answers = [lambda c=c: desk.engine.answered(c, 1).applied for c in claims]

    at_once([*answers, lambda: desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)])

    events = desk.told(run_id)
    assert [one.event_type for one in events if one.event_type.startswith("segment.")] == [
        *("segment.started", "segment.cancelled")
    ]
    assert events[-1].event_type == "segment.cancelled"
    assert gap_free(desk, run_id)
    assert set(desk.states(run_id).values()) <= {"completed", "cancelled"}


# -- showing


def test_runs_are_listed_newest_first_and_by_what_is_asked(desk: Desk) -> None:
    first, second, third = (desk.start(ROW), desk.start(WIDE), desk.start(ROW))
    desk.engine.end(TENANT, second, SegmentStatus.CANCELLED)

    def listed(**asked: object) -> list[str]:
        return [record.run_id for record in desk.store.records(TENANT, **asked)]  # type: ignore[arg-type]

    assert listed() == [third, second, first]
    assert listed(limit=1) == [third]
    assert listed(status=SegmentStatus.CANCELLED) == [second]
    assert listed(status=SegmentStatus.RUNNING, segment_id="drawn") == [third, first]
    assert listed(segment_id="other") == []


def test_a_list_goes_on_behind_a_run_also_among_runs_of_one_moment(desk: Desk) -> None:
    moment = utc_now()
    desk.engine.clock = lambda: moment
    if isinstance(desk.store, MemoryRunStore):
        desk.store._clock = desk.engine.clock
    ids = sorted((desk.start(ROW) for _ in range(5)), reverse=True)
    seen: list[RunRecord] = []

    while page := desk.store.records(TENANT, limit=2, before=(seen[-1].created_at, seen[-1].run_id) if seen else None):
        seen += page

    assert [record.run_id for record in seen] == ids
    assert {record.created_at for record in seen} == {moment}
    assert desk.store.records(TENANT, before=(moment - timedelta(seconds=1), ids[0])) == []
    assert len(desk.store.records(TENANT, before=(moment + timedelta(seconds=1), ""))) == 5


def test_steps_are_listed_as_they_began(desk: Desk) -> None:
    run_id = desk.start(draw("z -> b -> a -> never -> ever"))
    desk.do(run_id, "z", "b", "a")

    assert [record.row.step_id for record in desk.store.steps(TENANT, run_id)] == ["z", "b", "a", "ever", "never"]


def test_a_run_tells_its_options_and_its_context(desk: Desk) -> None:
    run = replace(
        new_run(ROW, "r", step_timeout=2.5, timeout_seconds=60.0), context={"data": {"x": 1}}, instance_id="i"
    )
    assert desk.engine.submit(run)

    header, record = desk.store.header(TENANT, "r"), desk.store.record(TENANT, "r")

    assert header is not None
    assert (header.options, header.context, header.instance_id) == (run.options, {"data": {"x": 1}}, "i")
    assert (header.segment_id, header.root_run_id) == ("drawn", "r")
    assert record is not None
    assert record.deadline == (record.started_at or record.created_at) + timedelta(seconds=60)


def test_another_tenants_run_is_not_there(desk: Desk) -> None:
    run_id = desk.start(ROW)

    assert desk.store.record("globex", run_id) is None
    assert desk.store.header("globex", run_id) is None
    assert desk.store.gather("globex", run_id, ("a", 1)) is None
    assert (desk.store.steps("globex", run_id), desk.store.records("globex")) == ([], [])
    assert desk.store.outputs("globex", run_id) == {}
    assert not desk.engine.end("globex", run_id, SegmentStatus.CANCELLED)
    assert desk.events.select(EventQuery(tenant_id="globex", run_id=run_id)) == []


def test_s3_a_hint_that_names_another_tenant_claims_nothing(desk: Desk) -> None:
    run_id = desk.start(draw("a"))

    forged = desk.engine.begin(Hint("somebody-else", run_id, "a", 1, ""))

    assert forged is None
    assert desk.rows(run_id)["a"].row.fence == 0
    assert desk.begin(run_id, "a") is not None
