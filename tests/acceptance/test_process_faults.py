"""Workers that are killed, stopped, frozen or brought down by handlers and messages, on two real fleets.

Ids are those of the failure catalogue in docs/reliability.md.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from llmteam.canvas import SegmentDefinition
from llmteam.dispatch import RUN_STEP, CeleryDispatcher, Hint, celery_app
from llmteam.settings import Settings
from tests.acceptance.command_line import Started
from tests.acceptance.place import TENANT, Place, place, told
from tests.drawing import draw
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

GATED = draw("a", work="traced", config={"a": {"gate": True}}, segment_id="gated")
#: What the lasting fleet and the one beside it run at once.
SLOTS, SLOTS_BESIDE = 4, 2


def dying(how: str, times: int, work: str = "traced", **config: object) -> SegmentDefinition:
    """A step whose first calls end badly."""
    return draw("a -> b", work=work, segment_id=f"dying_{how}", config={"a": {"die": how, "times": times, **config}})


@pytest.fixture(scope="module")
def here(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place without workers and without beat."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with place(tmp_path_factory.mktemp("faults"), own.create(), valkey, LLMTEAM_DRAIN_SECONDS="2") as here:
        yield here
    own.drop_all()


@dataclass
class Fleets:
    """The fleet that lasts as long as this module, and two beside it that do not survive their tests."""

    lasting: Started
    killed: Started
    stopped: Started


@pytest.fixture(scope="module", autouse=True)
def fleets(here: Place) -> Iterator[Fleets]:
    """All of them, started at once."""
    processes = ("worker", "--pool", "prefork", "--concurrency", str(SLOTS_BESIDE))
    with (
        here.line.started("worker", "--concurrency", str(SLOTS)) as lasting,
        here.line.started(*processes) as killed,
        here.line.started(*processes) as stopped,
    ):
        lasting.wait_for("ready: llmteam.control", timeout=60)
        for one in (killed, stopped):
            one.wait_for("ready: llmteam.default", timeout=60)
        yield Fleets(lasting, killed, stopped)


@pytest.fixture
def fleet(fleets: Fleets) -> Started:
    return fleets.lasting


@pytest.fixture(scope="module", autouse=True)
def doomed(here: Place, fleets: Fleets) -> str:
    """A run whose step takes every process with it; it needs a while to fail and begins before all others."""
    return here.start(dying("kill", 99), "doomed")


@pytest.fixture(scope="module", autouse=True)
def unheard(here: Place, fleets: Fleets) -> str:
    """A run whose hint dies with the main process that received it; it needs a while to be hinted at again."""
    here.arm("received", "unheard", "a")
    return here.start(draw("a", work="traced_io", segment_id="unheard"), "unheard")


@pytest.fixture(autouse=True)
def nothing_waits_on(here: Place) -> Iterator[None]:
    yield
    here.open_all()


def fill(here: Place, other: Started, beside: int) -> tuple[list[str], list[str]]:
    """Gated runs for every place of the lasting fleet and of ``beside`` others; and which of them ``other`` has."""
    runs = [here.start(GATED) for _ in range(SLOTS + beside * SLOTS_BESIDE)]
    calls = {run_id: here.wait_for(run_id, "a") for run_id in runs}
    pids = {one.pid for one in other.look()}
    where = {run_id: call.pid in pids for run_id, call in calls.items()}
    return [one for one in runs if not where[one]], [one for one in runs if where[one]]


def test_p9_a_fleet_that_is_killed_whole_costs_its_steps_one_lease(here: Place, fleets: Fleets) -> None:
    other = fleets.killed
    kept, lost = fill(here, other, beside=2)
    assert len(lost) == SLOTS_BESIDE

    for process in [psutil.Process(other.process.pid), *other.look()]:
        process.kill()
    here.open(*kept, *lost)

    for run_id in kept + lost:
        assert here.ended(run_id).outputs == {"output": "a"}
    assert [here.rows(run_id)["a"].row.losses for run_id in kept] == [0] * len(kept)
    assert [here.rows(run_id)["a"].row.losses for run_id in lost] == [1] * len(lost)


def test_p11_p12_a_fleet_that_is_asked_to_stop_finishes_what_is_short_and_hands_back_the_rest(
    here: Place, fleets: Fleets
) -> None:
    other = fleets.stopped
    kept, (short, long) = fill(here, other, beside=1)

    other.process.send_signal(signal.SIGTERM)
    other.wait_for("stopping; running steps are finished first")
    here.open(short, *kept)

    assert here.ended(short).outputs == {"output": "a"}
    assert len(here.began(short, "a")) == 1
    assert other.process.wait(20) == 0
    again = here.wait_for(long, "a", times=2)
    here.open(long)
    result = here.ended(long)
    row = here.rows(long)["a"].row
    assert (again.attempt, row.attempt, row.losses, row.fence) == (1, 0, 0, 2)
    assert told(result)["a", "step.released"] == 1
    assert told(result)["a", "step.lost"] == 0


def test_p10_a_process_that_slept_through_its_lease_cannot_hand_in_its_result(here: Place, fleet: Started) -> None:
    run_id = here.start(draw("a -> b", work="traced", config={"a": {"gate": True}}, segment_id="zombie"))
    zombie = psutil.Process(here.wait_for(run_id, "a").pid)
    here.arm("apply.refused", run_id, "a", action="note")

    zombie.suspend()
    try:
        here.wait_for(run_id, "a", times=2)
        here.open(run_id, call=1)
    finally:
        zombie.resume()

    wait_until(lambda: here.passed("apply.refused", run_id, "a"), "the late result to be refused", timeout=20)
    assert here.states(run_id) == {"a": "running", "b": "pending"}
    here.open(run_id)
    result = here.ended(run_id)
    row = here.rows(run_id)["a"].row
    assert (result.outputs, row.fence, row.losses) == ({"output": "b(a)"}, 2, 1)
    assert told(result)["a", "step.completed"] == 1


def test_p13_p15_a_handler_that_takes_its_process_with_it_runs_again(here: Place, fleet: Started) -> None:
    runs = [here.start(dying(how, 1)) for how in ("kill", "exit", "segfault")]

    for run_id in runs:
        assert here.ended(run_id).outputs == {"output": "b(a)"}
        row = here.rows(run_id)["a"].row
        assert (row.attempt, row.losses) == (0, 1)


def test_p14_a_handler_without_memory_fails_its_attempt_and_nothing_else(here: Place, fleet: Started) -> None:
    segment = dying("memory", 1, retry_count=1)

    run_id = here.start(segment)

    result = here.ended(run_id)
    assert result.outputs == {"output": "b(a)"}
    assert told(result)["a", "step.retrying"] == 1
    assert all(psutil.pid_exists(call.pid) for call in here.began(run_id, "a"))


def test_p8_a_main_process_that_is_killed_with_a_message_in_its_hands_costs_a_sweep(
    here: Place, fleet: Started, unheard: str
) -> None:
    result = here.ended(unheard)

    assert here.passed("received", unheard, "a")
    assert "threads ended by SIGKILL" in fleet.output()
    assert result.outputs == {"output": "a"}
    assert told(result)["a", "step.started"] == 1


def test_p13_a_step_that_takes_every_process_with_it_fails_at_last_and_apart(
    here: Place, fleet: Started, doomed: str
) -> None:
    result = here.ended(doomed)

    assert (result.status.value, result.error and result.error.error_type) == ("failed", "WorkerLostError")
    queues = [call.queue for call in here.began(doomed, "a")]
    assert queues == ["llmteam.default"] * 2 + ["llmteam.quarantine"] * 3
    assert told(result)["a", "step.lost"] == 5


def send(here: Place, *hints: Hint) -> None:
    app = celery_app(Settings.load({"LLMTEAM_DATABASE_URL": here.database_url, "LLMTEAM_BROKER_URL": here.broker_url}))
    CeleryDispatcher(app).send(hints)
    app.close()


def hint(run_id: str, step_id: str) -> Hint:
    return Hint(TENANT, run_id, step_id, 1, "llmteam.default")


def test_p31_a_hint_that_comes_ten_times_starts_its_step_once(here: Place, fleet: Started) -> None:
    run_id = here.start(draw("a -> b", work="traced", config={"a": {"gate": True}}))
    here.wait_for(run_id, "a")

    send(here, *[hint(run_id, "a")] * 10)
    here.open(run_id)

    counts = told(here.ended(run_id))
    assert (counts["a", "step.started"], counts["b", "step.started"]) == (1, 1)


def test_p32_a_hint_for_a_running_step_does_nothing_and_the_step_is_recovered_all_the_same(
    here: Place, fleet: Started
) -> None:
    run_id = here.start(GATED)
    call = here.wait_for(run_id, "a")
    send(here, hint(run_id, "a"))

    os.kill(call.pid, signal.SIGKILL)
    here.open(run_id)

    assert here.ended(run_id).outputs == {"output": "a"}
    assert here.rows(run_id)["a"].row.losses == 1


def test_p33_hints_that_come_before_their_time_do_nothing(here: Place, fleet: Started) -> None:
    run_id = here.start(
        draw("s -> split_1 -> a -> all_1", "split_1 -> b -> all_1", work="traced", config={"a": {"gate": True}})
    )
    here.wait_for(run_id, "a")

    send(here, hint(run_id, "all_1"), hint(run_id, "all_1"))
    wait_until(lambda: here.states(run_id)["b"] == "completed", "the other branch to be done", timeout=20)
    assert here.states(run_id)["all_1"] == "pending"
    here.open(run_id)

    result = here.ended(run_id)
    assert result.outputs == {"output": ["a(s)", "b(s)"]}
    assert told(result)["all_1", "step.started"] == 1


def test_p37_messages_of_an_older_version_are_understood(here: Place, fleet: Started) -> None:
    app = celery_app(Settings.load({"LLMTEAM_DATABASE_URL": here.database_url, "LLMTEAM_BROKER_URL": here.broker_url}))
    segment = draw("a", work="traced", segment_id="old").to_dict()

    app.send_task("llmteam.start_run", kwargs={"tenant_id": TENANT, "segment": segment, "run_id": "of-old"})
    wait_until(lambda: here.client.status("of-old") is not None, "the run to be written", timeout=20)
    assert here.ended("of-old").outputs == {"output": "a"}
    run_id = here.start(GATED)
    app.send_task(RUN_STEP, args=(TENANT, run_id, "a"), queue="llmteam.default")
    app.close()
    here.open(run_id)

    assert here.ended(run_id).outputs == {"output": "a"}


def message(body: object, headers: dict[str, object], content_type: str = "application/json") -> str:
    """A message as it lies in the broker."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {
        "correlation_id": "x",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "llmteam.io"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "x",
    }
    return json.dumps(
        {
            "body": base64.b64encode(raw).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }
    )


def test_p34_messages_that_are_none_do_no_harm_to_those_behind_them(here: Place, fleet: Started) -> None:
    task = {"lang": "py", "task": RUN_STEP, "id": "x", "root_id": "x"}
    rest = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    poison = [
        "no message at all",
        message([[], {}, rest], {**task, "task": "nobody.knows"}),
        message([["too", "few"], {}, rest], task),
        message([[TENANT, "no-such-run", "a", 1], {}, rest], task),
        message(pickle.dumps(("never", "loaded")), task, "application/x-python-serialize"),
        message(b"\xff\xfe", task),
    ]

    with redis_client(here.broker_url) as client:
        client.lpush("llmteam.io", *poison)
    run_id = here.start(draw("a", work="traced_io", segment_id="behind"))

    assert here.ended(run_id).outputs == {"output": "a"}


def test_s9_what_a_run_is_about_stands_neither_in_messages_nor_in_logs(here: Place, fleet: Started) -> None:
    canary = "sk-CANARY-5f2c"
    segment = draw(
        "a -> b",
        work="traced",
        segment_id="canary",
        config={"a": {"gate": True, "token": canary}, "b": {"fail": 1, "retry_count": 1}},
    )

    run_id = here.start(segment, None, input_data={"password": canary})

    here.wait_for(run_id, "a")
    assert canary not in everything_in(here.broker_url)
    here.open(run_id)
    assert canary in str(here.ended(run_id).outputs)
    assert canary not in everything_in(here.broker_url)
    assert canary not in fleet.output()


def everything_in(broker_url: str) -> str:
    """All that lies in the broker's database, as text."""
    with redis_client(broker_url) as client:
        return " ".join(f"{key} {client.dump(key)}" for key in client.scan_iter("*"))
