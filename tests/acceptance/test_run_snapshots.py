"""Snapshots that runs take of themselves on workers that are killed: there with the step's result, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from llmteam.canvas import RunConfig
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.persistence import PipelinePhase, PipelineSnapshot, SnapshotManager, SnapshotType
from llmteam.tenancy import TenantContext
from tests.acceptance.place import TENANT, Place, place
from tests.drawing import draw
from tests.failpoints import KILL
from tests.services import PostgresService, redis_client

pytestmark = pytest.mark.timeout(240)

ROW = draw("a -> b -> c", work="traced", segment_id="row")
#: Where a process dies: before the step's result is written, while the snapshot is, and after both are committed.
POINTS = {"apply.before": "b", "capture.before": "", "capture.after": "", "apply.after": "b"}


@pytest.fixture(scope="module")
def here(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a fleet of processes, which sweep by themselves."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with (
        place(tmp_path_factory.mktemp("snapshots"), own.create(), valkey) as here,
        here.line.started("worker", "--pool", "prefork", "--concurrency", "5") as worker,
    ):
        worker.wait_for("ready: llmteam.default", timeout=60)
        yield here
    own.drop_all()


@pytest.fixture(scope="module")
def killed(here: Place) -> dict[str, str]:
    """A run for each point, all started before the first is looked at, since each waits for a lease."""
    for point, step_id in POINTS.items():
        here.arm(point, f"at.{point}", step_id, KILL)
    return {point: here.start(ROW, f"at.{point}", config=RunConfig(snapshot_interval=1)) for point in POINTS}


def taken(here: Place, run_id: str, segment_id: str) -> list[PipelineSnapshot]:
    with TenantContext(TENANT):
        listed = asyncio.run(SnapshotManager(here.store.snapshots).list_snapshots(segment_id, 100))
    return [one for one in reversed(listed) if one.run_id == run_id]


def agrees(here: Place, snapshot: PipelineSnapshot) -> bool:
    """Whether the steps that are over in a snapshot are so in the rows, with what they gave."""
    segment, rows = SegmentSnapshot.of_pipeline(snapshot), here.rows(snapshot.run_id)
    assert segment is not None
    over = {step.step_id: (step.attempt, step.losses) for step in segment.steps if step.state == "completed"}
    kept = {step_id: (rows[step_id].row.attempt, rows[step_id].row.losses) for step_id in over}
    return (
        segment.verify()
        and over == kept
        and all(rows[name].output == output for name, output in segment.step_outputs.items())
    )


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_is_killed_leaves_neither_a_snapshot_too_many_nor_one_too_few(
    here: Place, killed: dict[str, str], point: str
) -> None:
    run_id = killed[point]

    assert here.ended(run_id).outputs == {"output": "c(b(a))"}

    found = taken(here, run_id, "row")
    assert here.passed(point, run_id, POINTS[point])
    assert [one.completed_steps for one in found] == [["a"], ["a", "b"], ["a", "b", "c"]]
    assert [one.phase for one in found] == [*[PipelinePhase.RUNNING] * 2, PipelinePhase.COMPLETED]
    assert all(agrees(here, one) for one in found)


def test_a_step_that_asks_and_a_run_that_fails_leave_one_each(here: Place) -> None:
    config = {"a": {"checkpoint": True}, "b": {"fail": 9, "retry_count": 1}}
    segment = draw("a -> b", work="traced", segment_id="failing", config=config)

    run_id = here.start(segment, config=RunConfig(snapshot_on_error=True))
    here.ended(run_id)

    first, last = taken(here, run_id, "failing")
    assert (first.snapshot_type, last.snapshot_type) == (SnapshotType.CHECKPOINT, SnapshotType.ERROR)
    assert (first.completed_steps, last.phase) == (["a"], PipelinePhase.FAILED)
    assert last.metadata == {"status": "failed", "error_type": "ValueError"}
