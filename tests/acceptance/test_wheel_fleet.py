"""The installed wheel as a fleet: servers, two workers and a producer, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmteam.canvas import EdgeDefinition, SegmentDefinition, StepDefinition
from tests.acceptance.conftest import Fresh
from tests.services import PostgresService
from tests.waiting import wait_until

#: Who ran a step, from a module that the workers import by name.
STEPS = """
import os, time
from llmteam.canvas import step_type

@step_type("who", queue="llmteam.io")
def who(ctx, config, data):
    time.sleep(0.3)
    return os.getpid()
"""
BRANCHES = 8
ASK = """
from llmteam.dispatch import celery_app
from llmteam.settings import Settings
found = celery_app(Settings.load()).control.inspect(timeout=1).active_queues() or {}
print(sum(any(queue["name"] == "llmteam.io" for queue in queues) for queues in found.values()))
"""


def wide() -> SegmentDefinition:
    """Branches that say who ran them, and their join."""
    numbers = range(1, BRANCHES + 1)
    return SegmentDefinition(
        segment_id="wide",
        name="Who runs what",
        steps=[
            StepDefinition(step_id="split", step_type="parallel_split", config={"branches": BRANCHES}),
            *(StepDefinition(step_id=f"who_{number}", step_type="who") for number in numbers),
            StepDefinition(step_id="join", step_type="parallel_join", config={"branches": BRANCHES}),
        ],
        edges=[
            edge
            for number in numbers
            for edge in (
                EdgeDefinition(source_step="split", source_port=f"branch_{number}", target_step=f"who_{number}"),
                EdgeDefinition(source_step=f"who_{number}", target_step="join", target_port=f"branch_{number}"),
            )
        ],
    )


@contextmanager
def process(command: Sequence[str], folder: Path, env: dict[str, str], name: str) -> Iterator[Path]:
    """A process that is asked to end when the block does; gives its log."""
    log = folder / f"{name}.log"
    with log.open("w") as out:
        running = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
    try:
        yield log
    finally:
        running.terminate()
        running.wait(60)


@pytest.mark.timeout(600)
def test_two_workers_share_a_run_that_a_third_process_started(
    fresh: Fresh, postgres: PostgresService, clean_valkey: str
) -> None:
    here = fresh.place("fleet")
    (here / "people.py").write_text(STEPS)
    (here / "wide.json").write_text(wide().to_json())
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    env = fresh.env | {
        "LLMTEAM_DATABASE_URL": own.create(),
        "LLMTEAM_BROKER_URL": clean_valkey,
        "LLMTEAM_IMPORTS": "people",
        "PYTHONPATH": str(here),
    }
    command = [fresh.llmteam, "worker", "--pool", "threads", "--concurrency", "2"]

    with ExitStack() as workers:
        for name in ("one", "two"):
            workers.enter_context(process(command, here, env, name))
        wait_until(lambda: consumers(fresh, here, env) == 2, "both workers consume", timeout=60)
        started = subprocess.run(
            [fresh.llmteam, "run", "wide.json", "--json"],
            cwd=here,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    own.drop_all()
    assert started.returncode == 0, started.stderr
    result: dict[str, Any] = json.loads(started.stdout)
    assert (result["status"], len(result["outputs"]["output"])) == ("completed", BRANCHES)
    assert len(set(result["outputs"]["output"])) == 2


def consumers(fresh: Fresh, folder: Path, env: dict[str, str]) -> int:
    """How many workers answer that they consume the queue of the steps."""
    asked = subprocess.run(
        [str(fresh.folder / "venv/bin/python"), "-c", ASK],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return int(asked.stdout or 0)
