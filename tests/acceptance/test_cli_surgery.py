"""Runs that are paused, resumed, retried and forked from the command line, on a worker of another process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command_line import DONE, FAILED, USAGE, CommandLine
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

#: Fails until a file is there; tells each time what key it was given.
STEPS = """
import pathlib
from llmteam.canvas import step_type

@step_type("effect")
def effect(ctx, config, data):
    with open(config["ledger"], "a") as ledger:
        ledger.write(f"{ctx.step_id} {ctx.idempotency_key}\\n")
    if not pathlib.Path(config["works"]).exists():
        raise ValueError("it does not work yet")
    return {"did": ctx.step_id, "with": data["input"]}
"""
IMPORTS = ("--import", "steps_of_tests", "--import", "effects_of_tests")


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, and a worker that knows the steps; with a database and a broker of its own."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("surgery")
    (folder / "effects_of_tests.py").write_text(STEPS)
    line = CommandLine(
        folder, LLMTEAM_DATABASE_URL=own.create(), LLMTEAM_BROKER_URL=valkey, LLMTEAM_SWEEP_SECONDS="0.5"
    )
    with line.started("worker", *IMPORTS, "--concurrency", "2") as worker:
        worker.wait_for("ready: llmteam.control")
        yield line
    own.drop_all()


def test_snapshots_of_a_run_are_listed_newest_first(llmteam: CommandLine) -> None:
    steps = [("transform", {"expression": f"'{letter}'"}) for letter in "abc"]
    segment = llmteam.segment("snapped", *steps)

    ran = llmteam("run", segment, "--run-id", "snapped-1", "--snapshot-interval", "1")
    whole = llmteam.json("runs", "snapshots", "snapped-1")
    shown = llmteam("runs", "snapshots", "snapped-1", "--limit", "2")
    none = llmteam("runs", "snapshots", "snapped-2")

    assert ran.returncode == DONE
    assert [len(one["completed_steps"]) for one in whole] == [3, 2, 1]
    assert {one["snapshot_type"] for one in whole} == {"auto"}
    heading, first, second = shown.stdout.splitlines()
    assert heading.split() == ["SNAPSHOT", "TYPE", "PHASE", "TAKEN", "COMPLETED"]
    assert first.split()[:3] == [whole[0]["snapshot_id"], "auto", "completed"]
    assert second.split()[:3] == [whole[1]["snapshot_id"], "auto", "running"]
    assert "run snapped-2 has no snapshots" in none.stderr


@contextmanager
def going(llmteam: CommandLine, segment: Path, run_id: str) -> Iterator[Any]:
    with llmteam.started("run", segment, *IMPORTS, "--run-id", run_id) as run:
        yield run


def failing(llmteam: CommandLine, name: str) -> tuple[Path, Path, Path]:
    """A segment whose second step fails until a file is there; that file, and the ledger of its effects."""
    works, ledger = llmteam.folder / f"{name}.works", llmteam.folder / f"{name}.ledger"
    effect = {"works": str(works), "ledger": str(ledger)}
    steps = (("transform", {"expression": "{'order': input.id}"}), ("effect", effect), ("transform", {}))
    return llmteam.segment(name, *steps, params={"max_retries": 0}), works, ledger


def test_a_paused_run_stands_still_until_it_is_resumed(llmteam: CommandLine) -> None:
    gate = llmteam.folder / "gate"
    segment = llmteam.segment("pausing", ("hold", {"until": str(gate)}), ("pid", {}))

    with going(llmteam, segment, "paused-1") as run:
        wait_until(gate.with_suffix(".began").exists, "the step to begin", timeout=30)
        paused = llmteam.json("runs", "pause", "paused-1", "--grace", "0.2")
        shown = llmteam.json("runs", "show", "paused-1")
        told = llmteam("explain", "paused-1")
        gate.touch()
        resumed = llmteam("runs", "resume", paused["snapshot_id"])
        assert run.process.wait(30) == DONE, run.output()

    assert (paused["status"], shown["status"], shown["snapshot_id"]) == ("paused", "paused", paused["snapshot_id"])
    assert [step["waits_for"] for step in shown["steps"]] == ["pause", "inputs"]
    assert "paused" in told.stdout
    assert (resumed.returncode, resumed.stdout) == (DONE, "run paused-1 goes on\n")
    events = [event["event_type"] for event in llmteam.json("runs", "show", "paused-1", "--events")["events"]]
    assert events.count("segment.paused") == events.count("segment.resumed") == 1
    assert events.count("step.completed") == 2


def test_a_snapshot_of_an_earlier_pause_and_a_run_that_is_not_paused_are_refused(llmteam: CommandLine) -> None:
    gate = llmteam.folder / "second-gate"
    segment = llmteam.segment("twice", ("hold", {"until": str(gate)}))

    with going(llmteam, segment, "paused-2") as run:
        wait_until(gate.with_suffix(".began").exists, "the step to begin", timeout=30)
        first = llmteam.json("runs", "pause", "paused-2", "--grace", "0")["snapshot_id"]
        llmteam("runs", "resume", "paused-2")
        running = llmteam("runs", "resume", "paused-2")
        llmteam.json("runs", "pause", "paused-2", "--grace", "0")
        stale = llmteam("runs", "resume", first)
        assert llmteam("runs", "cancel", "paused-2").returncode == DONE
        assert run.process.wait(30) == FAILED
    over = llmteam("runs", "pause", "paused-2")

    assert (running.returncode, stale.returncode, over.returncode) == (USAGE, USAGE, FAILED)
    assert "not paused" in running.stderr
    assert "is not that of snapshot" in stale.stderr
    assert "there is nothing to pause" in over.stdout


def test_a_retry_tells_what_it_would_repeat_and_goes_on_from_what_failed(llmteam: CommandLine) -> None:
    segment, works, ledger = failing(llmteam, "retried")
    assert llmteam("run", segment, *IMPORTS, "--input", '{"id": "A-1"}', "--run-id", "failed-1").returncode == FAILED
    works.touch()

    asked = llmteam("runs", "retry", "failed-1")
    dry = llmteam.json("runs", "retry", "failed-1", "--dry-run")
    made = llmteam.json("runs", "retry", "failed-1", "--yes", "--run-id", "retry-1")

    assert (asked.returncode, dry["run_id"]) == (USAGE, None)
    assert "1 effect outside would be repeated" in asked.stderr
    assert [(one["step_id"], one["same_idempotency_key"]) for one in dry["effects"]] == [("step_2", True)]
    assert (made["run_id"], made["reused"], made["again"]) == ("retry-1", ["step_1#1"], ["step_2#1"])
    wait_until(lambda: llmteam.json("runs", "show", "retry-1")["status"] == "completed", "the retry", timeout=30)
    shown = llmteam.json("runs", "show", "retry-1")
    assert (shown["link"], shown["parent_run_id"]) == ("retry", "failed-1")
    assert shown["outputs"] == {"output": {"did": "step_2", "with": {"order": "A-1"}}}
    assert llmteam.json("runs", "show", "failed-1")["status"] == "failed"
    first, second = ledger.read_text().splitlines()
    assert first == second


def test_a_fork_begins_where_it_is_told_with_other_input(llmteam: CommandLine) -> None:
    segment, works, ledger = failing(llmteam, "forked")
    works.touch()
    assert llmteam("run", segment, *IMPORTS, "--input", '{"id": "B-1"}', "--run-id", "origin").returncode == DONE

    arguments = ("--from", "step_2", "--input", '{"input": "edited"}', "--yes", "--run-id", "fork-1")
    made = llmteam.json("runs", "fork", "origin", *arguments)
    edited = llmteam.json("runs", "fork", "origin", "--from", "step_3", "--state", '{"step_1": 7}', "--yes")

    assert (made["link"], made["reused"]) == ("fork", ["step_1#1"])
    for run_id, expected in (("fork-1", "edited"), (edited["run_id"], 7)):
        wait_until(lambda r=run_id: llmteam.json("runs", "show", r)["status"] == "completed", "the fork", timeout=30)
        assert llmteam.json("runs", "show", run_id)["outputs"]["output"]["with"] == expected
    assert len(set(ledger.read_text().splitlines())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retry", "nobodys"), "No run 'nobodys'"),
        (("fork", "nobodys", "--from", "a"), "No run 'nobodys'"),
        (("pause", "nobodys"), "No run 'nobodys'"),
        (("resume", "nobodys"), "No snapshot 'nobodys'"),
        (("fork", "origin", "--from", "nowhere"), "has no step 'nowhere'"),
        (("fork", "origin", "--from", "step_1#x"), "'x' is no visit"),
        (("fork", "origin", "--from", "step_1#7"), "never came to step 'step_1#7'"),
        (("fork", "origin", "--from", "step_1", "--state", "[1]"), "an object is needed"),
        (("retry", "origin"), "has completed"),
    ],
)
def test_what_cannot_be_done_to_a_run_is_said_and_nothing_is_started(
    llmteam: CommandLine, arguments: tuple[str, ...], message: str
) -> None:
    before = len(llmteam.json("runs", "list"))

    done = llmteam("runs", *arguments)

    assert (done.returncode, done.stdout) == (USAGE, "")
    assert message in done.stderr
    assert len(llmteam.json("runs", "list")) == before


def test_a_key_starts_one_run_and_its_rules_say_what_comes_of_a_second_start(llmteam: CommandLine) -> None:
    segment, works, _ = failing(llmteam, "keyed")
    start = ("run", segment, *IMPORTS, "--key", "order-7", "--input", '{"id": 7}', "--json")
    first = json.loads(llmteam(*start).stdout)
    again = json.loads(llmteam(*start).stdout)
    refused = llmteam(*start, "--if-closed", "fail")
    other = llmteam(*start[:-2], '{"id": 8}', "--json")
    works.touch()

    anew = json.loads(llmteam(*start, "--if-closed", "restart_failed").stdout)
    kept = json.loads(llmteam(*start, "--if-closed", "restart_failed").stdout)

    assert first["status"] == "failed"
    assert again["run_id"] == first["run_id"]
    assert (refused.returncode, other.returncode) == (USAGE, USAGE)
    assert "and is failed" in refused.stderr
    assert "with another segment or other input" in other.stderr
    assert anew["status"] == "completed"
    assert anew["run_id"] == kept["run_id"] != first["run_id"]
    assert llmteam.json("runs", "show", anew["run_id"])["parent_run_id"] == first["run_id"]
