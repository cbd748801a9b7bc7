"""What beat tells of a whole installation, held against its rows."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command_line import DONE, CommandLine
from tests.composing import free_port
from tests.metered import CANARY, TENANTS, Fleet, command_line, superuser_url
from tests.scraping import scrape
from tests.services import PostgresService
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def line(postgres: PostgresService, clean_valkey: str, tmp_path: Path) -> Iterator[CommandLine]:
    with command_line(tmp_path, postgres, clean_valkey) as line:
        yield line


@pytest.fixture
def fleet(postgres: PostgresService, line: CommandLine) -> Iterator[Fleet]:
    """One worker, which nobody asks."""
    with line.started("worker", "--concurrency", "2") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        yield Fleet(line, superuser_url(postgres, line), (), (worker,))


_PEOPLE = ("human_task", {"task_type": "approval", "title": "May we?", "description": CANARY, "assignee_ref": CANARY})

_ROWS = {
    "llmteam_runs_open": "SELECT status, count(*) FROM llmteam.runs WHERE finished_at IS NULL GROUP BY 1",
    "llmteam_steps_open": """
        SELECT CASE WHEN r.status IN ('paused', 'pending') THEN 'pause' ELSE s.owner END, count(*)
          FROM llmteam.run_steps s JOIN llmteam.runs r USING (tenant_id, run_id)
         WHERE s.state IN ('pending', 'ready', 'running', 'waiting') AND r.finished_at IS NULL GROUP BY 1""",
    "llmteam_notifications_open": """
        SELECT state, count(*) FROM llmteam.notifications WHERE state <> 'delivered' GROUP BY 1""",
}
_LABELS = {
    "llmteam_runs_open": "status",
    "llmteam_steps_open": "waits_for",
    "llmteam_notifications_open": "state",
}


def test_beat_tells_how_the_whole_installation_stands(fleet: Fleet) -> None:
    port = free_port()
    flag = fleet.line.folder / "flag"
    fleet.start("asking", _PEOPLE, tenant=TENANTS[1], count=3)
    fleet.start("holding", ("held", {"until": str(flag)}), ("works", {}), count=1)
    fleet.start("paused", _PEOPLE, count=1)
    wait_until(lambda: fleet.rows("SELECT count(*) FROM llmteam.interactions") == [(4,)], "people", timeout=60)
    wait_until(flag.with_suffix(".pid").exists, "the step to begin", timeout=30)
    done = fleet.line("runs", "pause", f"{CANARY}-paused-0", "--tenant", TENANTS[0])
    assert done.returncode == DONE, done.stderr

    with fleet.line.started("beat", "--health", f"127.0.0.1:{port}") as beat:
        beat.wait_for("ready", timeout=30)

        def is_right() -> bool:
            found = scrape(port)
            return all(
                found.by(name, _LABELS[name]) == {(value,): count for value, count in fleet.rows(statement)}
                for name, statement in _ROWS.items()
            )

        wait_until(is_right, "the gauges to be what the rows say", timeout=40)
        found = scrape(port)

        assert found.by("llmteam_runs_open", "status") == {("running",): 4, ("paused",): 1}
        assert found.by("llmteam_fleet_up", "source") == {("database",): 1, ("broker",): 1}
        assert found.of("llmteam_people_requests_open") == 4
        assert found.of("llmteam_workers") == 3
        assert found.of("llmteam_queue_consumers", queue="llmteam.io") == 1
        assert found.of("llmteam_leases_expired") == 0
        assert {
            "llmteam_oldest_due_step_age_seconds",
            "llmteam_queue_messages",
            "llmteam_sweep_age_seconds",
        } <= found.names
        assert found.of("llmteam_sweep_age_seconds", sweep="due") < 30
        assert CANARY not in found.text
        assert beat.end(signal.SIGTERM) == DONE
    flag.touch()


def test_a_step_that_nobody_takes_makes_the_oldest_due_step_older(line: CommandLine) -> None:
    port = free_port()
    line.segment("hello", ("transform", {"expression": "1"}))
    with line.started("beat", "--health", f"127.0.0.1:{port}") as beat:
        beat.wait_for("ready", timeout=30)
        assert scrape(port).of("llmteam_oldest_due_step_age_seconds") == 0

        with line.started("run", line.folder / "hello.json"):
            wait_until(lambda: scrape(port).of("llmteam_steps_open", waits_for="queue") == 1, "it to lie", timeout=40)

        wait_until(lambda: scrape(port).of("llmteam_oldest_due_step_age_seconds") > 3, "it to be old", timeout=40)
        assert scrape(port).of("llmteam_workers") == 0


def test_a_server_that_is_away_is_told_and_its_gauges_are_missing(line: CommandLine) -> None:
    port, nowhere = free_port(), free_port()
    away = f"postgresql://nobody:secret-{CANARY}@127.0.0.1:{nowhere}/none"
    with line.started("beat", "--health", f"127.0.0.1:{port}", LLMTEAM_DATABASE_URL=away) as beat:
        beat.wait_for("ready", timeout=30)

        found = scrape(port)

        assert found.of("llmteam_fleet_up", source="database") == 0
        assert found.of("llmteam_fleet_up", source="broker") == 1
        assert "llmteam_runs_open" not in found.names
        assert CANARY not in found.text
