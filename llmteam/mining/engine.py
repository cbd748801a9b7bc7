"""Process mining of events that a program records itself, in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, overload

from llmteam.errors import LLMTeamError
from llmteam.ids import as_utc, new_id
from llmteam.mining.measures import Discovery, Measures
from llmteam.mining.models import COMPLETE, Case, ProcessEvent, ProcessMetrics, ProcessModel
from llmteam.mining.xes import xes_text


class InvalidProcessEventError(LLMTeamError, ValueError):
    """An event cannot be recorded as it was given."""

    retryable = False


class ProcessMiningEngine:
    """Records events and mines them. An event id counts once; safe to share between threads.

    ``name`` is the name of the log in XES. Of more than ``max_cases`` the one that was first heard of is forgotten.
    """

    def __init__(self, *, name: str = "", max_cases: int | None = None) -> None:
        self.name = name
        self.max_cases = max_cases
        self._cases: dict[str, list[ProcessEvent]] = {}
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    @overload
    def record_event(self, process_id: ProcessEvent) -> ProcessEvent: ...

    @overload
    def record_event(
        self,
        process_id: str,
        activity: str,
        timestamp: datetime | str,
        *,
        resource: str = "",
        lifecycle: str = COMPLETE,
        duration_ms: int = 0,
        cost: float = 0.0,
        attributes: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> ProcessEvent: ...

    def record_event(
        self,
        process_id: ProcessEvent | str,
        activity: str | None = None,
        timestamp: datetime | str | None = None,
        *,
        resource: str = "",
        lifecycle: str = COMPLETE,
        duration_ms: int = 0,
        cost: float = 0.0,
        attributes: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> ProcessEvent:
        """Record what happened in the case ``process_id``, or an event as a whole; returns the event.

        ``timestamp`` may be ISO text; without a zone it is read as UTC. An event whose id was recorded before changes
        nothing. Raises :class:`InvalidProcessEventError`.
        """
        if isinstance(process_id, ProcessEvent):
            event = replace(process_id, timestamp=_moment(process_id.timestamp))
        else:
            if not activity or timestamp is None:
                raise InvalidProcessEventError("record_event() takes a case, an activity and a timestamp, or an event")
            event = ProcessEvent(
                event_id=event_id or new_id(),
                timestamp=_moment(timestamp),
                activity=activity,
                resource=resource,
                case_id=process_id,
                lifecycle=lifecycle,
                duration_ms=duration_ms,
                cost=cost,
                attributes=dict(attributes or {}),
            )
        return self._keep(event)

    def _keep(self, event: ProcessEvent) -> ProcessEvent:
        _check(event)
        with self._lock:
            if event.event_id not in self._ids:
                self._ids.add(event.event_id)
                self._cases.setdefault(event.case_id, []).append(event)
                self._forget_oldest()
        return event

    def _forget_oldest(self) -> None:
        while self.max_cases is not None and len(self._cases) > self.max_cases:
            oldest = self._cases.pop(next(iter(self._cases)))
            self._ids.difference_update(event.event_id for event in oldest)

    def discover_model(self) -> ProcessModel:
        """The directly-follows graph of what was recorded."""
        found = Discovery()
        for case in self._ordered():
            found.add(case.events)
        return found.model()

    def calculate_metrics(self) -> ProcessMetrics:
        """How the recorded cases went; all zero of none."""
        found = Measures()
        for case in self._ordered():
            found.add(case.events)
        return found.metrics()

    def export_xes(self) -> str:
        """What was recorded as an XES 1.0 document, for ProM, Celonis, pm4py and others."""
        return xes_text(self._ordered(), name=self.name)

    def get_event_count(self) -> int:
        """How many events were recorded."""
        return len(self._ids)

    def get_case_count(self) -> int:
        """How many cases they belong to."""
        return len(self._cases)

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._cases.clear()
            self._ids.clear()

    def _ordered(self) -> list[Case]:
        """The cases in the order in which they were first heard of, the events of each by time."""
        with self._lock:
            return [
                Case(case_id, sorted(events, key=lambda event: event.timestamp))
                for case_id, events in self._cases.items()
            ]


def _check(event: ProcessEvent) -> None:
    """Refuse what no document could be written of: it would be missed only when everything is exported."""
    for name in ("event_id", "activity", "resource", "case_id", "lifecycle"):
        if not isinstance(getattr(event, name), str):
            raise InvalidProcessEventError(f"the {name} of an event is text")
    for name in ("duration_ms", "cost"):
        if not isinstance(getattr(event, name), int | float):
            raise InvalidProcessEventError(f"the {name} of an event is a number")


def _moment(given: datetime | str) -> datetime:
    if isinstance(given, datetime):
        return as_utc(given)
    try:
        return as_utc(datetime.fromisoformat(given))
    except (TypeError, ValueError):
        raise InvalidProcessEventError("the timestamp of an event is a datetime or ISO 8601 text") from None
