"""Events as rows: written in the transaction of the change they tell of, numbered under the lock of their run's row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, func, select, update
from sqlalchemy.dialects import postgresql

from llmteam import codec
from llmteam.db.engine import Database
from llmteam.db.tables import events as table
from llmteam.db.tables import runs
from llmteam.events.models import EventDraft, EventQuery, EventScope, WorktrailEvent, event_id
from llmteam.events.stores import EventStoreFace
from llmteam.ids import as_utc
from llmteam.tenancy.exceptions import TenantContextError
from llmteam.wakeup import MemoryWakeup, Wakeup, channel

T = TypeVar("T")

_COLUMNS = tuple(column.name for column in table.columns)
_INSERT = f"INSERT INTO {table.fullname} ({', '.join(_COLUMNS)}) VALUES "  # names of our own metadata
_ROW = f"({', '.join(['%s'] * len(_COLUMNS))})"


def event_statement(source: str | None = None) -> str:
    """The INSERT of one event, for a statement that is planned once; its values are :func:`event_values`.

    With ``source``, the name of a subquery, it happens only if that has a row.
    """
    if source is None:
        return _INSERT + _ROW
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    typed = ", ".join(f"%s::{column.type.compile(dialect=dialect)}" for column in table.columns)
    return f"INSERT INTO {table.fullname} ({', '.join(_COLUMNS)}) SELECT {typed} FROM {source}"  # ditto


def insert_values(
    scope: EventScope, first_seq: int, now: datetime, drafts: Sequence[EventDraft]
) -> tuple[str, list[Any]]:
    """One INSERT for psycopg2 with every column given, and its parameters; numbers count from ``first_seq``.

    The caller holds the run row's lock and moves ``runs.next_seq`` on by the number of drafts. Without drafts the
    statement is empty. Raises :class:`~llmteam.errors.NotJSONError`.
    """
    if not drafts:
        return "", []
    params: list[Any] = []
    for seq, draft in enumerate(drafts, first_seq):
        params += event_values(scope, seq, now, draft)
    return _INSERT + ", ".join([_ROW] * len(drafts)), params


def event_values(scope: EventScope, seq: int, ts: datetime, item: EventDraft | WorktrailEvent) -> list[Any]:
    """The columns in the order of the table."""
    return [
        scope.tenant_id,
        scope.run_id,
        seq,
        item.event_type.value,
        as_utc(ts),
        scope.instance_id,
        scope.segment_id,
        item.step_id,
        item.step_type,
        item.visit,
        item.attempt,
        item.severity.value,
        item.correlation_id,
        item.parent_event_id,
        codec.dumps(item.payload),
        None if item.error is None else codec.dumps(item.error.to_dict()),
        item.duration_ms,
    ]


def append_in(
    connection: Connection, tenant_id: str, run_id: str, drafts: Sequence[EventDraft], *, now: datetime
) -> list[WorktrailEvent]:
    """Append to a run in the caller's own tenant transaction; the caller wakes the run's followers after its commit.

    Locks the run's row, so it must come before any lock on steps, interactions or the audit head. A run without a
    row (not one of the engine's) is numbered under an advisory lock instead.
    """
    scope = EventScope(tenant_id=tenant_id, run_id=run_id)
    return _append(connection, scope, [draft.stamp(scope, now) for draft in drafts])


def _append(connection: Connection, scope: EventScope, events: Sequence[WorktrailEvent]) -> list[WorktrailEvent]:
    next_seq, known, is_run = _lock(connection, scope)
    kept: list[WorktrailEvent] = []
    params: list[Any] = []
    for event in events:
        earlier = _earlier(connection, event, next_seq)
        if earlier is not None:
            kept.append(earlier)
            continue
        identity = EventScope(
            scope.tenant_id,
            scope.run_id,
            (is_run and known.instance_id) or event.instance_id or known.instance_id,
            (is_run and known.segment_id) or event.segment_id or known.segment_id,
        )
        params += event_values(identity, next_seq, event.timestamp, event)
        kept.append(
            event.model_copy(
                update={
                    "event_id": event_id(scope.run_id, next_seq),
                    "instance_id": identity.instance_id,
                    "segment_id": identity.segment_id,
                }
            )
        )
        next_seq += 1
    if params:
        sql = _INSERT + ", ".join([_ROW] * (len(params) // len(_COLUMNS)))
        connection.exec_driver_sql(sql, tuple(params))
        if is_run:
            connection.execute(
                update(runs).where(runs.c.tenant_id == scope.tenant_id, runs.c.run_id == scope.run_id),
                {"next_seq": next_seq},
            )
    return kept


def _lock(connection: Connection, scope: EventScope) -> tuple[int, EventScope, bool]:
    """The run's next number, what is known of its identity, and whether it has a row; no one else numbers it now."""
    # Locks the one run row, before everything else that the lock order names.
    run = connection.execute(
        select(runs.c.next_seq, runs.c.instance_id, runs.c.segment_id)
        .where(runs.c.tenant_id == scope.tenant_id, runs.c.run_id == scope.run_id)
        .with_for_update(key_share=True)
    ).one_or_none()
    if run is not None:
        return run.next_seq, EventScope(scope.tenant_id, scope.run_id, run.instance_id, run.segment_id), True
    connection.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended(f"events:{scope.tenant_id}:{scope.run_id}", 0)))
    )
    last = connection.execute(
        select(table.c.seq, table.c.instance_id, table.c.segment_id)
        .where(table.c.tenant_id == scope.tenant_id, table.c.run_id == scope.run_id)
        .order_by(table.c.seq.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        return 1, scope, False
    return last.seq + 1, EventScope(scope.tenant_id, scope.run_id, last.instance_id, last.segment_id), False


def _earlier(connection: Connection, event: WorktrailEvent, next_seq: int) -> WorktrailEvent | None:
    """The kept event that ``event`` is a second copy of, or None."""
    if event.seq is None or event.seq >= next_seq:
        return None
    found = _select(connection, EventQuery(event.tenant_id, event.run_id, after_seq=event.seq - 1, limit=1))
    return found[0] if found and event.is_again(found[0]) else None


def _select(connection: Connection, query: EventQuery) -> list[WorktrailEvent]:
    statement = select(table).where(*_conditions(query)).order_by(table.c.run_id, table.c.seq).limit(query.limit)
    return [_event(row) for row in connection.execute(statement)]


def _conditions(query: EventQuery) -> list[ColumnElement[bool]]:
    conditions = [table.c.tenant_id == query.tenant_id]
    if query.run_id is not None:
        conditions.append(table.c.run_id == query.run_id)
    if query.step_id is not None:
        conditions.append(table.c.step_id == query.step_id)
    if query.segment_id is not None:
        conditions.append(table.c.segment_id == query.segment_id)
    if query.event_types is not None:
        conditions.append(table.c.event_type.in_(sorted(query.event_types)))
    if query.severity is not None:
        conditions.append(table.c.severity.in_(query.severity.and_above()))
    if query.start is not None:
        conditions.append(table.c.ts >= as_utc(query.start))
    if query.end is not None:
        conditions.append(table.c.ts <= as_utc(query.end))
    if query.after_seq is not None:
        conditions.append(table.c.seq > query.after_seq)
    if query.with_error is not None:
        conditions.append(table.c.error.is_not(None) if query.with_error else table.c.error.is_(None))
    return conditions


def _event(row: Row[Any]) -> WorktrailEvent:
    fields = dict(row._mapping)
    return WorktrailEvent(event_id=event_id(row.run_id, fields.pop("seq")), timestamp=fields.pop("ts"), **fields)


class PostgresEventStore(EventStoreFace):
    """Events in Postgres, each tenant's behind row security.

    ``database`` is the process's :class:`Database`, or a ``postgresql://`` URL, for which the store has a pool of its
    own until :meth:`close`. ``tenant_id`` is for code without a current tenant; else the current one's events are read
    and written. Pass the ``wakeup`` that other processes listen to, so that their followers need not poll.
    """

    def __init__(self, database: Database | str, *, tenant_id: str | None = None, wakeup: Wakeup | None = None) -> None:
        self._database = Database(database, pool_size=4) if isinstance(database, str) else database
        self._is_own = isinstance(database, str)
        self._tenant_id = tenant_id
        self.wakeup = MemoryWakeup() if wakeup is None else wakeup

    def close(self) -> None:
        """Close the store's own connections; those of a :class:`Database` that was given stay."""
        if self._is_own:
            self._database.close()

    def tenant_for(self, tenant_id: str | None) -> str:
        """The named tenant, this store's, or the current one. Raises :class:`TenantContextError` without any."""
        tenant = super().tenant_for(tenant_id or self._tenant_id)
        if tenant is None:
            raise TenantContextError(
                "Whose events? Enter a TenantContext, pass tenant_id, or build PostgresEventStore(…, tenant_id=…)"
            )
        return tenant

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)

    def add(self, events: Sequence[WorktrailEvent]) -> list[WorktrailEvent]:
        """Keep ``events``, one transaction for each run among them, and return them as kept."""
        kept: list[WorktrailEvent] = []
        for (tenant_id, run_id), group in groupby(events, key=lambda event: (event.tenant_id, event.run_id)):
            with self._database.tenant_transaction(tenant_id) as connection:
                kept += _append(connection, EventScope(tenant_id, run_id), list(group))
            self.wakeup.notify(channel(tenant_id, run_id))
        return kept

    def select(self, query: EventQuery) -> list[WorktrailEvent]:
        """The wanted events of ``query.tenant_id``, by run and number."""
        with self._database.tenant_transaction(query.tenant_id or "") as connection:
            return _select(connection, query)

    def count(self, query: EventQuery) -> int:
        """How many events are wanted."""
        statement = select(func.count()).select_from(table).where(*_conditions(query))
        with self._database.tenant_transaction(query.tenant_id or "") as connection:
            return connection.execute(statement).scalar_one()
