"""The broker dies, freezes, loses its connections or its memory: runs are still accepted, and none is lost.

Names begin with the scenario of the fault catalogue that they answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from llmteam.canvas import RunConfig, SegmentClient, SegmentDefinition, SegmentResult, StepDefinition
from llmteam.canvas.models import EdgeDefinition
from llmteam.canvas.state import SegmentStatus
from tests.acceptance.command_line import Started
from tests.acceptance.stubborn_fleet import stubborn_fleet
from tests.broker import Broker, broker
from tests.services import PostgresService
from tests.waiting import wait_until

#: What a watchdog says about a worker that it takes for deaf.
DEAF = "this worker received nothing"


@dataclass
class Place:
    """An installation with a broker of its own, a worker with both pools, and sweeps."""

    folder: Path
    broker: Broker
    client: SegmentClient
    worker: Started
    _numbers: Iterator[int] = field(default_factory=count)

    def start(self, *steps: tuple[str, dict[str, Any]]) -> str:
        """A run with these steps in a row, by default two that say who ran them."""
        wanted = steps or (("pid_io", {}), ("pid_default", {}))
        made = [
            StepDefinition(step_id=f"step_{number}", step_type=kind, config=config)
            for number, (kind, config) in enumerate(wanted)
        ]
        edges = [EdgeDefinition(source_step=one.step_id, target_step=two.step_id) for one, two in pairwise(made)]
        segment = SegmentDefinition(segment_id="faulty", name="Faulty", steps=made, edges=edges)
        return self.client.start(segment, config=RunConfig(max_retries=0))

    def start_fan(self, branches: list[dict[str, Any]]) -> str:
        """A run that splits into branches which are held, and joins them."""
        count_of = {"branches": len(branches)}
        steps = [
            StepDefinition(step_id="split", step_type="parallel_split", config=count_of),
            *(
                StepDefinition(step_id=f"branch_{number}", step_type="hold_io", config=config)
                for number, config in enumerate(branches, 1)
            ),
            StepDefinition(step_id="join", step_type="parallel_join", config=count_of),
        ]
        edges = []
        for number in range(1, len(branches) + 1):
            port, branch = f"branch_{number}", f"branch_{number}"
            edges.append(EdgeDefinition(source_step="split", source_port=port, target_step=branch))
            edges.append(EdgeDefinition(source_step=branch, target_step="join", target_port=port))
        segment = SegmentDefinition(segment_id="fan", name="Fan", entrypoint="split", steps=steps, edges=edges)
        return self.client.start(segment, config=RunConfig(max_retries=0))

    def hold(self) -> tuple[str, Path]:
        """A run whose first step is being worked on until the file is there; a second step follows."""
        number = next(self._numbers)
        began, until = self.folder / f"began-{number}", self.folder / f"until-{number}"
        run_id = self.start(("hold_io", {"began": str(began), "until": str(until)}), ("pid_default", {}))
        wait_until(began.exists, "the step to begin", timeout=30)
        return run_id, until

    def result(self, run_id: str) -> SegmentResult:
        """How the run ended; each of its steps began and ended once."""
        result = self.client.result(run_id, 40, events=True)
        assert result.status is SegmentStatus.COMPLETED, (result, self.worker.output())
        told = [event.event_type.value for event in result.events]
        assert (told.count("step.started"), told.count("step.completed")) == (2, 2)
        return result

    def wait_for_all(self, runs: list[str]) -> None:
        for run_id in runs:
            self.result(run_id)
        assert DEAF not in self.worker.output()
        assert "starts again" not in self.worker.output()


@pytest.fixture(scope="module")
def place(postgres: PostgresService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("faults")
    with broker(folder) as valkey, stubborn_fleet(folder, own.create(), valkey.url) as (_, client, worker):
        yield Place(folder, valkey, client, worker)
    own.drop_all()


def test_p16_hints_that_died_with_the_broker_are_sent_again_and_running_steps_do_not_notice(place: Place) -> None:
    running = [place.hold() for _ in range(2)]
    queued = [place.start() for _ in range(5)]
    wait_until(lambda: place.broker.depth("llmteam.io") >= 5, "hints to wait behind busy threads")

    place.broker.kill()
    place.broker.start()
    assert place.broker.depth("llmteam.io") < 5
    for _, until in running:
        until.touch()

    place.wait_for_all([run_id for run_id, _ in running] + queued)


def test_p17_a_fan_out_whose_chord_was_flushed_away_joins_once(place: Place) -> None:
    began = [place.folder / f"branch-{number}" for number in range(2)]
    until = place.folder / "branches-may-end"
    run_id = place.start_fan([{"began": str(path), "until": str(until)} for path in began])
    wait_until(lambda: all(path.exists() for path in began), "the branches to begin", timeout=30)

    place.broker.flush()
    until.touch()

    result = place.client.result(run_id, 40, events=True)
    assert result.status is SegmentStatus.COMPLETED, (result, place.worker.output())
    told = [event.event_type.value for event in result.events if event.step_id == "join"]
    assert told == ["step.started", "step.completed"]


def test_p18_while_the_broker_is_away_runs_are_accepted_at_once_and_go_on_when_it_is_back(place: Place) -> None:
    before, until = place.hold()
    written = len(place.worker.output())
    place.broker.kill()

    accepted = [place.start() for _ in range(3)]
    until.touch()
    wait_until(lambda: "Connection refused" in place.worker.output()[written:], "the worker to notice", timeout=20)
    place.broker.start()

    place.wait_for_all([before, *accepted])


def test_p19_connections_that_are_cut_all_at_once_cost_no_step(place: Place) -> None:
    running, until = place.hold()
    queued = [place.start() for _ in range(3)]

    assert place.broker.drop_connections() > 2
    queued += [place.start() for _ in range(3)]
    until.touch()

    place.wait_for_all([running, *queued])


def test_p20_while_the_broker_has_no_memory_left_runs_are_accepted_and_workers_survive(place: Place) -> None:
    running, until = place.hold()

    place.broker.limit_memory(1)
    accepted = [place.start() for _ in range(3)]
    until.touch()
    written = len(place.worker.output())
    wait_until(lambda: "not sent" in place.worker.output()[written:], "the worker to notice", timeout=30)
    place.broker.limit_memory(0)

    place.wait_for_all([running, *accepted])


def test_p21_a_broker_that_freezes_for_a_while_needs_no_restart_of_anything(place: Place) -> None:
    running, until = place.hold()

    place.broker.send(signal.SIGSTOP)
    until.touch()
    frozen = time.monotonic()
    wait_until(lambda: time.monotonic() - frozen > 8, "workers to have waited", timeout=15)
    place.broker.send(signal.SIGCONT)

    place.wait_for_all([running, *[place.start() for _ in range(3)]])
