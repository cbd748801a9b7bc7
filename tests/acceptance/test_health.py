"""What workers and beat answer to those who keep them running."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.acceptance.command_line import DONE, USAGE, CommandLine
from tests.acceptance.test_cli_services import children
from tests.composing import free_port
from tests.services import PostgresService, migration_url_of, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with redis_client(valkey) as client:
        client.flushdb()
    url = postgres.create()
    folder = tmp_path_factory.mktemp("health")
    yield CommandLine(folder, LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey, LLMTEAM_SWEEP_SECONDS="1")
    postgres.drop_all()


def ask(port: int, path: str) -> tuple[int, Any]:
    """The status and the document of a page; 0 while nobody listens."""
    with contextlib.suppress(requests.ConnectionError):
        answer = requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)
        return answer.status_code, answer.json()
    return 0, None


def failing(port: int) -> list[str]:
    """The names of the checks for which it is not ready."""
    _, document = ask(port, "/readyz")
    return [check["name"] for check in document["checks"] if not check["ok"]] if document else ["nobody"]


def version_of(llmteam: CommandLine) -> str:
    return str(llmteam.json("db", "current")["version"])


def set_version(llmteam: CommandLine, version: str) -> None:
    from sqlalchemy import create_engine, text

    from llmteam.db.schema import VERSION_TABLE

    engine = create_engine(migration_url_of(llmteam.env["LLMTEAM_DATABASE_URL"]))
    with engine.begin() as connection:
        connection.execute(text("SET ROLE llmteam_owner"))
        connection.execute(text(f"UPDATE llmteam.{VERSION_TABLE} SET version_num = :version"), {"version": version})
    engine.dispose()


def test_a_worker_is_ready_while_it_consumes_its_queues_and_the_tables_are_its_own(llmteam: CommandLine) -> None:
    port = free_port()
    flag = llmteam.folder / "drained"
    held = llmteam.segment("held", ("hold", {"until": str(flag)}))
    imports = ("--import", "steps_of_tests")
    with llmteam.started("worker", *imports, "--concurrency", "2", "--health", f"127.0.0.1:{port}") as worker:
        wait_until(lambda: failing(port) == [], "the worker to be ready", timeout=40)
        assert ask(port, "/livez") == (200, {"live": True})
        assert "llmteam.io" in json.dumps(ask(port, "/readyz")[1])

        (main,) = children(worker.process.pid, "prefork")
        main.kill()
        wait_until(lambda: failing(port) == ["processes", "queues"], "the loss of a pool to be told", timeout=20)
        assert ask(port, "/livez")[0] == 200
        wait_until(lambda: failing(port) == [], "another pool", timeout=30)

        version = version_of(llmteam)
        set_version(llmteam, "0001")
        wait_until(lambda: failing(port) == ["database"], "the other tables to be told")
        set_version(llmteam, version)
        wait_until(lambda: failing(port) == [], "its own tables")

        with llmteam.started("run", held, *imports, "--run-id", "held"):
            wait_until(flag.with_suffix(".began").exists, "the step to begin", timeout=20)
            worker.look()
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: failing(port) == ["draining"], "the drain to be told")
            assert ask(port, "/livez")[0] == 200
            flag.touch()
            assert worker.process.wait(30) == DONE


def test_beat_is_ready_while_its_clock_runs_and_the_broker_answers(llmteam: CommandLine) -> None:
    port = free_port()
    with llmteam.started("beat", LLMTEAM_HEALTH=f"127.0.0.1:{port}") as beat:
        wait_until(lambda: failing(port) == [], "beat to be ready", timeout=30)
        assert [check["name"] for check in ask(port, "/readyz")[1]["checks"]] == ["processes", "broker"]
        assert beat.end(signal.SIGTERM) == DONE


def test_an_address_that_cannot_be_had_is_wrong_usage(llmteam: CommandLine) -> None:
    done = llmteam("beat", "--health", "192.0.2.1:80")

    assert (done.returncode, "nothing can listen on 192.0.2.1 port 80" in done.stderr) == (USAGE, True)
