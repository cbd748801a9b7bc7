"""Metrics and the directly-follows graph, counted case by case so that no event need be kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from llmteam.mining.models import COMPLETE, ENDINGS, START, ProcessEvent, ProcessMetrics, ProcessModel

#: Bottlenecks that are named.
BOTTLENECKS = 3
_NONE = timedelta(0)


@dataclass(slots=True)
class Mean:
    """A sum and how many made it up."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """One value more."""
        self.count += 1
        self.total += value

    @property
    def value(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class Measures:
    """Counts cases; :meth:`metrics` says what came of it so far."""

    cases: int = 0
    events: int = 0
    completed: int = 0
    errors: int = 0
    retries: int = 0
    durations: Mean = field(default_factory=Mean)
    shortest: timedelta | None = None
    longest: timedelta = _NONE
    first: datetime | None = None
    last: datetime | None = None
    _took: dict[str, Mean] = field(default_factory=dict)
    _waited: dict[str, Mean] = field(default_factory=dict)

    def add(self, events: Iterable[ProcessEvent], *, completed: bool | None = None) -> None:
        """One case, its events in order of time.

        ``completed`` says whether it reached its end where that is known; else it did when its last event is a
        completion.
        """
        first = last = done = None
        count, ending = 0, False
        for event in events:
            count += 1
            moment = event.timestamp
            first = moment if first is None or moment < first else first
            last = moment if last is None or moment > last else last
            self.errors += event.is_error
            self.retries += event.is_retry
            ending = event.lifecycle in ENDINGS
            if event.lifecycle == START and done is not None:
                self._waited.setdefault(event.activity, Mean()).add(max(0.0, (moment - done).total_seconds()))
            elif event.lifecycle == COMPLETE:
                self._took.setdefault(event.activity, Mean()).add(event.duration_ms)
                done = moment
        self.events += count
        self.cases += 1
        self.completed += ending if completed is None else completed
        if first is not None and last is not None:
            self._span(first, last, count)

    def _span(self, first: datetime, last: datetime, count: int) -> None:
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)
        if count > 1:
            took = last - first
            self.durations.add(took.total_seconds())
            self.shortest = took if self.shortest is None else min(self.shortest, took)
            self.longest = max(self.longest, took)

    def metrics(self) -> ProcessMetrics:
        """The metrics of all cases so far."""
        span = (self.last - self.first).total_seconds() if self.first and self.last else 0.0
        slowest = sorted(self._took, key=lambda activity: (-self._took[activity].value, activity))
        return ProcessMetrics(
            avg_duration=timedelta(seconds=self.durations.value),
            min_duration=self.shortest or _NONE,
            max_duration=self.longest,
            cases_per_hour=self.cases / (span / 3600) if span > 0 else float(self.cases),
            completion_rate=self.completed / self.cases if self.cases else 0.0,
            error_rate=self.errors / self.events if self.events else 0.0,
            retry_rate=self.retries / self.events if self.events else 0.0,
            bottleneck_activities=[one for one in slowest if self._took[one].total > 0][:BOTTLENECKS],
            waiting_time_by_activity={
                activity: timedelta(seconds=mean.value) for activity, mean in sorted(self._waited.items())
            },
        )


@dataclass(slots=True)
class Discovery:
    """The directly-follows graph of the cases that were added."""

    activities: set[str] = field(default_factory=set)
    transitions: dict[str, list[str]] = field(default_factory=dict)
    frequencies: dict[str, int] = field(default_factory=dict)

    def add(self, events: Iterable[ProcessEvent]) -> None:
        """One case, its events in order. Where some complete an activity, these alone follow each other."""
        every = list(events)
        self.activities.update(event.activity for event in every)
        path = [event.activity for event in every if event.lifecycle == COMPLETE] or [e.activity for e in every]
        for before, after in pairwise(path):
            key = f"{before}->{after}"
            if key not in self.frequencies:
                self.transitions.setdefault(before, []).append(after)
            self.frequencies[key] = self.frequencies.get(key, 0) + 1

    def model(self) -> ProcessModel:
        """The graph of all cases so far."""
        transitions = {before: list(after) for before, after in self.transitions.items()}
        return ProcessModel(sorted(self.activities), transitions, dict(self.frequencies))
