"""Processes that are killed at every point between a hint and the next: each run ends as if nothing had happened.

One fleet of processes works on all runs of this module at once; each run has one process killed, at a point of its
own. Ids are those of the failure catalogue in docs/reliability.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llmteam.canvas import SegmentDefinition, SegmentResult
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.dispatch import celery_app
from llmteam.settings import Settings
from tests.acceptance.place import TENANT, Place, place, told
from tests.drawing import draw
from tests.failpoints import ERROR, KILL
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Shape:
    """A segment, and the step at which things happen."""

    segment: SegmentDefinition
    step_id: str


FAN = ("s -> split_1 -> a -> all_1 -> end", "split_1 -> b -> all_1", "split_1 -> c -> all_1")
WIDE = tuple(f"s -> b{number}" for number in range(10))


def shape(*lines: str, at: str, **how: object) -> Shape:
    return Shape(draw(*lines, work="traced", segment_id=f"at_{at}", **how), at)  # type: ignore[arg-type]


SHAPES = {
    "chain": shape("a -> b -> c", at="b"),
    "retry": shape("a -> b -> c", at="b", config={"b": {"fail": 1, "retry_count": 1}}),
    "branch": shape(*FAN, at="b"),
    "split": shape(*FAN, at="split_1"),
    "join": shape(*FAN, at="all_1"),
    "wide": shape(*WIDE, at="s", parallel_execution=True),
}
GATED = draw("a -> b -> c", work="traced", segment_id="gated", config={"b": {"gate": True}})
EVERYWHERE = ("chain", "retry", "branch", "split", "join")
HANDLERS = ("chain", "retry", "branch")


#: (point, what happens, shape) and, where it is not that of the shape, the step for which it happens.
Trial = tuple[str, str, str]
#: Steps whose hints are sent when the step of the shape is done.
NEXT = {"chain": "c", "retry": "c", "join": "end"}
TRIALS: dict[Trial, str] = {
    **{("", "", name): "" for name in SHAPES},
    **{("claim.before", KILL, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("claim.after", KILL, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("handler", KILL, name): SHAPES[name].step_id for name in HANDLERS},
    **{("apply.before", KILL, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("apply.after", KILL, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("send.after", KILL, name): step_id for name, step_id in NEXT.items()},
    ("publish.before", KILL, "wide"): "b5",
    ("publish.after", KILL, "split"): "b",
    ("chord.before", KILL, "split"): "all_1",
    ("chord.after", KILL, "split"): "all_1",
    ("due.after", KILL, "chain"): "b",
    ("expired.after", KILL, "chain"): "b",
    **{("claim.after", ERROR, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("apply.after", ERROR, name): SHAPES[name].step_id for name in EVERYWHERE},
    **{("send.after", ERROR, name): step_id for name, step_id in NEXT.items()},
    ("chord.after", ERROR, "split"): "all_1",
}
#: Points that are passed by whoever writes a new run.
STARTS = (("create.before", KILL), ("create.after", KILL), ("create.after", ERROR))
#: Points that are only passed when something else was lost before.
ALSO = {"due.after": "claim.before", "expired.after": "claim.after"}


@pytest.fixture(scope="module")
def here(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a fleet of processes, which sweep by themselves."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    processes = ("worker", "--pool", "prefork", "--concurrency", "8")
    with (
        place(tmp_path_factory.mktemp("crashes"), own.create(), valkey) as here,
        here.line.started(*processes) as worker,
    ):
        worker.wait_for("ready: llmteam.default", timeout=60)
        yield here
    own.drop_all()


@pytest.fixture(scope="module")
def runs(here: Place) -> dict[Trial, str]:
    """A run for each trial. All are started before the first is looked at, since each waits for a lease or a sweep."""
    for trial, step_id in TRIALS.items():
        point, action, name = trial
        if point:
            here.arm(point, run_of(trial), step_id, action)
        if point in ALSO:
            here.arm(ALSO[point], run_of(trial), step_id)
        here.start(SHAPES[name].segment, run_of(trial))
    for point, action in STARTS:
        here.arm(point, f"started.{point}.{action}", action=action)
        start_by_message(here, f"started.{point}.{action}")
    return {trial: run_of(trial) for trial in TRIALS}


@pytest.fixture(autouse=True)
def nothing_waits_on(here: Place) -> Iterator[None]:
    yield
    here.open_all()


def run_of(trial: Trial) -> str:
    return ".".join(part for part in trial if part)


def ended_as_if_nothing_had_happened(here: Place, runs: dict[Trial, str], trial: Trial) -> SegmentResult:
    """The result of a trial's run, which must be that of the run to which nothing happened."""
    undisturbed = here.ended(runs["", "", trial[2]])
    result = here.ended(runs[trial])
    assert here.passed(trial[0], runs[trial], TRIALS[trial]), "the point was never passed"
    assert (result.status, result.outputs) == (undisturbed.status, undisturbed.outputs)
    assert here.states(runs[trial]) == here.states(undisturbed.run_id)
    assert counted(result) == counted(undisturbed)
    assert [event.seq for event in result.events] == list(range(1, len(result.events) + 1))
    return result


def counted(result: SegmentResult) -> dict[tuple[str | None, str], int]:
    """What may happen once only, or as often as the handler failed."""
    loose = ("step.started", "step.lost", "step.released")
    return {key: count for key, count in told(result).items() if key[1] not in loose}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p1_a_process_killed_before_its_claim(here: Place, runs: dict[Trial, str], name: str) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("claim.before", KILL, name))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p2_a_process_killed_after_its_claim(here: Place, runs: dict[Trial, str], name: str) -> None:
    result = ended_as_if_nothing_had_happened(here, runs, ("claim.after", KILL, name))

    assert told(result)[SHAPES[name].step_id, "step.lost"] >= 1


@pytest.mark.parametrize("name", HANDLERS)
def test_p3_a_process_killed_in_a_handler(here: Place, runs: dict[Trial, str], name: str) -> None:
    trial = ("handler", KILL, name)

    ended_as_if_nothing_had_happened(here, runs, trial)

    calls = here.began(runs[trial], SHAPES[name].step_id)
    assert len(calls) >= 2
    assert len({call.key for call in calls}) == 1, "every call must have the same idempotency key"


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p4_a_process_killed_after_the_effect_and_before_the_commit(
    here: Place, runs: dict[Trial, str], name: str
) -> None:
    trial = ("apply.before", KILL, name)

    result = ended_as_if_nothing_had_happened(here, runs, trial)

    assert told(result)[SHAPES[name].step_id, "step.lost"] >= 1
    assert len({call.key for call in here.began(runs[trial], SHAPES[name].step_id)}) <= 1


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p5_a_process_killed_after_the_commit_and_before_the_hints(
    here: Place, runs: dict[Trial, str], name: str
) -> None:
    result = ended_as_if_nothing_had_happened(here, runs, ("apply.after", KILL, name))

    assert told(result)[SHAPES[name].step_id, "step.lost"] == 0


def test_p5_a_process_killed_between_the_commit_of_a_split_and_its_chord(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("chord.before", KILL, "split"))


def test_p6_a_process_killed_half_way_through_ten_hints(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("publish.before", KILL, "wide"))


def test_p6_a_process_killed_half_way_through_a_chord(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("publish.after", KILL, "split"))


@pytest.mark.parametrize("name", NEXT)
def test_p7_a_process_killed_after_it_sent_its_hints(here: Place, runs: dict[Trial, str], name: str) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("send.after", KILL, name))


def test_p7_a_process_killed_after_it_sent_its_chord(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("chord.after", KILL, "split"))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p23_a_claim_that_was_committed_although_it_failed(here: Place, runs: dict[Trial, str], name: str) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("claim.after", ERROR, name))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_p23_a_result_that_was_committed_although_that_failed(here: Place, runs: dict[Trial, str], name: str) -> None:
    trial = ("apply.after", ERROR, name)

    result = ended_as_if_nothing_had_happened(here, runs, trial)

    assert told(result)[SHAPES[name].step_id, "step.started"] == 1 + (name == "retry")


@pytest.mark.parametrize("name", NEXT)
def test_p23_hints_that_were_sent_although_that_failed(here: Place, runs: dict[Trial, str], name: str) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("send.after", ERROR, name))


def test_p23_a_chord_that_was_sent_although_that_failed(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("chord.after", ERROR, "split"))


def test_p39_a_sweeper_killed_between_its_look_and_its_hints(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("due.after", KILL, "chain"))


def test_p39_a_sweeper_killed_before_it_moves_a_step_whose_lease_ran_out(here: Place, runs: dict[Trial, str]) -> None:
    ended_as_if_nothing_had_happened(here, runs, ("expired.after", KILL, "chain"))


def start_by_message(here: Place, run_id: str) -> None:
    """Start a chain as somebody does who has only Celery; the queue is that of the processes."""
    app = celery_app(Settings.load({"LLMTEAM_DATABASE_URL": here.database_url, "LLMTEAM_BROKER_URL": here.broker_url}))
    document = SHAPES["chain"].segment.to_dict()
    message = {"tenant_id": TENANT, "segment": document, "run_id": run_id}
    app.send_task("llmteam.start_run", kwargs=message, queue="llmteam.default")
    app.close()


@pytest.mark.parametrize(("point", "action"), STARTS)
def test_p1_p5_p23_a_start_that_went_wrong_started_its_run_wholly_or_not_at_all(
    here: Place, runs: dict[Trial, str], point: str, action: str
) -> None:
    run_id = f"started.{point}.{action}"
    wait_until(lambda: here.passed(point, run_id), "the start to go wrong", timeout=20)
    assert (here.client.status(run_id) is None) == (point == "create.before")

    start_by_message(here, run_id)  # as a producer does that got no answer

    wait_until(lambda: here.client.status(run_id) is not None, "the run to be written", timeout=20)
    result = here.ended(run_id)
    assert result.outputs == here.ended(runs["", "", "chain"]).outputs
    assert told(result)[None, "segment.started"] == 1


@pytest.mark.parametrize("point", ["hold.before", "hold.after"])
def test_p39_a_sweeper_killed_while_a_pause_takes_hold(here: Place, runs: dict[Trial, str], point: str) -> None:
    run_id = f"paused.{point}"
    here.start(GATED, run_id)
    here.wait_for(run_id, "b")
    here.arm(point, run_id)

    here.begin_pause(run_id)

    wait_until(lambda: here.passed(point, run_id), "the sweeper to be killed", timeout=20)
    wait_until(lambda: here.client.status(run_id) == "paused", "the pause to take hold", timeout=20)
    here.open(run_id)
    here.client.resume(run_id)
    result = here.ended(run_id)
    assert result.outputs == here.ended(runs["", "", "chain"]).outputs
    assert told(result)[None, "segment.paused"] == told(result)[None, "segment.resumed"] == 1
    assert here.rows(run_id)["b"].row.losses == 0


def test_p35_without_beat_workers_sweep_by_themselves(here: Place, runs: dict[Trial, str]) -> None:
    swept = here.ended(runs["claim.before", KILL, "chain"])

    assert swept.status == "completed"
    assert all(age < 10 for age in PostgresSweeps(here.database).ages().values())
