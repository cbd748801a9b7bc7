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

#: Runs of one page, and events read at once.
RUNS, EVENTS = 500, 2000


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


READ_RUNS = """
SELECT tenant_id, run_id, segment_id, status, definition_hash, link, created_at, started_at, finished_at
  FROM llmteam.runs
 WHERE tenant_id = :tenant AND created_at >= :since AND created_at < :until AND (created_at, run_id) > (:since, :after)
   AND (CAST(:segment AS text) IS NULL OR segment_id = :segment)
 ORDER BY created_at, run_id
 LIMIT :page
"""

# Names of our own enumeration. The page is cut before steps are looked up, one by one by their key.
READ_EVENTS = f"""
WITH page AS MATERIALIZED (
  SELECT run_id, seq, event_type, ts, step_id, step_type, visit, attempt, duration_ms, error ->> 'error_type' AS error,
         CASE WHEN event_type IN ({_listed(TELLING)}) THEN payload END AS told
    FROM llmteam.events
   WHERE tenant_id = :tenant AND run_id = ANY(:runs) AND (run_id, seq) > (:run, :seq)
   ORDER BY run_id, seq
   LIMIT :page)
SELECT page.*, step.ready_at, step.decisions
  FROM page
  LEFT JOIN LATERAL (
    SELECT ready_at, decisions
      FROM llmteam.run_steps
     WHERE tenant_id = :tenant AND run_id = page.run_id AND step_id = page.step_id AND visit = coalesce(page.visit, 1)
     OFFSET 0) step
    ON page.event_type IN ({_listed(OF_STEPS)})
 ORDER BY page.run_id, page.seq
"""


class PostgresRunReader:
    """Reads runs of one tenant at a time, behind row security.

    Memory is bounded by one page of each kind, whatever the selection. Runs that are started while it reads are not
    read.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    def runs(self, selection: Selection) -> Iterator[StoredRun]:
        """The wanted runs, oldest first within some hundreds."""
        since = _EARLIEST if selection.since is None else as_utc(selection.since)
        until = self._clock() if selection.until is None else as_utc(selection.until)
        wanted: dict[str, Any] = {"tenant": selection.tenant_id, "segment": selection.segment_id, "until": until}
        after = ""
        while page := self._read(selection.tenant_id, READ_RUNS, since=since, after=after, page=RUNS, **wanted):
            yield from self._page(selection.tenant_id, page)
            since, after = page[-1][6], page[-1][1]

    def _page(self, tenant_id: str, page: Sequence[Any]) -> Iterator[StoredRun]:
        """The runs of a page with their events; those that have none come last."""
        found: dict[str, list[Any]] = {row[1]: list(row) for row in page}
        events = self._events(tenant_id, list(found))
        for run_id, own in groupby(events, key=lambda event: event.run_id):
            yield _run(found.pop(run_id), own)
        for row in found.values():
            yield _run(row, ())

    def _events(self, tenant_id: str, runs: list[str]) -> Iterator[StoredEvent]:
        run, seq = "", 0
        while True:
            rows = self._read(tenant_id, READ_EVENTS, tenant=tenant_id, runs=runs, run=run, seq=seq, page=EVENTS)
            yield from (StoredEvent(*row) for row in rows)
            if len(rows) < EVENTS:
                return
            run, seq = rows[-1][0], rows[-1][1]

    def _read(self, tenant_id: str, statement: str, **values: Any) -> Sequence[Any]:
        with self._database.tenant_transaction(tenant_id) as connection:
            return connection.execute(text(statement), values).all()


def _run(row: list[Any], events: Iterable[StoredEvent]) -> StoredRun:
    return StoredRun(*[*row, events])


_EARLIEST = datetime.fromisoformat("0001-01-02T00:00:00+00:00")
