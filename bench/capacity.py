"""What a run leaves in Postgres, and what it takes to write it: rows, bytes, log, transactions, processors.

Bytes and counts are the segment's and hold on any machine; rates and processors are this machine's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import psutil
import psycopg2
from sqlalchemy import make_url

from bench.ours import TENANT, ask_of, chain_of, fan_of, model_of, trips_of
from bench.scale import BEAT, Finding, Scale, cpu_of, fleet, postgres_of
from bench.servers import Site
from llmteam.canvas.client import SegmentClient
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.embedded import DATABASE
from llmteam.human import HumanInteractionManager
from llmteam.human.fleet import connect

_RESULT_SECONDS = 300
#: Sessions report their counts when they have been idle for this long (Postgres's PGSTAT_IDLE_INTERVAL), in seconds.
_REPORT_SECONDS = 11
#: Runs that one sweep of the retention deletes.
_PURGED = 500


@dataclass(frozen=True)
class Kind:
    """A typical segment: how many steps a run of it has, and how many runs are made."""

    name: str
    segment: SegmentDefinition
    steps: int
    runs: int


@dataclass(frozen=True)
class Reading:
    """What Postgres had written and used up at one moment."""

    heap: int
    index: int
    log: int
    rows: Mapping[str, int]
    updates: Mapping[str, tuple[int, int]]
    commits: int
    images: int
    database_cpu: float
    worker_cpu: float


def kinds(scale: Scale) -> list[Kind]:
    """The segments, each with as many runs as are about equally many steps."""
    runs = scale.alone * 10
    return [
        Kind("3 steps, one a model", model_of(), 3, runs),
        Kind("10 steps", chain_of(10), 10, max(1, runs // 3)),
        Kind("fan-out of 20", fan_of(20), 22, max(1, runs // 6)),
        Kind("a person asked", ask_of(), 2, max(1, runs // 2)),
    ]


def capacity(place: Site, scale: Scale) -> list[Finding]:
    """What runs of typical segments cost one Postgres, and what it costs to delete them again."""
    fleet_of = replace(scale, lease_seconds=30, sweep_seconds=5)
    found: list[Finding] = []
    with (
        fleet(place, "capacity", fleet_of, *BEAT) as worker,
        closing(SegmentClient.connect(settings=place.settings, tenant_id=TENANT)) as client,
        closing(connect(place.settings, tenant_id=TENANT)) as manager,
        _superuser(place) as ask,
    ):
        read = partial(_reading, place, ask, worker.pid, _REPORT_SECONDS if scale.idle_seconds > 10 else 0)
        for kind in kinds(scale):
            # Ahead of the warm-up, so that images of whole pages are not what is measured.
            ask("CHECKPOINT")
            _work(client, manager, replace(kind, runs=max(1, kind.runs // 10)))
            found += _cost(kind, client, manager, read)
            worker.check()
    with _superuser(place) as ask:
        found += _retention(place, ask)
    return found


def _cost(
    kind: Kind, client: SegmentClient, manager: HumanInteractionManager, read: Callable[[], Reading]
) -> list[Finding]:
    trips, before = _trips(client), read()
    begun = time.perf_counter()
    _work(client, manager, kind)
    took = time.perf_counter() - begun
    spent = _trips(client) - trips
    after = read()
    runs, steps = kind.runs, kind.runs * kind.steps

    def each(name: str, unit: str, amount: float, scaled: float = 1) -> Finding:
        return Finding(f"{kind.name}: {name}", unit, amount / runs / scaled, amount / steps / scaled, "per step", None)

    rows = {table: after.rows[table] - before.rows[table] for table in after.rows}
    updated, hot = (sum(after.updates[table][n] - before.updates[table][n] for table in after.updates) for n in (0, 1))
    return [
        each("rows", "rows", sum(rows.values())),
        each("events", "rows", rows["events"]),
        each("tables", "kB", after.heap - before.heap, 1000),
        each("indexes", "kB", after.index - before.index, 1000),
        each("write-ahead log", "kB", after.log - before.log, 1000),
        each("images of whole pages in it", "", after.images - before.images),
        each("transactions", "", after.commits - before.commits),
        each("round trips of the worker", "", spent),
        each("updates of rows", "", updated),
        each("updates of rows that touch no index", "", hot),
        each("processors, Postgres", "ms", 1000 * (after.database_cpu - before.database_cpu)),
        each("processors, worker", "ms", 1000 * (after.worker_cpu - before.worker_cpu)),
        Finding(f"{kind.name}: with {runs} in flight", "runs/s", runs / took, steps / took, "steps/s", None),
    ]


def _work(client: SegmentClient, manager: HumanInteractionManager, kind: Kind) -> None:
    """As many runs as ``kind`` says, all at once, until they are over."""
    started = [client.start(kind.segment, {"number": number}) for number in range(kind.runs)]
    if kind.segment == ask_of():
        for run_id in started:
            asyncio.run(_answer(manager, run_id))
    for run_id in started:
        result = client.result(run_id, _RESULT_SECONDS)
        if result.status is not SegmentStatus.COMPLETED:
            raise AssertionError(f"run {run_id} is {result.status.value}: {result.error}")


async def _answer(manager: HumanInteractionManager, run_id: str) -> None:
    give_up = time.monotonic() + _RESULT_SECONDS
    while not (requests := manager.store.core.of_run(TENANT, run_id)):
        if time.monotonic() > give_up:
            raise AssertionError(f"run {run_id} asked nobody in {_RESULT_SECONDS} s")
        await asyncio.sleep(0.01)
    await manager.respond(requests[0].request_id, "ann", approved=True)


def _trips(client: SegmentClient) -> int:
    """Round trips of the worker to Postgres so far, as a step in it counts them."""
    result = client.result(client.start(trips_of(), 1), _RESULT_SECONDS)
    (count,) = result.outputs.values()
    return int(count)


Ask = Callable[..., list[tuple[Any, ...]]]


@contextmanager
def _superuser(place: Site) -> Iterator[Ask]:
    """Questions that only a superuser may ask, each in a transaction of its own."""
    url = make_url(place.superuser_url).set(drivername="postgresql", database=DATABASE)
    with closing(psycopg2.connect(url.render_as_string(hide_password=False))) as connection:
        connection.autocommit = True

        def ask(sql: str) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description is not None else []

        yield ask


_SIZES = """
SELECT sum(pg_table_size(relid)), sum(pg_indexes_size(relid)), pg_current_wal_insert_lsn() - '0/0'
  FROM pg_stat_user_tables WHERE schemaname = 'llmteam'
"""
_OVER = "SELECT count(*) FROM llmteam.runs WHERE finished_at IS NOT NULL"
_COUNTS = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'llmteam'"
_COMMITS = """
SELECT xact_commit, (SELECT wal_fpi FROM pg_stat_wal)::bigint
  FROM pg_stat_database WHERE datname = current_database()
"""


def _reading(place: Site, ask: Ask, worker: int, wait: float) -> Reading:
    processors = cpu_of(postgres_of(place)), cpu_of([psutil.Process(worker)])
    ((heap, index, log),) = ask(_SIZES)
    time.sleep(wait)
    counts, ((commits, images),) = ask(_COUNTS), ask(_COMMITS)
    return Reading(
        heap=int(heap),
        index=int(index),
        log=int(log),
        rows={table: inserted for table, inserted, _, _ in counts},
        updates={table: (updated, hot) for table, _, updated, hot in counts},
        commits=commits,
        images=images,
        database_cpu=processors[0],
        worker_cpu=processors[1],
    )


def _retention(place: Site, ask: Ask) -> list[Finding]:
    """Deleting every run that is over, a sweep's batch at a time, and what the tables are then."""
    assert place.settings.database_url is not None
    ((runs,),) = ask(_OVER)
    ask("VACUUM (ANALYZE)")
    ask("CHECKPOINT")
    ((heap, index, log),) = ask(_SIZES)
    processes = postgres_of(place)
    before, begun = cpu_of(processes), time.perf_counter()
    with closing(Database(place.settings.database_url, application_name="bench-purge", pool_size=1)) as database:
        sweeps = PostgresSweeps(database)
        while sweeps.purge(timedelta(0), _PURGED):
            pass
        took = time.perf_counter() - begun
        used = cpu_of(postgres_of(place)) - before
    ((_, _, purged),) = ask(_SIZES)
    ((left,),) = ask(_OVER)
    ask("VACUUM")
    ((kept_heap, kept_index, cleaned),) = ask(_SIZES)
    if left:
        raise AssertionError(f"the retention left {left} runs that are over")
    share = "before"
    return [
        Finding("retention: runs deleted", "runs/s", runs / took, None, "", None),
        Finding("retention: processors, Postgres, a run", "ms", 1000 * used / runs, None, "", None),
        Finding("retention: write-ahead log, a run", "kB", float(purged - log) / runs / 1000, None, "", None),
        Finding(
            "retention: write-ahead log of VACUUM, a run", "kB", float(cleaned - purged) / runs / 1000, None, "", None
        ),
        Finding("retention: tables after VACUUM", "kB", float(kept_heap) / 1000, float(heap) / 1000, share, None),
        Finding("retention: indexes after VACUUM", "kB", float(kept_index) / 1000, float(index) / 1000, share, None),
    ]


MEASURES: Mapping[str, Callable[[Site, Scale], list[Finding]]] = {"capacity": capacity}
