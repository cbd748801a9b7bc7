"""Pausing runs and going on with them, in memory and in Postgres alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from llmteam.canvas import pauses
from llmteam.canvas.exceptions import (
    LLMTeamError,
    RunStateError,
    SnapshotIntegrityError,
    SnapshotNotFoundError,
    SnapshotStaleError,
)
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.events.models import EventType
from tests.conformance.desk import TENANT, at_once, new_run
from tests.conformance.ward import Ward
from tests.drawing import draw
from tests.waiting import wait_until

ROW = draw("a -> b -> c")
FORK = draw("split_1 -> b", "split_1 -> c")


def pause(ward: Ward, run_id: str) -> str:
    """Pause at once; the id of the snapshot."""
    snapshot_id = ward.surgery.pause(TENANT, run_id, grace=0.0)
    assert snapshot_id is not None
    return snapshot_id


def begin_pause(ward: Ward, run_id: str, grace: float = 30.0) -> Change:
    """Let a run drain, and leave it to others to let the pause take hold."""
    header = ward.store.header(TENANT, run_id)
    assert header is not None
    now = ward.engine.clock()
    return ward.store.apply(
        header, [], lambda moment: pauses.begin_pause(moment, now + timedelta(seconds=grace)), {}, now=now
    )


def snapshot_of(ward: Ward, snapshot_id: str) -> SegmentSnapshot:
    snapshot = ward.store.snapshot(TENANT, snapshot_id)
    assert snapshot is not None
    return snapshot


def told_at(ward: Ward, run_id: str, kind: EventType) -> datetime:
    return next(event.timestamp for event in reversed(ward.told(run_id)) if event.event_type == kind)


# -- pausing


def test_nothing_moves_in_a_paused_run(ward: Ward) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a")
    ward.hinted()

    snapshot_id = pause(ward, run_id)

    record, row = ward.record(run_id), ward.row(run_id, "b")
    assert (record.status, record.snapshot_id, record.wake_at) == (SegmentStatus.PAUSED, snapshot_id, None)
    assert (row.state, row.owner, row.wake_at) == ("ready", "pause", None)
    assert ward.begin(run_id, "b") is None
    ward.pass_time(10_000)
    assert ward.sweeper.sweep_all() == 0
    assert ward.hinted() == []
    assert ward.last(run_id).event_type is EventType.SEGMENT_PAUSED


def test_a_pause_takes_hold_when_the_last_running_step_is_done(ward: Ward) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    ward.hinted()

    with ThreadPoolExecutor(1) as pool:
        paused = pool.submit(ward.surgery.pause, TENANT, run_id, 30.0)
        wait_until(lambda: ward.status(run_id) is SegmentStatus.PAUSING, "the run to drain")
        assert ward.begin(run_id, "b") is None
        assert ward.engine.answered(execution, "in time").applied
        snapshot_id = paused.result(timeout=20)

    assert ward.status(run_id) is SegmentStatus.PAUSED
    assert ward.hinted() == []
    snapshot = snapshot_of(ward, snapshot_id)
    assert (snapshot.completed_steps, snapshot.step_outputs) == (["a"], {"a": "in time"})
    assert not any(step.repeats for step in snapshot.steps)


def test_what_still_runs_when_the_grace_is_over_runs_again_and_has_not_failed(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=0)
    execution = ward.claim(run_id, "a")

    snapshot_id = pause(ward, run_id)

    assert not ward.engine.answered(execution, "late").applied
    assert not ward.engine.failed(execution, ValueError("late")).applied
    assert [step.step_id for step in snapshot_of(ward, snapshot_id).steps if step.repeats] == ["a"]
    assert ward.last(run_id).payload["repeats"] == ["a"]
    assert ward.record(run_id).running == 0
    ward.surgery.resume(TENANT, run_id)
    again = ward.claim(run_id, "a")
    assert (again.fence, again.ctx.attempt, ward.row(run_id, "a").losses) == (2, 1, 0)
    assert not ward.engine.answered(execution, "much later").applied


def test_answers_that_come_while_the_run_drains_count_and_what_they_make_ready_waits(ward: Ward) -> None:
    run_id = ward.start(draw("split_1 -> b -> d", "split_1 -> c"), max_retries=1, retry_delay=60.0)
    ward.do(run_id, "split_1")
    one, other = ward.claim(run_id, "b"), ward.claim(run_id, "c")
    assert begin_pause(ward, run_id).applied
    ward.hinted()

    assert ward.engine.answered(one, 1).applied
    assert ward.engine.failed(other, ValueError("broken")).applied

    assert ward.hinted() == []
    assert (ward.status(run_id), ward.record(run_id).running) == (SegmentStatus.PAUSING, 0)
    assert ward.surgery.take_hold(TENANT, run_id)
    rows = ward.rows(run_id)
    assert (rows["d"].row.owner, rows["d"].held_owner) == ("pause", "queue")
    assert (rows["c"].row.attempt, rows["c"].held_owner) == (1, "timer")


def test_a_step_that_became_ready_while_the_run_drained_is_hinted_at_when_it_goes_on(ward: Ward) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    begin_pause(ward, run_id)
    ward.hinted()
    ward.engine.answered(execution, 1)
    assert (ward.states(run_id)["b"], ward.hinted()) == ("ready", [])
    ward.surgery.take_hold(TENANT, run_id)

    ward.surgery.resume(TENANT, run_id)

    assert ward.hinted() == ["b"]
    ward.do(run_id, "b", "c")
    assert ward.status(run_id) is SegmentStatus.COMPLETED


def test_a_run_that_ends_while_it_drains_is_not_paused(ward: Ward) -> None:
    run_id = ward.start(draw("a"))
    execution = ward.claim(run_id, "a")
    begin_pause(ward, run_id)

    ward.engine.answered(execution, 1)

    assert ward.status(run_id) is SegmentStatus.COMPLETED
    assert not ward.surgery.take_hold(TENANT, run_id)
    assert ward.surgery.pause(TENANT, run_id, grace=0.0) is None


def test_a_pause_of_what_is_not_there_or_over_is_none(ward: Ward) -> None:
    run_id = ward.start(draw("a"))
    ward.do(run_id, "a")

    assert ward.surgery.pause(TENANT, run_id) is None
    assert ward.surgery.pause(TENANT, "unknown") is None
    assert ward.surgery.pause("globex", run_id) is None


def test_who_pauses_a_paused_run_gets_the_snapshot_that_it_has(ward: Ward) -> None:
    run_id = ward.start(ROW)

    found = at_once([lambda: ward.surgery.pause(TENANT, run_id, grace=0.0) for _ in range(4)])

    assert set(found) == {ward.record(run_id).snapshot_id}
    assert pause(ward, run_id) == found[0]
    assert ward.kinds(run_id).count(EventType.SEGMENT_PAUSED) == 1


# -- time


def test_timers_and_the_deadline_of_the_run_are_later_by_exactly_as_long_as_it_stood(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=1, retry_delay=60.0, timeout_seconds=600.0)
    ward.engine.failed(ward.claim(run_id, "a"), ValueError("broken"))
    timer, deadline = ward.row(run_id, "a").wake_at, ward.record(run_id).deadline
    assert timer is not None
    assert deadline is not None
    pause(ward, run_id)
    began = ward.record(run_id).paused_at
    assert began is not None
    ward.pass_time(5_000)
    assert ward.sweeps.late_runs(10) == [], "a paused run is not over time"
    assert not ward.engine.expire(TENANT, run_id)

    ward.surgery.resume(TENANT, run_id)

    went_on = told_at(ward, run_id, EventType.SEGMENT_RESUMED)
    row, record = ward.row(run_id, "a"), ward.record(run_id)
    assert row.wake_at is not None
    assert record.deadline is not None
    assert (row.owner, row.wake_at - went_on) == ("timer", timer - began)
    assert record.deadline - went_on == deadline - began
    assert record.wake_at == record.deadline
    assert ward.last(run_id).payload["paused_seconds"] == pytest.approx(5_000, abs=60)
    assert ward.begin(run_id, "a") is None, "the time of its next attempt has not come"
    ward.pass_time(61)
    assert ward.begin(run_id, "a") is not None


def test_a_run_is_over_time_once_it_has_moved_for_long_enough(ward: Ward) -> None:
    run_id = ward.start(ROW, timeout_seconds=60.0)
    pause(ward, run_id)
    ward.pass_time(1_000)
    ward.surgery.resume(TENANT, run_id)
    assert not ward.engine.expire(TENANT, run_id)
    ward.pass_time(61)

    assert ward.sweeper.sweep("runs") == 1

    assert ward.status(run_id) is SegmentStatus.TIMEOUT


# -- going on


def test_a_paused_run_can_be_cancelled(ward: Ward) -> None:
    run_id = ward.start(ROW)
    snapshot_id = pause(ward, run_id)

    assert ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert set(ward.states(run_id).values()) == {"cancelled"}
    assert ward.last(run_id).event_type is EventType.SEGMENT_CANCELLED
    with pytest.raises(RunStateError):
        ward.surgery.resume(TENANT, run_id)
    with pytest.raises(SnapshotStaleError):
        ward.surgery.resume(TENANT, snapshot_id)


@pytest.mark.parametrize("by", ["run", "snapshot"])
def test_a_run_goes_on_by_its_own_name_or_its_snapshots(ward: Ward, by: str) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a")
    snapshot_id = pause(ward, run_id)
    ward.hinted()

    assert ward.surgery.resume(TENANT, run_id if by == "run" else snapshot_id) == run_id

    assert ward.hinted() == ["b"]
    record = ward.record(run_id)
    assert (record.status, record.paused_at, record.snapshot_id) == (SegmentStatus.RUNNING, None, None)
    assert ward.last(run_id).payload["resumed_from"] == snapshot_id
    ward.do(run_id, "b", "c")
    assert ward.status(run_id) is SegmentStatus.COMPLETED


def test_the_snapshot_of_an_earlier_pause_is_stale(ward: Ward) -> None:
    run_id = ward.start(ROW)
    first = pause(ward, run_id)
    ward.surgery.resume(TENANT, first)
    with pytest.raises(SnapshotStaleError):
        ward.surgery.resume(TENANT, first)
    second = pause(ward, run_id)

    with pytest.raises(SnapshotStaleError):
        ward.surgery.resume(TENANT, first)

    assert ward.status(run_id) is SegmentStatus.PAUSED
    assert ward.surgery.resume(TENANT, second) == run_id


def test_only_a_paused_run_goes_on(ward: Ward) -> None:
    run_id = ward.start(ROW)

    with pytest.raises(RunStateError, match="not paused"):
        ward.surgery.resume(TENANT, run_id)
    with pytest.raises(SnapshotNotFoundError):
        ward.surgery.resume(TENANT, "unknown")
    snapshot_id = pause(ward, run_id)
    with pytest.raises(SnapshotNotFoundError):
        ward.surgery.resume("globex", snapshot_id)


def test_of_many_who_resume_a_run_one_does(ward: Ward) -> None:
    run_id = ward.start(ROW)
    snapshot_id = pause(ward, run_id)

    def resume() -> bool:
        try:
            return ward.surgery.resume(TENANT, snapshot_id) == run_id
        except LLMTeamError:
            return False

    assert sum(at_once([resume for _ in range(4)])) == 1

    assert ward.kinds(run_id).count(EventType.SEGMENT_RESUMED) == 1


def test_a_run_that_was_paused_anywhere_ends_as_if_it_had_not_been(ward: Ward) -> None:
    straight, stopped = ward.start(ROW), ward.start(ROW)
    ward.do(straight, "a", "b", "c", answer={"n": 1})

    for step in ("a", "b", "c"):
        pause(ward, stopped)
        ward.surgery.resume(TENANT, stopped)
        ward.claim(stopped, step)
        pause(ward, stopped)
        ward.surgery.resume(TENANT, stopped)
        ward.do(stopped, step, answer={"n": 1})

    assert ward.store.outputs(TENANT, stopped) == ward.store.outputs(TENANT, straight)
    assert ward.states(stopped) == ward.states(straight)


# -- snapshots


def test_a_snapshot_tells_what_was_done_and_what_was_waited_for(ward: Ward) -> None:
    run_id = ward.start(FORK, max_retries=1, retry_delay=60.0)
    ward.do(run_id, "split_1", answer={"x": 1})
    ward.engine.failed(ward.claim(run_id, "b"), ValueError("broken"))
    ward.claim(run_id, "c")

    snapshot = snapshot_of(ward, pause(ward, run_id))

    assert (snapshot.run_id, snapshot.tenant_id, snapshot.segment_id) == (run_id, TENANT, "drawn")
    assert snapshot.definition_hash == ward.record(run_id).definition_hash
    assert (snapshot.completed_steps, snapshot.current_step) == (["split_1"], "c")
    assert snapshot.step_outputs == {"split_1": {"x": 1}}
    steps = {step.step_id: step for step in snapshot.steps}
    assert (steps["b"].waits_for, steps["b"].attempt, steps["b"].repeats) == ("timer", 1, False)
    assert (steps["c"].waits_for, steps["c"].state, steps["c"].repeats) == ("lease", "running", True)
    assert steps["split_1"].decisions == (1,)


def test_a_snapshot_that_was_changed_does_not_fit_its_checksum(ward: Ward) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a", answer=[1, 2.5, "é", None])
    snapshot = snapshot_of(ward, pause(ward, run_id))
    document = snapshot.to_dict()

    assert snapshot.verify()
    assert SegmentSnapshot.from_dict(document) == snapshot

    for change in (
        {"step_outputs": {"a": 2}},
        {"completed_steps": []},
        {"input_data": {"more": True}},
        {"checksum": "0" * 64},
        {"steps": []},
    ):
        assert not snapshot.model_copy(update=change).verify()
        with pytest.raises(SnapshotIntegrityError):
            SegmentSnapshot.from_dict({**document, **change})


def test_a_snapshot_refers_to_large_outputs(ward: Ward) -> None:
    given = '{"text":"' + "y" * 20_000 + '"}'
    assert ward.engine.submit(new_run(ROW, "large", input_text=given))
    ward.do("large", "a", answer="x" * 20_000)

    snapshot = snapshot_of(ward, pause(ward, "large"))

    assert set(snapshot.input_data) == {"$ref"}
    assert set(snapshot.step_outputs["a"]) == {"$ref"}
    assert len(snapshot.step_outputs["a"]["$ref"]) == 64
    assert len(str(snapshot.to_dict())) < 5_000
    ward.surgery.resume(TENANT, "large")
    assert ward.claim("large", "b").input == {"input": "x" * 20_000}


def test_another_tenant_sees_no_snapshot(ward: Ward) -> None:
    snapshot_id = pause(ward, ward.start(ROW))

    assert ward.store.snapshot("globex", snapshot_id) is None
    assert ward.store.snapshot(TENANT, "unknown") is None
