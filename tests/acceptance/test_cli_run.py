"""`llmteam run` on a machine with nothing: servers and workers come, do the work, and are gone."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmteam.embedded import start
from tests.acceptance.command_line import DONE, FAILED, USAGE, CommandLine, argv_of
from tests.embedding import processes_of, short_folder, wait_until_gone
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def alone() -> Iterator[CommandLine]:
    """A home whose servers nobody but the command itself keeps running."""
    with short_folder() as folder:
        yield CommandLine(folder)


@pytest.fixture(scope="module")
def llmteam() -> Iterator[CommandLine]:
    """A home whose servers run all the time, because starting them for each command takes longer than the tests."""
    with short_folder() as folder:
        line = CommandLine(folder)
        with start(Path(line.env["LLMTEAM_HOME"])):
            yield line


def test_a_segment_runs_with_nothing_set_up_and_leaves_nothing_running(alone: CommandLine) -> None:
    done = alone("run", alone.hello(), "--input", '{"name": "you"}')

    assert done.returncode == DONE, done.stderr
    status, *middle, run_line, look = done.stdout.splitlines()
    assert status.startswith("completed hello in ")
    assert json.loads("\n".join(middle)) == {"output": "hello you"}
    assert look == f"look again: llmteam runs show {run_line.removeprefix('run ')}"
    assert done.stderr == ""
    wait_until_gone(alone.folder)


def test_a_finished_run_can_be_looked_at_later(llmteam: CommandLine) -> None:
    run = llmteam.json("run", llmteam.hello(), "--input", '{"name": "you"}', "--tenant", "acme")

    shown = llmteam("runs", "show", run["run_id"], "--tenant", "acme", "--events")

    assert shown.returncode == DONE
    assert "step_1  completed" in shown.stdout
    assert "segment.completed" in shown.stdout
    assert "hello you" in shown.stdout
    assert [one["run_id"] for one in llmteam.json("runs", "list", "--tenant", "acme")] == [run["run_id"]]
    assert llmteam("runs", "show", run["run_id"]).returncode == USAGE


def test_progress_is_a_line_per_event_when_it_is_asked_for_in_a_pipe(llmteam: CommandLine) -> None:
    done = llmteam("run", llmteam.hello(), "--input", '{"name": "you"}', "--watch", "--json")

    assert json.loads(done.stdout)["outputs"] == {"output": "hello you"}
    assert [line.split()[1] for line in done.stderr.splitlines() if "step." in line] == [
        "step.started",
        "step.completed",
    ]


def test_users_steps_run_in_processes_of_their_own(llmteam: CommandLine) -> None:
    segment = llmteam.segment("users", ("pid", {}), ("transform", {"expression": "data"}))

    done = llmteam.json("run", segment, "--import", "steps_of_tests")

    assert done["status"] == "completed"
    assert isinstance(done["outputs"]["output"], int)


def test_a_step_that_fails_makes_the_run_fail_and_is_named(llmteam: CommandLine) -> None:
    segment = llmteam.segment("fails", ("broken", {}), params={"max_retries": 0})

    done = llmteam("run", segment, "--import", "steps_of_tests")

    assert done.returncode == FAILED
    assert "step_1: ValueError: it is broken" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_that_takes_too_long_ends_with_its_timeout(llmteam: CommandLine) -> None:
    segment = llmteam.segment("slow", ("hold", {"until": str(llmteam.folder / "never")}))

    done = llmteam("run", segment, "--import", "steps_of_tests", "--timeout", "0.5", "--json")

    assert done.returncode == FAILED
    assert json.loads(done.stdout)["status"] == "timeout"


def test_ctrl_c_cancels_the_run_whose_workers_go_with_the_command(llmteam: CommandLine) -> None:
    flag = llmteam.folder / "interrupted"
    segment = llmteam.segment("interrupted", ("hold", {"until": str(flag)}))

    with llmteam.started("run", segment, "--import", "steps_of_tests", "--run-id", "held-1") as run:
        wait_until(flag.with_suffix(".began").exists, "the step to begin", timeout=30)
        assert run.end(signal.SIGINT, timeout=40) == 130
        assert "run held-1 is cancelled" in run.output()
        run.wait_until_gone()

    assert llmteam.json("runs", "show", "held-1")["status"] == "cancelled"


def test_nothing_outlives_a_command_that_is_killed(alone: CommandLine) -> None:
    flag = alone.folder / "killed"
    segment = alone.segment("killed", ("hold", {"until": str(flag)}))

    with alone.started("run", segment, "--import", "steps_of_tests") as run:
        wait_until(flag.with_suffix(".began").exists, "the step to begin", timeout=30)
        assert run.look()
        assert processes_of(alone.folder)
        run.end(signal.SIGKILL)
        run.wait_until_gone()
        wait_until_gone(alone.folder)


def test_a_run_that_leans_on_another_ones_workers_gets_its_own_when_those_go(llmteam: CommandLine) -> None:
    first, second = llmteam.folder / "first", llmteam.folder / "second"
    imports = ("--import", "steps_of_tests")
    one = llmteam.segment("first", ("hold", {"until": str(first)}))
    two = llmteam.segment("second", ("hold", {"until": str(second)}), ("transform", {"expression": "'over'"}))
    with llmteam.started("run", one, *imports) as owner:
        wait_until(first.with_suffix(".began").exists, "the first run to begin", timeout=30)
        with llmteam.started("run", two, *imports) as guest:
            wait_until(second.with_suffix(".began").exists, "the second run to begin", timeout=30)
            assert not [one for one in guest.look() if "llmteam.cli.child" in argv_of(one)]
            first.touch()
            second.touch()

            assert owner.process.wait(30) == DONE
            assert guest.process.wait(30) == DONE, guest.output()


def test_the_example_runs_and_its_service_has_the_outcome(llmteam: CommandLine) -> None:
    done = llmteam("run", "--example", "ticket-triage")

    assert done.returncode == DONE, done.stderr
    assert "The ticket service has outcome O-1" in done.stderr


def test_a_worker_that_cannot_start_ends_the_run_with_its_reason(llmteam: CommandLine) -> None:
    (llmteam.folder / "only_here.py").write_text(
        "import sys\nif 'llmteam.cli.child' in sys.orig_argv: raise RuntimeError('no licence')\n"
    )

    done = llmteam("run", llmteam.hello(), "--import", "only_here", "--input", '{"name": "x"}')

    assert done.returncode == USAGE
    assert "the worker does not start" in done.stderr
    assert "RuntimeError: no licence" in done.stderr
