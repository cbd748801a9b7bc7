"""Records as rows, each tenant's behind row security: the store that reads, and writes what stands alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, Text, UnaryExpression, case, collate, func, or_, select, tuple_

from llmteam.audit.canonical import Sensitive
from llmteam.audit.chain import GENESIS, ChainPoint, UnreadableRecord, link_all
from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.exceptions import AuditIntegrityError, AuditStorageError
from llmteam.audit.face import AuditStoreFace, AuditSummary, ChainEnds, refuse_place
from llmteam.audit.models import EQUALITIES, SEARCHED, AuditDraft, AuditQuery, AuditRecord, lowered
from llmteam.audit.postgres import retention
from llmteam.audit.postgres.appending import append, insert_in, lock_head, record_of
from llmteam.audit.postgres.retention import Keeping
from llmteam.db.engine import Database
from llmteam.db.errors import StatementError, run_transaction
from llmteam.db.tables import audit_checkpoints as checkpoints
from llmteam.db.tables import audit_heads as heads
from llmteam.db.tables import audit_log as table
from llmteam.errors import InfrastructureError
from llmteam.ids import Clock, as_utc, utc_now
from llmteam.masking import is_secret_name
from llmteam.tenancy.exceptions import TenantContextError

T = TypeVar("T")


def _record_or_not(row: Mapping[str, Any]) -> AuditRecord | UnreadableRecord:
    try:
        return record_of(row)
    except AuditIntegrityError:
        return UnreadableRecord(row["sequence_number"], row["record_id"], row["checksum"])


def _conditions(query: AuditQuery) -> list[ColumnElement[bool]]:
    wanted = {name: getattr(query, name) for name in EQUALITIES}
    conditions: list[ColumnElement[bool]] = [
        table.c[name] == value for name, value in wanted.items() if value is not None
    ]
    if query.start_time is not None:
        conditions.append(table.c.timestamp >= as_utc(query.start_time))
    if query.end_time is not None:
        conditions.append(table.c.timestamp <= as_utc(query.end_time))
    if query.event_types is not None:
        conditions.append(table.c.event_type.in_([one.value for one in query.event_types]))
    if query.severities is not None:
        conditions.append(table.c.severity.in_([one.value for one in query.severities]))
    if query.tags is not None:
        conditions.append(table.c.tags.overlap(list(query.tags)))
    if query.search_text is not None:
        text = lowered(query.search_text)
        # The collation that folds the letters of ASCII alone, as `lowered` does.
        found = (func.strpos(func.lower(collate(table.c[name], "C")), text) > 0 for name in SEARCHED)
        conditions.append(or_(*found))
    return conditions


def _order(query: AuditQuery) -> list[UnaryExpression[Any]]:
    column = table.c[query.order_by]
    place = collate(column, "C") if isinstance(column.type, Text) else column
    by = (place, table.c.sequence_number)
    return [one.desc() if query.order_desc else one.asc() for one in by]


def records_wanted(query: AuditQuery) -> Select[Any]:
    """The statement of a query."""
    statement = select(table).where(*_conditions(query)).order_by(*_order(query))
    return statement.limit(query.limit).offset(query.offset)


def _summary(query: AuditQuery) -> Select[Any]:
    """Every count of a report from one look at the rows: ``kind`` says what was grouped, ``value`` by which value."""
    day = func.to_char(func.timezone("UTC", table.c.timestamp), "YYYY-MM-DD").label("day")
    seen = select(table, day).where(*_conditions(query)).subquery()
    groups = {"type": seen.c.event_type, "severity": seen.c.severity, "actor": seen.c.actor_id, "day": seen.c.day}
    failed = ~seen.c.success
    return select(
        case(*((func.grouping(column) == 0, kind) for kind, column in groups.items()), else_="all").label("kind"),
        func.coalesce(*groups.values()).label("value"),
        func.count().label("total"),
        func.count().filter(failed).label("failed"),
        func.count().filter(failed & seen.c.event_type.startswith("security.")).label("incidents"),
        func.min(seen.c.sequence_number).label("first"),
        func.max(seen.c.sequence_number).label("last"),
    ).group_by(func.grouping_sets(*map(tuple_, groups.values()), tuple_()))


def _ends(tenant_id: str) -> Select[Any]:
    """Both ends of the chain from one look at the tables."""
    own = table.c.tenant_id == tenant_id
    number = table.c.sequence_number
    base = func.json_build_object(*(part for one in checkpoints.columns for part in (one.name, one)))
    parts = {
        "first": select(func.min(number)).where(own),
        "last": select(func.max(number)).where(own),
        "number": select(heads.c.sequence_number).where(heads.c.tenant_id == tenant_id),
        "checksum": select(heads.c.checksum).where(heads.c.tenant_id == tenant_id),
        "base": select(base)
        .where(checkpoints.c.tenant_id == tenant_id)
        .order_by(checkpoints.c.sequence_number.desc())
        .limit(1),
    }
    return select(*(part.scalar_subquery().label(name) for name, part in parts.items()))


class PostgresAuditStore(AuditStoreFace):
    """Records in Postgres, each tenant's behind row security, written before the call returns.

    ``database`` is the process's :class:`Database`, or a ``postgresql://`` URL, for which the store has a pool of its
    own until :meth:`close`. ``tenant_id`` is for code without a current tenant.
    """

    def __init__(
        self,
        database: Database | str,
        *,
        tenant_id: str | None = None,
        clock: Clock = utc_now,
        sensitive: Sensitive = is_secret_name,
    ) -> None:
        self._database = Database(database, pool_size=4) if isinstance(database, str) else database
        self._is_own = isinstance(database, str)
        self._tenant_id = tenant_id
        self._clock = clock
        self._sensitive = sensitive

    def close(self) -> None:
        """Close the store's own connections; those of a :class:`Database` that was given stay."""
        if self._is_own:
            self._database.close()

    def tenant_for(self, tenant_id: str | None) -> str:
        """The named tenant, this store's, or the current one. Raises :class:`TenantContextError` without any."""
        tenant = super().tenant_for(tenant_id or self._tenant_id)
        if tenant is None:
            raise TenantContextError(
                "Whose audit records? Enter a TenantContext, name the tenant, or give the store a tenant_id"
            )
        return tenant

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the core in a thread."""
        return await asyncio.to_thread(function, *args)

    def add(self, tenant_id: str, drafts: Sequence[AuditDraft]) -> list[AuditRecord]:
        """Number, link and keep ``drafts`` in one transaction of two round trips."""
        now = self._clock()

        def work() -> list[AuditRecord]:
            with self._database.hot(tenant_id) as hot:
                return append(hot, tenant_id, drafts, now=now, sensitive=self._sensitive, whole=True)

        with _wrapped("written"):
            return run_transaction(work)

    def insert(self, record: AuditRecord) -> None:
        """Keep a finished record behind the last one."""

        def work() -> None:
            with self._database.hot(record.tenant_id) as hot:
                after, _ = lock_head(hot, record.tenant_id, (), begin=True)
                refuse_place(record, after.sequence_number)
                insert_in(hot, record.tenant_id, [record], end="COMMIT")

        with _wrapped("written"):
            run_transaction(work)

    def select(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records of ``query.tenant_id``."""
        return [record_of(row) for row in self._rows(query.tenant_id or "", records_wanted(query))]

    def links(self, tenant_id: str, start: int, end: int) -> list[AuditRecord | UnreadableRecord]:
        """What is there from one number to another."""
        number = table.c.sequence_number
        statement = select(table).where(table.c.tenant_id == tenant_id, number.between(start, end)).order_by(number)
        return [_record_or_not(row) for row in self._rows(tenant_id, statement)]

    def ends(self, tenant_id: str) -> ChainEnds:
        """Where the tenant's chain begins and ends, seen at one moment."""
        (row,) = self._rows(tenant_id, _ends(tenant_id))
        head = GENESIS if row["number"] is None else ChainPoint(row["number"], row["checksum"])
        found = row["base"]
        if found is None:
            return ChainEnds(GENESIS, head, row["last"] or 0, row["first"] or 0)
        issued_at = datetime.fromisoformat(found.pop("issued_at"))
        base = AuditCheckpoint(**found, issued_at=issued_at, removes=True)
        return ChainEnds(base.point, head, row["last"] or 0, row["first"] or 0, base)

    def release(self, checkpoint: AuditCheckpoint, draft: AuditDraft) -> bool:
        """Keep checkpoint and record in one transaction: the record as the tenant, the checkpoint as the sweeper.

        The database refuses a checkpoint that is not one of a record that is there, and one of a tenant that is held.
        """
        tenant_id, now = checkpoint.tenant_id, self._clock()

        def work() -> bool:
            with self._database.hot(tenant_id) as hot:
                after, known = lock_head(hot, tenant_id, [draft], begin=True)
                _, fresh = link_all([draft], tenant_id, after, known, now=now, sensitive=self._sensitive)
                insert_in(hot, tenant_id, fresh)
                kept = retention.release_in(hot, checkpoint)
                if kept:
                    hot.script("COMMIT")
                return kept

        with _wrapped("released"):
            return run_transaction(work)

    def remove_released(self, tenant_id: str, limit: int) -> int:
        """Remove a batch in a transaction of its own, as the sweeper."""
        with _wrapped("removed"):
            return run_transaction(lambda: retention.remove_batch(self._database, tenant_id, limit))

    def keeping(self, tenant_id: str, default_days: float | None) -> Keeping:
        """How long the tenant's records are kept; ``default_days`` holds for tenants without a record."""
        with _wrapped("read"):
            return retention.keeping_of(self._database, tenant_id, default_days)

    def due(self, default_days: float | None, now: datetime, limit: int) -> list[Keeping]:
        """Tenants, at most ``limit``, whose oldest record has been kept long enough."""
        with _wrapped("read"):
            return retention.due(self._database, default_days, now, limit)

    def summarize(self, tenant_id: str, start: datetime, end: datetime) -> AuditSummary:
        """What happened in a period, counted by one statement."""
        rows = self._rows(tenant_id, _summary(AuditQuery(tenant_id=tenant_id, start_time=start, end_time=end)))
        whole = next(row for row in rows if row["kind"] == "all")
        # An empty value is that of actors without a name.
        counted: dict[str, Any] = {
            f"by_{kind}": {row["value"]: row["total"] for row in rows if row["kind"] == kind and row["value"]}
            for kind in ("type", "severity", "actor", "day")
        }
        numbers: dict[str, Any] = {name: whole[name] or 0 for name in ("total", "failed", "incidents", "first", "last")}
        return AuditSummary(**counted, **numbers)

    def total(self, tenant_id: str | None) -> int:
        """How many records the tenant has."""
        statement = select(func.count().label("n")).select_from(table).where(table.c.tenant_id == tenant_id)
        (row,) = self._rows(tenant_id or "", statement)
        return int(row["n"])

    def _rows(self, tenant_id: str, statement: Any) -> list[Mapping[str, Any]]:
        with _wrapped("read"), self._database.tenant_transaction(tenant_id) as connection:
            return [dict(row._mapping) for row in connection.execute(statement)]


@contextmanager
def _wrapped(what: str) -> Iterator[None]:
    """Raise errors of the database as :class:`AuditStorageError`, with their cause."""
    try:
        yield
    except (InfrastructureError, StatementError) as exc:
        raise AuditStorageError(f"audit records cannot be {what}: {exc}", exc.retryable is not False) from exc
