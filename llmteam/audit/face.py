"""What all stores of audit records share: the asynchronous face over a synchronous core, and the check of a chain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from llmteam.audit.chain import (
    GENESIS,
    ChainChecker,
    ChainFault,
    ChainPoint,
    ChainVerification,
    FaultKind,
    UnreadableRecord,
)
from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.exceptions import AuditIntegrityError
from llmteam.audit.models import AuditDraft, AuditQuery, AuditRecord
from llmteam.crypto import VerifyKey
from llmteam.tenancy.context import tenant_or_current
from llmteam.tenancy.exceptions import TenantContextError

T = TypeVar("T")

#: Records that are read at once while a chain is checked or exported.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class ChainEnds:
    """Where a chain begins and ends: behind which record it is kept, what its head says, the last number there is.

    ``first`` is the lowest number there is, 0 without any; it is not behind ``base`` as long as what retention has
    released is not all removed. ``checkpoint`` is what the base is known by; None when nothing was removed.
    ``is_own`` says that the base needs no signature: nobody but the store itself can have written it.
    """

    base: ChainPoint
    head: ChainPoint
    last: int
    first: int = 0
    checkpoint: AuditCheckpoint | None = None
    is_own: bool = False


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

    @abstractmethod
    def release(self, checkpoint: AuditCheckpoint, draft: AuditDraft) -> bool:
        """Keep the checkpoint behind which the chain is kept from now on, and the record of that, both or none.

        False, and nothing kept, when the chain begins there or later already.
        """

    @abstractmethod
    def remove_released(self, tenant_id: str, limit: int) -> int:
        """Remove the oldest records up to the last checkpoint that was released, at most ``limit``; how many."""

    def check(
        self,
        tenant_id: str,
        start: int = 1,
        end: int | None = None,
        vouched: Sequence[ChainPoint] = (),
        *,
        keys: Sequence[VerifyKey] = (),
    ) -> ChainVerification:
        """Check the chain from one number to another, page by page; by default all of it.

        Its end is held against the head and against ``vouched``, its beginning against the record before ``start`` or
        the checkpoint of what retention removed; with ``keys`` one of them must have signed that checkpoint.
        """
        while True:
            ends = self.ends(tenant_id)
            found = self._check(tenant_id, ends, start, end, vouched, keys)
            # What retention removed in the meantime was not missing.
            if found.valid or self.ends(tenant_id).base == ends.base:
                return found

    def _check(
        self,
        tenant_id: str,
        ends: ChainEnds,
        start: int,
        end: int | None,
        vouched: Sequence[ChainPoint],
        keys: Sequence[VerifyKey],
    ) -> ChainVerification:
        base = ends.base.sequence_number
        # What is released and not removed yet is tied to the checkpoint like everything else.
        first = max(start, ends.first if 0 < ends.first <= base else base + 1)
        last = max(ends.head.sequence_number, ends.last, *(point.sequence_number for point in vouched), 0)
        last = last if end is None else end
        points = [point for point in (ends.head, ends.base, *vouched) if point.sequence_number]
        checker = ChainChecker(
            tenant_id,
            first=first,
            after=self.point_before(tenant_id, first, ends),
            vouched=points,
            end=ends.head.sequence_number,
        )
        for fault in base_faults(ends, keys, [ends.head, *vouched]):
            checker.report(fault)
        for page in self.pages(tenant_id, first, min(last, ends.last)):
            checker.feed(page)
        return checker.finish(last).starting(base, "" if ends.checkpoint is None else ends.checkpoint.key_id)

    def pages(self, tenant_id: str, start: int, end: int) -> Iterator[list[AuditRecord | UnreadableRecord]]:
        """What is there from one number to another, a page at a time."""
        for first in range(start, end + 1, PAGE):
            yield self.links(tenant_id, first, min(first + PAGE - 1, end))

    def point_before(self, tenant_id: str, number: int, ends: ChainEnds) -> ChainPoint | None:
        """The place to which the record with this number is tied; None when it is not there."""
        if number - 1 == ends.base.sequence_number:
            return ends.base
        if number - 1 > ends.last:
            # Nothing is there that could be tied to it.
            return GENESIS
        found = {one.sequence_number: one for one in self.links(tenant_id, number - 1, number)}
        if (before := found.get(number - 1)) is not None:
            return ChainPoint(number - 1, before.checksum)
        following = found.get(number)
        if number <= ends.base.sequence_number and isinstance(following, AuditRecord):
            # The one before it is released and removed.
            return ChainPoint(number - 1, following.previous_checksum)
        return None

    def tenant_for(self, tenant_id: str | None) -> str | None:
        """Whose records are meant: the named tenant's, else the current one's, else (None) everybody's.

        Raises :class:`TenantContextError` when another tenant than the named one is current.
        """
        return tenant_or_current(tenant_id, "Audit records")

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


def base_faults(ends: ChainEnds, keys: Sequence[VerifyKey], vouched: Sequence[ChainPoint]) -> Iterator[ChainFault]:
    """What is wrong with the checkpoint behind which a chain is kept."""
    number = ends.base.sequence_number
    if not number:
        return
    if any(point.sequence_number == number and point != ends.base for point in vouched):
        detail = f"record {number}, which was removed, is not the one that was vouched for"
        yield ChainFault(FaultKind.FORGED, number, "", detail)
    if number > ends.head.sequence_number:
        detail = f"the chain begins behind record {number}, but ends with {ends.head.sequence_number}"
        yield ChainFault(FaultKind.FORGED, number, "", detail)
    if ends.is_own:
        return
    checkpoint = ends.checkpoint
    is_signed = checkpoint is not None and checkpoint.removes and checkpoint.signature != ""
    if not is_signed or (keys and checkpoint is not None and not any(map(checkpoint.is_signed_by, keys))):
        detail = f"the checkpoint of record {number}, up to which records were removed, has no signature to be trusted"
        yield ChainFault(FaultKind.FORGED, number, "", detail)
