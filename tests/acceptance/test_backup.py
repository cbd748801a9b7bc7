"""A backup: what `pg_dump` wrote while runs went on is restored beside an empty broker, and they go on from there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from llmteam.embedded import LOGIN, MIGRATION_LOGIN
from llmteam.embedded.programs import find_postgres
from tests.acceptance.command_line import DONE, CommandLine
from tests.services import PostgresService, redis_client, url_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

RESTORED = "llmteam_restored"
IMPORTS = ("--import", "steps_of_tests")


@pytest.fixture
def llmteam(postgres: PostgresService, clean_valkey: str, tmp_path: Path) -> Iterator[CommandLine]:
    yield CommandLine(
        tmp_path,
        LLMTEAM_DATABASE_URL=postgres.create(),
        LLMTEAM_BROKER_URL=clean_valkey,
        LLMTEAM_LEASE_SECONDS="2",
        LLMTEAM_SWEEP_SECONDS="0.5",
        LLMTEAM_IMPORTS="steps_of_tests",
    )
    postgres.as_superuser(f"DROP DATABASE IF EXISTS {RESTORED} WITH (FORCE)")
    postgres.drop_all()


def postgres_tool(postgres: PostgresService, name: str, *arguments: str | Path) -> None:
    """Run a program of Postgres as a DBA does; a warning is a failure."""
    url = make_url(postgres.superuser_url)
    env = os.environ | {"PGHOST": str(url.query["host"]), "PGPORT": str(url.query["port"]), "PGUSER": str(url.username)}
    command = [find_postgres().program(name), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def restore(postgres: PostgresService, llmteam: CommandLine, dump: Path) -> str:
    """Restore into a database that was made ready as a fresh one is; its URL."""
    from llmteam.db import provision

    provision(postgres.superuser_url, LOGIN, RESTORED, migration_login=MIGRATION_LOGIN)
    postgres_tool(postgres, "pg_restore", "--clean", "--if-exists", "--exit-on-error", "--dbname", RESTORED, dump)
    return url_of(llmteam.env["LLMTEAM_DATABASE_URL"], RESTORED)


def test_a_restored_database_goes_on_with_its_runs_beside_an_empty_broker(
    postgres: PostgresService, llmteam: CommandLine, clean_valkey: str, tmp_path: Path
) -> None:
    flag = tmp_path / "go-on"
    segment = llmteam.segment("kept", ("pid", {}), ("hold", {"until": str(flag)}))
    dump = tmp_path / "llmteam.dump"
    with llmteam.started("worker", "--concurrency", "2") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        with llmteam.started("run", segment, "--run-id", "kept"):
            wait_until(flag.with_suffix(".began").exists, "the second step to begin", timeout=40)
            database = str(make_url(llmteam.env["LLMTEAM_DATABASE_URL"]).database)
            postgres_tool(postgres, "pg_dump", "--format=custom", "--file", dump, database)
    before = outputs_of(llmteam, "kept")
    assert set(before) == {"step_1"}

    with redis_client(clean_valkey) as client:
        client.flushdb()
    llmteam.env["LLMTEAM_DATABASE_URL"] = restore(postgres, llmteam, dump)
    flag.touch()

    with llmteam.started("worker", "--concurrency", "2") as worker, llmteam.started("beat"):
        worker.wait_for("ready: llmteam.control", timeout=60)
        wait_until(lambda: status_of(llmteam, "kept") == "completed", "the run to end", timeout=60)
    assert outputs_of(llmteam, "kept") == before | {"step_2": "held"}
    verified = llmteam("audit", "verify")
    assert verified.returncode == DONE, verified.stdout + verified.stderr
    checked = llmteam("explain", "--check")
    assert checked.returncode == DONE, checked.stdout + checked.stderr


def shown(llmteam: CommandLine, run_id: str) -> dict[str, Any]:
    document: dict[str, Any] = llmteam.json("runs", "show", run_id)
    return document


def status_of(llmteam: CommandLine, run_id: str) -> object:
    return shown(llmteam, run_id)["status"]


def outputs_of(llmteam: CommandLine, run_id: str) -> dict[str, Any]:
    """The output of each step that has one."""
    steps = shown(llmteam, run_id)["steps"]
    return {step["step_id"]: step["output"] for step in steps if step.get("output") is not None}
