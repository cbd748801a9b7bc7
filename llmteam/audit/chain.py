"""How records are linked, and how a chain is checked: page by page, against whatever vouches for its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from llmteam.audit import canonical
from llmteam.audit.canonical import Sensitive
from llmteam.audit.exceptions import AuditIntegrityError
from llmteam.audit.models import AuditDraft, AuditRecord, generate_audit_id
from llmteam.ids import random_hex
from llmteam.masking import is_secret_name

#: Fields of a draft that hold text from anywhere.
_TEXTS = (
    "pipeline_id",
    "run_id",
    "agent_name",
    "step_name",
    "actor_type",
    "actor_id",
    "actor_ip",
    "actor_user_agent",
    "action",
    "resource_type",
    "resource_id",
    "error_message",
)


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """A place in a chain: the number and the checksum of a record. By default, before the first one."""

    sequence_number: int = 0
    checksum: str = ""

    @classmethod
    def of(cls, record: AuditRecord) -> ChainPoint:
        return cls(record.sequence_number, record.checksum)


#: Before the first record of a chain.
GENESIS = ChainPoint()

#: Entries that a list of faults or missing numbers has at most.
MOST_LISTED = 10_000


def link(
    draft: AuditDraft,
    tenant_id: str,
    after: ChainPoint,
    *,
    now: datetime,
    sensitive: Sensitive = is_secret_name,
) -> AuditRecord:
    """The record of ``draft`` that follows ``after``, without what is secret. Raises :class:`NotJSONError`."""
    old, new, metadata = (
        None if value is None else canonical.plain(value, sensitive)
        for value in (draft.old_value, draft.new_value, draft.metadata)
    )
    texts: dict[str, Any] = {name: canonical.storable(getattr(draft, name)) for name in _TEXTS}
    return AuditRecord(
        record_id=generate_audit_id(),
        sequence_number=after.sequence_number + 1,
        timestamp=draft.timestamp or now,
        event_type=draft.event_type,
        severity=draft.severity,
        tenant_id=tenant_id,
        **texts,
        old_value=old,
        new_value=new,
        success=draft.success,
        metadata=metadata or {},
        tags=[canonical.storable(tag) for tag in draft.tags],
        previous_checksum=after.checksum,
        idempotency_key=stored_key(draft),
        # Without a payload there is nothing to hide, and the checksum follows from the fields that are seen.
        salt="" if old is new is None and not metadata else random_hex(16),
    )


def link_all(
    drafts: Iterable[AuditDraft],
    tenant_id: str,
    after: ChainPoint,
    known: Mapping[str, AuditRecord],
    *,
    now: datetime,
    sensitive: Sensitive = is_secret_name,
) -> tuple[list[AuditRecord], list[AuditRecord]]:
    """The record of each draft, and those among them that are to be kept now.

    ``known`` are records by idempotency key: a draft with such a key, or with that of an earlier draft, is that record.
    """
    by_key = dict(known)
    records: list[AuditRecord] = []
    fresh: list[AuditRecord] = []
    for draft in drafts:
        key = stored_key(draft)
        record = None if key is None else by_key.get(key)
        if record is None:
            record = link(draft, tenant_id, after, now=now, sensitive=sensitive)
            after = ChainPoint.of(record)
            fresh.append(record)
            if key is not None:
                by_key[key] = record
        records.append(record)
    return records, fresh


def stored_key(draft: AuditDraft) -> str | None:
    """The idempotency key of ``draft`` as it is kept."""
    return None if draft.idempotency_key is None else canonical.storable(draft.idempotency_key)


class FaultKind(StrEnum):
    """What is wrong with a record, or with the place where one should be."""

    #: Numbers are missing between two records.
    GAP = "gap"
    #: The record is not what its checksum was made of.
    ALTERED = "altered"
    #: The record does not name the one before it: one of the two was exchanged, together with its checksum.
    RELINKED = "relinked"
    #: Records at the end are missing that were vouched for.
    TRUNCATED = "truncated"
    #: The record is whole, but not the one that was vouched for, or it stands behind the end of the chain.
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class ChainFault:
    """One fault: where, what, in words. ``record_id`` is empty where there is no record."""

    kind: FaultKind
    sequence_number: int
    record_id: str = ""
    detail: str = ""


class ChainVerification(tuple[bool, list[int]]):
    """What a check found; unpacks as ``(valid, missing)``.

    ``checked`` counts the records that were read, ``erased_record_ids`` names those whose payloads were taken out.
    No list has more than :data:`MOST_LISTED` entries; ``faults_total`` counts every fault. Records up to ``removed``
    were removed by retention (0: none were); ``removed_by`` is the id of the key in the checkpoint that says so.
    """

    faults: list[ChainFault]
    faults_total: int
    checked: int
    erased_record_ids: list[str]
    removed: int
    removed_by: str

    def __new__(
        cls,
        faults: Sequence[ChainFault] = (),
        missing: Sequence[int] = (),
        *,
        checked: int = 0,
        erased: Sequence[str] = (),
        faults_total: int | None = None,
    ) -> Self:
        self = super().__new__(cls, (not faults, list(missing)))
        self.faults = list(faults)
        self.faults_total = len(faults) if faults_total is None else faults_total
        self.checked = checked
        self.erased_record_ids = list(erased)
        self.removed = 0
        self.removed_by = ""
        return self

    def starting(self, removed: int, removed_by: str) -> Self:
        """The same, with what was removed before it."""
        self.removed, self.removed_by = removed, removed_by
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # A tuple would be copied from its two parts.
        rest = {"checked": self.checked, "erased": self.erased_record_ids, "faults_total": self.faults_total}
        return (self.faults, self.missing), rest

    @property
    def valid(self) -> bool:
        return self[0]

    @property
    def missing(self) -> list[int]:
        return self[1]

    @property
    def invalid_record_ids(self) -> list[str]:
        """Each record with a fault once, in the order of the chain."""
        return list(dict.fromkeys(fault.record_id for fault in self.faults if fault.record_id))


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """What is there in the place of a record, but is none: its type, say, does not exist."""

    sequence_number: int
    record_id: str
    checksum: str


class ChainChecker:
    """Checks one tenant's records in the order of their numbers, as many or few at a time as the caller likes.

    ``after`` is the record before the first one; None when it should be there and is not. ``vouched`` are places that
    something outside of the records vouches for: the head row, signed checkpoints. ``end`` is the number of the last
    record that the store says it wrote: what stands behind it is none of the chain.
    """

    def __init__(
        self,
        tenant_id: str,
        *,
        first: int = 1,
        after: ChainPoint | None = GENESIS,
        vouched: Iterable[ChainPoint] = (),
        end: int | None = None,
    ) -> None:
        self._tenant_id = tenant_id
        self._end = end
        self._vouched: dict[int, set[str]] = {}
        for point in vouched:
            self._vouched.setdefault(point.sequence_number, set()).add(point.checksum)
        self._faults: list[ChainFault] = []
        self._faults_total = 0
        self._missing: list[int] = []
        self._erased: list[str] = []
        self._checked = 0
        self._next = first
        self._before: ChainPoint | None = after
        if after is None:
            self._fault(FaultKind.GAP, first - 1, "", f"record {first - 1}, to which the first one is tied, is missing")

    def feed(self, records: Iterable[AuditRecord | UnreadableRecord]) -> None:
        """Check the records that come next."""
        for record in records:
            self._check(record)

    def vouch(self, point: ChainPoint) -> None:
        """Hold the chain against ``point``, which comes to light only now: of the record just read, or a later one."""
        self._vouched.setdefault(point.sequence_number, set()).add(point.checksum)
        before = self._before
        if before is not None and before.sequence_number == point.sequence_number and before != point:
            detail = f"record {point.sequence_number} is not the one that was vouched for"
            self._fault(FaultKind.FORGED, point.sequence_number, "", detail)

    def report(self, fault: ChainFault) -> None:
        """Add what the caller found wrong itself."""
        self._fault(fault.kind, fault.sequence_number, fault.record_id, fault.detail)

    def finish(self, last: int) -> ChainVerification:
        """What was found, now that nothing follows. ``last`` is the number to which there should be records."""
        if self._next <= last:
            self._lack(last, FaultKind.TRUNCATED)
        return self.so_far()

    def so_far(self) -> ChainVerification:
        """What was found in the records that were read until now."""
        return ChainVerification(
            self._faults,
            self._missing,
            checked=self._checked,
            erased=self._erased,
            faults_total=self._faults_total,
        )

    def _check(self, record: AuditRecord | UnreadableRecord) -> None:
        number = record.sequence_number
        self._checked += 1
        if number < self._next:
            self._fault(FaultKind.FORGED, number, record.record_id, f"a second record has the number {number}")
            return
        if number > self._next:
            self._lack(number - 1, FaultKind.GAP)
            self._before = None
        if isinstance(record, UnreadableRecord):
            self._fault(FaultKind.ALTERED, number, record.record_id, f"record {number} cannot be read")
        else:
            self._check_content(record)
        if any(checksum != record.checksum for checksum in self._vouched.get(number, ())):
            detail = f"record {number} is not the one that was vouched for"
            self._fault(FaultKind.FORGED, number, record.record_id, detail)
        self._before = ChainPoint(number, record.checksum)
        self._next = number + 1

    def _check_content(self, record: AuditRecord) -> None:
        number, record_id = record.sequence_number, record.record_id
        if not record.verify_integrity():
            self._fault(FaultKind.ALTERED, number, record_id, f"record {number} is not what was written")
        elif record.tenant_id != self._tenant_id:
            self._fault(FaultKind.FORGED, number, record_id, f"record {number} is another tenant's")
        elif record.is_erased and len(self._erased) < MOST_LISTED:
            self._erased.append(record_id)
        if self._before is not None and record.previous_checksum != self._before.checksum:
            detail = f"record {number} does not follow from record {number - 1}: one of them was exchanged"
            self._fault(FaultKind.RELINKED, number, record_id, detail)
        if self._end is not None and number > self._end:
            detail = f"record {number} stands behind the end of the chain, which is {self._end}"
            self._fault(FaultKind.FORGED, number, record_id, detail)

    def _lack(self, last: int, kind: FaultKind) -> None:
        first = self._next
        numbers = f"record {first} is" if first == last else f"records {first} to {last} are"
        place = "at the end" if kind is FaultKind.TRUNCATED else "between others"
        self._fault(kind, first, "", f"{numbers} missing {place}")
        self._missing.extend(range(first, min(last, first + MOST_LISTED - len(self._missing) - 1) + 1))
        self._next = last + 1

    def _fault(self, kind: FaultKind, number: int, record_id: str, detail: str) -> None:
        self._faults_total += 1
        if len(self._faults) < MOST_LISTED:
            self._faults.append(ChainFault(kind, number, record_id, detail))


def raise_on_faults(tenant_id: str, found: ChainVerification) -> None:
    """Raise :class:`AuditIntegrityError` unless the chain holds; it names the first fault."""
    if found.valid:
        return
    first = found.faults[0]
    raise AuditIntegrityError(
        f"the audit chain of tenant '{tenant_id}' does not hold: {first.detail} ({first.kind.value}); "
        f"{found.faults_total} faults in {found.checked} records. Leave the database as it is: who wrote to it?",
        found.invalid_record_ids,
    )
