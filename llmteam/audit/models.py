"""Audit records as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Self, TypeVar

from llmteam.audit import canonical
from llmteam.audit.exceptions import AuditError, InvalidAuditQueryError
from llmteam.errors import NotJSONError
from llmteam.ids import as_utc, random_id

T = TypeVar("T")
Kind = TypeVar("Kind", bound=StrEnum)

#: What a record may be sorted by; those of equal value stand by their number.
ORDERS = ("timestamp", "sequence_number", "event_type", "severity", "actor_id", "resource_id")

#: Conditions of a query that ask for one value of a field, and the fields in which its text is looked for.
EQUALITIES = (
    "tenant_id",
    "actor_id",
    "actor_type",
    "pipeline_id",
    "run_id",
    "agent_name",
    "resource_type",
    "resource_id",
    "success",
)
SEARCHED = ("action", "resource_id", "error_message")

#: In the place of a checksum that was missing where a record was read from; no record has it.
NO_CHECKSUM = "missing"

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

#: Fields that are not part of a record's checksum: itself, and the payloads, for which their digests are.
_UNHASHED = frozenset({"checksum", "old_value", "new_value", "metadata", "salt"})


class AuditEventType(StrEnum):
    """What was done. The value is what is stored."""

    PIPELINE_CREATED = "pipeline.created"
    PIPELINE_STARTED = "pipeline.started"
    PIPELINE_COMPLETED = "pipeline.completed"
    PIPELINE_FAILED = "pipeline.failed"
    PIPELINE_PAUSED = "pipeline.paused"
    PIPELINE_RESUMED = "pipeline.resumed"
    PIPELINE_CANCELLED = "pipeline.cancelled"
    AGENT_STARTED = "agent.started"
    AGENT_COMPLETED = "agent.completed"
    AGENT_FAILED = "agent.failed"
    AGENT_RETRIED = "agent.retried"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_GRANTED = "approval.granted"
    APPROVAL_REJECTED = "approval.rejected"
    APPROVAL_TIMEOUT = "approval.timeout"
    APPROVAL_ESCALATED = "approval.escalated"
    ACTION_INVOKED = "action.invoked"
    ACTION_COMPLETED = "action.completed"
    ACTION_FAILED = "action.failed"
    ACCESS_GRANTED = "security.access_granted"
    ACCESS_DENIED = "security.access_denied"
    CONTEXT_ACCESSED = "security.context_accessed"
    SEALED_DATA_ACCESSED = "security.sealed_data_accessed"
    AUTHENTICATION_SUCCESS = "security.auth_success"
    AUTHENTICATION_FAILURE = "security.auth_failure"
    CONFIG_CHANGED = "config.changed"
    POLICY_CHANGED = "config.policy_changed"
    TENANT_CREATED = "config.tenant_created"
    TENANT_UPDATED = "config.tenant_updated"
    TENANT_DELETED = "config.tenant_deleted"
    DATA_CREATED = "data.created"
    DATA_UPDATED = "data.updated"
    DATA_DELETED = "data.deleted"
    DATA_EXPORTED = "data.exported"
    DATA_IMPORTED = "data.imported"

    @property
    def is_security(self) -> bool:
        """Whether it tells of access or authentication."""
        return self.value.startswith("security.")


class AuditSeverity(StrEnum):
    """How serious a record is, from DEBUG (least) to CRITICAL."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDraft:
    """What is to be recorded; the store adds id, number, time and its link in the chain.

    ``idempotency_key`` makes a draft that is appended twice one record. ``timestamp`` is for what happened earlier.
    """

    event_type: AuditEventType
    severity: AuditSeverity = AuditSeverity.INFO
    pipeline_id: str = ""
    run_id: str = ""
    agent_name: str = ""
    step_name: str = ""
    actor_type: str = "system"
    actor_id: str = ""
    actor_ip: str = ""
    actor_user_agent: str = ""
    action: str = ""
    resource_type: str = ""
    resource_id: str = ""
    old_value: Mapping[str, Any] | None = None
    new_value: Mapping[str, Any] | None = None
    success: bool = True
    error_message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    idempotency_key: str | None = None
    timestamp: datetime | None = None


def lowered(text: str) -> str:
    """``text`` with a to z for A to Z: what every database folds alike, whatever its locale."""
    return text.translate(_LOWER)


def generate_audit_id() -> str:
    """A fresh id for a record: a UUIDv4 as text."""
    return random_id()


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of a tenant's chain: what happened, its number, and the checksums that tie it to the record before.

    Without ``checksum`` it is computed. ``old_digest``, ``new_digest`` and ``metadata_digest`` stand for the payloads
    in it; ``salt`` belongs to the payloads and is erased with them.
    """

    record_id: str
    sequence_number: int
    timestamp: datetime
    event_type: AuditEventType
    severity: AuditSeverity = AuditSeverity.INFO
    tenant_id: str = ""
    pipeline_id: str = ""
    run_id: str = ""
    agent_name: str = ""
    step_name: str = ""
    actor_type: str = ""
    actor_id: str = ""
    actor_ip: str = ""
    actor_user_agent: str = ""
    action: str = ""
    resource_type: str = ""
    resource_id: str = ""
    old_value: dict[str, Any] | None = None
    new_value: dict[str, Any] | None = None
    success: bool = True
    error_message: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    checksum: str = ""
    previous_checksum: str = ""
    idempotency_key: str | None = None
    hash_version: int = canonical.HASH_VERSION
    old_digest: str = ""
    new_digest: str = ""
    metadata_digest: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        kept: dict[str, Any] = {
            "timestamp": as_utc(self.timestamp),
            "event_type": AuditEventType(self.event_type),
            "severity": AuditSeverity(self.severity),
            "old_value": deepcopy(self.old_value),
            "new_value": deepcopy(self.new_value),
            "metadata": deepcopy(self.metadata),
            "tags": list(self.tags),
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)
        if not self.checksum:
            for name, value in self._digests().items():
                object.__setattr__(self, name, value)
            object.__setattr__(self, "checksum", self.computed_checksum())

    def _digests(self) -> dict[str, str]:
        payloads = {"old_digest": self.old_value, "new_digest": self.new_value, "metadata_digest": self.metadata}
        return {name: canonical.payload_digest(value, self.salt) for name, value in payloads.items()}

    def computed_checksum(self) -> str:
        """The checksum that the fields give now."""
        return canonical.checksum(self._hashed())

    def open_checksum(self) -> tuple[str, str, str]:
        """The text that is hashed, around the checksum of the record before and the number: see there."""
        values = self._hashed()
        del values["previous_checksum"], values["sequence_number"]
        return canonical.open_checksum(values)

    def _hashed(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _UNHASHED}
        values["timestamp"] = canonical.moment(self.timestamp)
        return values

    @property
    def is_erased(self) -> bool:
        """Whether the payloads were taken out of the record afterwards; their digests, and the chain, remain."""
        empty = self.old_value is None and self.new_value is None and not self.metadata and not self.salt
        return empty and not self._has_its_payloads

    @property
    def _has_its_payloads(self) -> bool:
        return all(getattr(self, name) == value for name, value in self._digests().items())

    def verify_integrity(self) -> bool:
        """Whether the record is what its checksum was made of; an erased payload does no harm."""
        try:
            return self.checksum == self.computed_checksum() and (self._has_its_payloads or self.is_erased)
        except NotJSONError:
            # Nothing that was written: no record is made of such a value.
            return False

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON; the timestamp in UTC with microseconds."""
        document = {item.name: deepcopy(getattr(self, item.name)) for item in fields(self)}
        return {
            **document,
            "timestamp": canonical.moment(self.timestamp),
            "event_type": self.event_type.value,
            "severity": self.severity.value,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record of :meth:`to_dict`. One without a checksum never verifies. Raises :class:`AuditError`."""
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        values["checksum"] = values.get("checksum") or NO_CHECKSUM
        try:
            if isinstance(when := values["timestamp"], str):
                values["timestamp"] = datetime.fromisoformat(when)
            if type(values["sequence_number"]) is not int:
                raise TypeError("sequence_number")
            return cls(**values)
        except KeyError as exc:
            raise AuditError(f"an audit record lacks {exc}: it is not one that to_dict() wrote") from None
        except (TypeError, ValueError, AttributeError, RecursionError) as exc:
            raise AuditError(f"this is no audit record: {type(exc).__name__} in one of {sorted(values)}") from None


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records are wanted: those for which every given condition holds.

    ``event_types``, ``severities`` and ``tags`` mean any of them; both ends of the time are included and naive ones
    read as UTC. ``search_text`` is looked for in ``action``, ``resource_id`` and ``error_message``, whereby the letters
    A to Z stand for a to z as well. Raises :class:`InvalidAuditQueryError`.
    """

    start_time: datetime | None = None
    end_time: datetime | None = None
    tenant_id: str | None = None
    event_types: Sequence[AuditEventType] | None = None
    severities: Sequence[AuditSeverity] | None = None
    actor_id: str | None = None
    actor_type: str | None = None
    pipeline_id: str | None = None
    run_id: str | None = None
    agent_name: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    success: bool | None = None
    search_text: str | None = None
    tags: Sequence[str] | None = None
    limit: int = 100
    offset: int = 0
    order_by: str = "timestamp"
    order_desc: bool = True

    def __post_init__(self) -> None:
        if self.order_by not in ORDERS:
            raise InvalidAuditQueryError(f"audit records are not sorted by {self.order_by[:64]!r}: {', '.join(ORDERS)}")
        if self.limit < 0 or self.offset < 0:
            raise InvalidAuditQueryError(f"limit {self.limit} and offset {self.offset} must not be negative")
        # As the texts of records are kept.
        for name in (item.name for item in fields(self) if isinstance(getattr(self, item.name), str)):
            object.__setattr__(self, name, canonical.storable(getattr(self, name)))
        if self.tags is not None:
            object.__setattr__(self, "tags", [canonical.storable(tag) for tag in _several("tags", self.tags)])
        for name, kind in (("event_types", AuditEventType), ("severities", AuditSeverity)):
            if (wanted := getattr(self, name)) is not None:
                object.__setattr__(self, name, _members(name, kind, wanted))

    def matches(self, record: AuditRecord) -> bool:
        """Whether every condition holds for ``record``."""
        equal = all(
            wanted is None or getattr(record, name) == wanted
            for name, wanted in ((name, getattr(self, name)) for name in EQUALITIES)
        )
        return (
            equal
            and (self.start_time is None or record.timestamp >= as_utc(self.start_time))
            and (self.end_time is None or record.timestamp <= as_utc(self.end_time))
            and (self.event_types is None or record.event_type in self.event_types)
            and (self.severities is None or record.severity in self.severities)
            and (self.tags is None or not set(self.tags).isdisjoint(record.tags))
            and (self.search_text is None or self._is_found_in(record))
        )

    def _is_found_in(self, record: AuditRecord) -> bool:
        wanted = lowered(self.search_text or "")
        return any(wanted in lowered(getattr(record, name)) for name in SEARCHED)


def _several(name: str, given: Sequence[T]) -> Sequence[T]:
    """Refuse a single text: it would be read letter by letter, and nothing found."""
    if isinstance(given, str):
        raise InvalidAuditQueryError(f"{name} is a list: write [{str(given)!r}]")
    return given


def _members(name: str, kind: type[Kind], given: Sequence[Kind]) -> list[Kind]:
    several = _several(name, given)
    try:
        return [kind(one) for one in several]
    except ValueError as exc:
        raise InvalidAuditQueryError(f"{name}: {exc}") from None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What happened in a period, counted; days are UTC days, written ``YYYY-MM-DD``.

    ``security_incidents`` (events of ``security.*`` that failed) and ``failed_operations`` hold the newest 100;
    their totals count all. The chain was checked from the first to the last record of the period and to their
    neighbours. Records up to ``removed_up_to`` were removed by retention: a period before them is not all there.
    """

    report_id: str
    generated_at: datetime
    generated_by: str
    period_start: datetime
    period_end: datetime
    tenant_id: str
    total_events: int
    events_by_type: dict[str, int]
    events_by_severity: dict[str, int]
    events_by_actor: dict[str, int]
    events_by_day: dict[str, int]
    security_incidents: list[AuditRecord]
    failed_operations: list[AuditRecord]
    records: list[AuditRecord] = field(default_factory=list)
    chain_valid: bool = True
    missing_sequence_numbers: list[int] = field(default_factory=list)
    security_incidents_total: int = 0
    failed_operations_total: int = 0
    invalid_record_ids: list[str] = field(default_factory=list)
    removed_up_to: int = 0
