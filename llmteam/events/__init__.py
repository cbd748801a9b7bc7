"""Worktrail events: what happened in a run, in order, stored with the change that caused it and followed live."""

from __future__ import annotations

from llmteam.events.models import (
    TERMINAL_TYPES,
    ErrorInfo,
    EventDraft,
    EventQuery,
    EventScope,
    EventSeverity,
    EventType,
    InvalidEventError,
    MissingEventKeyError,
    WorktrailEvent,
)

__all__ = [
    "TERMINAL_TYPES",
    "ErrorInfo",
    "EventDraft",
    "EventQuery",
    "EventScope",
    "EventSeverity",
    "EventType",
    "InvalidEventError",
    "MissingEventKeyError",
    "WorktrailEvent",
]
