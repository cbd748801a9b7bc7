"""Commands on servers that are there already: workers, beat, Flower, published segments, and what is refused."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import make_url

from llmteam.embedded import EmbeddedServers
from tests.acceptance.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine, argv_of
from tests.embedding import processes_of, short_folder, wait_until_gone
from tests.services import PostgresService, migration_url_of, redis_client, url_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

#: Nothing listens there.
NOWHERE = {"LLMTEAM_DATABASE_URL": "postgresql://me@127.0.0.1:9/x", "LLMTEAM_BROKER_URL": "redis://127.0.0.1:9/0"}


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line with a database and a broker of its own by variables."""
    with redis_client(valkey) as client:
        client.flushdb()
    url = postgres.create()
    folder = tmp_path_factory.mktemp("services")
    yield CommandLine(folder, LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey, LLMTEAM_SWEEP_SECONDS="1")
    postgres.drop_all()


def children(pid: int, name: str) -> list[psutil.Process]:
    """Celery's main processes of this name under a supervisor."""
    found = psutil.Process(pid).children()
    return [one for one in found if argv_of(one)[3:5] == ["llmteam.cli.child", name]]


def test_a_worker_serves_runs_of_other_processes_restarts_what_dies_and_drains(llmteam: CommandLine) -> None:
    flag = llmteam.folder / "drained"
    users = llmteam.segment("users", ("pid", {}))
    held = llmteam.segment("held", ("hold", {"until": str(flag)}))
    imports = ("--import", "steps_of_tests")
    with llmteam.started("worker", *imports, "--concurrency", "2", LLMTEAM_LOG_FORMAT="json") as worker:
        worker.wait_for("ready: llmteam.control")
        run = llmteam.json("run", users, *imports)
        before = run["outputs"]["output"]
        logged = [json.loads(line) for line in worker.output().splitlines() if '"shop"' in line]
        assert [(one["message"], one["run_id"], one["step_id"], one["program"]) for one in logged] == [
            ("asked", run["run_id"], "step_1", "prefork")
        ]
        (main,) = children(worker.process.pid, "prefork")
        assert psutil.Process(before).ppid() == main.pid

        main.kill()
        wait_until(lambda: children(worker.process.pid, "prefork"), "another prefork worker", timeout=20)
        wait_until(lambda: not psutil.pid_exists(before), "the killed worker's pool to be gone")
        assert llmteam.json("run", users, *imports)["outputs"]["output"] != before
        assert "prefork ended by SIGKILL" in worker.output()

        with llmteam.started("run", held, *imports, "--run-id", "held") as waiting:
            wait_until(flag.with_suffix(".began").exists, "the step to begin", timeout=20)
            worker.look()
            worker.process.send_signal(signal.SIGTERM)
            worker.wait_for("stopping; running steps are finished first")
            flag.touch()
            assert worker.process.wait(30) == DONE
            assert waiting.process.wait(30) == DONE, waiting.output()
        worker.wait_until_gone()


def test_ctrl_c_leaves_a_run_to_workers_that_are_elsewhere(llmteam: CommandLine) -> None:
    with llmteam.started("run", llmteam.hello(), "--input", '{"name": "you"}', "--run-id", "later") as run:
        run.wait_for("no worker consumes llmteam.io: the run waits until one starts: llmteam worker")
        assert run.end(signal.SIGINT) == 130
        assert "run later goes on without this command; see: llmteam runs show later" in run.output()

    assert llmteam.json("runs", "show", "later")["status"] == "running"
    assert "is cancelled" in llmteam("runs", "cancel", "later").stdout
    assert "over already" in llmteam("runs", "cancel", "later").stdout


def test_beat_has_a_worker_sweep_and_doctor_sees_it(llmteam: CommandLine) -> None:
    before = llmteam("doctor")
    assert before.returncode == DONE, before.stdout
    assert "nobody consumes llmteam.control" in before.stdout

    with llmteam.started("worker", "--pool", "threads") as worker, llmteam.started("beat") as beat:
        worker.wait_for("ready: llmteam.control, llmteam.io, llmteam.llm")
        beat.wait_for("ready")

        def checks() -> dict[str, dict[str, str]]:
            return {check["name"]: check for check in llmteam.json("doctor")["checks"]}

        found = wait_until(lambda: (now := checks())["sweeps"]["outcome"] == "ok" and now, "a sweep", timeout=20)
        assert found["result backend"]["outcome"] == "ok"
        assert (found["limits"]["outcome"], "counted for all workers" in found["limits"]["found"]) == ("ok", True)
        assert (found["circuits"]["outcome"], "kept for all workers" in found["circuits"]["found"]) == ("ok", True)
        assert found["workers"]["found"] == "nobody consumes llmteam.default, llmteam.quarantine"
        assert worker.end(signal.SIGINT) == DONE


def test_doctor_fails_for_servers_that_are_not_there_and_shows_no_secret(llmteam: CommandLine) -> None:
    url = NOWHERE["LLMTEAM_BROKER_URL"].replace("//", "//:hunter2@")

    done = llmteam("doctor", **NOWHERE | {"LLMTEAM_BROKER_URL": url, "OPENAI_API_KEY": "sk-1"})

    assert done.returncode == FAILED
    assert "(LLMTEAM_DATABASE_URL) cannot be reached" in done.stdout
    assert "(LLMTEAM_BROKER_URL) cannot be reached" in done.stdout
    assert all(f"failed   {name}: 127.0.0.1 does not answer" in done.stdout for name in ("limits", "circuits"))
    assert "hunter2" not in done.stdout + done.stderr
    assert "sk-1" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("run", "hello.json"), ("worker",), ("runs", "list")])
def test_a_server_that_is_not_there_is_exit_code_3_and_names_its_setting(
    llmteam: CommandLine, command: tuple[str, ...]
) -> None:
    llmteam.hello()

    done = llmteam(*command, LLMTEAM_DATABASE_URL=NOWHERE["LLMTEAM_DATABASE_URL"])

    assert done.returncode == UNREACHABLE
    assert done.stderr.startswith("error: Postgres at postgresql://me@127.0.0.1:9/x (LLMTEAM_DATABASE_URL) cannot be")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("run", "hello.json", "--run-id", "unsent"), ("worker",)])
def test_a_broker_that_is_not_there_is_exit_code_3_and_nothing_is_started(
    llmteam: CommandLine, command: tuple[str, ...]
) -> None:
    llmteam.hello()

    done = llmteam(*command, LLMTEAM_BROKER_URL=NOWHERE["LLMTEAM_BROKER_URL"])

    assert done.returncode == UNREACHABLE
    assert "redis://127.0.0.1:9/0 (LLMTEAM_BROKER_URL) cannot be reached" in done.stderr
    assert llmteam("runs", "show", "unsent").returncode == USAGE


def test_a_worker_refuses_a_database_without_tables_and_upgrade_makes_them(
    llmteam: CommandLine, postgres: PostgresService
) -> None:
    fresh = {"LLMTEAM_DATABASE_URL": postgres.create(migrated=False)}

    refused = llmteam("worker", **fresh)
    assert (refused.returncode, "run: llmteam db upgrade" in refused.stderr) == (UNREACHABLE, True)
    assert llmteam("db", "current", **fresh).returncode == FAILED
    unfit = llmteam("db", "upgrade", **fresh)
    assert (unfit.returncode, "set LLMTEAM_MIGRATION_URL to the login" in unfit.stderr) == (UNREACHABLE, True)
    migrating = {"LLMTEAM_MIGRATION_URL": migration_url_of(fresh["LLMTEAM_DATABASE_URL"])}
    assert llmteam("db", "upgrade", **fresh, **migrating).returncode == DONE
    assert llmteam("db", "current", **fresh).returncode == DONE
    assert llmteam("db", "upgrade", **fresh).stdout.endswith(", as they were\n")


def test_migrating_another_database_than_the_one_that_is_used_is_said(
    llmteam: CommandLine, postgres: PostgresService
) -> None:
    fresh, other = postgres.create(migrated=False), postgres.create(migrated=False)

    done = llmteam("db", "upgrade", LLMTEAM_DATABASE_URL=fresh, LLMTEAM_MIGRATION_URL=migration_url_of(other))

    assert done.returncode == USAGE
    assert "LLMTEAM_MIGRATION_URL names another database than" in done.stderr


@pytest.fixture
def only_login(llmteam: CommandLine, postgres: PostgresService) -> Iterator[str]:
    """The URL of the module's database with a login that has all three roles."""
    name = f"only_{secrets.token_hex(4)}"
    postgres.as_superuser(f"CREATE ROLE {name} LOGIN")
    postgres.as_superuser(f"GRANT llmteam_owner, llmteam_app, llmteam_sweeper TO {name} WITH INHERIT FALSE, SET TRUE")
    yield make_url(llmteam.env["LLMTEAM_DATABASE_URL"]).set(username=name).render_as_string(hide_password=False)
    postgres.as_superuser(f"DROP ROLE {name}")


def test_an_only_login_goes_on_working_and_is_warned_of(llmteam: CommandLine, only_login: str) -> None:
    warning = "may become llmteam_owner, so that whoever can send SQL of their own with it"
    with llmteam.started("worker", "--pool", "threads", LLMTEAM_DATABASE_URL=only_login) as worker:
        text = worker.wait_for("ready: llmteam.control, llmteam.io, llmteam.llm")

        found = {check["name"]: check for check in llmteam.json("doctor")["checks"]}
        risky = llmteam("doctor", LLMTEAM_DATABASE_URL=only_login)

        assert worker.end(signal.SIGINT) == DONE
    assert text.count(warning) == 1
    assert "have a DBA run the output of: llmteam db upgrade --print-roles" in text
    assert found["database login"]["outcome"] == "ok"
    assert (risky.returncode, "warning  database login: " in risky.stdout, warning in risky.stdout) == (
        DONE,
        True,
        True,
    )
    assert "REVOKE llmteam_owner FROM" in risky.stdout


def test_the_inbox_warns_of_an_only_login_too(llmteam: CommandLine, only_login: str) -> None:
    given = {"LLMTEAM_DATABASE_URL": only_login, "LLMTEAM_WEB_KEYS": "a key of the web inbox for tests of it"}

    with llmteam.started("inbox", "serve", "--port", "0", **given) as serving:
        serving.wait_for("warning: the login 'only_")


def test_workers_are_not_told_the_login_of_migrations(llmteam: CommandLine) -> None:
    url = migration_url_of(llmteam.env["LLMTEAM_DATABASE_URL"])
    with llmteam.started("worker", "--pool", "threads", LLMTEAM_MIGRATION_URL=url) as worker:
        worker.wait_for("ready: llmteam.control, llmteam.io, llmteam.llm")

        (child,) = children(worker.process.pid, "threads")

        assert "LLMTEAM_MIGRATION_URL" not in child.environ()
        assert child.environ()["LLMTEAM_DATABASE_URL"] == llmteam.env["LLMTEAM_DATABASE_URL"]
        assert worker.end(signal.SIGINT) == DONE


def test_a_worker_refuses_a_login_that_row_security_does_not_bind(
    llmteam: CommandLine, embedded_servers: EmbeddedServers
) -> None:
    database = llmteam.env["LLMTEAM_DATABASE_URL"].rpartition("/")[2].partition("?")[0]
    superuser = url_of(embedded_servers.superuser_url, database)

    done = llmteam("worker", LLMTEAM_DATABASE_URL=superuser)

    assert done.returncode == USAGE
    assert "is a superuser, so tenants would not be kept apart" in done.stderr


def test_a_worker_says_once_which_module_it_cannot_import(llmteam: CommandLine) -> None:
    done = llmteam("worker", "--import", "no_such_module")

    assert done.returncode == USAGE
    assert done.stderr.count("module 'no_such_module' cannot be imported") == 1


def test_a_plain_celery_worker_of_our_app_is_checked_as_well(llmteam: CommandLine, tmp_path: Path) -> None:
    import subprocess
    import sys

    argv = [sys.executable, "-m", "celery", "-q", "-A", "llmteam.tasks", "worker", "-P", "threads"]
    env = llmteam.env | {"LLMTEAM_IMPORTS": "no_such_module"}

    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == USAGE
    assert "llmteam: LLMTEAM_IMPORTS (or --import): module 'no_such_module' cannot be imported" in done.stderr


def test_a_foreign_app_whose_queues_keep_hints_is_refused(llmteam: CommandLine, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "shop.py").write_text(
        "import os\nfrom celery import Celery\nfrom kombu import Queue\n"
        "app = Celery('shop', broker=os.environ['LLMTEAM_BROKER_URL'])\n"
        "app.conf.task_queues = [Queue('llmteam.io'), Queue('mail')]\n"
        "app.autodiscover_tasks(['llmteam'])\n"
    )
    argv = [sys.executable, "-m", "celery", "-q", "-A", "shop", "worker", "-P", "threads"]

    done = subprocess.run(argv, env=llmteam.env, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == USAGE
    assert "declares llmteam.io without no_ack=True" in done.stderr
    assert "llmteam.dispatch.step_queues()" in done.stderr


def test_a_published_segment_is_listed_shown_and_archived(llmteam: CommandLine) -> None:
    published = llmteam.json("segment", "publish", llmteam.hello(), "--by", "me")

    assert published["published_by"] == "me"
    assert llmteam.json("segment", "show", "hello@1.0")["document"]["segment_id"] == "hello"
    assert [one["version"] for one in llmteam.json("segment", "list")] == ["1.0"]
    assert "step_1 (transform)" in llmteam("segment", "graph", "hello").stdout
    llmteam.json("segment", "archive", "hello@1.0")
    assert llmteam.json("segment", "list") == []
    refused = llmteam("run", "hello@1.0")
    assert (refused.returncode, "is archived" in refused.stderr) == (USAGE, True)
    unknown = llmteam("run", "nobody")
    assert (unknown.returncode, "No published segment 'nobody'" in unknown.stderr) == (USAGE, True)


def test_up_brings_everything_and_takes_it_away_again() -> None:
    with short_folder() as folder:
        llmteam = CommandLine(folder)
        with llmteam.started("up", "--flower", "--port", "5990", "--import", "steps_of_tests") as up:
            text = up.wait_for("Ctrl-C stops everything")
            again = llmteam("up")
            assert (again.returncode, f"(process {up.process.pid})" in again.stderr) == (USAGE, True)

            published = llmteam.json("segment", "publish", llmteam.hello())
            run = llmteam.json("run", published["segment_id"], "--input", '{"name": "up"}')
            assert run["outputs"] == {"output": "hello up"}
            assert (folder / "home" / "env").stat().st_mode & 0o777 == 0o600
            key = (folder / "home" / "web.key").read_text()
            assert f"LLMTEAM_WEB_KEYS={key}\n" in (folder / "home" / "env").read_text()
            password = text.partition("user llmteam  password ")[2].split()[0]
            assert flower_answers(5990, "llmteam:wrong") == 401
            assert flower_answers(5990, f"llmteam:{password}") == 200
            assert password not in " ".join(" ".join(argv_of(one)) for one in up.look())

            assert up.end(signal.SIGTERM) == DONE
            up.wait_until_gone()
        wait_until_gone(folder)
        assert not processes_of(folder)


def flower_answers(port: int, credentials: str) -> int:
    """The status of Flower's page, once it listens."""
    import requests

    def ask() -> int | None:
        try:
            url = f"http://127.0.0.1:{port}/workers"
            return requests.get(url, auth=tuple(credentials.split(":")), timeout=5).status_code
        except requests.ConnectionError:
            return None

    return wait_until(ask, "Flower to answer", timeout=20) or 0
