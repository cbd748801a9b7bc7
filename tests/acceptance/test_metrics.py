"""Metrics of real workers, held against the rows that tell what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
import requests

from tests.acceptance.command_line import DONE
from tests.acceptance.test_cli_services import children
from tests.composing import free_port
from tests.metered import CANARY, TENANTS, Fleet, command_line, superuser_url
from tests.scraping import Scrape
from tests.services import PostgresService
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

_ENDED = "SELECT status, count(*) FROM llmteam.runs WHERE finished_at IS NOT NULL GROUP BY 1"


@pytest.fixture(scope="module")
def fleet(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers that last. Whoever else changed these tables would count in another process."""
    one, two = free_port(), free_port()
    with (
        command_line(tmp_path_factory.mktemp("metrics"), postgres, valkey) as line,
        line.started("worker", "--concurrency", "2", "--health", f"127.0.0.1:{one}") as whole,
        line.started("worker", "--pool", "threads", "--concurrency", "2", "--health", f"127.0.0.1:{two}") as threads,
    ):
        for worker in (whole, threads):
            worker.wait_for("ready: llmteam.control", timeout=60)
        yield Fleet(line, superuser_url(postgres, line), (one, two), (whole, threads))


def equal_to_events(fleet: Fleet, found: Scrape) -> bool:
    """Whether what all workers counted is what the tables say happened."""
    outcomes = {
        (step_type, outcome): count
        for outcome in ("completed", "failed", "skipped")
        for (step_type,), count in fleet.events(f"step.{outcome}").items()
    }
    timed = [fleet.events(f"step.{kind}") for kind in ("completed", "failed", "retrying")]
    statuses = {(status,): count for status, count in fleet.rows(_ENDED)}
    (audited,) = fleet.rows("SELECT count(*) FROM llmteam.audit_log")
    return (
        found.of("llmteam_runs_started_total") == sum(fleet.events("segment.started").values())
        and found.by("llmteam_runs_ended_total", "status") == statuses
        and found.by("llmteam_steps_total", "step_type", "outcome") == outcomes
        and found.by("llmteam_step_attempts_total", "step_type") == fleet.events("step.started")
        and found.by("llmteam_step_retries_total", "step_type") == fleet.events("step.retrying")
        and found.by("llmteam_steps_lost_total", "step_type") == fleet.events("step.lost")
        and found.of("llmteam_step_seconds_count") == sum(sum(kind.values()) for kind in timed)
        and found.of("llmteam_audit_records_total") == audited[0]
    )


def scraped_without(fleet: Fleet, *gone: psutil.Process) -> bool:
    """Whether a scrape leaves no file of these processes."""
    fleet.scrape()
    names = [path.name for folder in fleet.folders for path in folder.glob("*.db")]
    return not [name for name in names for one in gone if f"_{one.pid}." in name]


def test_what_workers_count_is_what_the_events_say_whoever_of_them_is_killed(fleet: Fleet) -> None:
    flag = fleet.line.folder / "flag"
    fleet.start("works", ("transform", {"expression": "text"}), ("works", {}), count=6)
    fleet.start("retried", ("fails_once", {}), tenant=TENANTS[1], count=2)
    fleet.start("failing", ("fails", {"retry_count": 0}), count=2)
    wait_until(lambda: fleet.ended("works", "retried", "failing"), "the runs to end", timeout=60)
    wait_until(lambda: equal_to_events(fleet, fleet.scrape()), "the counters to tell of it")
    before = fleet.scrape()

    fleet.start("killed", ("held", {"until": str(flag)}), count=1)
    wait_until(flag.with_suffix(".pid").exists, "the step to begin", timeout=30)
    victim = psutil.Process(int(flag.with_suffix(".pid").read_text()))
    victim.kill()
    flag.touch()
    wait_until(lambda: fleet.ended("killed"), "the lost step to be done by another", timeout=60)

    wait_until(lambda: equal_to_events(fleet, fleet.scrape()), "the counters to tell of that too")
    after = fleet.scrape()
    assert after.by("llmteam_steps_lost_total", "step_type") == {("held",): 1}
    assert after.by("llmteam_step_attempts_total", "step_type")[("held",)] == 2
    assert all(value <= after.samples[key] for key, value in before.samples.items())
    assert after.of("llmteam_claim_delay_seconds_count", queue="llmteam.io") >= 6
    assert after.of("llmteam_sweeps_total") > 0
    assert after.of("llmteam_database_round_trip_seconds_count") > 40
    wait_until(lambda: scraped_without(fleet, victim), "the files of the killed process to be added up")
    assert CANARY not in after.text


def test_what_processes_counted_stays_when_their_pool_is_replaced(fleet: Fleet) -> None:
    fleet.start("first", ("works", {}), count=4)
    wait_until(lambda: fleet.ended("first"), "the runs to end", timeout=60)
    wait_until(lambda: equal_to_events(fleet, fleet.scrape()), "the counters to tell of it")
    (main,) = children(fleet.workers[0].process.pid, "prefork")
    gone = [main, *main.children(recursive=True)]

    main.kill()
    wait_until(lambda: children(fleet.workers[0].process.pid, "prefork") not in ([], [main]), "another", timeout=30)

    fleet.start("again", ("works", {}), count=1)
    wait_until(lambda: fleet.ended("again"), "the fleet to go on", timeout=60)
    wait_until(lambda: equal_to_events(fleet, fleet.scrape()), "the counters to go on")
    wait_until(lambda: scraped_without(fleet, *gone), "the files of the killed processes to be added up")
    assert equal_to_events(fleet, fleet.scrape())


def test_a_supervisor_takes_its_folder_with_it(fleet: Fleet) -> None:
    before = fleet.folders
    with fleet.line.started("worker", "--pool", "prefork", "--health", f"127.0.0.1:{free_port()}") as worker:
        worker.wait_for("ready: llmteam.default", timeout=60)
        assert len(fleet.folders) == len(before) + 1

        assert worker.end(signal.SIGTERM, timeout=40) == DONE

        assert sorted(fleet.folders) == sorted(before)


def test_a_worker_without_an_address_counts_nothing(fleet: Fleet) -> None:
    before = fleet.folders
    with fleet.line.started("worker", "--pool", "prefork", "--concurrency", "1") as worker:
        worker.wait_for("ready: llmteam.default", timeout=60)

        variables = [process.environ() for process in worker.look()]

        assert not any("PROMETHEUS_MULTIPROC_DIR" in environment for environment in variables)
        assert sorted(fleet.folders) == sorted(before)


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_without_the_extra_the_page_says_what_to_install(fleet: Fleet, command: str) -> None:
    line = fleet.line
    shadow = line.folder / f"shadow-{command}" / "prometheus_client"
    shadow.mkdir(parents=True, exist_ok=True)
    (shadow / "__init__.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(shadow.parent), line.env["PYTHONPATH"]])
    port = free_port()
    with line.started(command, "--health", f"127.0.0.1:{port}", PYTHONPATH=path) as process:
        process.wait_for("ready", timeout=60)

        answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)

        assert answer.status_code == 404
        assert "pip install 'llmteam[metrics]'" in answer.text
        assert requests.get(f"http://127.0.0.1:{port}/livez", timeout=10).status_code == 200
