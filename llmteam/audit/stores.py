"""Where audit records are kept: the protocol, the face that all stores share, and the store in memory."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from llmteam.audit import canonical
from llmteam.audit.canonical import Sensitive
from llmteam.audit.chain import GENESIS, ChainChecker, ChainPoint, ChainVerification, UnreadableRecord, link_all
from llmteam.audit.exceptions import AuditIntegrityError
from llmteam.audit.models import AuditDraft, AuditQuery, AuditRecord
from llmteam.errors import ConfigurationError
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.context import get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError

if TYPE_CHECKING:
    from llmteam.audit.postgres import PostgresAuditStore

__all__ = [
    "DEFAULT_MAX_RECORDS",
    "AuditStore",
    "AuditStoreFace",
    "AuditSummary",
    "ChainEnds",
    "MemoryAuditStore",
    "PostgresAuditStore",
]

T = TypeVar("T")

DEFAULT_MAX_RECORDS = 100_000

#: Records that are read at once while a chain is checked or exported.
PAGE = 1000


@runtime_checkable
class AuditStore(Protocol):
    """Keeps each tenant's records as one chain."""

    async def append(self, record: AuditRecord) -> None:
        """Keep a finished record, as from an import."""

    async def append_chained(self, draft: AuditDraft, tenant_id: str | None = None) -> AuditRecord:
        """Give ``draft`` its number and its link, keep it, and return it as kept."""

    async def query(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records."""

    async def get_last_sequence(self, tenant_id: str) -> int:
        """The number of the tenant's last record; 0 when there is none."""

    async def get_by_sequence_range(self, tenant_id: str, start: int, end: int) -> list[AuditRecord]:
        """The tenant's records from one number to another, both included, in order."""


@dataclass(frozen=True, slots=True)
class ChainEnds:
    """Where a chain begins and ends: behind which record it is kept, what its head says, the last number there is."""

    base: ChainPoint
    head: ChainPoint
    last: int


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """The records of a period, counted. ``first`` and ``last`` are the lowest and highest number, 0 without any."""

    total: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    by_severity: dict[str, int] = field(default_factory=dict)
    by_actor: dict[str, int] = field(default_factory=dict)
    by_day: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    incidents: int = 0
    first: int = 0
    last: int = 0


class AuditStoreFace(ABC):
    """The asynchronous face of a store, over what each store does in its own way.

    The synchronous core trusts the tenant that it is given; the face asks who is current. Errors of the place where the
    records are come as :class:`AuditStorageError`.
    """

    @abstractmethod
    def add(self, tenant_id: str, drafts: Sequence[AuditDraft]) -> list[AuditRecord]:
        """Number, link and keep ``drafts``, all or none, and return them as kept.

        One whose idempotency key is known gives the record that is there. Raises :class:`NotJSONError`.
        """

    @abstractmethod
    def insert(self, record: AuditRecord) -> None:
        """Keep a finished record behind the last one; whether it is tied to it, is seen when the chain is checked.

        Raises :class:`AuditIntegrityError` when its number is not higher than the last one's.
        """

    @abstractmethod
    def select(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records."""

    @abstractmethod
    def links(self, tenant_id: str, start: int, end: int) -> list[AuditRecord | UnreadableRecord]:
        """What is there from one number to another, both included, in order."""

    @abstractmethod
    def ends(self, tenant_id: str) -> ChainEnds:
        """Where the tenant's chain begins and ends at this moment."""

    @abstractmethod
    def summarize(self, tenant_id: str, start: datetime, end: datetime) -> AuditSummary:
        """What happened in a period, both ends included, counted at one moment."""

    @abstractmethod
    def total(self, tenant_id: str | None) -> int:
        """How many records are kept: the tenant's, or in memory everybody's."""

    @abstractmethod
    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the core without blocking the running loop."""

    def check(
        self, tenant_id: str, start: int = 1, end: int | None = None, vouched: Sequence[ChainPoint] = ()
    ) -> ChainVerification:
        """Check the chain from one number to another, page by page; by default all of it.

        Its end is held against the head and against ``vouched``, its beginning against the record before ``start``.
        """
        ends = self.ends(tenant_id)
        first = max(start, ends.base.sequence_number + 1)
        last = max(ends.head.sequence_number, ends.last, *(point.sequence_number for point in vouched), 0)
        last = last if end is None else end
        points = [point for point in (ends.head, *vouched) if point.sequence_number]
        checker = ChainChecker(
            tenant_id,
            first=first,
            after=self.point_before(tenant_id, first, ends),
            vouched=points,
            end=ends.head.sequence_number,
        )
        for page in self.pages(tenant_id, first, min(last, ends.last)):
            checker.feed(page)
        return checker.finish(last)

    def pages(self, tenant_id: str, start: int, end: int) -> Iterator[list[AuditRecord | UnreadableRecord]]:
        """What is there from one number to another, a page at a time."""
        for first in range(start, end + 1, PAGE):
            yield self.links(tenant_id, first, min(first + PAGE - 1, end))

    def point_before(self, tenant_id: str, number: int, ends: ChainEnds) -> ChainPoint | None:
        """The place to which the record with this number is tied; None when it is not there."""
        if number - 1 <= ends.base.sequence_number:
            return ends.base
        if number - 1 > ends.last:
            # Nothing is there that could be tied to it.
            return GENESIS
        before = self.links(tenant_id, number - 1, number - 1)
        return ChainPoint(number - 1, before[0].checksum) if before else None

    def tenant_for(self, tenant_id: str | None) -> str | None:
        """Whose records are meant: the named tenant's, else the current one's, else (None) everybody's.

        Raises :class:`TenantContextError` when another tenant than the named one is current.
        """
        current = get_current_tenant()
        if tenant_id and current and tenant_id != current:
            raise TenantContextError(
                f"Audit records of tenant '{tenant_id}' were asked for while '{current}' is current: "
                "leave its context, or enter the other one's"
            )
        return tenant_id or current or None

    async def append(self, record: AuditRecord) -> None:
        """Keep a finished record, as from an import; see :meth:`insert`. Raises :class:`TenantContextError`."""
        if (self.tenant_for(record.tenant_id) or "") != record.tenant_id:
            raise TenantContextError(
                f"audit record '{record.record_id}' names no tenant: a record's tenant is part of its checksum"
            )
        await self.call(self.insert, record)

    async def append_chained(self, draft: AuditDraft, tenant_id: str | None = None) -> AuditRecord:
        """Give ``draft`` its number and its link, keep it, and return it as kept; see :meth:`add`."""
        (record,) = await self.call(self.add, self.tenant_for(tenant_id) or "", [draft])
        return record

    async def query(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records of the named or current tenant. Raises :class:`TenantContextError`."""
        return await self.call(self.select, replace(query, tenant_id=self.tenant_for(query.tenant_id)))

    async def get_last_sequence(self, tenant_id: str) -> int:
        """The number of the tenant's last record; 0 when there is none."""
        return (await self.call(self.ends, self.tenant_for(tenant_id) or "")).last

    async def get_by_sequence_range(self, tenant_id: str, start: int, end: int) -> list[AuditRecord]:
        """The tenant's records from one number to another, both included, in order.

        Raises :class:`AuditIntegrityError` when one of them cannot be read.
        """
        found = await self.call(self.links, self.tenant_for(tenant_id) or "", start, end)
        return [readable(record) for record in found]

    async def count(self, tenant_id: str | None = None) -> int:
        """How many records are kept of the named or current tenant."""
        return await self.call(self.total, self.tenant_for(tenant_id))


def readable(record: AuditRecord | UnreadableRecord) -> AuditRecord:
    """``record``, if it is one. Raises :class:`AuditIntegrityError`."""
    if isinstance(record, AuditRecord):
        return record
    raise AuditIntegrityError(
        f"audit record {record.sequence_number} cannot be read: it was altered, or a newer llmteam wrote it",
        [record.record_id],
    )


def refuse_place(record: AuditRecord, last: int) -> None:
    """Raise :class:`AuditIntegrityError` when ``record`` does not come behind the record numbered ``last``."""
    if record.sequence_number <= last:
        raise AuditIntegrityError(
            f"audit record {record.sequence_number} of tenant '{record.tenant_id}' comes too late: "
            f"records up to {last} are there, and are never changed",
            [record.record_id],
        )


@dataclass(slots=True)
class _Chain:
    """The records of one tenant that are still kept, oldest first, and the place behind which they begin."""

    records: list[AuditRecord] = field(default_factory=list)
    by_key: dict[str, AuditRecord] = field(default_factory=dict)
    base: ChainPoint = GENESIS
    head: ChainPoint = GENESIS


class MemoryAuditStore(AuditStoreFace):
    """Records in this process's memory, at most ``max_records`` over all tenants.

    Beyond that the oldest are dropped; a chain is then checked from the place where it was cut.
    """

    def __init__(
        self,
        max_records: int = DEFAULT_MAX_RECORDS,
        *,
        clock: Clock = utc_now,
        sensitive: Sensitive = canonical.is_sensitive,
    ) -> None:
        if max_records < 1:
            raise ConfigurationError(f"MemoryAuditStore: max_records is {max_records}; it must be at least 1")
        self.max_records = max_records
        self._clock = clock
        self._sensitive = sensitive
        self._lock = threading.Lock()
        self._chains: dict[str, _Chain] = {}
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._order)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the core; nothing in it waits."""
        return function(*args)

    def add(self, tenant_id: str, drafts: Sequence[AuditDraft]) -> list[AuditRecord]:
        """Number, link and keep ``drafts``, all or none; from any thread."""
        now = self._clock()
        with self._lock:
            chain = self._chains.setdefault(tenant_id, _Chain())
            kept, fresh = link_all(drafts, tenant_id, chain.head, chain.by_key, now=now, sensitive=self._sensitive)
            self._keep(chain, fresh)
        return deepcopy(kept)

    def insert(self, record: AuditRecord) -> None:
        """Keep a finished record behind the last one."""
        with self._lock:
            chain = self._chains.setdefault(record.tenant_id, _Chain())
            refuse_place(record, chain.head.sequence_number)
            self._keep(chain, [deepcopy(record)])

    def _keep(self, chain: _Chain, records: Iterable[AuditRecord]) -> None:
        for record in records:
            chain.records.append(record)
            chain.head = ChainPoint.of(record)
            if record.idempotency_key is not None:
                chain.by_key[record.idempotency_key] = record
            self._order.append(record.tenant_id)
        while len(self._order) > self.max_records:
            oldest = self._chains[self._order.popleft()]
            dropped = oldest.records.pop(0)
            oldest.base = ChainPoint.of(dropped)
            oldest.by_key.pop(dropped.idempotency_key or "", None)

    def _found(self, query: AuditQuery) -> Iterator[AuditRecord]:
        tenant_id = (get_current_tenant() or None) if query.tenant_id is None else query.tenant_id
        chains = self._chains.values() if tenant_id is None else [self._chains.get(tenant_id, _Chain())]
        return (record for chain in chains for record in chain.records if query.matches(record))

    def select(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records; everybody's when the query names no tenant and none is current."""

        def place(record: AuditRecord) -> tuple[Any, ...]:
            return getattr(record, query.order_by), record.sequence_number, record.tenant_id

        with self._lock:
            found = sorted(self._found(query), key=place, reverse=query.order_desc)
        return deepcopy(found[query.offset : query.offset + query.limit])

    def links(self, tenant_id: str, start: int, end: int) -> list[AuditRecord | UnreadableRecord]:
        """What is there from one number to another."""
        with self._lock:
            records = self._chains.get(tenant_id, _Chain()).records
            first = bisect_left(records, start, key=attrgetter("sequence_number"))
            found = takewhile(lambda record: record.sequence_number <= end, islice(records, first, None))
            return [deepcopy(record) for record in found]

    def ends(self, tenant_id: str) -> ChainEnds:
        """Where the tenant's chain begins and ends."""
        with self._lock:
            chain = self._chains.get(tenant_id, _Chain())
            return ChainEnds(chain.base, chain.head, chain.head.sequence_number)

    def summarize(self, tenant_id: str, start: datetime, end: datetime) -> AuditSummary:
        """What happened in a period, counted."""
        with self._lock:
            found = list(self._found(AuditQuery(tenant_id=tenant_id, start_time=start, end_time=end)))
        numbers = [record.sequence_number for record in found]
        failed = [record for record in found if not record.success]
        return AuditSummary(
            total=len(found),
            by_type=dict(Counter(record.event_type.value for record in found)),
            by_severity=dict(Counter(record.severity.value for record in found)),
            by_actor=dict(Counter(record.actor_id for record in found if record.actor_id)),
            by_day=dict(Counter(record.timestamp.date().isoformat() for record in found)),
            failed=len(failed),
            incidents=sum(record.event_type.is_security for record in failed),
            first=min(numbers, default=0),
            last=max(numbers, default=0),
        )

    def total(self, tenant_id: str | None) -> int:
        """How many records are kept."""
        with self._lock:
            return sum(1 for _ in self._found(AuditQuery(tenant_id=tenant_id)))

    def get_all(self) -> list[AuditRecord]:
        """Every record, by tenant and number: the current tenant's, when there is one."""
        with self._lock:
            chains = [self._chains[tenant] for tenant in sorted(self._chains) if self._is_seen(tenant)]
            return [deepcopy(record) for chain in chains for record in chain.records]

    def clear(self) -> None:
        """Forget everything, the chains' heads too: the current tenant's, when there is one."""
        with self._lock:
            self._chains = {tenant: chain for tenant, chain in self._chains.items() if not self._is_seen(tenant)}
            self._order = deque(tenant for tenant in self._order if tenant in self._chains)

    @staticmethod
    def _is_seen(tenant_id: str) -> bool:
        return get_current_tenant() in ("", tenant_id)


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresAuditStore":
        from llmteam.audit.postgres import PostgresAuditStore

        return PostgresAuditStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
