"""The ways to run a segment, behind one face: in this process or on a Celery worker, in memory or in Postgres.

Tests ask a fleet what it can do (``capabilities``), never what it is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llmteam.canvas import RunConfig, SegmentDefinition, SegmentResult, SegmentRunner
from llmteam.canvas.execution import Limits
from llmteam.canvas.invoke import LoopThread
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.records import RunStore
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.dispatch import QUEUES
from llmteam.events import EventStream, MemoryEventStore, WorktrailEvent
from llmteam.events.postgres import PostgresEventStore
from llmteam.events.stores import EventStoreFace
from llmteam.settings import Settings
from llmteam.tenancy import TenantContext
from tests.conformance import steps
from tests.waiting import wait_until

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
#: Seconds that any run of the suite may take.
PATIENCE = 20.0
#: What every fleet accepts of a step's answer, in bytes of JSON.
MAX_OUTPUT_BYTES = 64 * 1024

#: Where all fleets wait.
LOOP = LoopThread()


@dataclass(frozen=True)
class Capabilities:
    """``row`` is how long a row of steps the fleet gets through in a few seconds."""

    row: int
    live_handlers: bool = True


@dataclass
class Ran:
    """How a run ended: its result, its steps' states by id (``id#visit`` from the second on), its events in order."""

    result: SegmentResult
    states: dict[str, str]
    events: list[WorktrailEvent]

    @property
    def status(self) -> str:
        return self.result.status.value

    @property
    def outputs(self) -> dict[str, Any]:
        return self.result.outputs

    @property
    def error_type(self) -> str | None:
        return None if self.result.error is None else self.result.error.error_type

    def of(self, step_id: str) -> list[str]:
        """What happened to a step, in order."""
        return [event.event_type.value for event in self.events if event.step_id == step_id]

    def seq(self, event_type: str, step_id: str) -> int:
        """The number of the first such event."""
        wanted = (event_type, step_id)
        return next(event.seq or 0 for event in self.events if (event.event_type, event.step_id) == wanted)


@dataclass
class Fleet:
    """Runs segments and waits for them, from tests that know no event loop."""

    name: str
    runner: SegmentRunner
    store: RunStore
    capabilities: Capabilities
    _loop: LoopThread = field(default=LOOP)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the fleet's loop."""
        return self._loop.run(work)

    def start(
        self,
        segment: SegmentDefinition,
        input_data: Any = None,
        *,
        config: RunConfig | None = None,
        run_id: str | None = None,
    ) -> str:
        return self.call(self.runner.start(segment, None, input_data, config=config, run_id=run_id))

    def run(self, segment: SegmentDefinition, input_data: Any = None, *, config: RunConfig | None = None) -> Ran:
        """Start a run and wait for its end."""
        run = self.runner.run(segment, None, input_data, config=config)
        return self._ran(self.call(asyncio.wait_for(run, PATIENCE)))

    def wait(self, run_id: str) -> Ran:
        """Wait for the end of a run that was started."""
        return self._ran(self.call(self.runner.result(run_id, PATIENCE)))

    def cancel(self, run_id: str) -> bool:
        return self.call(self.runner.cancel(run_id))

    def _ran(self, result: SegmentResult) -> Ran:
        states = {
            record.row.step_id if record.row.visit == 1 else f"{record.row.step_id}#{record.row.visit}": str(
                record.row.state
            )
            for record in self.store.steps("default", result.run_id)
        }
        with TenantContext("default"):
            return Ran(result, states, self.call(self.runner.event_stream.get_history(result.run_id)))


def in_memory() -> Fleet:
    """In this process, without any server."""
    events = MemoryEventStore()
    store = MemoryRunStore(sink=events.add)
    return _local("memory", store, events, Capabilities(row=5_000))


def in_postgres(database: Database) -> Fleet:
    """In this process, with the state in Postgres."""
    return _local("postgres", PostgresRunStore(database), PostgresEventStore(database), Capabilities(row=400))


def _local(name: str, store: RunStore, events: EventStoreFace, capabilities: Capabilities) -> Fleet:
    limits = Limits(max_output_bytes=MAX_OUTPUT_BYTES)
    runner = SegmentRunner(steps.register(), EventStream(events), store=store, limits=limits)
    return Fleet(name, runner, store, capabilities)


@contextmanager
def on_celery(database_url: str, broker_url: str, folder: Path) -> Iterator[Fleet]:
    """On a worker of its own, which also does what beat would."""
    variables = {
        "LLMTEAM_DATABASE_URL": database_url,
        "LLMTEAM_BROKER_URL": broker_url,
        "LLMTEAM_IMPORTS": "tests.conformance.steps",
        "LLMTEAM_MAX_OUTPUT_BYTES": str(MAX_OUTPUT_BYTES),
        "LLMTEAM_SWEEP_SECONDS": "0.5",
    }
    runner = SegmentRunner.connect(settings=Settings.load(variables), catalog=steps.register())
    store = PostgresRunStore(Database(database_url))
    with _worker(variables, folder / "worker.log"):
        yield Fleet("celery", runner, store, Capabilities(row=200, live_handlers=False))
    runner._runs.close()


@contextmanager
def _worker(variables: dict[str, str], log: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "llmteam.tasks", "worker", "-P", "threads", "-c", "8"]
    command += ["-Q", ",".join(QUEUES), "-n", f"conformance-{secrets.token_hex(4)}@%h", "-l", "INFO"]
    command += ["--beat", "-s", str(log.with_name("beat")), "--without-gossip", "--without-mingle"]
    with log.open("wb") as output:
        environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: _is_up(process, log), "the worker to be ready", timeout=60)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()


def _is_up(process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"the worker ended: {log.read_text()[-2000:]}"
    return "ready." in log.read_text(errors="replace")


def eventually(look: Callable[[], object], what: str) -> None:
    """Wait until ``look`` finds something."""
    wait_until(look, what, timeout=PATIENCE)
