"""What process mining works on and what it gives: events of cases, metrics, a discovered model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

#: Transitions of the standard lifecycle model of XES that this package writes.
COMPLETE = "complete"
START = "start"
ABORT = "ate_abort"
#: Transitions after which nothing more is expected of an activity: done, or left out.
ENDINGS = frozenset({COMPLETE, "autoskip", "manualskip"})


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One thing that happened to an activity of a case.

    ``lifecycle`` is a transition of the XES standard model (``start``, ``complete``, ``suspend``, …), ``resource`` who
    did it, ``cost`` an amount in the currency of whoever records it. Values of ``attributes`` keep their type in XES.
    """

    event_id: str
    timestamp: datetime
    activity: str
    resource: str
    case_id: str
    lifecycle: str = COMPLETE
    duration_ms: int = 0
    cost: float = 0.0
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def is_error(self) -> bool:
        """Whether it tells of a failure: by its transition, its attribute ``error``, or the name of its activity."""
        return self.lifecycle == ABORT or bool(self.attributes.get("error")) or "error" in self.activity.casefold()

    @property
    def is_retry(self) -> bool:
        """Whether it tells that something is tried again: by its attribute ``retry`` or the name of its activity."""
        return bool(self.attributes.get("retry")) or "retry" in self.activity.casefold()


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """How cases went.

    Durations are from a case's first to its last event, over cases with two or more; ``cases_per_hour`` counts over
    the time from the first event of all to the last one. ``completion_rate`` is the share of cases that reached their
    end, the other two are shares of all events. ``bottleneck_activities`` are up to three, those that take longest on
    average; waiting is the mean time between an activity's start and what was completed before it in the case.
    """

    avg_duration: timedelta
    min_duration: timedelta
    max_duration: timedelta
    cases_per_hour: float
    completion_rate: float
    error_rate: float
    retry_rate: float
    bottleneck_activities: list[str]
    waiting_time_by_activity: dict[str, timedelta]


@dataclass(frozen=True, slots=True)
class ProcessModel:
    """What directly follows what: ``frequencies`` counts each transition under the key ``A->B``.

    ``fitness`` and ``precision`` are those of this very graph on the events that it was discovered from.
    """

    activities: list[str]
    transitions: dict[str, list[str]]
    frequencies: dict[str, int]
    fitness: float = 1.0
    precision: float = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A case with its events in order. ``events`` may be read once only, before the next case is asked for."""

    case_id: str
    events: Iterable[ProcessEvent]
    attributes: Mapping[str, Any] = field(default_factory=dict)
