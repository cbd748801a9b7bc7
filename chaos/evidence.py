"""What Postgres says afterwards, read as superuser so that no row is hidden."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2

from chaos.steps import BEGAN
from llmteam.embedded import DATABASE, LOGIN

_RUNS = """
SELECT run_id, status, open, running, completed, failed, total, next_seq, error ->> 'error_type',
       finished_at IS NOT NULL
  FROM llmteam.runs
"""
_STEPS = "SELECT run_id, step_id, visit, state, attempt, losses, fence, queue FROM llmteam.run_steps"
_EVENTS = f"""
SELECT run_id, seq, event_type, ts, step_id, step_type, visit, attempt, (payload ->> '{BEGAN}')::float8
  FROM llmteam.events ORDER BY run_id, seq
"""
_ASKED = "SELECT run_id, count(*) FROM llmteam.interactions WHERE closed_at IS NULL GROUP BY run_id"
_OPEN = "SELECT count(*) FROM llmteam.runs WHERE finished_at IS NULL"
_ACCEPTED = f"""
SELECT DISTINCT step_type FROM llmteam.events
 WHERE event_type = 'step.completed' AND payload ->> %s = %s AND (payload ->> '{BEGAN}')::float8 > %s
"""
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s AND backend_start < to_timestamp(%s)"
#: Roles are taken on per transaction; the login stays what it was.
_CUT = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{LOGIN}'"
_RUNNING = "SELECT tenant_id, run_id FROM llmteam.runs WHERE status = 'running' ORDER BY run_id"
_KNOWN = "SELECT count(*) FROM llmteam.runs"
_LOSSES = "SELECT coalesce(sum(losses), 0) FROM llmteam.run_steps"


@dataclass(frozen=True)
class RunRow:
    """A row of ``runs``; ``over`` is whether it has an end."""

    run_id: str
    status: str
    open: int
    running: int
    completed: int
    failed: int
    total: int
    next_seq: int
    error_type: str | None
    over: bool


@dataclass(frozen=True)
class StepRow:
    """A row of ``run_steps``."""

    run_id: str
    step_id: str
    visit: int
    state: str
    attempt: int
    losses: int
    fence: int
    queue: str


@dataclass(frozen=True)
class EventRow:
    """A row of ``events``; ``began`` is when the handler was called whose answer it tells, where that is known."""

    run_id: str
    seq: int
    event_type: str
    ts: datetime
    step_id: str | None = None
    step_type: str | None = None
    visit: int | None = None
    attempt: int | None = None
    began: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Rows by run; events in order; how much people are still asked."""

    runs: Mapping[str, RunRow]
    steps: Mapping[str, Sequence[StepRow]]
    events: Mapping[str, Sequence[EventRow]]
    asked: Mapping[str, int]


class Witness:
    """Reads the tables of one installation; each look is a connection of its own, for the server may have restarted."""

    def __init__(self, superuser_url: str) -> None:
        self._url = superuser_url.replace("+psycopg2", "", 1)

    def evidence(self) -> Evidence:
        with closing(self._connected()) as connection:
            runs, steps, events, asked = (_all(connection, text) for text in (_RUNS, _STEPS, _EVENTS, _ASKED))
        by_run: tuple[dict[str, list[StepRow]], dict[str, list[EventRow]]] = (defaultdict(list), defaultdict(list))
        for row in steps:
            by_run[0][row[0]].append(StepRow(*row))
        for row in events:
            by_run[1][row[0]].append(EventRow(*row))
        return Evidence({row[0]: RunRow(*row) for row in runs}, *by_run, dict(asked))

    def unfinished(self) -> int | None:
        """How many runs are not over; None while the server is away."""
        return self._number(_OPEN)

    def losses(self) -> int:
        """How many leases have run out so far."""
        return self._number(_LOSSES) or 0

    def accepted(self, annotation: str, value: str, since: float) -> set[str]:
        """The types of steps that completed with this annotation by handlers that were called since a moment."""
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute(_ACCEPTED, (annotation, value, since))
            return {row[0] for row in cursor.fetchall()}

    def sessions(self, address: str, before: float) -> int:
        """How many sessions of a client are older than a moment."""
        with closing(self._connected()) as connection, connection.cursor() as cursor:
            cursor.execute(_SESSIONS, (address, before))
            ((number,),) = cursor.fetchall()
        return int(number)

    def known(self) -> int | None:
        """How many runs there are; None while the server is away."""
        return self._number(_KNOWN)

    def running(self) -> list[tuple[str, str]]:
        """Tenant and id of each run that has begun and is not over."""
        with closing(self._connected()) as connection:
            return [(row[0], row[1]) for row in _all(connection, _RUNNING)]

    def cut(self) -> int:
        """End every session of the installation's login; how many."""
        return self._number(_CUT) or 0

    def _number(self, statement: str) -> int | None:
        try:
            with closing(self._connected()) as connection:
                ((number,),) = _all(connection, statement)
        except psycopg2.OperationalError:
            return None
        return int(number)

    def _connected(self) -> Any:
        return psycopg2.connect(self._url, dbname=DATABASE, connect_timeout=5)


def _all(connection: Any, statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
