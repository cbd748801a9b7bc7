"""Steps under a limit: they wait in their row, hold nobody, use up nothing, and go on in their turn."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmteam.canvas.delays import LEAD
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.state import SegmentStatus, StepRow
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.events import EventType, MemoryEventStore
from llmteam.ids import utc_now
from llmteam.ratelimit.decisions import Outcome
from llmteam.ratelimit.models import CircuitState
from tests.conformance.desk import TENANT, Desk, at_once
from tests.conformance.turnstiles import NAME, Fuse, Turnstile, gate_of
from tests.drawing import draw

#: URLs under no limit, of which some have no host that could be read.
UNKNOWN_HOSTS = [{"url": url} for url in ("http://localhost/x", "http://[", "{base}/x", "http://{host}/x", "")]
LIMITED = draw("a -> b", config={"a": {"limits": NAME}})


@pytest.fixture
def turnstile() -> Turnstile:
    return Turnstile()


@pytest.fixture
def fuse() -> Fuse:
    return Fuse()


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest, turnstile: Turnstile, fuse: Fuse) -> Desk:
    gate = gate_of(turnstile, fuse)
    if request.param == "memory":
        events = MemoryEventStore()
        return Desk(MemoryRunStore(sink=events.add), events, gate=gate)
    from llmteam.canvas.postgres import PostgresRunStore
    from llmteam.events.postgres import PostgresEventStore

    database: Database = request.getfixturevalue("database")
    return Desk(PostgresRunStore(database), PostgresEventStore(database), gate=gate)


def row(desk: Desk, run_id: str, step_id: str = "a") -> StepRow:
    return desk.rows(run_id)[step_id].row


def delays(desk: Desk, run_id: str) -> list[dict[str, object]]:
    return [event.payload for event in desk.told(run_id) if event.event_type is EventType.STEP_DELAYED]


# -- parking


def test_a_step_without_room_waits_in_its_row_and_holds_nobody(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED)

    assert desk.begin(run_id, "a") is None

    found = row(desk, run_id)
    assert (found.state, found.owner, found.attempt, found.losses, found.fence) == ("waiting", "limit", 0, 0, 0)
    assert found.wake_at is not None
    assert found.wake_at > utc_now()
    record = desk.rows(run_id)["a"]
    assert (record.holder, record.lease_until) == (None, None)
    assert [event.event_type for event in desk.told(run_id)] == [EventType.SEGMENT_STARTED, EventType.STEP_DELAYED]
    assert delays(desk, run_id) == [{"limit": NAME, "limited_by": "minute", "position": 0, "seconds": 60.0}]


def test_a_step_whose_turn_is_near_is_hinted_at_by_a_timer_at_that_moment(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.seconds = 3.0
    run_id = desk.start(LIMITED)

    desk.begin(run_id, "a")

    ((moment, hint),) = desk.alarms
    assert (hint.run_id, hint.step_id) == (run_id, "a")
    assert moment == row(desk, run_id).wake_at


def test_a_step_whose_turn_is_far_asks_again_before_it(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.seconds = 3600.0
    run_id = desk.start(LIMITED)
    before = utc_now()

    desk.begin(run_id, "a")

    wake_at = row(desk, run_id).wake_at
    assert wake_at is not None
    assert before + timedelta(hours=1) - LEAD <= wake_at <= utc_now() + timedelta(hours=1) - LEAD


def test_a_step_that_is_let_in_runs_and_gives_back_what_it_held(desk: Desk, turnstile: Turnstile, fuse: Fuse) -> None:
    turnstile.room = 1
    run_id = desk.start(LIMITED)

    desk.do(run_id, "a", "b")

    assert desk.status(run_id) is SegmentStatus.COMPLETED
    assert turnstile.released == turnstile.inside
    assert fuse.outcomes == [Outcome.SUCCESS]
    assert delays(desk, run_id) == []


def test_a_parked_step_goes_on_when_it_is_let_in(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED)
    desk.begin(run_id, "a")
    turnstile.room = 1

    desk.do(run_id, "a", "b")

    assert desk.status(run_id) is SegmentStatus.COMPLETED
    assert len(set(turnstile.asked)) == 1


def test_however_often_a_step_asks_it_tells_of_the_wait_once(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED)

    for _ in range(4):
        assert desk.begin(run_id, "a") is None

    assert len(delays(desk, run_id)) == 1
    assert len(turnstile.asked) == 4


def test_of_many_who_are_told_of_a_step_with_room_one_runs_it(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED)
    desk.begin(run_id, "a")
    turnstile.room = 8

    claims = at_once([lambda: desk.begin(run_id, "a") for _ in range(8)])

    assert sum(claim is not None for claim in claims) == 1
    assert len(turnstile.inside) == 1


def test_a_sweep_finds_a_parked_step_when_its_time_has_come(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.seconds = 0.0
    run_id = desk.start(LIMITED)
    desk.begin(run_id, "a")

    found = row(desk, run_id)

    assert found.state == "waiting"
    assert found.wake_at is not None
    assert found.wake_at < utc_now() + timedelta(seconds=1)


# -- attempts, losses, pauses, ends


def test_every_attempt_asks_for_itself(desk: Desk, turnstile: Turnstile, fuse: Fuse) -> None:
    turnstile.room = 1
    run_id = desk.start(LIMITED, max_retries=1, retry_delay=0.0)
    desk.engine.failed(desk.claim(run_id, "a"), ConnectionError())

    assert desk.begin(run_id, "a") is None

    assert (row(desk, run_id).state, row(desk, run_id).attempt) == ("waiting", 1)
    assert len(set(turnstile.asked)) == 2
    assert fuse.outcomes == [Outcome.FAILURE]


def test_an_own_mistake_says_nothing_of_the_resource(desk: Desk, turnstile: Turnstile, fuse: Fuse) -> None:
    turnstile.room = 1
    run_id = desk.start(LIMITED)

    desk.engine.failed(desk.claim(run_id, "a"), ValueError())

    assert fuse.outcomes == [Outcome.IGNORED]
    assert turnstile.released == turnstile.inside


def test_an_open_circuit_parks_a_step_and_uses_up_no_attempt(desk: Desk, turnstile: Turnstile, fuse: Fuse) -> None:
    fuse.state, turnstile.room = CircuitState.OPEN, 1
    run_id = desk.start(LIMITED)

    assert desk.begin(run_id, "a") is None

    assert (row(desk, run_id).owner, row(desk, run_id).attempt) == ("limit", 0)
    assert delays(desk, run_id)[0]["limited_by"] == "circuit"
    assert turnstile.asked == []


def test_a_trial_that_finds_no_room_is_given_back(desk: Desk, turnstile: Turnstile, fuse: Fuse) -> None:
    fuse.state = CircuitState.HALF_OPEN
    run_id = desk.start(LIMITED)

    assert desk.begin(run_id, "a") is None

    assert fuse.outcomes == [Outcome.IGNORED]


def test_a_step_that_is_handed_back_keeps_its_place(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.room = 1
    run_id = desk.start(LIMITED)

    assert Recovery(desk.engine).hand_back(desk.claim(run_id, "a"))
    desk.do(run_id, "a", "b")

    assert desk.status(run_id) is SegmentStatus.COMPLETED
    assert len(turnstile.inside) == 1


def test_a_run_that_is_cancelled_leaves_no_step_waiting(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED)
    desk.begin(run_id, "a")

    assert desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    turnstile.room = 1

    assert desk.begin(run_id, "a") is None
    assert (row(desk, run_id).state, row(desk, run_id).owner, row(desk, run_id).wake_at) == ("cancelled", None, None)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_steps_of_a_run_that_ends_give_up_their_places(desk: Desk, turnstile: Turnstile, how: str) -> None:
    segment = draw("s -> split_1", "split_1 -> a", "split_1 -> b", config={"a": {"limits": NAME}})
    run_id = desk.start(segment)
    desk.do(run_id, "s", "split_1")
    desk.begin(run_id, "a")
    assert turnstile.asked

    if how == "cancelled":
        desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    else:
        desk.engine.failed(desk.claim(run_id, "b"), ValueError())

    assert desk.status(run_id).value == how
    assert turnstile.asked == []


def test_a_limit_that_lets_nobody_in_is_asked_again_within_the_hour(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.seconds = float("inf")
    run_id = desk.start(LIMITED)

    desk.begin(run_id, "a")

    wake_at = row(desk, run_id).wake_at
    assert wake_at is not None
    assert wake_at <= utc_now() + timedelta(hours=1)


def test_the_time_of_a_run_goes_on_while_its_steps_wait_for_a_limit(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(LIMITED, timeout_seconds=1e-6)

    assert desk.begin(run_id, "a") is None

    assert desk.status(run_id) is SegmentStatus.TIMEOUT


# -- which limits


def test_a_limit_that_no_process_knows_fails_the_step_with_its_name(desk: Desk, turnstile: Turnstile) -> None:
    run_id = desk.start(draw("a -> b", config={"a": {"limits": ["elsewhere"]}}))
    execution = desk.claim(run_id, "a")

    assert execution.refusal is not None
    assert "No limit 'elsewhere' is registered in this process" in str(execution.refusal)
    assert "--import" in str(execution.refusal)


@pytest.mark.parametrize(
    "config",
    [
        *({"llm_ref": NAME}, {"client_ref": NAME}, {"limits": [NAME]}, {"limits": [{"name": NAME}]}),
        {"url": f"https://{NAME}/orders/{{id}}"},
    ],
)
def test_a_step_is_under_the_limit_that_it_names_or_whose_resource_it_uses(
    desk: Desk, turnstile: Turnstile, config: dict[str, object]
) -> None:
    run_id = desk.start(draw("a -> b", config={"a": config}))

    assert desk.begin(run_id, "a") is None

    assert [key.resource for key in turnstile.keys] == [NAME]
    assert [key.tenant_id for key in turnstile.keys] == [TENANT]


@pytest.mark.parametrize("config", [{}, {"limits": []}, {"llm_ref": "other"}, *UNKNOWN_HOSTS])
def test_a_step_under_no_limit_asks_nobody(desk: Desk, turnstile: Turnstile, config: dict[str, object]) -> None:
    run_id = desk.start(draw("a -> b", config={"a": config}))

    desk.do(run_id, "a", "b")

    assert turnstile.asked == []


def test_a_limit_is_divided_by_what_the_input_says(desk: Desk, turnstile: Turnstile) -> None:
    limits = [{"name": NAME, "by": "customer"}]
    run_id = desk.start(draw("a -> b", config={"a": {"limits": limits}}), input_text='{"customer": "c-7"}')

    desk.begin(run_id, "a")

    assert [key.part for key in turnstile.keys] == ["c-7"]


def test_a_limit_whose_part_cannot_be_told_fails_the_step(desk: Desk, turnstile: Turnstile) -> None:
    limits = [{"name": NAME, "by": "customer"}]
    run_id = desk.start(draw("a -> b", config={"a": {"limits": limits}}), input_text="{}")

    execution = desk.claim(run_id, "a")

    assert execution.refusal is not None
    assert turnstile.asked == []


def test_permits_of_steps_that_run_are_renewed(desk: Desk, turnstile: Turnstile) -> None:
    turnstile.room = 1
    run_id = desk.start(LIMITED)
    execution = desk.claim(run_id, "a")

    desk.engine.limiting.renew([execution])

    assert turnstile.renewed == turnstile.inside
