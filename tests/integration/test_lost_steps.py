"""Leases that ran out are counted in Postgres, until a step that takes every worker with it has failed."""

from __future__ import annotations

from llmteam.canvas.recovery import Recovery
from llmteam.canvas.state import QUARANTINE_AFTER, QUARANTINE_LOSSES, SegmentStatus
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw


def test_a_step_that_takes_every_worker_with_it_fails_in_the_end(desk: Desk) -> None:
    run_id = desk.start(draw("a -> b"))
    recovery = Recovery(desk.engine)

    for losses in range(1, QUARANTINE_AFTER + QUARANTINE_LOSSES + 1):
        claimed = desk.claim(run_id, "a")
        assert recovery.lose(TENANT, run_id, claimed.key, claimed.fence)
        assert desk.rows(run_id)["a"].row.losses == losses

    assert desk.status(run_id) is SegmentStatus.FAILED
    error = desk.rows(run_id)["a"].row.error
    assert error is not None
    assert error.error_type == "WorkerLostError"


def test_losses_are_kept_when_the_step_ends_well(desk: Desk) -> None:
    run_id = desk.start(draw("a"))
    lost = desk.claim(run_id, "a")
    Recovery(desk.engine).lose(TENANT, run_id, lost.key, lost.fence)

    desk.do(run_id, "a")

    assert (desk.status(run_id), desk.rows(run_id)["a"].row.losses) == (SegmentStatus.COMPLETED, 1)
