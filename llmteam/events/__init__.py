"""Worktrail events: what happened in a run, in order, stored with the change that caused it and followed live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.events.emitter import EmitterError, EventEmitter
from llmteam.events.models import (
    TERMINAL_TYPES,
    ErrorInfo,
    EventDraft,
    EventQuery,
    EventScope,
    EventSeverity,
    EventType,
    InvalidEventError,
    InvalidEventQueryError,
    MissingEventKeyError,
    WorktrailEvent,
)
from llmteam.events.stores import EventStore, MemoryEventStore
from llmteam.events.stream import EventStream

if TYPE_CHECKING:
    from llmteam.events.postgres import PostgresEventStore

__all__ = [
    "TERMINAL_TYPES",
    "EmitterError",
    "ErrorInfo",
    "EventDraft",
    "EventEmitter",
    "EventQuery",
    "EventScope",
    "EventSeverity",
    "EventStore",
    "EventStream",
    "EventType",
    "InvalidEventError",
    "InvalidEventQueryError",
    "MemoryEventStore",
    "MissingEventKeyError",
    "PostgresEventStore",
    "WorktrailEvent",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresEventStore":
        from llmteam.events.postgres import PostgresEventStore

        return PostgresEventStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
