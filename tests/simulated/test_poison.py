"""Steps that take their worker with them, and those beside them; and what a long queue costs while nobody works."""

from __future__ import annotations

from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.sweeper import BATCH
from tests.conformance.desk import new_run
from tests.drawing import draw
from tests.simulated.replies import Replies
from tests.simulated.schedule import EPOCH
from tests.simulated.world import TENANT, World

ONE = draw("a")


def start(world: World, run_id: str, *, poison: bool = False) -> None:
    replies = Replies(len(world.runs), poison=frozenset({"a"}) if poison else frozenset())
    world.start(new_run(ONE, run_id, max_retries=0), replies)


def test_poison_fails_after_five_losses_the_last_three_in_quarantine() -> None:
    world = World("poison")
    world.hire(8)
    world.hire(1, apart=True)
    world.sweep()
    start(world, "poison", poison=True)

    world.run_until_over(600.0)

    record = world.store.record(TENANT, "poison")
    assert record is not None
    assert record.error is not None
    assert (record.status, record.error.error_type) == (SegmentStatus.FAILED, "WorkerLostError")
    assert [worker.apart for worker in world.killed[2:]] == [True] * 3
    assert len(world.killed) == 5
    (row,) = [step.row for step in world.store.steps(TENANT, "poison")]
    assert (row.attempt, row.losses, row.fence) == (0, 5, 5)


def test_one_poison_among_two_hundred_innocents_costs_them_no_attempt() -> None:
    world = World("innocents")
    world.hire(300)
    world.hire(1, apart=True)
    world.sweep()
    names = [f"innocent-{number}" for number in range(200)]
    for name in names:
        start(world, name)
    start(world, "poison", poison=True)

    world.run_until_over(4000.0)

    assert world.status("poison") is SegmentStatus.FAILED
    assert {world.status(name) for name in names} == {SegmentStatus.COMPLETED}
    rows = [step.row for name in names for step in world.store.steps(TENANT, name)]
    assert max(row.losses for row in rows) == 2, "some were beside it when it killed the wide worker twice"
    assert {row.attempt for row in rows} == {0}
    assert len(world.killed) == 5
    for name in world.known():
        world.witness.settled(TENANT, name)


def test_ten_thousand_steps_in_a_queue_that_nobody_reads_are_hinted_at_seldom() -> None:
    world = World("backlog")
    beat = world.sweep()
    for number in range(10_000):
        start(world, f"run-{number}")
    world.run_for(0.0)
    assert len(world.broker.sent) == sum(world.broker.sent.values()) == 10_000

    found: list[int] = []
    while world.schedule.now < 120.0:
        before = sum(world.broker.sent.values())
        world.run_for(5.0)
        found.append(sum(world.broker.sent.values()) - before)

    assert beat.life == 0
    assert 0 < max(found) <= BATCH
    again = [number - 1 for number in world.broker.sent.values()]
    assert min(again) >= 1, "nothing is forgotten"
    assert max(again) < 3
    assert sum(world.broker.sent.values()) < 3 * 10_000
    assert world.schedule.clock() > EPOCH
