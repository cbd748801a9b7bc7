"""Whatever breaks, and whenever: each run ends as the state machine alone says. ``make simulate`` plays more of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.state import SegmentStatus
from llmteam.events.models import EventType
from tests.conformance.desk import new_run
from tests.drawing import compiled, draw
from tests.simulated.actors import Caller
from tests.simulated.histories import History, made_of_others, play
from tests.simulated.replies import STEP_TIMEOUT, Reference, Replies, policy
from tests.simulated.world import TENANT, World

#: Plays this one seed and nothing else.
SEED = os.environ.get("LLMTEAM_TEST_SEED")
#: How many seeds are played.
SEEDS = int(os.environ.get("LLMTEAM_TEST_SEEDS", "1000"))
#: Seeds of one test, which takes some seconds.
PART = 250


def parts() -> list[range]:
    if SEED is not None:
        return [range(int(SEED), int(SEED) + 1)]
    return [range(first, min(first + PART, SEEDS)) for first in range(0, SEEDS, PART)]


def played(seeds: range) -> Iterator[History]:
    for seed in seeds:
        try:
            yield play(seed)
        except Exception as exc:
            raise AssertionError(f"seed {seed}: {exc}; again with `make simulate SEED={seed}`") from exc


@pytest.mark.parametrize("seeds", parts(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_whatever_breaks_each_run_ends_as_the_state_machine_alone_says(seeds: range) -> None:
    seen: Counter[str] = Counter()

    for history in played(seeds):
        seen["compared"] += len(history.compared)
        seen["made of others"] += len(made_of_others(history.world))
        seen.update(kind for _, kind, _, _ in history.world.witness.trace)

    if len(seeds) == PART:
        faults = (EventType.STEP_LOST, EventType.STEP_RELEASED, EventType.STEP_RETRYING, EventType.SEGMENT_RESUMED)
        people = (EventType.HUMAN_TASK_COMPLETED, EventType.HUMAN_TASK_ESCALATED)
        assert min(seen[kind] for kind in (*faults, *people, EventType.STEP_DELAYED, "made of others")) > 0, seen
        assert seen["compared"] > PART / 2, "most runs of these histories are compared with nothing"


def test_a_seed_plays_the_same_history_in_every_process() -> None:
    program = "from tests.simulated.test_simulation import told; print(told(11))"
    command = [sys.executable, "-c", program]

    others = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True)
        for salt in ("1", "2")
    ]

    assert {other.stdout.strip() for other in others} == {told(11)}


def told(seed: int) -> str:
    """A digest of all that is told of the first histories from this seed on."""
    traces = [play(one).world.witness.trace for one in range(seed, seed + 5)]
    return hashlib.sha256(repr(traces).encode()).hexdigest()


# -- every single crash

SPLIT = ("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(3)), "all_1 -> e")
FIRST = ("s -> split_1", *(f"split_1 -> b{number} -> first_1" for number in range(3)))

CASES: dict[str, tuple[SegmentDefinition, Replies]] = {
    "chord": (draw(*SPLIT), Replies(1)),
    "first": (draw(*FIRST), Replies(1)),
    "loop": (draw("s -> if_1", "if_1.true -> s", "if_1.false -> e", max_visits=4), Replies(3)),
    "retries": (draw("a -> b -> c", "b.error -> c"), Replies(8, failing=0.5)),
    "hangs": (draw("a -> b"), Replies(4, hanging=0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_crash_at_any_one_commit_or_message_changes_nothing(case: str) -> None:
    segment, replies = CASES[case]
    alone = Reference(compiled(segment), replies, policy(2, 1.0), None).finished()
    calm = lived(segment, replies, None)

    for number in range(1, len(calm.faults.points) + 1):
        world = lived(segment, replies, number)
        where = f"crash {number}, {world.faults.points[number - 1]}"
        assert world.status("run") is alone.status, where
        if case != "first":
            assert world.store.outputs(TENANT, "run") == alone.results(), where
        world.witness.settled(TENANT, "run")

    kinds = {point.rpartition(" ")[2] for point in calm.faults.points}
    assert kinds >= {"create", "claim", "apply", "hold", "publish", "published", "renew", "take_due", "take_expired"}


def lived(segment: SegmentDefinition, replies: Replies, crash_at: int | None) -> World:
    """A run that is paused and resumed on its way, in a world where one process crashes once."""
    world = World("crash", crash_at=crash_at)
    caller = Caller(world, "operator")
    world.hire(2)
    world.hire(1, apart=True)
    world.sweep()
    world.start(new_run(segment, "run", max_retries=2, retry_delay=1.0, step_timeout=STEP_TIMEOUT), replies)
    world.schedule.after(1.5, lambda: caller.attempt(lambda: caller.surgery.pause(TENANT, "run", grace=2.0)))
    world.schedule.after(30.0, lambda: caller.attempt(lambda: caller.surgery.resume(TENANT, "run")))
    world.run_for(60.0)
    world.heal()
    world.run_until_over(1500.0)
    assert world.status("run") is not SegmentStatus.CANCELLED
    return world
