"""Runs for mining from Postgres: page by page, each in a transaction of its own; nothing is held between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import text

from llmteam.db.engine import Database
from llmteam.ids import Clock, as_utc, utc_now
from llmteam.mining.records import OF_STEPS, TELLING, Selection, StoredEvent, StoredRun

#: Runs of one page, and events that are read at once.
RUNS, EVENTS = 500, 4000


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


#: The condition on ``run_id`` is that of the index for listings.
READ_RUNS = """
SELECT tenant_id, run_id, segment_id, status, definition_hash, link, created_at, started_at, finished_at, next_seq
  FROM llmteam.runs
 WHERE tenant_id = :tenant AND run_id <> ''
   AND created_at >= :since AND created_at < :until AND (created_at, run_id) > (:since, :after)
   AND (CAST(:segment AS text) IS NULL OR segment_id = :segment)
 ORDER BY created_at, run_id
 LIMIT :page
"""

# Names of our own enumeration. Each part of a run, and each step, is looked up by its key: OFFSET 0 keeps the planner
# from reading a tenant's whole table where it has no statistics yet.
READ_EVENTS = f"""
SELECT event.*, step.ready_at, step.decisions
  FROM unnest(CAST(:runs AS text[]), CAST(:firsts AS int[]), CAST(:lasts AS int[])) WITH ORDINALITY
       AS part (run, first, last, place)
  CROSS JOIN LATERAL (
    SELECT run_id, seq, event_type, ts, step_id, step_type, visit, attempt, duration_ms, error ->> 'error_type',
           CASE WHEN event_type IN ({_listed(TELLING)}) THEN payload END
      FROM llmteam.events
     WHERE tenant_id = :tenant AND run_id = part.run AND seq BETWEEN part.first AND part.last
    OFFSET 0) event
  LEFT JOIN LATERAL (
    SELECT ready_at, decisions
      FROM llmteam.run_steps
     WHERE tenant_id = :tenant AND run_id = part.run AND step_id = event.step_id AND visit = coalesce(event.visit, 1)
    OFFSET 0) step
    ON event.event_type IN ({_listed(OF_STEPS)})
 ORDER BY part.place, event.seq
"""

#: Numbers of a run's events, the first and the last.
Part = tuple[str, int, int]


class PostgresRunReader:
    """Reads runs of one tenant at a time, behind row security.

    Memory is bounded by one page of each kind, whatever the selection. Runs that are started while it reads are not
    read.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def runs(self, selection: Selection) -> Iterator[StoredRun]:
        """The wanted runs, oldest first."""
        since = _EARLIEST if selection.since is None else as_utc(selection.since)
        until = self._clock() if selection.until is None else as_utc(selection.until)
        wanted: dict[str, Any] = {"tenant": selection.tenant_id, "segment": selection.segment_id, "until": until}
        after = ""
        while page := self._read(selection.tenant_id, READ_RUNS, since=since, after=after, page=RUNS, **wanted):
            yield from self._page(selection.tenant_id, page)
            since, after = page[-1][6], page[-1][1]

    def _page(self, tenant_id: str, page: Sequence[Any]) -> Iterator[StoredRun]:
        """The runs of a page with their events, as many as each had when the page was read."""
        events = self._events(tenant_id, [(row[1], row[9] - 1) for row in page])
        groups = groupby(events, key=lambda event: event.run_id)
        run_id, own = next(groups, ("", None))
        for row in page:
            if own is not None and row[1] == run_id:
                yield StoredRun(*[*row[:9], own])
                run_id, own = next(groups, ("", None))
            else:
                yield StoredRun(*[*row[:9], ()])

    def _events(self, tenant_id: str, runs: Iterable[tuple[str, int]]) -> Iterator[StoredEvent]:
        for parts in batches(runs):
            names, firsts, lasts = (list(each) for each in zip(*parts, strict=True))
            rows = self._read(tenant_id, READ_EVENTS, tenant=tenant_id, runs=names, firsts=firsts, lasts=lasts)
            yield from (StoredEvent(*row) for row in rows)

    def _read(self, tenant_id: str, statement: str, **values: Any) -> Sequence[Any]:
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(text(statement), values).all()


def batches(runs: Iterable[tuple[str, int]], most: int = EVENTS) -> Iterator[list[Part]]:
    """Parts of runs, given with how many events each has, in order: together no more than ``most`` events at once."""
    batch: list[Part] = []
    room = most
    for run_id, count in runs:
        first = 1
        while first <= count:
            last = min(count, first + room - 1)
            batch.append((run_id, first, last))
            room -= last - first + 1
            first = last + 1
            if not room:
                yield batch
                batch, room = [], most
    if batch:
        yield batch


_EARLIEST = datetime.fromisoformat("0001-01-02T00:00:00+00:00")
