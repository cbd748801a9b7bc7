"""Snapshots that runs take of themselves, in memory and in Postgres alike: each agrees with the rows of its moment."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmteam.canvas.exceptions import SnapshotStaleError
from llmteam.canvas.ports import Ask
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Change, SegmentStatus, StepState
from llmteam.canvas.stores import MemoryRunStore
from llmteam.ids import utc_now
from llmteam.licensing import License, LicenseTier, MemoryLicenseStore, TenantLicenses
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.persistence import PipelinePhase, PipelineSnapshot, SnapshotManager, SnapshotType
from llmteam.persistence.stores import AUTO_KEPT, MemorySnapshotStore
from llmteam.tenancy import TenantContext
from tests.conformance.desk import TENANT, at_once
from tests.conformance.ward import Ward
from tests.drawing import draw
from tests.unit.human.samples import request as asked_of

ROW = draw("a -> b -> c -> d -> e")


def taken(ward: Ward, run_id: str) -> list[PipelineSnapshot]:
    """All snapshots of a run, oldest first."""
    with TenantContext(TENANT):
        listed = asyncio.run(SnapshotManager(ward.store.snapshots).list_snapshots("drawn", 10_000))
    return [one for one in reversed(listed) if one.run_id == run_id]


def states_in(snapshot: PipelineSnapshot) -> dict[str, str]:
    segment = SegmentSnapshot.of_pipeline(snapshot)
    assert segment is not None
    return {step.step_id: step.state for step in segment.steps}


def checkpoint(ward: Ward, run_id: str, step_id: str, answer: Any = 1) -> Change:
    """A step whose handler asks for a snapshot."""
    execution = ward.claim(run_id, step_id)
    execution.ctx.checkpoint()
    return ward.engine.answered(execution, answer)


def limited(ward: Ward, most: int) -> None:
    """Give the tenant a licence for so many snapshots."""
    given = License.of_operator(LicenseTier.COMMUNITY, utc_now())
    given.limits = {"snapshots": most}
    if isinstance(ward.store, PostgresRunStore):
        PostgresLicenseStore(ward.store.snapshots._database).put(TENANT, given, "ann", utc_now())
        return
    assert isinstance(ward.store, MemoryRunStore)
    licences = MemoryLicenseStore()
    licences.put(TENANT, given, "ann", utc_now())
    ward.store.snapshots = MemorySnapshotStore(limit_of=TenantLicenses(licences).licensed("snapshots"))


def test_each_so_many_completed_steps_leave_a_snapshot_of_their_moment(ward: Ward) -> None:
    run_id = ward.start(ROW, snapshot_interval=2, input_text='{"n": 417}')
    seen = {}
    for step_id in "abcde":
        ward.do(run_id, step_id, answer={"at": step_id})
        seen[step_id] = ward.states(run_id)

    first, second = taken(ward, run_id)
    segment = SegmentSnapshot.of_pipeline(first)

    assert (states_in(first), states_in(second)) == (seen["b"], seen["d"])
    assert {first.snapshot_type, second.snapshot_type} == {SnapshotType.AUTO}
    assert (first.phase, first.completed_steps, first.next_steps) == (PipelinePhase.RUNNING, ["a", "b"], ["c"])
    assert segment is not None
    assert segment.verify()
    assert segment.input_data == {"n": 417}
    assert segment.step_outputs == {"a": {"at": "a"}, "b": {"at": "b"}}
    assert segment.current_step == "c"


def test_the_last_step_leaves_one_of_a_run_that_is_over(ward: Ward) -> None:
    run_id = ward.start(draw("a -> b"), snapshot_interval=2)

    ward.do(run_id, "a", "b")

    (last,) = taken(ward, run_id)
    assert (last.phase, last.completed_steps) == (PipelinePhase.COMPLETED, ["a", "b"])
    assert last.metadata == {"status": "completed"}


def test_a_run_that_does_not_ask_for_snapshots_leaves_none(ward: Ward) -> None:
    run_id, failed = ward.start(draw("a -> b")), ward.start(draw("a"))

    ward.do(run_id, "a", "b")
    ward.engine.failed(ward.claim(failed, "a"), ValueError("no"))

    assert taken(ward, run_id) == taken(ward, failed) == []


@pytest.mark.parametrize("options", [{"snapshot_interval": 9}, {"snapshot_on_error": True}])
def test_a_failure_leaves_a_snapshot(ward: Ward, options: dict[str, Any]) -> None:
    run_id = ward.start(draw("split_1 -> a", "split_1 -> b"), **options)
    ward.do(run_id, "split_1")

    ward.engine.failed(ward.claim(run_id, "a"), ValueError("no more paper"))

    (last,) = taken(ward, run_id)
    assert (last.snapshot_type, last.phase) == (SnapshotType.ERROR, PipelinePhase.FAILED)
    assert states_in(last) == ward.states(run_id) == {"split_1": "completed", "a": "failed", "b": "cancelled"}
    assert last.metadata == {"status": "failed", "error_type": "ValueError"}
    assert "paper" not in str(last.to_dict())


def test_so_do_lost_workers_and_time_that_is_over_but_no_cancelling(ward: Ward) -> None:
    lost, late, cancelled = (ward.start(draw("a"), snapshot_on_error=True, timeout_seconds=60) for _ in range(3))
    silent = ward.start(draw("a"), snapshot_interval=1, snapshot_on_error=False)
    for _ in range(5):
        assert ward.lose(ward.claim(lost, "a"))
    ward.engine.failed(ward.claim(silent, "a"), ValueError("no"))
    ward.engine.end(TENANT, cancelled, SegmentStatus.CANCELLED)
    ward.pass_time(61)
    ward.engine.expire(TENANT, late)

    assert [one.metadata["status"] for one in taken(ward, lost)] == ["failed"]
    assert [one.metadata["status"] for one in taken(ward, late)] == ["timeout"]
    assert taken(ward, cancelled) == taken(ward, silent) == []


def test_a_step_asks_for_a_snapshot_which_comes_with_its_answer(ward: Ward) -> None:
    run_id = ward.start(draw("a -> b"), max_retries=1)
    failing = ward.claim(run_id, "a")
    failing.ctx.checkpoint()

    ward.engine.failed(failing, ValueError("not yet"))
    before = taken(ward, run_id)
    ward.pass_time(60)
    checkpoint(ward, run_id, "a", {"n": 7})

    (one,) = taken(ward, run_id)
    assert before == []
    assert (one.snapshot_type, one.completed_steps) == (SnapshotType.CHECKPOINT, ["a"])
    assert states_in(one) == ward.states(run_id)


def test_an_answer_that_is_given_twice_leaves_one_snapshot(ward: Ward) -> None:
    run_id = ward.start(draw("a -> b"), snapshot_interval=1)
    execution = ward.claim(run_id, "a")
    execution.ctx.checkpoint()

    ward.engine.answered(execution, 1)
    ward.engine.answered(execution, 1)

    assert len(taken(ward, run_id)) == 1


def test_steps_that_finish_at_once_leave_as_many_as_one_after_the_other(ward: Ward) -> None:
    run_id = ward.start(draw("split_1", *(f"split_1 -> b{n} -> all_1" for n in range(12))), snapshot_interval=4)
    ward.do(run_id, "split_1")
    claims = [ward.claim(run_id, f"b{number}") for number in range(12)]

    at_once([lambda claim=claim: ward.engine.answered(claim, 1) for claim in claims])  # type: ignore[misc]

    counts = [sum(state == StepState.COMPLETED for state in states_in(one).values()) for one in taken(ward, run_id)]
    assert counts == [4, 8, 12]


def test_of_a_run_the_latest_few_are_kept(ward: Ward) -> None:
    steps = [f"s{number}" for number in range(AUTO_KEPT + 3)]
    run_id, other = ward.start(draw(" -> ".join(steps)), snapshot_interval=1), ward.start(ROW, snapshot_interval=1)
    ward.do(other, "a")
    checkpoint(ward, run_id, steps[0])

    ward.do(run_id, *steps[1:])

    assert [len(one.completed_steps) for one in taken(ward, run_id)] == [1, *range(4, len(steps) + 1)]
    assert len(taken(ward, other)) == 1


def test_what_is_large_is_a_reference(ward: Ward) -> None:
    run_id = ward.start(draw("a -> b"), snapshot_interval=1, input_text=f'"{"i" * 1500}"')

    ward.do(run_id, "a", answer="x" * 2000)

    (one,) = taken(ward, run_id)
    segment = SegmentSnapshot.of_pipeline(one)
    assert segment is not None
    assert set(segment.step_outputs["a"]) == set(segment.input_data) == {"$ref", "bytes"}
    assert segment.step_outputs["a"]["bytes"] == 2002


def test_who_is_asked_stands_in_it(ward: Ward) -> None:
    run_id = ward.start(draw("split_1 -> human_1", "split_1 -> b -> c"), snapshot_interval=2)
    ward.do(run_id, "split_1")
    ward.engine.answered(ward.claim(run_id, "human_1"), Ask(asked_of(request_id="")))

    ward.do(run_id, "b")

    case = ward.store.interactions.case_of_step(TENANT, run_id, "human_1", 1)
    assert case is not None
    (one,) = taken(ward, run_id)
    assert (one.phase, one.pending_approvals) == (PipelinePhase.WAITING_HUMAN, [case.request.request_id])


def test_where_the_licence_has_no_room_the_run_goes_on_without(ward: Ward) -> None:
    limited(ward, 1)
    run_id = ward.start(ROW, snapshot_on_error=True)
    checkpoint(ward, run_id, "a")

    checkpoint(ward, run_id, "b")
    pause = ward.surgery.pause(TENANT, run_id, grace=0.0)
    assert pause is not None
    ward.surgery.resume(TENANT, pause)
    ward.engine.failed(ward.claim(run_id, "c"), ValueError("no"))

    kinds = [one.snapshot_type for one in taken(ward, run_id)]
    assert ward.status(run_id) is SegmentStatus.FAILED
    assert kinds == [SnapshotType.CHECKPOINT, SnapshotType.PAUSE], "a pause is kept whatever the licence says"


def test_one_of_its_own_is_read_but_a_run_does_not_resume_from_it(ward: Ward) -> None:
    run_id = ward.start(ROW, snapshot_interval=1)
    ward.do(run_id, "a")
    (auto,) = taken(ward, run_id)
    pause = ward.surgery.pause(TENANT, run_id, grace=0.0)

    found = ward.store.snapshot(TENANT, auto.snapshot_id)

    assert found == SegmentSnapshot.of_pipeline(auto)
    with pytest.raises(SnapshotStaleError):
        ward.surgery.resume(TENANT, auto.snapshot_id)
    assert pause is not None
    assert ward.surgery.resume(TENANT, pause) == run_id
    assert [one.snapshot_type for one in taken(ward, run_id)] == [SnapshotType.AUTO, SnapshotType.PAUSE]


def test_one_that_is_too_large_is_left_out_and_the_step_is_over(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(ward.store, MemoryRunStore):
        ward.store.snapshots = MemorySnapshotStore(max_bytes=100)
    else:
        monkeypatch.setattr("llmteam.persistence.postgres.keep_snapshot.__kwdefaults__", {"max_bytes": 100})
    run_id = ward.start(ROW, snapshot_interval=1)

    with caplog.at_level(logging.WARNING):
        ward.do(run_id, "a")

    assert ward.states(run_id)["a"] == "completed"
    assert "no snapshot is kept" in caplog.text
    assert taken(ward, run_id) == []
