"""Steps that ask people, with real workers: answers come from other processes, whatever becomes of workers and broker.

Nobody sweeps here unless a test does, so that what goes on without a sweep needs none.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import pytest

from llmteam.canvas import RunConfig
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.sweeper import Sweeper
from llmteam.dispatch import CeleryDispatcher, celery_app
from llmteam.human import HumanInteractionManager, InteractionRequest, InteractionStatus
from llmteam.human.fleet import connect
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.settings import Settings
from tests.acceptance.command_line import DONE, FAILED, Started
from tests.acceptance.place import TENANT, Place, place
from tests.broker import Broker, broker
from tests.conformance.ward import in_postgres_passes
from tests.drawing import draw
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

HOUR = 3_600.0
ASKS = ("a -> human_1", "human_1.approved -> b")
#: So long that nobody but the test sweeps.
NEVER = "3600"


@dataclass
class Office:
    """A place without beat whose people answer from this process."""

    here: Place
    broker: Broker
    manager: HumanInteractionManager
    sweeper: Sweeper
    pass_time: Callable[[float], None]

    def start(self, **config: Any) -> tuple[str, InteractionRequest]:
        """A run that has come so far that it asks, and what it asks."""
        segment = draw(*ASKS, work="traced", config={"human_1": config})
        run_id = self.here.start(segment, config=RunConfig(started_by="starter"))
        return run_id, self.asked(run_id)

    def asked(self, run_id: str) -> InteractionRequest:
        """What the run asks, once it does."""
        core = self.manager.store.core
        found = wait_until(lambda: core.of_run(TENANT, run_id), "a person to be asked", timeout=60)
        return found[-1]

    def request(self, run_id: str) -> InteractionRequest:
        return self.manager.store.core.of_run(TENANT, run_id)[-1]

    def answer(self, request: InteractionRequest, by: str = "ann", **what: Any) -> None:
        asyncio.run(self.manager.respond(request.request_id, by, **({"approved": True} | what)))

    def sent(self) -> int:
        """How many messages were sent to any queue so far."""
        with redis_client(self.broker.url) as client:
            stats: dict[str, dict[str, int]] = client.info("commandstats")
        return stats.get("cmdstat_lpush", {}).get("calls", 0)


@pytest.fixture(scope="module")
def office(postgres: PostgresService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("people")
    with broker(folder) as valkey, place(folder, own.create(), valkey.url, LLMTEAM_SWEEP_SECONDS=NEVER) as here:
        servers = {"LLMTEAM_DATABASE_URL": here.database_url, "LLMTEAM_BROKER_URL": valkey.url}
        settings = Settings.load(servers)
        manager = connect(settings, tenant_id=TENANT)
        sweeps, dispatcher = PostgresSweeps(here.database), CeleryDispatcher(celery_app(settings))
        sweeper = Sweeper(here.runs.engine, sweeps, dispatcher, here.runs.surgery)
        sweeper.sweep_all()
        yield Office(here, valkey, manager, sweeper, in_postgres_passes(here.database, [TENANT]))
        manager.close()
    own.drop_all()


@pytest.fixture(scope="module")
def doomed(office: Office) -> InteractionRequest:
    """What a run asks whose worker is killed afterwards, with everything that it started."""
    with office.here.line.started("worker", "--concurrency", "1") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        _, request = office.start()
        for process in [psutil.Process(worker.process.pid), *worker.look()]:
            process.send_signal(signal.SIGKILL)
        worker.process.wait(20)
    return request


@pytest.fixture(scope="module", autouse=True)
def worker(office: Office, doomed: InteractionRequest) -> Iterator[Started]:
    """The worker that is started afterwards."""
    with office.here.line.started("worker", "--concurrency", "2") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        yield worker


def test_an_approval_outlives_a_worker_that_was_killed_and_started_again(
    office: Office, doomed: InteractionRequest
) -> None:
    assert office.here.states(doomed.run_id) == {"a": "completed", "human_1": "waiting", "b": "pending"}

    office.answer(doomed)

    assert office.here.ended(doomed.run_id).status.value == "completed"
    assert len(office.here.began(doomed.run_id, "b")) == 1


def test_an_answer_from_another_process_wakes_the_run_with_one_message(office: Office) -> None:
    run_id, request = office.start()
    before = office.sent()

    office.answer(request)

    result = office.here.ended(run_id)
    assert result.status.value == "completed"
    assert office.sent() - before == 2, "one for the step that asked, one for the step behind it"
    assert [event.event_type.value for event in result.events].count("human.task_completed") == 1


def test_what_waits_for_a_person_is_rows_only(office: Office) -> None:
    _, request = office.start()
    before = office.sent()

    ended = [office.start() for _ in range(3)]
    for _, other in ended:
        office.answer(other)
    for run_id, _ in ended:
        office.here.ended(run_id)

    assert office.sent() - before == 3 * 4, "each other run took four messages, the one that waits none"
    row = office.here.rows(request.run_id)["human_1"]
    assert (row.row.owner, row.holder, row.row.wake_at) == ("person", None, request.deadline)


def test_a_broker_that_is_flushed_between_question_and_answer_costs_nothing(office: Office) -> None:
    run_id, request = office.start()

    office.broker.flush()
    office.answer(request)

    assert office.here.ended(run_id).status.value == "completed"


def test_a_hint_that_was_lost_after_the_answer_is_sent_again_by_a_sweep(office: Office) -> None:
    run_id, request = office.start()
    silent = PostgresInteractionStore(office.here.database, tenant_id=TENANT)
    asyncio.run(HumanInteractionManager(silent).respond(request.request_id, "ann", approved=True))
    office.broker.flush()
    assert office.here.states(run_id)["human_1"] == "waiting"

    assert office.sweeper.sweep("due") >= 1

    assert office.here.ended(run_id).status.value == "completed"


def test_a_run_that_is_cancelled_takes_its_request_back(office: Office) -> None:
    run_id, request = office.start()

    assert office.here.client.cancel(run_id)

    done = office.here.line("inbox", "respond", request.request_id, "--as", "ann", "--approve")
    assert (done.returncode, "it was cancelled" in done.stderr) == (FAILED, True)
    assert office.request(run_id).status is InteractionStatus.CANCELLED


def test_a_pause_stops_the_clock_of_the_person_and_an_answer_then_is_applied_at_the_resume(office: Office) -> None:
    run_id, request = office.start(timeout_hours=2)
    snapshot = office.here.client.pause(run_id)
    assert snapshot is not None
    office.pass_time(100 * HOUR)
    office.sweeper.sweep_all()
    assert office.request(run_id).status.is_open

    done = office.here.line("inbox", "respond", request.request_id, "--as", "ann", "--approve", "--comment", "ok")
    assert (done.returncode, f"run {run_id} is paused" in done.stdout) == (DONE, True)
    assert office.here.states(run_id)["human_1"] == "waiting"
    office.here.client.resume(snapshot)

    assert office.here.ended(run_id).status.value == "completed"


def test_a_sweep_escalates_what_nobody_answered_and_the_next_one_may_answer(office: Office) -> None:
    run_id, _ = office.start(timeout_hours=2, escalation_chain=["boss"])
    office.pass_time(2 * HOUR + 1)

    office.sweeper.sweep("people")

    found = office.request(run_id)
    assert (found.status, found.assignee_id) == (InteractionStatus.ESCALATED, "boss")
    assert found.deadline is not None
    assert found.deadline > office.here.runs.engine.clock() + timedelta(hours=1)
    assert office.here.states(run_id)["human_1"] == "waiting"
    office.answer(found, by="boss")
    assert office.here.ended(run_id).status.value == "completed"


def test_a_sweep_ends_the_wait_when_the_time_is_over(office: Office) -> None:
    run_id, request = office.start(timeout_hours=2)
    office.pass_time(2 * HOUR + 1)

    office.sweeper.sweep("people")

    result = office.here.ended(run_id)
    assert result.error is not None
    assert (result.status.value, result.error.error_type) == ("failed", "HumanTaskTimeoutError")
    assert office.request(run_id).status is InteractionStatus.TIMEOUT
    done = office.here.line("inbox", "respond", request.request_id, "--as", "ann", "--approve")
    assert (done.returncode, "the time for it is over" in done.stderr) == (FAILED, True)


def test_whoever_started_the_run_is_told_that_others_decide(office: Office) -> None:
    run_id, request = office.start(four_eyes=True, approvers=["starter", "bob"])

    done = office.here.line("inbox", "respond", request.request_id, "--as", "starter", "--approve")
    assert (done.returncode, "four eyes" in done.stderr) == (FAILED, True)
    office.answer(request, by="bob")

    assert office.here.ended(run_id).status.value == "completed"
