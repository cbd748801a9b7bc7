"""Limits and circuits that workers share: the pace holds over all of them, and nobody else pays for those who wait."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

import tests.limited
from llmteam.canvas import RunConfig, SegmentStatus, StepCatalog
from llmteam.canvas.models import SegmentDefinition
from llmteam.events.models import EventQuery, EventType
from tests.acceptance.command_line import Started
from tests.acceptance.place import TENANT, Place, place
from tests.broker import Broker, broker
from tests.drawing import draw
from tests.limited import PACE, THRESHOLD, down
from tests.services import PostgresService
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

#: Limited steps of one run.
STEPS = 500
#: Seconds that such a run may take on a busy machine.
PATIENCE = 200.0


@dataclass
class Mill:
    """A place with two workers that know the limits."""

    here: Place
    broker: Broker
    workers: list[Started]

    def states(self, run_id: str) -> Counter[str]:
        return Counter(self.here.states(run_id).values())

    def calls(self, service: str) -> Counter[tuple[str, str]]:
        """How often each step of each run called the service."""
        path = self.here.folder / f"{service}.calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter((line.split()[0], line.split()[1]) for line in lines)

    def told(self, run_id: str, kind: EventType) -> Counter[str]:
        found = self.here.runs.events.select(EventQuery(tenant_id=TENANT, run_id=run_id, event_types=frozenset({kind})))
        return Counter(str(event.step_id) for event in found)


@pytest.fixture(scope="module")
def mill(postgres: PostgresService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("limits")
    env = {"LLMTEAM_IMPORTS": "tests.failpoints,tests.mishaps,tests.limited", "LLMTEAM_SWEEP_SECONDS": "1"}
    catalog = StepCatalog.get_instance()
    with broker(folder) as valkey, place(folder, own.create(), valkey.url, catalog=catalog, **env) as here:
        workers = ("worker", "--pool", "threads", "--concurrency", "8")
        with here.line.started(*workers) as first, here.line.started(*workers) as second:
            for one in (first, second):
                one.wait_for("ready: llmteam.control", timeout=60)
            with here.line.started("beat"):
                yield Mill(here, valkey, [first, second])
    own.drop_all()


def fan(limit: str | None, branches: int, service: str = "", **params: object) -> SegmentDefinition:
    """So many calls at once, each under the limit."""
    config = {"service": service} | ({} if limit is None else {"limits": limit})
    names = [f"b{number}" for number in range(branches)]
    lines = ["split_1", *(f"split_1 -> {name} -> all_1" for name in names)]
    return draw(*lines, work="call_service", config=dict.fromkeys(names, config), timeout_seconds=None, **params)


def test_a_run_of_500_limited_steps_keeps_the_pace_and_another_run_is_not_slowed(mill: Mill) -> None:
    limited = mill.here.start(fan("paced", STEPS))
    wait_until(lambda: mill.states(limited)["waiting"] > PACE, "steps to wait for the limit", timeout=60)

    free = mill.here.start(fan(None, 20))
    assert mill.here.client.result(free, timeout=60).status is SegmentStatus.COMPLETED
    left = mill.states(limited)["waiting"]
    explained = mill.here.line.json("explain", limited)
    result = mill.here.client.result(limited, timeout=PATIENCE)

    assert result.status is SegmentStatus.COMPLETED
    assert left > 0, "the run beside had to wait until the limited one was over"
    waiting = [group for group in explained["steps"] if group["waits_for"] == "limit"]
    assert waiting
    assert all("the limit 'paced'" in group["says"][0] for group in waiting)
    done = mill.told(limited, EventType.STEP_COMPLETED)
    assert {done[f"b{number}"] for number in range(STEPS)} == {1}
    assert set(mill.told(limited, EventType.STEP_STARTED).values()) == {1}
    (mined,) = mill.here.line.json("mining", "report", "--tenant", TENANT, "--segment", "drawn")["segments"]
    waited = mined["seconds_by_cause"]
    assert waited["limit"] > waited["work"], "most of the time of most steps is the limit's"
    assert result.duration_ms is not None
    assert result.duration_ms >= (STEPS - 2 * PACE) / PACE * 1000, "more calls were let in than the limit allows"


def test_limited_steps_outlive_a_killed_worker_and_a_flushed_server(mill: Mill) -> None:
    limited = mill.here.start(fan("paced", 200))
    wait_until(lambda: mill.states(limited)["completed"] > 30, "some steps to be done", timeout=60)

    mill.broker.flush()
    with mill.here.line.started("worker", "--pool", "threads", "--concurrency", "4") as doomed:
        doomed.wait_for("ready: llmteam.control", timeout=60)
        for process in [psutil.Process(doomed.process.pid), *doomed.look()]:
            process.send_signal(signal.SIGKILL)
        doomed.process.wait(20)

    assert mill.here.client.result(limited, timeout=PATIENCE).status is SegmentStatus.COMPLETED
    done = mill.told(limited, EventType.STEP_COMPLETED)
    assert {done[f"b{number}"] for number in range(200)} == {1}


def test_an_open_circuit_parks_steps_instead_of_using_up_their_attempts(mill: Mill) -> None:
    fence = down(mill.here.folder, "crm")
    fence.touch()
    config = RunConfig(max_retries=3, retry_delay=0.1)
    run_id = mill.here.start(fan("fragile", 12, "crm"), config=config)
    wait_until(lambda: sum(mill.calls("crm").values()) >= THRESHOLD, "the circuit to open", timeout=60)
    wait_until(lambda: mill.told(run_id, EventType.STEP_DELAYED).total() > 6, "steps to be parked", timeout=60)

    fence.unlink()

    assert mill.here.client.result(run_id, timeout=PATIENCE).status is SegmentStatus.COMPLETED
    assert mill.told(run_id, EventType.STEP_FAILED) == Counter()


def test_workers_that_do_not_know_a_limit_say_what_to_do(mill: Mill) -> None:
    run_id = mill.here.start(fan("unheard of", 1), config=RunConfig(max_retries=0))

    result = mill.here.client.result(run_id, timeout=60)

    assert result.status is SegmentStatus.FAILED
    assert result.error is not None
    assert "No limit 'unheard of' is registered" in result.error.error_message
    assert tests.limited.__name__ not in result.error.error_message
