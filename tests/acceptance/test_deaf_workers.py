"""A worker that no longer reads from the broker is noticed, restarted, and reported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from llmteam.canvas import SegmentClient, SegmentDefinition, StepDefinition
from llmteam.canvas.state import SegmentStatus
from llmteam.settings import Settings
from tests.acceptance.command_line import DONE, CommandLine, Started, argv_of
from tests.conformance import steps
from tests.embedding import ROOT
from tests.services import PostgresService, redis_client
from tests.waiting import wait_until

#: What the watchdog says when it has found its worker deaf.
FOUND = "this worker received nothing for 2 s although"


@dataclass
class Place:
    """An installation of one test."""

    line: CommandLine
    client: SegmentClient
    broker: str

    def start(self, queue: str, count: int = 3) -> list[str]:
        """So many runs with one step for this queue."""
        kind, config = ("plain", {}) if queue == "llmteam.default" else ("transform", {"expression": "1"})
        step = StepDefinition(step_id="one", step_type=kind, config=config)
        segment = SegmentDefinition(segment_id="short", name="Short", steps=[step], edges=[])
        return [self.client.start(segment) for _ in range(count)]

    def wait(self, runs: list[str]) -> None:
        """Until the runs are completed."""
        for run in runs:
            wait_until(
                lambda run=run: self.client.status(run) is SegmentStatus.COMPLETED, f"run {run} to be done", timeout=30
            )

    def depth(self, queue: str) -> int:
        with redis_client(self.broker) as client:
            return int(client.llen(queue))

    def deafen(self, pid: int, how: str = "") -> None:
        """Make the worker whose main process has this id deaf."""
        draft = self.line.folder / "deafen.new"
        draft.write_text(f"{pid} {how}")
        draft.rename(self.line.folder / "deafen")
        wait_until(lambda: not (self.line.folder / "deafen").exists(), "the worker to go deaf")


@pytest.fixture
def place(postgres: PostgresService, clean_valkey: str, tmp_path: Path) -> Iterator[Place]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    variables = {
        "LLMTEAM_DATABASE_URL": own.create(),
        "LLMTEAM_BROKER_URL": clean_valkey,
        "LLMTEAM_SWEEP_SECONDS": "0.5",
        "LLMTEAM_DEAF_SECONDS": "2",
        "LLMTEAM_IMPORTS": "tests.conformance.steps,tests.deafness",
    }
    with SegmentClient.connect(settings=Settings.load(variables), catalog=steps.register()) as client:
        yield Place(CommandLine(tmp_path, **variables), client, clean_valkey)
    own.drop_all()


def main_of(worker: Started, pool: str) -> int:
    """The main process of a supervised worker."""
    found = psutil.Process(worker.process.pid).children()
    return next(one.pid for one in found if argv_of(one)[3:5] == ["llmteam.cli.child", pool])


def test_a_deaf_worker_gets_a_new_connection_and_doctor_tells(place: Place) -> None:
    with place.line.started("worker", "--pool", "threads", "--concurrency", "2") as worker:
        worker.wait_for("ready: ")
        place.wait(place.start("llmteam.io"))
        pid = main_of(worker, "threads")

        place.deafen(pid)
        runs = place.start("llmteam.io")

        # The first hint was delivered to a connection that nobody reads.
        wait_until(lambda: place.depth("llmteam.io") >= 2, "hints to pile up")
        assert " in llmteam.io lie in the queues and 2 of its places are free" in worker.wait_for(FOUND)
        place.wait(runs)
        assert main_of(worker, "threads") == pid
        doctor = place.line("doctor")
        assert doctor.returncode == DONE
        assert "s ago it received nothing although " in doctor.stdout
        assert " messages waited; its connection was made anew" in doctor.stdout


def test_a_deaf_prefork_worker_gets_a_new_connection_and_what_it_swallowed_is_sent_again(place: Place) -> None:
    with place.line.started("worker", "--concurrency", "2") as worker, place.line.started("beat") as beat:
        worker.wait_for("ready: ")
        beat.wait_for("ready")
        pid = main_of(worker, "prefork")

        place.deafen(pid)
        runs = place.start("llmteam.default")

        assert " in llmteam.default lie in the queues and 2 of its places are free" in worker.wait_for(FOUND)
        place.wait(runs)
        assert main_of(worker, "prefork") == pid


def test_a_worker_that_stays_deaf_is_replaced(place: Place) -> None:
    with place.line.started("worker", "--pool", "threads") as worker:
        worker.wait_for("ready: ")
        pid = main_of(worker, "threads")

        place.deafen(pid, "for good")
        runs = place.start("llmteam.io")

        worker.wait_for("it ends, to be started again")
        worker.wait_for("threads ended with code 0; it starts again")
        place.wait(runs)
        assert main_of(worker, "threads") != pid
        assert "its process was ended" in place.line("doctor").stdout


def test_doctor_sees_from_outside_that_messages_wait_for_a_worker_that_takes_none(place: Place) -> None:
    patient = {"LLMTEAM_DEAF_SECONDS": "60"}
    with place.line.started("worker", "--pool", "threads", "--concurrency", "2", **patient) as worker:
        worker.wait_for("ready: ")
        pid = main_of(worker, "threads")

        place.deafen(pid)
        place.start("llmteam.io")

        # Two of three lie there, and what sweeps have sent again since. A busy machine may not answer doctor in time.
        told = re.compile(r"warning  llmteam\.io: \d+ messages wait, and threads\..* has 2 places free and takes none")
        wait_until(lambda: told.search(place.line("doctor").stdout), "doctor to see it", timeout=40)


@contextmanager
def foreign_worker(place: Place) -> Iterator[Path]:
    """A worker of somebody else's app; its log."""
    log = place.line.folder / "foreign.log"
    command = [sys.executable, "-m", "celery", "-A", "tests.foreign_app", "worker", "-P", "threads", "-c", "2"]
    command += ["-Q", "shop,llmteam.control,llmteam.io", "--without-gossip", "--without-mingle", "-l", "INFO"]
    command += ["--pidfile", str(place.line.folder / "foreign.pid")]
    env = os.environ | place.line.env | {"PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        worker = subprocess.Popen(command, cwd=place.line.folder, env=env, stdout=out, stderr=out)
    try:
        wait_until(lambda: "ready." in log.read_text() or worker.poll() is not None, "the worker is ready", timeout=30)
        assert worker.poll() is None, log.read_text()
        yield log
    finally:
        worker.terminate()
        try:
            worker.wait(30)
        finally:
            worker.kill()
            worker.wait()


def test_a_worker_of_somebody_elses_app_is_watched_as_well(place: Place) -> None:
    with foreign_worker(place) as log:
        place.deafen(int((place.line.folder / "foreign.pid").read_text()))
        runs = place.start("llmteam.io")

        place.wait(runs)
        assert FOUND in log.read_text()
