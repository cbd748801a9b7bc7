"""What trust costs: audit chains beside plain rows, and a step under row security beside one that bypasses it."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

from bench import steps
from bench.appends import CHAINED, LOOSE
from bench.ours import TENANT, chain_of
from bench.scale import Finding, cpu_of, postgres_of
from bench.servers import ROOT, Site
from llmteam.audit import PostgresAuditStore
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Limits
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.records import NewRun, RunOptions
from llmteam.canvas.runs import Runs
from llmteam.db import Database
from llmteam.db.hot import HotConnection, Params, Prepared
from llmteam.db.roles import APP
from llmteam.dispatch import Chord, Hint
from llmteam.embedded import LOGIN
from llmteam.errors import LLMTeamError
from llmteam.events.postgres import PostgresEventStore
from llmteam.ids import new_id
from llmteam.runtime import RuntimeContext
from llmteam.wakeup import MemoryWakeup

#: A role with the rights of the tenants' role, whom row security does not bind.
UNBOUND = "bench_unbound"


@dataclass(frozen=True)
class Amount:
    """How much of it, in how many interleaved rounds."""

    rounds: int
    writers: tuple[int, ...]
    appends: int
    runs: int
    steps: int


FULL = Amount(rounds=5, writers=(1, 4, 8), appends=200, runs=40, steps=10)
QUICK = Amount(rounds=1, writers=(1, 2), appends=5, runs=4, steps=5)

Measure = Callable[[Site, Amount], list[Finding]]


def audit(place: Site, amount: Amount) -> list[Finding]:
    """Appends per second by so many processes, on one tenant and on one each, beside the same rows without a chain."""
    cases = list(itertools.product(amount.writers, (True, False)))
    rates: dict[tuple[int, bool, str], list[float]] = {}
    with _writers(place, max(amount.writers)) as writers:
        for kind in (CHAINED, LOOSE):
            _written(writers, kind, [f"warm-{kind}-{n}" for n in range(len(writers))], 3)
        for number in range(amount.rounds):
            for count, shared in cases:
                for kind in (CHAINED, LOOSE) if number % 2 == 0 else (LOOSE, CHAINED):
                    name = f"{kind}-{number}-{count}-{shared}"
                    tenants = [name if shared else f"{name}-{n}" for n in range(count)]
                    took = _written(writers, kind, tenants, amount.appends)
                    rates.setdefault((count, shared, kind), []).append(count * amount.appends / took)
    _check(place, f"{CHAINED}-0-{max(amount.writers)}-True", max(amount.writers) * amount.appends)
    return [
        Finding(
            f"audit appends, {count} {'writers' if count > 1 else 'writer'}, {'one tenant' if shared else 'one each'}",
            "/s",
            statistics.median(rates[count, shared, CHAINED]),
            statistics.median(rates[count, shared, LOOSE]),
            "rows without chain",
            None,
        )
        for count, shared in cases
        if count > 1 or shared
    ]


@contextmanager
def _writers(place: Site, count: int) -> Iterator[Sequence[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "bench.appends", place.settings.database_url or ""]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for one in started:
            _hear(one)
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def _hear(writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    if not writer.stdout.readline():
        raise LLMTeamError("a process that writes audit records has ended: its last words are above")


def _written(writers: Sequence[subprocess.Popen[str]], kind: str, tenants: Sequence[str], count: int) -> float:
    """Seconds until one writer for each of ``tenants`` has written so many records."""
    busy = writers[: len(tenants)]
    begun = time.perf_counter()
    for number, (writer, tenant) in enumerate(zip(busy, tenants, strict=True)):
        assert writer.stdin is not None
        writer.stdin.write(f"{kind} {tenant} {count} {number * count + 1}\n")
        writer.stdin.flush()
    for writer in busy:
        _hear(writer)
    return time.perf_counter() - begun


def _check(place: Site, tenant: str, count: int) -> None:
    store = PostgresAuditStore(place.settings.database_url or "")
    with closing(store):
        found = store.check(tenant)
    if not found.valid or found.checked != count:
        raise AssertionError(f"the chain of {tenant} does not hold, or has {found.checked} records of {count}")


def security(place: Site, amount: Amount) -> list[Finding]:
    """A step's two transactions, as the engine sends them, as the tenants' role and as one that is not bound."""
    _make_role(place)
    url = place.settings.database_url or ""
    sides = [_Side(Database(url, pool_size=1)), _Side(_Unbound(url, pool_size=1))]
    try:
        for side in sides:
            side.work(place, 2, amount.steps)
        _check_bound(*(side.database for side in sides))
        bound, unbound = ([] for _ in sides)
        for number in range(amount.rounds):
            pair = list(zip(sides, (bound, unbound), strict=True))
            for side, found in pair if number % 2 == 0 else reversed(pair):
                found.append(side.work(place, amount.runs, amount.steps))
    finally:
        for side in sides:
            side.database.close()
    name = "claim + completion, row security"
    rows = []
    for part, (what, most) in enumerate((("p50", 1.1), ("database CPU", None))):
        ours, theirs = (statistics.median(one[part] for one in found) for found in (bound, unbound))
        budget = None if most is None else round(most * theirs, 2)
        rows.append(Finding(f"{name}, {what}", "ms", ours, theirs, "bypassed", budget))
    return rows


def _check_bound(bound: Database, unbound: Database) -> None:
    """What is compared is row security: one side sees another tenant's rows, and only that side."""
    seen = []
    for database in (bound, unbound):
        with database.hot("somebody-else") as connection:
            seen += connection.script("SELECT count(*) > 0 FROM llmteam.runs") or []
    if seen != [(False,), (True,)]:
        raise AssertionError(f"row security binds where it should not, or the other way round: {seen}")


def _make_role(place: Site) -> None:
    """The role, once; it is gone with the server."""
    with closing(psycopg2.connect(place.superuser_url.replace("+psycopg2", "", 1))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (UNBOUND,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE ROLE {UNBOUND} NOLOGIN BYPASSRLS")
            cursor.execute(f"GRANT {APP} TO {UNBOUND} WITH INHERIT TRUE")
            cursor.execute(f"GRANT {UNBOUND} TO {LOGIN} WITH INHERIT FALSE, SET TRUE")


class _UnboundConnection(HotConnection):
    """The same scripts as another role."""

    __slots__ = ()

    def script(
        self,
        sql: str,
        params: Params = (),
        *,
        role: Any = APP,
        begin: bool = False,
        prepared: Iterable[Prepared] = (),
    ) -> list[tuple[Any, ...]] | None:
        return super().script(
            sql,
            params,
            role=UNBOUND if role == APP else role,
            begin=begin,
            prepared=prepared,  # type: ignore[arg-type]
        )


class _Unbound(Database):
    def hot(self, tenant_id: str | None) -> HotConnection:
        return _UnboundConnection(self, tenant_id or "")


class _Silent:
    """A dispatcher that sends nothing: only the database is measured."""

    def send(self, hints: Sequence[Hint]) -> None:
        pass

    def send_chord(self, chord: Chord) -> None:
        pass


class _Side:
    """An engine over one database, whose steps are run here."""

    def __init__(self, database: Database) -> None:
        assert steps.QUEUE  # imported for its step types
        self.database = database
        self._engine = Engine(
            PostgresRunStore(database),
            handler_of=lambda type_id: None,
            runtime_of=lambda header: RuntimeContext(header.tenant_id, "", header.run_id, header.segment_id),
            dispatcher=_Silent(),
            limits=Limits(),
            holder="bench",
        )
        self._runs = Runs(self._engine, PostgresEventStore(database), MemoryWakeup())

    def work(self, place: Site, runs: int, length: int) -> tuple[float, float]:
        """Milliseconds of a step, the median of all, and of Postgres's processors for one."""
        pinned = self._runs.pin(chain_of(length))
        started = [new_id() for _ in range(runs)]
        for run_id in started:
            self._engine.submit(NewRun(TENANT, run_id, pinned, "1", RunOptions(max_retries=0)))
        took = []
        processes = postgres_of(place)
        before = cpu_of(processes)
        for run_id in started:
            for step in chain_of(length).steps:
                begun = time.perf_counter()
                execution = self._engine.begin(Hint(TENANT, run_id, step.step_id, 1, ""))
                if execution is None:
                    raise AssertionError(f"{step.step_id} of run {run_id} was not due")
                self._engine.answered(execution, 1)
                took.append((time.perf_counter() - begun) * 1000)
        return statistics.median(took), 1000 * (cpu_of(processes) - before) / len(took)


MEASURES: Mapping[str, Measure] = {"audit": audit, "security": security}
