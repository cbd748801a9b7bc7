"""Handlers that never return: their steps end on time, innocents beside them finish, their process is replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmteam.canvas import RunConfig, SegmentClient, SegmentDefinition, SegmentResult, StepDefinition
from llmteam.canvas.models import EdgeDefinition
from llmteam.canvas.state import SegmentStatus
from llmteam.settings import Settings
from llmteam.tasks.abandoned import GRACE_SECONDS
from tests import stubborn
from tests.acceptance.command_line import CommandLine, Started
from tests.embedding import lives
from tests.services import PostgresService
from tests.waiting import wait_until


@dataclass
class Place:
    """An installation of one test whose steps all go to one queue."""

    line: CommandLine
    client: SegmentClient
    queue: str = "io"

    @contextmanager
    def threads_worker(self, threads: int, *more: str) -> Iterator[Started]:
        """A supervised worker, and the sweeps: a worker that ends may swallow one last hint."""
        arguments = ("worker", "--pool", "threads", "--concurrency", str(threads), *more)
        with self.line.started(*arguments) as worker, self.line.started("beat") as beat:
            worker.wait_for("ready: ")
            beat.wait_for("ready")
            yield worker

    def start(self, kind: str, **config: Any) -> str:
        """A run of one step, which is tried once."""
        step = StepDefinition(step_id="one", step_type=f"{kind}_{self.queue}", config=config)
        segment = SegmentDefinition(segment_id=kind, name=kind, steps=[step], edges=[])
        return self.client.start(segment, config=RunConfig(max_retries=0))

    def result(self, run_id: str) -> SegmentResult:
        return self.client.result(run_id, 30, events=True)

    def pid(self, run_id: str) -> int:
        """Which process ran the step of a run."""
        return int(self.result(run_id).outputs["output"])

    def timed_out_once(self, run_id: str) -> bool:
        """Whether the run's one step failed for its deadline, and nothing else ever came of it."""
        result = self.result(run_id)
        told = [event.event_type.value for event in result.events if event.step_id == "one"]
        assert result.error is not None
        return (result.error.error_type, told) == ("StepTimeoutError", ["step.started", "step.failed"])


@pytest.fixture
def place(postgres: PostgresService, clean_valkey: str, tmp_path: Path) -> Iterator[Place]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    variables = {
        "LLMTEAM_DATABASE_URL": own.create(),
        "LLMTEAM_BROKER_URL": clean_valkey,
        "LLMTEAM_SWEEP_SECONDS": "0.5",
        "LLMTEAM_IMPORTS": "tests.stubborn",
    }
    with SegmentClient.connect(settings=Settings.load(variables), catalog=stubborn.register()) as client:
        yield Place(CommandLine(tmp_path, **variables), client)
    own.drop_all()


def gone(pid: int) -> Callable[[], bool]:
    process = psutil.Process(pid)
    return lambda: not lives(process)


def test_a_threads_worker_with_a_hung_handler_lets_innocents_finish_and_is_replaced(place: Place) -> None:
    began, until = place.line.folder / "began", place.line.folder / "until"
    with place.threads_worker(4) as worker:
        innocent = place.start("hold", began=str(began), until=str(until))
        wait_until(began.exists, "the innocent to begin")
        old = place.pid(place.start("pid"))
        ended = gone(old)

        hung = place.start("hang", timeout_seconds=0.5)

        assert place.timed_out_once(hung)
        worker.wait_for("1 handlers outlived their deadline and still run: this process ends")
        later = place.start("pid")
        assert not ended()
        until.touch()
        assert place.pid(innocent) == old
        wait_until(ended, "the process of the hung handler to be gone")
        assert place.pid(later) != old
        assert "threads ended with code 1; it starts again" in worker.output()
        assert place.timed_out_once(hung)


def test_an_innocent_that_takes_too_long_is_handed_back_and_does_not_keep_the_process(place: Place) -> None:
    began, until = place.line.folder / "began", place.line.folder / "until"
    place.line.env["LLMTEAM_DRAIN_SECONDS"] = "1"
    with place.threads_worker(4) as worker:
        innocent = place.start("hold", began=str(began), until=str(until))
        wait_until(began.exists, "the innocent to begin")

        assert place.timed_out_once(place.start("hang", timeout_seconds=0.5))

        worker.wait_for("steps still running are handed back (1 here)")
        worker.wait_for("threads ended with code 1; it starts again")
        until.touch()
        events = [event.event_type.value for event in place.result(innocent).events if event.step_id]
        assert events == ["step.started", "step.released", "step.started", "step.completed"]


@pytest.mark.parametrize("queue", ["io", "default"])
def test_a_handler_that_stops_when_told_costs_no_process(place: Place, queue: str) -> None:
    place.queue = queue
    with place.line.started("worker", "--concurrency", "1") as worker:
        worker.wait_for("ready: ")
        before = place.pid(place.start("pid"))

        assert place.timed_out_once(place.start("obey", timeout_seconds=0.2))

        written_off = time.monotonic() + 1.5 * GRACE_SECONDS
        wait_until(lambda: time.monotonic() > written_off, "the time in which a handler may still return")
        assert place.pid(place.start("pid")) == before
        assert "outlived" not in worker.output()


def test_few_hung_handlers_among_many_threads_are_let_be(place: Place) -> None:
    with place.threads_worker(11) as worker:
        before = place.pid(place.start("pid"))

        assert place.timed_out_once(place.start("hang", timeout_seconds=0.5))
        assert place.pid(place.start("pid")) == before
        assert place.timed_out_once(place.start("hang", timeout_seconds=0.5))

        worker.wait_for("2 handlers outlived their deadline and still run: this process ends")
        assert place.pid(place.start("pid")) != before


def test_a_pool_process_with_a_hung_handler_is_replaced_and_its_neighbour_goes_on(place: Place) -> None:
    place.queue = "default"
    began, until = place.line.folder / "began", place.line.folder / "until"
    with place.line.started("worker", "--pool", "prefork", "--concurrency", "2") as worker:
        worker.wait_for("ready: ")
        old = place.pid(place.start("pid"))
        main = psutil.Process(old).ppid()
        innocent = place.start("hold", began=str(began), until=str(until))
        wait_until(began.exists, "the innocent to begin")
        children = {one.pid for one in psutil.Process(main).children()}

        hung = place.start("hang", timeout_seconds=0.5)

        assert place.timed_out_once(hung)
        wait_until(lambda: len(children - {one.pid for one in psutil.Process(main).children()}) == 1, "a replacement")
        assert place.pid(place.start("pid")) not in children
        until.touch()
        assert place.pid(innocent) in children
        assert psutil.Process(place.pid(place.start("pid"))).ppid() == main
        assert place.timed_out_once(hung)
        assert "starts again" not in worker.output()


def test_a_chord_whose_head_hung_once_in_a_pool_process_still_fires_its_join(place: Place) -> None:
    kinds = {"split": "parallel_split", "hung": "hang_once_default", "quick": "pid_default", "join": "parallel_join"}
    configs: dict[str, dict[str, Any]] = {"split": {"branches": 2}, "join": {"branches": 2}}
    configs["hung"] = {"timeout_seconds": 0.5}
    made = [StepDefinition(step_id=one, step_type=kind, config=configs.get(one, {})) for one, kind in kinds.items()]
    edges = [
        edge
        for number, branch in enumerate(("hung", "quick"), start=1)
        for edge in (
            EdgeDefinition(source_step="split", source_port=f"branch_{number}", target_step=branch),
            EdgeDefinition(source_step=branch, target_step="join", target_port=f"branch_{number}"),
        )
    ]
    segment = SegmentDefinition(segment_id="chord", name="Chord", steps=made, edges=edges)
    with place.line.started("worker", "--concurrency", "2") as worker, place.line.started("beat") as beat:
        worker.wait_for("ready: ")
        beat.wait_for("ready")

        run_id = place.client.start(segment, config=RunConfig(max_retries=1, retry_delay=0.0))

        result = place.result(run_id)
        told = [(event.step_id, event.event_type.value) for event in result.events]
        assert result.status is SegmentStatus.COMPLETED, told
        assert told.count(("join", "step.completed")) == 1
        assert told.count(("hung", "step.started")) == 2
