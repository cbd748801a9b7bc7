"""`llmteam explain` on servers that are there: what it says, in which form, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import RULES
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.acceptance.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw
from tests.services import PostgresService, redis_client, url_of

pytestmark = pytest.mark.timeout(120)

NOWHERE = "postgresql://me@127.0.0.1:9/x"
#: No broker, and a password that nobody may see.
AWAY = "redis://:hunter2@127.0.0.1:9/0"
WIDE = draw("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(30)), "all_1 -> end")


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with a database of its own that has some runs; no worker."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    with closing(Database(url)) as database:
        desk = Desk(PostgresRunStore(database), PostgresEventStore(database))
        desk.start(WIDE, run_id="wide", timeout_seconds=3_600.0)
        desk.do("wide", "s", "split_1", "b3")
        desk.claim("wide", "b4")
        desk.start(draw("a -> b"), run_id="held")
        desk.start(draw("a -> b"), run_id="broken")
        desk.engine.failed(desk.claim("broken", "a"), ValueError("it is broken"))
    yield CommandLine(tmp_path_factory.mktemp("explain"), LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey)
    own.drop_all()


def test_every_unfinished_step_is_told_with_what_it_waits_for(llmteam: CommandLine) -> None:
    done = llmteam("explain", "wide", "--tenant", TENANT)

    assert (done.returncode, done.stderr) == (DONE, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "run wide of drawn, tenant acme: running"
    assert lines[1].startswith("  Running since ")
    assert lines[1].endswith(": 2 pending, 28 ready, 1 running, 3 completed.")
    assert "b4: running" in lines
    assert "  Attempt 1 of 1 runs on desk since " in done.stdout
    assert "b0, b1, b10 and 25 more (28 steps): ready" in lines
    assert "  No worker consumes it, and it is empty: start one with `llmteam worker`." in lines
    assert "all_1: pending" in lines
    assert any(line.startswith("  Waiting for 29 steps (1 running, 28 ready): b4 (running), ") for line in lines)


def test_a_failed_run_is_told_with_its_step_and_its_error(llmteam: CommandLine) -> None:
    done = llmteam("explain", "broken", "--tenant", TENANT)

    assert done.returncode == DONE
    assert "run broken of drawn, tenant acme: failed" in done.stdout
    assert "  The error: ValueError: it is broken\n  The step a failed for good at attempt 1 of 1.\n" in done.stdout


def test_a_paused_run_is_told_with_its_snapshot_and_what_resumes_it(llmteam: CommandLine) -> None:
    snapshot = llmteam.json("runs", "pause", "held", "--tenant", TENANT)["snapshot_id"]

    told = llmteam("explain", "held", "--tenant", TENANT)
    document = llmteam.json("explain", "held", "--tenant", TENANT)

    assert (told.returncode, f" by the snapshot {snapshot}: 1 pending, 1 ready." in told.stdout) == (DONE, True)
    assert "`llmteam runs resume held` lets it go on" in told.stdout
    assert [(group["state"], group["waits_for"], group["until"]) for group in document["steps"]] == [
        *(("ready", "pause", None), ("pending", "inputs", None))
    ]
    assert document["steps"][0]["since"] == document["paused_at"]


def test_the_document_has_the_same_keys_whatever_a_step_waits_for(llmteam: CommandLine) -> None:
    going, over = (llmteam.json("explain", run, "--tenant", TENANT) for run in ("wide", "broken"))

    keys = {
        "run_id",
        "tenant_id",
        "segment_id",
        "status",
        "now",
        "deadline",
        "paused_at",
        "snapshot_id",
        "says",
        "steps",
    }
    assert set(going) == set(over) == keys
    assert (going["status"], over["status"], over["steps"]) == ("running", "failed", [])
    groups = going["steps"]
    assert {frozenset(group) for group in groups} == {
        frozenset({"steps", "state", "waits_for", "queue", "since", "until", "requests", "says"})
    }
    told = [(len(group["steps"]), group["state"], group["waits_for"], group["queue"]) for group in groups]
    assert told == [
        (1, "running", "lease", "llmteam.default"),
        (28, "ready", "queue", "llmteam.default"),
        (1, "pending", "inputs", None),
        (1, "pending", "inputs", None),
    ]
    assert groups[0]["steps"] == [{"step_id": "b4", "visit": 1}]
    assert all(group["until"] is None or group["until"].endswith("+00:00") for group in groups)


def test_a_broker_that_is_away_is_said_and_fails_nothing(llmteam: CommandLine) -> None:
    done = llmteam("explain", "wide", "--tenant", TENANT, LLMTEAM_BROKER_URL=AWAY)

    assert done.returncode == DONE, done.stderr
    assert (
        "Whether any worker consumes llmteam.default is not known: the broker redis://:***@127.0.0.1:9/0" in done.stdout
    )
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("whose", [("nobodys", "--tenant", TENANT), ("wide",), ("wide", "--tenant", "globex")])
def test_a_run_that_the_tenant_does_not_have_is_unknown(llmteam: CommandLine, whose: tuple[str, ...]) -> None:
    done = llmteam("explain", *whose)

    assert (done.returncode, done.stdout) == (USAGE, "")
    assert whose[0] in done.stderr


@pytest.mark.parametrize("arguments", [(), ("wide", "--check")])
def test_a_run_or_all_of_them_has_to_be_named(llmteam: CommandLine, arguments: tuple[str, ...]) -> None:
    done = llmteam("explain", *arguments)

    assert done.returncode == USAGE
    assert "give a RUN, or --check for all of them" in done.stderr


@pytest.mark.parametrize("what", ["wide", "--check"])
def test_a_database_that_is_away_is_exit_code_3(llmteam: CommandLine, what: str) -> None:
    done = llmteam("explain", what, LLMTEAM_DATABASE_URL=NOWHERE)

    assert (done.returncode, done.stdout) == (UNREACHABLE, "")
    assert "(LLMTEAM_DATABASE_URL) cannot be reached" in done.stderr


def test_sound_rows_end_the_check_well(llmteam: CommandLine) -> None:
    done = llmteam("explain", "--check")

    assert (done.returncode, done.stdout) == (DONE, "3 runs and 38 steps looked at: every rule holds\n")


def test_a_broken_row_is_named_with_its_rule_and_fails_the_check(
    llmteam: CommandLine, postgres: PostgresService
) -> None:
    name = llmteam.env["LLMTEAM_DATABASE_URL"].rpartition("/")[2].partition("?")[0]
    url = url_of(postgres.superuser_url, name).replace("+psycopg2", "")
    statement = "UPDATE llmteam.run_steps SET wake_at = {} WHERE run_id = 'wide' AND step_id = 'b7'"
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement.format("NULL"))

        told, document = llmteam("explain", "--check"), llmteam("explain", "--check", "--json")
        cursor.execute(statement.format("now()"))

    assert (told.returncode, document.returncode) == (FAILED, FAILED)
    assert ["acme", "wide", "b7", "step-has-wake-up"] in [line.split() for line in told.stdout.splitlines()]
    assert "3 runs and 38 steps looked at: 1 finding" in told.stdout
    found = json.loads(document.stdout)
    assert found["rows"] == [
        {"tenant_id": "acme", "run_id": "wide", "step_id": "b7", "visit": 1, "rule": "step-has-wake-up"}
    ]
    assert (found["runs"], found["steps"], found["broken"]) == (3, 38, 1)
    assert [rule["rule"] for rule in found["rules"]] == [rule.name for rule in RULES]
    assert llmteam("explain", "--check").returncode == DONE
