"""Two regions, each with workers of its own: every step runs where its tenant belongs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from llmteam.canvas import SegmentClient, SegmentDefinition
from llmteam.dispatch import START_RUN, CeleryDispatcher, Hint, celery_app
from llmteam.ids import new_id
from llmteam.settings import Settings
from llmteam.tenancy import TenantConfig, TenantTier
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.acceptance.command_line import Started
from tests.acceptance.place import PATIENCE, Place, place
from tests.drawing import draw
from tests.mishaps import began, gate_of
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

EAST, WEST = "us-east-1", "eu-west-1"
#: Tenants by region.
HOMES = {EAST: "globex", WEST: "acme"}
SEGMENT = draw("a -> b", work="traced_io")
GATED = draw("a -> b", work="traced_io", config={"a": {"gate": True}})

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def here(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with a tenant in each region and no workers."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with place(tmp_path_factory.mktemp("regions"), own.create(), valkey) as here:
        store = PostgresTenantStore(here.database)
        for region, tenant_id in HOMES.items():
            store.add(TenantConfig(tenant_id, tenant_id, TenantTier.ENTERPRISE, data_region=region))
        yield here
    own.drop_all()


def worker(here: Place, region: str) -> AbstractContextManager[Started]:
    return here.line.started("worker", "--pool", "threads", "--concurrency", "4", LLMTEAM_REGION=region)


@pytest.fixture(scope="module")
def east(here: Place) -> Iterator[Started]:
    """The worker of one region, which is there all the time."""
    with worker(here, EAST) as east:
        east.wait_for(f"ready: llmteam.{EAST}.control, llmteam.{EAST}.io, llmteam.{EAST}.llm", timeout=60)
        yield east


def start(here: Place, region: str, segment: SegmentDefinition = SEGMENT) -> str:
    return SegmentClient(here.runs, HOMES[region]).start(segment)


def ended(here: Place, region: str, run_id: str) -> str:
    return SegmentClient(here.runs, HOMES[region]).result(run_id, timeout=PATIENCE).status.value


def pids(here: Place, run_id: str) -> set[int]:
    """The processes that worked on the run."""
    return {call.pid for call in began(here.folder, run_id)}


def states(here: Place, region: str, run_id: str) -> set[str]:
    return {str(record.row.state) for record in here.store.steps(HOMES[region], run_id)}


def test_each_step_runs_in_the_region_of_its_tenant(here: Place, east: Started) -> None:
    with worker(here, WEST) as west:
        west.wait_for(f"ready: llmteam.{WEST}.control", timeout=60)
        runs = [(region, start(here, region, GATED)) for region in (EAST, WEST) * 3]
        for _, run_id in runs:
            wait_until(lambda run_id=run_id: bool(pids(here, run_id)), "the first step to begin", timeout=20)
        homes = {region: {one.pid for one in crew.look()} for region, crew in ((EAST, east), (WEST, west))}
        holders = {}
        for region, run_id in runs:
            (held,) = (one for one in here.store.steps(HOMES[region], run_id) if one.holder is not None)
            holders[run_id] = held.holder
            gate_of(here.folder, run_id).touch()

        assert {ended(here, region, run_id) for region, run_id in runs} == {"completed"}
        for region, run_id in runs:
            calls = began(here.folder, run_id)
            assert {call.queue for call in calls} == {f"llmteam.{region}.io"}
            assert {call.pid for call in calls} <= homes[region]
            assert holders[run_id] == f"{os.uname().nodename}:{calls[0].pid}"


def test_a_run_waits_for_a_worker_of_its_region_and_a_hint_in_the_wrong_queue_runs_nothing(
    here: Place, east: Started
) -> None:
    run_id = start(here, WEST)
    settings = Settings.load({"LLMTEAM_DATABASE_URL": here.database_url, "LLMTEAM_BROKER_URL": here.broker_url})
    app = celery_app(settings)
    wrong = [Hint(HOMES[WEST], run_id, "a", 1, f"llmteam.{EAST}.{kind}") for kind in ("io", "llm", "control")]
    CeleryDispatcher(app).send(wrong)
    app.close()
    # The queues are served in order: what was sent before this run has been looked at when it is over.
    assert ended(here, EAST, start(here, EAST)) == "completed"

    assert (states(here, WEST, run_id), pids(here, run_id)) == ({"ready", "pending"}, set())
    said = here.line("explain", run_id, "--tenant", HOMES[WEST]).stdout
    assert f"llmteam.{WEST}.io" in said
    assert "No worker consumes it" in said
    doctor = here.line("doctor", LLMTEAM_REGION=EAST, LLMTEAM_IMPORTS="").stdout
    assert f"region: {EAST}; workers serve {EAST}" in doctor
    assert f"no worker serves {WEST}, where 1 tenant has runs" in doctor

    with worker(here, WEST) as west:
        assert ended(here, WEST, run_id) == "completed"
        assert pids(here, run_id) <= {one.pid for one in west.look()}


def test_a_start_in_the_wrong_control_queue_is_sent_on_to_the_region_of_its_tenant(here: Place, east: Started) -> None:
    settings = Settings.load(
        {
            "LLMTEAM_DATABASE_URL": here.database_url,
            "LLMTEAM_BROKER_URL": here.broker_url,
            "LLMTEAM_REGION": EAST,
        }
    )
    app, run_id = celery_app(settings), new_id()
    message = {"tenant_id": HOMES[WEST], "segment": SEGMENT.to_dict(), "input": 1, "run_id": run_id}
    app.send_task(START_RUN, kwargs=message)
    app.close()
    queue = f"llmteam.{WEST}.control"
    with redis_client(here.broker_url) as client:
        wait_until(lambda: client.llen(queue) == 1, "the start to lie in the queue of its region", timeout=20)
    assert here.store.record(HOMES[WEST], run_id) is None

    with worker(here, WEST) as west:
        wait_until(lambda: here.store.record(HOMES[WEST], run_id) is not None, "the run to be written", timeout=60)
        assert ended(here, WEST, run_id) == "completed"
        assert pids(here, run_id) <= {one.pid for one in west.look()}


def test_a_start_that_was_sent_on_already_is_made_where_it_is(here: Place, east: Started) -> None:
    app = celery_app(Settings.load({"LLMTEAM_BROKER_URL": here.broker_url, "LLMTEAM_REGION": EAST}))
    run_id = new_id()
    message = {"tenant_id": HOMES[WEST], "segment": SEGMENT.to_dict(), "run_id": run_id, "forwarded": True}

    app.send_task(START_RUN, kwargs=message)
    app.close()

    wait_until(lambda: here.store.record(HOMES[WEST], run_id) is not None, "the run to be written", timeout=20)
    record = here.store.record(HOMES[WEST], run_id)
    assert record is not None
    assert (record.region, states(here, WEST, run_id)) == (WEST, {"ready", "pending"})
