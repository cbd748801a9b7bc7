"""A place in which runs meet mishaps: a database, a client, the files that say what happened, workers on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmteam.canvas import SegmentClient, SegmentDefinition, SegmentResult, StepCatalog, pauses
from llmteam.canvas.fleet import connect
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.records import StepRecord
from llmteam.canvas.runs import Runs
from llmteam.db import Database
from llmteam.ids import new_id, utc_now
from llmteam.settings import Settings
from tests import failpoints
from tests.acceptance.command_line import CommandLine
from tests.mishaps import Began, began, crowded, gate_of
from tests.waiting import wait_until

TENANT = "default"
#: Short, so that a test sees a lease end; long enough for a machine that is busy with other things.
LEASE, SWEEP = 2.0, 0.15
#: Seconds that any run of these tests may take.
PATIENCE = 80.0


@dataclass
class Place:
    """Where the runs of one module live."""

    line: CommandLine
    folder: Path
    runs: Runs
    client: SegmentClient
    store: PostgresRunStore
    database: Database
    database_url: str
    broker_url: str
    lease: float = LEASE
    _started: list[str] = field(default_factory=list)

    def start(self, segment: SegmentDefinition, run_id: str | None = None, **how: Any) -> str:
        self._started.append(self.client.start(segment, run_id=run_id or new_id(), **how))
        return self._started[-1]

    def arm(self, point: str, run_id: str, step_id: str = "", action: str = failpoints.KILL, **more: Any) -> None:
        failpoints.arm(self.folder, point, run_id, step_id, action, **more)

    def passed(self, point: str, run_id: str, step_id: str = "") -> bool:
        return failpoints.passed(self.folder, point, run_id, step_id)

    def begin_pause(self, run_id: str) -> None:
        """Begin to pause without waiting for the drain, as somebody who dies at once; sweeps see to the rest."""
        header = self.store.header(TENANT, run_id)
        assert header is not None
        self.store.apply(header, [], lambda moment: pauses.begin_pause(moment, moment.change.now), {}, now=utc_now())

    def ended(self, run_id: str) -> SegmentResult:
        """How the run ended, with its events."""
        result = self.client.result(run_id, timeout=PATIENCE, events=True)
        assert result.status.is_terminal, f"run {run_id} is {result.status}: {self.states(run_id)}"
        return result

    def rows(self, run_id: str) -> dict[str, StepRecord]:
        return {record.row.step_id: record for record in self.store.steps(TENANT, run_id)}

    def states(self, run_id: str) -> dict[str, str]:
        return {step_id: str(record.row.state) for step_id, record in self.rows(run_id).items()}

    def began(self, run_id: str, step_id: str) -> list[Began]:
        """Each call of this step's handler."""
        return [one for one in began(self.folder, run_id) if one.step_id == step_id]

    def wait_for(self, run_id: str, step_id: str, times: int = 1) -> Began:
        """Wait until the step's handler was called so often; the last call."""
        wait_until(lambda: len(self.began(run_id, step_id)) >= times, f"step {step_id} to begin", timeout=PATIENCE)
        return self.began(run_id, step_id)[-1]

    def open(self, *run_ids: str, call: int = 0) -> None:
        """Let the gated steps of these runs go on, or only one call of them."""
        for run_id in run_ids:
            gate_of(self.folder, run_id, call).touch()

    def open_all(self) -> None:
        """Let go of everything, so that a test that failed leaves no step waiting in the way of others."""
        self.open(*self._started)


def told(result: SegmentResult) -> Counter[tuple[str | None, str]]:
    """How often each thing happened to each step."""
    return Counter((event.step_id, str(event.event_type.value)) for event in result.events)


@contextmanager
def place(
    folder: Path, database_url: str, broker_url: str, *, catalog: StepCatalog | None = None, **env: str
) -> Iterator[Place]:
    """A place with these servers; ``env`` are more settings of its workers. Without ``catalog`` it is crowded."""
    points = folder / "points"
    points.mkdir()
    variables = {
        "LLMTEAM_DATABASE_URL": database_url,
        "LLMTEAM_BROKER_URL": broker_url,
        "LLMTEAM_IMPORTS": "tests.failpoints,tests.mishaps",
        "LLMTEAM_LEASE_SECONDS": f"{LEASE:g}",
        "LLMTEAM_SWEEP_SECONDS": f"{SWEEP:g}",
        failpoints.VARIABLE: str(points),
        **env,
    }
    settings = Settings.load(_without_imports(variables))
    runs = connect(settings, catalog=catalog or crowded())
    database = Database(database_url)
    try:
        line = CommandLine(folder, **variables)
        client = SegmentClient(runs, TENANT)
        yield Place(line, points, runs, client, PostgresRunStore(database), database, database_url, broker_url)
    finally:
        runs.close()
        database.close()


def _without_imports(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name != "LLMTEAM_IMPORTS"}
