"""What happens at size: a worker that is killed, a join of very many branches, many waiting runs, people's answers.

No raw Celery does these; each figure stands beside the nearest thing that can be measured in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psutil
import psycopg2

from bench import raw
from bench.logs import exported
from bench.ours import TENANT, ask_of, chain_of, fan_of, wait_of
from bench.servers import Site, Worker, connections_for, our_environment, raw_environment
from bench.workloads import percentile
from llmteam.canvas.client import SegmentClient
from llmteam.db import Database
from llmteam.dispatch import THREAD_QUEUES
from llmteam.events.models import EventQuery, EventType, WorktrailEvent
from llmteam.human import HumanInteractionManager
from llmteam.human.fleet import connect
from llmteam.settings import variable

_RESULT_SECONDS = 300
#: Waiting runs that one statement writes.
_PART = 10_000
#: A worker that sends the sweeps too.
BEAT = ("--beat", "--scheduler", "celery.beat:Scheduler")
#: What ten times as many events may take more, in MB: none, but for the noise of the allocator.
_MORE_MEMORY = 8
#: Tenant of the runs that wait.
_WAITING = "waiting"


@dataclass(frozen=True)
class Scale:
    """How much of it: enough to say something, or just enough to see that it works."""

    killed: int
    lease_seconds: float
    sweep_seconds: float
    width: int
    waiting: int
    alone: int
    idle_seconds: float
    decisions: int
    mined: int


FULL = Scale(
    killed=32,
    lease_seconds=5,
    sweep_seconds=1,
    width=10_000,
    waiting=100_000,
    alone=100,
    idle_seconds=30,
    decisions=4_000,
    mined=1_000_000,
)
QUICK = Scale(
    killed=4,
    lease_seconds=2,
    sweep_seconds=0.5,
    width=50,
    waiting=500,
    alone=3,
    idle_seconds=2,
    decisions=80,
    mined=2_000,
)


@dataclass(frozen=True)
class Finding:
    """One figure beside another one. ``budget`` is the most that the figure may be."""

    name: str
    unit: str
    ours: float
    beside: float | None
    beside_name: str
    budget: float | None

    @property
    def met(self) -> bool | None:
        """Whether the budget is kept; None without one."""
        return None if self.budget is None else self.ours <= self.budget


Measure = Callable[[Site, Scale], list[Finding]]


@contextmanager
def fleet(place: Site, name: str, scale: Scale, *more: str, concurrency: int = 16) -> Iterator[Worker]:
    """One worker of ours with the settings of this size, ready."""
    variables = {
        **our_environment(place),
        variable("lease_seconds"): f"{scale.lease_seconds:g}",
        variable("sweep_seconds"): f"{scale.sweep_seconds:g}",
    }
    worker = Worker(name, "llmteam.tasks.celery", THREAD_QUEUES, concurrency, place.folder, variables, more)
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def _client(place: Site) -> Iterator[SegmentClient]:
    with closing(SegmentClient.connect(settings=place.settings, tenant_id=TENANT)) as client:
        yield client


def _events(client: SegmentClient, run_id: str, *kinds: EventType) -> list[WorktrailEvent]:
    wanted = EventQuery(tenant_id=TENANT, run_id=run_id, event_types=frozenset(kinds))
    return client._runs.events.select(wanted)


def _until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + _RESULT_SECONDS
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {_RESULT_SECONDS} s in vain for {what}")
        time.sleep(0.05)


def recovery(place: Site, scale: Scale) -> list[Finding]:
    """Steps of a worker that is killed, until another one has begun them again: at most a lease and a sweep later."""
    with fleet(place, "stays", scale, *BEAT, concurrency=scale.killed), _client(place) as client:
        with fleet(place, "dies", scale, concurrency=scale.killed) as dies:
            _warm(client, 2 * scale.killed)
            started = [client.start(wait_of(scale.lease_seconds + 1)) for _ in range(2 * scale.killed)]
            _until(lambda: all(_events(client, one, EventType.STEP_STARTED) for one in started), "the steps to begin")
            killed_at = time.time()
            dies.kill()
            for run_id in started:
                client.result(run_id, _RESULT_SECONDS)
        again = [_events(client, one, EventType.STEP_STARTED)[1:] for one in started]
    took = [events[0].timestamp.timestamp() - killed_at for events in again if events]
    if not took:
        raise AssertionError("the worker that was killed had no step")
    limit = scale.lease_seconds + scale.sweep_seconds
    name = f"killed worker: {scale.killed} steps each, begun again after"
    beside = "lease + sweep"
    return [
        Finding(f"{name}, p50", "s", statistics.median(took), limit, beside, None),
        Finding(f"{name}, the last", "s", max(took), limit, beside, limit),
    ]


def wide(place: Site, scale: Scale) -> list[Finding]:
    """A join of very many branches, and Celery's chord of as many."""
    raw_seconds = _raw_chord(place, scale.width)
    with fleet(place, "wide", scale, *BEAT) as worker, _client(place) as client:
        _warm(client, 20)
        begun = time.perf_counter()
        run_id = client.start(fan_of(scale.width), 1)
        result = client.result(run_id, _RESULT_SECONDS)
        took = time.perf_counter() - begun
        worker.check()
        if not result.outputs:
            raise AssertionError(f"the wide run is {result.status.value}: {result.error}")
        done = _events(client, run_id, EventType.STEP_COMPLETED, EventType.STEP_STARTED)
    last = max(e.timestamp for e in done if e.event_type is EventType.STEP_COMPLETED and e.step_id != "join")
    join = next(e.timestamp for e in done if e.event_type is EventType.STEP_STARTED and e.step_id == "join")
    name = f"join of {scale.width:,}"
    return [
        Finding(f"{name}: begun after its last branch", "s", (join - last).total_seconds(), None, "", 1.0),
        Finding(f"{name}: from start to result", "s", took, raw_seconds, "raw chord", None),
    ]


def _raw_chord(place: Site, width: int) -> float:
    environment = raw_environment(place, 16, acks=True)
    worker = Worker("chord", "bench.raw", (raw.QUEUE,), 16, place.folder, environment)
    try:
        app = raw.make_app(place.raw_broker, connections=connections_for(16))
        with closing(raw.RawCelery(app)) as side:
            side.finish([side.start_chain(1)])
            begun = time.perf_counter()
            side.finish([side.start_fan(width)])
            return time.perf_counter() - begun
    finally:
        worker.stop()


def waiting(place: Site, scale: Scale) -> list[Finding]:
    """Starts and steps among very many runs that wait, and what the database does meanwhile."""
    with fleet(place, "waits", scale, *BEAT), _client(place) as client:
        _warm(client, 20)
        before = _latencies(client, scale.alone)
        _fill(place, scale.waiting)
        after = _latencies(client, scale.alone)
        busy = _database_cpu(place, scale.idle_seconds)
    among = f"among {scale.waiting:,} waiting runs"
    return [
        *(
            Finding(f"{what} {among}, {share}", "ms", after[what, share], before[what, share], "none waiting", None)
            for what, share in before
        ),
        Finding(f"database CPU {among}, idle but for sweeps", "%", busy, None, "", 2.0),
    ]


def answers(place: Site, scale: Scale) -> list[Finding]:
    """From a person's answer, given in this process, until a worker has begun the step behind the one that asked."""
    with fleet(place, "answers", scale, *BEAT) as worker, _client(place) as client:
        manager = connect(place.settings, tenant_id=TENANT)
        _warm(client, 20)
        took = [_answered(client, manager) for _ in range(scale.alone)]
        manager.close()
        worker.check()
    name = "human answer to next step begun"
    return [
        Finding(f"{name}, p50", "ms", statistics.median(took), None, "", None),
        Finding(f"{name}, p95", "ms", percentile(took, 0.95), None, "", 200.0),
    ]


def _answered(client: SegmentClient, manager: HumanInteractionManager) -> float:
    """Milliseconds for one answer."""
    run_id = client.start(ask_of(), 1)
    core = manager.store.core
    _until(lambda: bool(core.of_run(TENANT, run_id)), "a person to be asked")
    (request,) = core.of_run(TENANT, run_id)
    begun = time.time()
    asyncio.run(manager.respond(request.request_id, "ann", approved=True))
    client.result(run_id, _RESULT_SECONDS)
    begins = _events(client, run_id, EventType.STEP_STARTED)
    after = next(event for event in begins if event.step_id == "after")
    return (after.timestamp.timestamp() - begun) * 1000


def _latencies(client: SegmentClient, count: int) -> Mapping[tuple[str, str], float]:
    """Milliseconds of a start, and from a start to the result of its one step."""
    starts, results = [], []
    for _ in range(count):
        begun = time.perf_counter()
        run_id = client.start(chain_of(1), 1)
        starts.append((time.perf_counter() - begun) * 1000)
        client.result(run_id, _RESULT_SECONDS)
        results.append((time.perf_counter() - begun) * 1000)
    return {
        (what, share): found
        for what, took in (("start", starts), ("one step", results))
        for share, found in (("p50", statistics.median(took)), ("p95", percentile(took, 0.95)))
    }


def _warm(client: SegmentClient, count: int) -> None:
    """Threads, connections and prepared statements are there before anything counts."""
    for run_id in [client.start(wait_of(0.05)) for _ in range(count)]:
        client.result(run_id, _RESULT_SECONDS)


_FILL = """
INSERT INTO llmteam.runs (tenant_id, run_id, segment_id, definition_hash, status, open, total, next_seq, input, config,
                          context, root_run_id, created_at, started_at)
SELECT 'waiting', 'w-' || n, 'waiting', 'none', 'running', 2, 2, 2, '1', '{{}}', '{{}}', 'w-' || n, now(), now()
  FROM generate_series({first}, {last}) n;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, state, undecided, queue, owner, wake_at, ready_at)
SELECT 'waiting', 'w-' || n, 'later', 'ready', 0, 'llmteam.io', 'timer', now() + interval '30 days', now()
  FROM generate_series({first}, {last}) n;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, state, undecided, queue, owner)
SELECT 'waiting', 'w-' || n, 'after', 'pending', 1, 'llmteam.io', 'inputs'
  FROM generate_series({first}, {last}) n;
"""


def _fill(place: Site, count: int) -> None:
    assert place.settings.database_url is not None
    with closing(Database(place.settings.database_url, application_name="bench-fill", pool_size=1)) as database:
        for first in range(1, count + 1, _PART):
            with database.hot(_WAITING) as connection:
                connection.script(_FILL.format(first=first, last=min(first + _PART - 1, count)))


def _database_cpu(place: Site, seconds: float) -> float:
    """Share of one processor, in percent, that all of Postgres used while only sweeps went on."""
    processes = postgres_of(place)
    before, begun = cpu_of(processes), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu_of(processes) - before) / (time.perf_counter() - begun)


def postgres_of(place: Site) -> Sequence[psutil.Process]:
    """The processes of Postgres."""
    connection = psycopg2.connect((place.settings.database_url or "").replace("+psycopg2", "", 1))
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone() or (0,)
        main = psutil.Process(pid).parent()
    finally:
        connection.close()
    assert main is not None
    return [main, *main.children()]


def cpu_of(processes: Sequence[psutil.Process]) -> float:
    """Seconds that they have used of processors."""
    found = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found += times.user + times.system
    return found


def mining(place: Site, scale: Scale) -> list[Finding]:
    """An event log of very many events, and one of a tenth of them: the same memory does for both."""
    small = exported(place, "mined-small", scale.mined // 10)
    large = exported(place, "mined-large", scale.mined)
    name = f"event log of {scale.mined:,} events"
    fewer = f"{scale.mined // 10:,} events"
    return [
        Finding(f"{name}: time", "s", large.seconds, small.seconds, fewer, None),
        Finding(f"{name}: peak memory", "MB", large.peak, small.peak, fewer, small.peak + _MORE_MEMORY),
    ]


MEASURES: Mapping[str, Measure] = {
    "recovery": recovery,
    "wide": wide,
    "waiting": waiting,
    "answers": answers,
    "mining": mining,
}
