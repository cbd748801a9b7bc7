"""One installation in one thread: store, broker, workers, sweepers and callers, on a virtual clock."""

from __future__ import annotations

from random import Random

from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Execution, GraphCache
from llmteam.canvas.records import NewRun
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.canvas.sweeper import ESSENTIAL
from tests.simulated.actors import SWEEP_SECONDS, Beat, Caller, Worker
from tests.simulated.broker import Broker
from tests.simulated.faults import Faults, Rates
from tests.simulated.limits import gate
from tests.simulated.people import Person
from tests.simulated.replies import Handler, Reply
from tests.simulated.schedule import Schedule
from tests.simulated.witness import Witness

TENANT = "acme"


class World:
    """Everything there is. ``engine_class``, ``store`` and ``sweeps`` are what mutants of the engine replace."""

    engine_class: type[Engine] = Engine
    store_class: type[MemoryRunStore] = MemoryRunStore
    sweeps: tuple[str, ...] = ESSENTIAL

    def __init__(self, seed: int | str, rates: Rates | None = None, crash_at: int | None = None) -> None:
        self.chance = Random(seed)
        self.schedule = Schedule()
        self.witness = Witness()
        self.store = self.store_class(sink=self.witness.tell, clock=self.schedule.clock)
        self.witness.store = self.store
        self.faults = Faults(self.schedule, Random(f"faults {seed}"), rates or Rates(), crash_at)
        self.gate = gate(self.faults, seed)
        self.broker = Broker(self.schedule, self.faults, self.witness)
        self.store.interactions.send = self.broker.publish
        #: Compiled graphs do not change, so that all processes share them here.
        self.graphs = GraphCache(self.store)
        self.replies: dict[str, Handler] = {}
        self.runs: list[NewRun] = []
        self.cancelled: set[str] = set()
        #: Workers that died of a handler, in order.
        self.killed: list[Worker] = []
        self.beats: list[Beat] = []
        self.caller = Caller(self, "caller")

    @property
    def workers(self) -> list[Worker]:
        return self.broker.consumers

    def hire(self, width: int, *, apart: bool = False) -> Worker:
        """A worker more."""
        worker = Worker(self, f"worker {len(self.workers)}", width, apart=apart)
        self.workers.append(worker)
        return worker

    def employ(self) -> Person:
        """Somebody more who answers what is asked."""
        return Person(self, "person")

    def sweep(self) -> Beat:
        """A process more that sweeps."""
        beat = Beat(self, f"beat {len(self.beats)}")
        self.beats.append(beat)
        return beat

    def start(self, run: NewRun, replies: Handler, after: float = 0.0) -> None:
        """A run more, whose handlers do what ``replies`` says."""
        self.runs.append(run)
        self.replies[run.run_id] = replies
        self.schedule.after(after, lambda: self.caller.start(run))

    def reply(self, execution: Execution) -> Reply:
        """What the handler of a claimed step does."""
        replies = self.replies[execution.header.run_id]
        return replies(execution.node, execution.key, execution.ctx.attempt - 1, execution.input)

    # -- time

    def run_for(self, seconds: float) -> None:
        self.schedule.run_until(self.schedule.now + seconds)

    def heal(self) -> None:
        """No more faults from now on; whatever was stopped goes on."""
        self.faults.on = False
        for worker in self.workers:
            worker.deaf = False
        for beat in self.beats:
            beat.idle_until = 0.0
        self._resume_all()

    def _resume_all(self) -> None:
        for run_id in self.known():
            if self.status(run_id) is SegmentStatus.PAUSED:
                self.caller.attempt(lambda run_id=run_id: self.caller.surgery.resume(TENANT, run_id))
        self.schedule.after(SWEEP_SECONDS, self._resume_all)

    def run_until_over(self, bound: float) -> None:
        """Let time pass until every run is over, ``bound`` seconds at most."""
        give_up = self.schedule.now + bound
        while open_ := [run_id for run_id in self.known() if not self.is_over(run_id)]:
            assert self.schedule.now < give_up, f"{open_} do not end: {self._shown(open_[0])}"
            self.run_for(SWEEP_SECONDS)

    def known(self) -> list[str]:
        """Runs that were asked for, and those that were made of them."""
        return list(dict.fromkeys([*(run.run_id for run in self.runs), *self.witness.stories]))

    def status(self, run_id: str) -> SegmentStatus | None:
        run = self.witness.run(TENANT, run_id)
        return None if run is None else run.state.status

    def is_over(self, run_id: str) -> bool:
        status = self.status(run_id)
        return status is not None and status.is_terminal

    def _shown(self, run_id: str) -> object:
        run = self.witness.run(TENANT, run_id)
        if run is None:
            return "it was never written"
        rows = [(row.key, row.state.value, row.owner, row.wake_at) for row in run.rows.values() if row.state.is_open]
        return run.state.status.value, self.schedule.clock(), rows
