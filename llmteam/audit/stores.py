"""Where audit records are kept: the protocol of a store, and the store in memory."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from llmteam import metrics
from llmteam.audit.canonical import Sensitive
from llmteam.audit.chain import GENESIS, ChainPoint, UnreadableRecord, link_all
from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.face import AuditStoreFace, AuditSummary, ChainEnds, refuse_place
from llmteam.audit.models import AuditDraft, AuditQuery, AuditRecord
from llmteam.errors import ConfigurationError
from llmteam.ids import Clock, utc_now
from llmteam.masking import is_secret_name
from llmteam.tenancy.context import get_current_tenant

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


@dataclass(slots=True)
class _Chain:
    """The records of one tenant that are still kept, oldest first, and the checkpoint behind which they begin."""

    records: list[AuditRecord] = field(default_factory=list)
    by_key: dict[str, AuditRecord] = field(default_factory=dict)
    base: AuditCheckpoint | None = None
    head: ChainPoint = GENESIS

    def drop_oldest(self, now: datetime) -> None:
        dropped = self.records.pop(0)
        self.by_key.pop(dropped.idempotency_key or "", None)
        number = dropped.sequence_number
        if self.base is None or self.base.sequence_number < number:
            self.base = AuditCheckpoint(dropped.tenant_id, number, dropped.checksum, now, removes=True)


class MemoryAuditStore(AuditStoreFace):
    """Records in this process's memory, at most ``max_records`` over all tenants.

    Beyond that the oldest are dropped, and the checkpoint of the last one is kept: a chain is then checked from there.
    """

    def __init__(
        self,
        max_records: int = DEFAULT_MAX_RECORDS,
        *,
        clock: Clock = utc_now,
        sensitive: Sensitive = is_secret_name,
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
            self._keep(chain, fresh, now)
        metrics.AUDIT_RECORDS.add(value=len(fresh))
        return deepcopy(kept)

    def insert(self, record: AuditRecord) -> None:
        """Keep a finished record behind the last one."""
        with self._lock:
            chain = self._chains.setdefault(record.tenant_id, _Chain())
            refuse_place(record, chain.head.sequence_number)
            self._keep(chain, [deepcopy(record)], self._clock())

    def _keep(self, chain: _Chain, records: Iterable[AuditRecord], now: datetime) -> None:
        for record in records:
            chain.records.append(record)
            chain.head = ChainPoint.of(record)
            if record.idempotency_key is not None:
                chain.by_key[record.idempotency_key] = record
            self._order.append(record.tenant_id)
        while len(self._order) > self.max_records:
            self._chains[self._order.popleft()].drop_oldest(now)

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
            first = chain.records[0].sequence_number if chain.records else 0
            base = GENESIS if chain.base is None else chain.base.point
            return ChainEnds(base, chain.head, chain.head.sequence_number, first, chain.base, is_own=True)

    def release(self, checkpoint: AuditCheckpoint, draft: AuditDraft) -> bool:
        """Have the chain begin behind the checkpoint, and record it."""
        tenant_id, now = checkpoint.tenant_id, self._clock()
        with self._lock:
            chain = self._chains.setdefault(tenant_id, _Chain())
            if chain.base is not None and chain.base.sequence_number >= checkpoint.sequence_number:
                return False
            chain.base = checkpoint
            _, fresh = link_all([draft], tenant_id, chain.head, chain.by_key, now=now, sensitive=self._sensitive)
            self._keep(chain, fresh, now)
        return True

    def remove_released(self, tenant_id: str, limit: int) -> int:
        """Drop the oldest records up to the checkpoint."""
        removed = 0
        with self._lock:
            chain = self._chains.get(tenant_id, _Chain())
            base = 0 if chain.base is None else chain.base.sequence_number
            while removed < limit and chain.records and chain.records[0].sequence_number <= base:
                chain.drop_oldest(self._clock())
                self._order.remove(tenant_id)
                removed += 1
        return removed

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
