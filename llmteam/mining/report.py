"""What the runs of a period tell: metrics, variants, where time went, whether they did as their definition says. Pure.

Runs are added one by one; what is kept does not grow with their number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmteam.events.models import EventType
from llmteam.mining.measures import Mean, Measures
from llmteam.mining.models import ProcessEvent
from llmteam.mining.records import StoredEvent, StoredRun
from llmteam.mining.replay import Deviation, Net, Player, Replayed
from llmteam.mining.traces import Tracer
from llmteam.mining.waits import Cause, RunClock, Waits

#: Variants that are told apart, steps of one that are named, and deviating runs that are listed; all are counted.
VARIANTS, NAMED, LISTED = 1000, 60, 100
#: Deviations of one run that are listed.
_OF_A_RUN = 5


@dataclass(slots=True)
class Variant:
    """A way through the segment: the steps that completed, visit by visit in the order of the definition.

    Branches at the same time are one way, whichever was faster. ``steps`` are the first ones, ``more`` counts the rest.
    """

    status: str
    steps: tuple[str, ...]
    more: int
    example: str
    runs: int = 0
    seconds: Mean = field(default_factory=Mean)


@dataclass(frozen=True, slots=True)
class Deviating:
    """A run that did something its definition does not allow. ``deviations`` are the first of ``total``."""

    run_id: str
    fitness: float
    deviations: tuple[Deviation, ...]
    total: int


@dataclass(slots=True)
class Conformance:
    """Runs held against their own definition; ``unknown`` are those whose definition is not there."""

    checked: int = 0
    fitting: int = 0
    unknown: int = 0
    fitness: Mean = field(default_factory=Mean)
    deviating: list[Deviating] = field(default_factory=list)

    def add(self, run_id: str, found: Replayed) -> None:
        """One run more."""
        self.checked += 1
        self.fitness.add(found.fitness)
        if not found.deviations:
            self.fitting += 1
        elif len(self.deviating) < LISTED:
            first = tuple(found.deviations[:_OF_A_RUN])
            self.deviating.append(Deviating(run_id, found.fitness, first, len(found.deviations)))


@dataclass(slots=True)
class SegmentReport:
    """Everything about the runs of one segment. ``edges`` counts how often a run went from one step to another."""

    segment_id: str
    statuses: Counter[str] = field(default_factory=Counter)
    measures: Measures = field(default_factory=Measures)
    waits: Waits = field(default_factory=Waits)
    variants: dict[str, Variant] = field(default_factory=dict)
    other_variants: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    edges: Counter[tuple[str, str]] = field(default_factory=Counter)
    conformance: Conformance = field(default_factory=Conformance)

    @property
    def runs(self) -> int:
        """How many runs were added."""
        return self.measures.cases

    def common(self) -> list[Variant]:
        """Variants, the most common first."""
        return sorted(self.variants.values(), key=lambda one: (-one.runs, one.steps))

    def add(self, run: StoredRun, net: Net | None) -> None:
        """One run more; its events are read on the way."""
        watch = _Watch(run, net, RunClock(self.waits))
        self.measures.add(watch.events(), completed=run.status == "completed")
        self.statuses[run.status] += 1
        self.steps.update(step_id for _, step_id in watch.path)
        if watch.player is None:
            self.conformance.unknown += 1
            self.edges.update(zip(watch.names(), watch.names()[1:], strict=False))
        else:
            found = watch.player.finish(run.status)
            self.edges.update(found.followed)
            self.conformance.add(run.run_id, found)
        self._count(run, watch.names())

    def _count(self, run: StoredRun, names: list[str]) -> None:
        key = hashlib.sha256("\0".join((run.status, *names)).encode("utf-8", "surrogatepass")).hexdigest()
        variant = self.variants.get(key)
        if variant is None:
            if len(self.variants) >= VARIANTS:
                self.other_variants += 1
                return
            kept = tuple(names[:NAMED])
            variant = self.variants[key] = Variant(run.status, kept, len(names) - len(kept), run.run_id)
        variant.runs += 1
        if run.finished_at is not None:
            variant.seconds.add((run.finished_at - (run.started_at or run.created_at)).total_seconds())

    def document(self) -> dict[str, Any]:
        """All of it as JSON; times in seconds."""
        metrics = self.measures.metrics()
        return {
            "segment_id": self.segment_id,
            "runs": self.runs,
            "statuses": dict(sorted(self.statuses.items())),
            "metrics": {
                "avg_duration": metrics.avg_duration.total_seconds(),
                "min_duration": metrics.min_duration.total_seconds(),
                "max_duration": metrics.max_duration.total_seconds(),
                "cases_per_hour": metrics.cases_per_hour,
                "completion_rate": metrics.completion_rate,
                "error_rate": metrics.error_rate,
                "retry_rate": metrics.retry_rate,
                "bottleneck_activities": metrics.bottleneck_activities,
                "waiting_time_by_activity": {
                    activity: waited.total_seconds() for activity, waited in metrics.waiting_time_by_activity.items()
                },
            },
            "seconds_by_cause": {cause.value: seconds for cause, seconds in self.waits.by_cause().items()},
            "bottlenecks": [
                {"activity": activity, "cause": cause.value, "seconds": seconds}
                for activity, cause, seconds in self.waits.slowest()
            ],
            "activities": {
                activity: {cause.value: asdict(spent) for cause, spent in sorted(causes.items())}
                for activity, causes in sorted(self.waits.spent.items())
            },
            "variants": [_variant_document(one) for one in self.common()],
            "other_variants": self.other_variants,
            "edges": [{"from": a, "to": b, "times": times} for (a, b), times in sorted(self.edges.items())],
            "conformance": _conformance_document(self.conformance),
        }


def _variant_document(variant: Variant) -> dict[str, Any]:
    return {
        "status": variant.status,
        "steps": list(variant.steps),
        "more_steps": variant.more,
        "runs": variant.runs,
        "mean_seconds": variant.seconds.value if variant.seconds.count else None,
        "example": variant.example,
    }


def _conformance_document(found: Conformance) -> dict[str, Any]:
    return {
        "checked": found.checked,
        "fitting": found.fitting,
        "without_definition": found.unknown,
        "fitness": found.fitness.value if found.checked else None,
        "deviating": [asdict(one) for one in found.deviating],
    }


@dataclass(slots=True)
class Report:
    """Reports by segment."""

    segments: dict[str, SegmentReport] = field(default_factory=dict)

    def add(self, run: StoredRun, net: Net | None) -> None:
        """One run more, with the net of its own definition if that is there."""
        self.segments.setdefault(run.segment_id, SegmentReport(run.segment_id)).add(run, net)

    @property
    def deviating(self) -> int:
        """How many runs did something that their definition does not allow."""
        return sum(one.conformance.checked - one.conformance.fitting for one in self.segments.values())

    def ordered(self) -> list[SegmentReport]:
        """Segments by name."""
        return [self.segments[name] for name in sorted(self.segments)]

    def document(self) -> dict[str, Any]:
        """All of it as JSON; times in seconds."""
        return {
            "runs": sum(one.runs for one in self.segments.values()),
            "deviating": self.deviating,
            "causes": {cause.value: cause.says for cause in Cause},
            "segments": [one.document() for one in self.ordered()],
        }


class _Watch:
    """Reads the events of one run once, for everybody who wants them."""

    def __init__(self, run: StoredRun, net: Net | None, clock: RunClock) -> None:
        self._run = run
        self._clock = clock
        self._rank: Mapping[str, int] = {} if net is None else {one: at for at, one in enumerate(net.steps)}
        self.player = None if net is None else Player(net, linked=run.link is not None)
        self.path: list[tuple[int, str]] = []

    def events(self) -> Iterator[ProcessEvent]:
        """The run's events as transitions."""
        tracer = Tracer()
        for event in self._run.events:
            self._clock.feed(event)
            if self.player is not None:
                self.player.feed(event)
            if event.kind == EventType.STEP_COMPLETED:
                self._complete(event)
            yield from tracer.of(event)

    def _complete(self, event: StoredEvent) -> None:
        step_id, visit = event.key
        self.path.append((visit, step_id))

    def names(self) -> list[str]:
        """The steps that completed: in the order of the definition for each visit, or as they came without one."""
        if self._rank:
            last = len(self._rank)
            self.path.sort(key=lambda one: (one[0], self._rank.get(one[1], last)))
        return [step_id for _, step_id in self.path]
