"""Agents on workers of other processes, one of which is killed; and runs that are carried between two homes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmteam.canvas import AgentRef, FleetExecutor, SegmentClient, StepCatalog
from llmteam.canvas.exceptions import LocalAgentError
from llmteam.execution import ExecutionMode, ExecutorConfig, TaskResult
from tests.acceptance.command_line import FAILED, USAGE, CommandLine
from tests.agents_at_work import Counting, register
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

WORKERS = """
from tests.agents_at_work import register

register()
"""


@pytest.fixture(scope="module")
def client(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentClient]:
    """A client of two workers that know the agents."""
    with redis_client(valkey) as redis:
        redis.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url, folder = own.create(), tmp_path_factory.mktemp("agents")
    (folder / "agents_of_tests.py").write_text(WORKERS)
    settings = {"LLMTEAM_LEASE_SECONDS": "2", "LLMTEAM_SWEEP_SECONDS": "0.2"}
    line = CommandLine(folder, LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey, **settings)
    catalog = StepCatalog()
    register(catalog)
    processes = ("worker", "--pool", "prefork", "--import", "agents_of_tests", "--concurrency", "4")
    with ExitStack() as stack:
        threads = stack.enter_context(line.started("worker", "--import", "agents_of_tests", "--concurrency", "2"))
        other = stack.enter_context(line.started(*processes))
        beat = stack.enter_context(line.started("beat"))
        threads.wait_for("ready: llmteam.control", timeout=60)
        other.wait_for("ready: llmteam.default", timeout=60)
        assert beat.process.poll() is None
        yield stack.enter_context(SegmentClient.connect(database_url=url, broker_url=valkey, catalog=catalog))
    own.drop_all()


def counting(folder: Path, count: int, gate: str = "") -> list[AgentRef]:
    return [AgentRef("counting", {"folder": str(folder), "n": number, "gate": gate}) for number in range(count)]


def sums(results: list[TaskResult]) -> list[int]:
    return [one.result["sum"] for one in results if one.success]


def pids(folder: Path, number: int) -> list[int]:
    log = folder / f"{number}.began"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_agents_give_their_results_in_order_and_see_no_other(client: SegmentClient, tmp_path: Path) -> None:
    fleet = FleetExecutor(client, ExecutorConfig(max_concurrent=3, retry_delay=0.01))
    agents = [
        *counting(tmp_path, 6),
        AgentRef("wrong", name="for good"),
        AgentRef("wrong", {"lost": 2, "folder": str(tmp_path)}, name="for a while"),
    ]

    results = fleet.results(fleet.start(agents, {"base": 100, "seen": []}), agents, timeout=60)

    assert sums(results[:6]) == [100, 101, 102, 103, 104, 105]
    assert [one.result["seen"] for one in results[:6]] == [[number] for number in range(6)]
    bad, late = results[6:]
    assert (bad.agent_name, bad.success, bad.error, bad.error_type, bad.retries) == (
        "for good",
        False,
        "wrong",
        "ValueError",
        0,
    )
    assert (late.agent_name, late.success, late.result, late.retries) == ("for a while", True, "in the end", 2)


def test_a_worker_that_is_killed_costs_no_result(client: SegmentClient, tmp_path: Path) -> None:
    fleet = FleetExecutor(client, ExecutorConfig(max_concurrent=2))
    agents = counting(tmp_path, 4, gate="open")
    run_id = fleet.start(agents, {"base": 0, "seen": []})
    wait_until(lambda: bool(pids(tmp_path, 0)), "the first agent to begin", timeout=30)

    os.kill(pids(tmp_path, 0)[0], signal.SIGKILL)
    (tmp_path / "open").touch()

    results = fleet.results(run_id, agents, timeout=60)
    assert sums(results) == [0, 1, 2, 3]
    assert len(pids(tmp_path, 0)) == 2
    assert fleet.start(agents, {"base": 0, "seen": []}, run_id=run_id) == run_id


def test_sequential_agents_run_one_after_the_other(client: SegmentClient, tmp_path: Path) -> None:
    fleet = FleetExecutor(client, ExecutorConfig(mode=ExecutionMode.SEQUENTIAL))
    agents = counting(tmp_path, 2, gate="open")
    run_id = fleet.start(agents, {"base": 0, "seen": []})
    wait_until(lambda: bool(pids(tmp_path, 0)), "the first agent to begin", timeout=30)

    states = {record.row.step_id: record.row.state.value for record in client.steps(run_id)}
    (tmp_path / "open").touch()

    assert (states["agent_1"], states["agent_2"]) == ("running", "pending")
    assert sums(fleet.results(run_id, agents, timeout=60)) == [0, 1]


def test_a_live_agent_is_refused_with_what_to_do(client: SegmentClient) -> None:
    with pytest.raises(LocalAgentError, match="register_agent"):
        FleetExecutor(client).start([Counting("", 1)], {})  # type: ignore[list-item]


def test_a_paused_run_is_carried_to_another_home_with_a_database_of_its_own(tmp_path: Path) -> None:
    (here_folder := tmp_path / "here").mkdir()
    (there_folder := tmp_path / "there").mkdir()
    here, there = CommandLine(here_folder), CommandLine(there_folder)
    file, gate = tmp_path / "run-9.snapshot", tmp_path / "gate"
    hold = ("hold", {"until": str(gate)})
    segment = here.segment("carried", ("transform", {"expression": "input.n + 1"}), hold, ("transform", {}))
    with here.started("up", "--import", "steps_of_tests", "--no-flower") as up:
        up.wait_for("Ctrl-C stops everything", timeout=60)
        with here.started("run", segment, "--import", "steps_of_tests", "--input", '{"n": 1}', "--run-id", "run-9"):
            wait_until(gate.with_suffix(".began").exists, "the step to begin", timeout=30)
            paused = here.json("runs", "pause", "run-9", "--grace", "0")
            exported = here.json("runs", "export-snapshot", "run-9", file)
    assert exported["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    damaged = tmp_path / "damaged"
    damaged.write_bytes(file.read_bytes()[:-9])
    gate.touch()

    with there.started("up", "--import", "steps_of_tests", "--no-flower") as up:
        up.wait_for("Ctrl-C stops everything", timeout=60)
        refused = there("runs", "import-snapshot", damaged)
        imported = there.json("runs", "import-snapshot", file)
        again = there("runs", "import-snapshot", file)
        there.json("runs", "resume", paused["snapshot_id"])
        wait_until(lambda: there.json("runs", "show", "run-9")["status"] == "completed", "the run to end", timeout=30)

    assert imported == {"run_id": "run-9", "status": "paused"}
    assert (refused.returncode, again.returncode) == (FAILED, USAGE)
    assert "no whole file" in refused.stderr
    assert "exists already" in again.stderr
