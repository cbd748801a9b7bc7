"""Worktrail events as values: what one is, and which ones a query wants."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)

from llmteam import codec
from llmteam.errors import LLMTeamError
from llmteam.events.payloads import MESSAGE_CHARS, clean_text
from llmteam.ids import as_utc


class EventType(StrEnum):
    """What happened. The value is what is stored and sent."""

    SEGMENT_QUEUED = "segment.queued"
    SEGMENT_STARTED = "segment.started"
    SEGMENT_COMPLETED = "segment.completed"
    SEGMENT_FAILED = "segment.failed"
    SEGMENT_CANCELLED = "segment.cancelled"
    SEGMENT_PAUSED = "segment.paused"
    SEGMENT_RESUMED = "segment.resumed"
    STEP_STARTED = "step.started"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"
    STEP_SKIPPED = "step.skipped"
    STEP_RETRYING = "step.retrying"
    STEP_DELAYED = "step.delayed"
    STEP_LOST = "step.lost"
    STEP_RELEASED = "step.released"
    HUMAN_TASK_CREATED = "human.task_created"
    HUMAN_TASK_ASSIGNED = "human.task_assigned"
    HUMAN_TASK_COMPLETED = "human.task_completed"
    HUMAN_TASK_ESCALATED = "human.task_escalated"
    ACTION_STARTED = "action.started"
    ACTION_COMPLETED = "action.completed"
    ACTION_FAILED = "action.failed"
    DATA_PRODUCED = "data.produced"
    DATA_CONSUMED = "data.consumed"
    CUSTOM = "custom"

    @property
    def severity(self) -> EventSeverity:
        """How serious an event of this type is unless its emitter says otherwise."""
        return _SEVERITIES.get(self, EventSeverity.DEBUG if self.startswith("data.") else EventSeverity.INFO)


#: The types that end a run; exactly one of them is the last segment event of each run.
TERMINAL_TYPES = frozenset({EventType.SEGMENT_COMPLETED, EventType.SEGMENT_FAILED, EventType.SEGMENT_CANCELLED})


class EventSeverity(StrEnum):
    """How serious an event is, from DEBUG (least) to ERROR."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for DEBUG up to 3 for ERROR."""
        return _RANKS[self]

    def and_above(self) -> tuple[EventSeverity, ...]:
        """This severity and every more serious one."""
        return tuple(severity for severity in EventSeverity if severity.rank >= self.rank)


_RANKS = {severity: rank for rank, severity in enumerate(EventSeverity)}
_SEVERITIES = {
    EventType.SEGMENT_FAILED: EventSeverity.ERROR,
    EventType.STEP_FAILED: EventSeverity.ERROR,
    EventType.ACTION_FAILED: EventSeverity.ERROR,
    EventType.SEGMENT_CANCELLED: EventSeverity.WARNING,
    EventType.STEP_RETRYING: EventSeverity.WARNING,
    EventType.HUMAN_TASK_ESCALATED: EventSeverity.WARNING,
}


class InvalidEventError(LLMTeamError, ValueError):
    """A document or an id is not that of a Worktrail event."""

    retryable = False


class InvalidEventQueryError(LLMTeamError, ValueError):
    """Events are asked for by what no event can have."""

    retryable = False


class MissingEventKeyError(LLMTeamError, KeyError):
    """A document of an event or its error lacks a required key; ``key`` names it."""

    retryable = False

    def __init__(self, key: str, *, document: str = "event", required: Sequence[str] | None = None) -> None:
        needed = ", ".join(_REQUIRED if required is None else required)
        super().__init__(f"{document} document without {key!r}; required: {needed}")
        self.key = key

    def __str__(self) -> str:
        return str(self.args[0])


class ErrorInfo(BaseModel):
    """What is told about a failure: never a payload, a stack trace only where an operator asked for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    error_type: str
    error_message: str
    error_code: str | None = None
    stack_trace: str | None = None
    recoverable: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The five fields by name."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form; only ``error_type`` and ``error_message`` are required.

        Raises :class:`MissingEventKeyError` (a ``KeyError``).
        """
        required = ("error_type", "error_message")
        for key in required:
            if key not in data:
                raise MissingEventKeyError(key, document="error", required=required)
        return cls(
            error_type=data["error_type"],
            error_message=data["error_message"],
            error_code=data.get("error_code"),
            stack_trace=data.get("stack_trace"),
            recoverable=bool(data.get("recoverable", False)),
        )

    @classmethod
    def from_exception(
        cls,
        exc: BaseException,
        recoverable: bool = False,
        *,
        stack_trace: bool = False,
        redact: Callable[[str], str] = str,
    ) -> Self:
        """Describe ``exc`` itself, whatever exception is being handled. ``stack_trace`` is for operators only.

        ``redact`` takes out of each text what nobody may see; texts are cut to their length behind it.
        """
        code = getattr(exc, "code", None)
        lines = "".join(traceback.format_exception(exc)) if stack_trace else ""
        trace = clean_text(redact(lines), 10 * MESSAGE_CHARS) if stack_trace else None
        return cls(
            error_type=redact(type(exc).__name__),
            error_message=clean_text(redact(_message(exc))),
            error_code=clean_text(redact(code), 100) if isinstance(code, str) else None,
            stack_trace=trace,
            recoverable=recoverable,
        )

    @classmethod
    def of(cls, error: ErrorInfo | Mapping[str, Any] | BaseException | str) -> ErrorInfo:
        """An ErrorInfo from whatever a caller has at hand."""
        if isinstance(error, ErrorInfo):
            return error
        if isinstance(error, BaseException):
            return cls.from_exception(error)
        if isinstance(error, str):
            return cls(error_type="Error", error_message=clean_text(error))
        return cls.from_dict(error)


def _message(exc: BaseException) -> str:
    if isinstance(exc, ValidationError):  # its own text quotes the input
        problems = exc.errors(include_url=False, include_context=False, include_input=False)
        return f"{exc.title}: " + "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: {problem['msg']}"
            for problem in problems[:10]
        )
    try:
        return str(exc)
    except Exception:  # noqa: BLE001  # an error of users' code whose text is broken as well
        return f"{type(exc).__name__}, whose own text cannot be made"


def _moment(value: datetime) -> datetime:
    return as_utc(value)


class WorktrailEvent(BaseModel):
    """One thing that happened in a run. Its id is ``run_id:seq``; an empty id asks the store for the next number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str
    event_type: EventType
    timestamp: Annotated[datetime, AfterValidator(_moment)]
    tenant_id: str
    instance_id: str
    run_id: str
    segment_id: str
    step_id: str | None = None
    step_type: str | None = None
    visit: int | None = None
    attempt: int | None = None
    severity: EventSeverity = EventSeverity.INFO
    correlation_id: str | None = None
    parent_event_id: str | None = None
    payload: dict[str, Any] = Field(default_factory=dict)
    error: ErrorInfo | None = None
    duration_ms: int | None = None

    _seq: int | None = PrivateAttr(default=None)

    @property
    def seq(self) -> int | None:
        """The event's number within its run, from 1; None while no store has numbered it."""
        return seq_of(self.event_id, self.run_id) if self._seq is None else self._seq

    def numbered(self, seq: int, *, keep_id: bool = False) -> WorktrailEvent:
        """A copy with this number, and the id that goes with it unless ``keep_id``."""
        copy = self.model_copy(update={} if keep_id else {"event_id": event_id(self.run_id, seq)})
        copy._seq = seq if keep_id else None
        return copy

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, WorktrailEvent) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.tenant_id, self.run_id, self.event_id))

    def is_again(self, earlier: WorktrailEvent) -> bool:
        """Whether this is ``earlier`` handed over a second time, and not another event that claims its id."""
        return all(getattr(self, name) == getattr(earlier, name) for name in _SAME)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; enums as values, the timestamp as ISO text in UTC, the error nested or None."""
        document = {name: getattr(self, name) for name in type(self).model_fields}
        document["event_type"] = self.event_type.value
        document["severity"] = self.severity.value
        document["timestamp"] = self.timestamp.isoformat()
        document["error"] = None if self.error is None else self.error.to_dict()
        document["payload"] = dict(self.payload)
        return document

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text; payload values that JSON does not know are written as their text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, default=str)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`'s form; keys that this version does not know are ignored.

        Raises :class:`MissingEventKeyError` (a ``KeyError``) and :class:`InvalidEventError` (a ``ValueError``).
        """
        for key in _REQUIRED:
            if key not in data:
                raise MissingEventKeyError(key)
        known = {name: data[name] for name in cls.model_fields if data.get(name) is not None}
        try:
            if "error" in known and not isinstance(known["error"], ErrorInfo):
                known["error"] = ErrorInfo.from_dict(known["error"])
            return cls(**known)
        except ValidationError as exc:
            raise InvalidEventError(_message(exc)) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read :meth:`to_json`'s form; errors as in :meth:`from_dict`."""
        document = codec.loads(text)
        if not isinstance(document, dict):
            raise InvalidEventError(f"an event document is a JSON object, not a {type(document).__name__}")
        return cls.from_dict(document)


_REQUIRED = tuple(name for name, info in WorktrailEvent.model_fields.items() if info.is_required())

_SAME = ("event_id", "event_type", "timestamp", "step_id", "visit", "attempt")


def event_id(run_id: str, seq: int) -> str:
    """The id of the run's event with this number."""
    return f"{run_id}:{seq}"


def seq_of(identifier: str, run_id: str) -> int | None:
    """The number in an event id of this run, or None when the id is of another form or run."""
    prefix, _, number = identifier.rpartition(":")
    return int(number) if prefix == run_id and number.isascii() and number.isdigit() and len(number) < 10 else None


@dataclass(frozen=True, slots=True)
class EventScope:
    """Whose event it is: the identity that every event of one run shares."""

    tenant_id: str
    run_id: str
    instance_id: str = ""
    segment_id: str = ""


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event that a decision asks for; the store adds number, id, time and scope. ``payload`` is JSON already."""

    event_type: EventType
    step_id: str | None = None
    step_type: str | None = None
    visit: int | None = None
    attempt: int | None = None
    severity: EventSeverity = EventSeverity.INFO
    payload: dict[str, Any] = field(default_factory=dict)
    error: ErrorInfo | None = None
    duration_ms: int | None = None
    correlation_id: str | None = None
    parent_event_id: str | None = None

    def stamp(self, scope: EventScope, timestamp: datetime, seq: int | None = None) -> WorktrailEvent:
        """The event itself; without ``seq`` the store that takes it gives the number."""
        return WorktrailEvent(
            event_id="" if seq is None else event_id(scope.run_id, seq),
            event_type=self.event_type,
            timestamp=timestamp,
            tenant_id=scope.tenant_id,
            instance_id=scope.instance_id,
            run_id=scope.run_id,
            segment_id=scope.segment_id,
            step_id=self.step_id,
            step_type=self.step_type,
            visit=self.visit,
            attempt=self.attempt,
            severity=self.severity,
            correlation_id=self.correlation_id,
            parent_event_id=self.parent_event_id,
            payload=self.payload,
            error=self.error,
            duration_ms=self.duration_ms,
        )


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events are wanted: every field that is not None must hold. ``severity`` means this one and above."""

    tenant_id: str | None = None
    run_id: str | None = None
    event_types: frozenset[EventType] | None = None
    step_id: str | None = None
    segment_id: str | None = None
    severity: EventSeverity | None = None
    start: datetime | None = None
    end: datetime | None = None
    after_seq: int | None = None
    with_error: bool | None = None
    limit: int | None = None

    def matches(self, event: WorktrailEvent, seq: int) -> bool:
        """Whether ``event``, number ``seq`` of its run, is wanted; both ends of the time range are included."""
        return (
            _is(self.tenant_id, event.tenant_id)
            and _is(self.run_id, event.run_id)
            and _is(self.step_id, event.step_id)
            and _is(self.segment_id, event.segment_id)
            and (self.event_types is None or event.event_type in self.event_types)
            and (self.severity is None or event.severity.rank >= self.severity.rank)
            and (self.start is None or event.timestamp >= as_utc(self.start))
            and (self.end is None or event.timestamp <= as_utc(self.end))
            and (self.after_seq is None or seq > self.after_seq)
            and (self.with_error is None or (event.error is not None) == self.with_error)
        )


def _is(wanted: str | None, found: str | None) -> bool:
    return wanted is None or wanted == found
