"""A run as a trace: its events as lifecycle transitions of its steps. Pure.

==================================  =====================================================================
in the run                          in the trace
==================================  =====================================================================
the step became due                 ``schedule``, at that time
step.delayed                        ``suspend``, with the limit that holds it
step.started                        ``start``, or ``resume`` after a ``suspend``; none where a person does the step
human.task_created                  ``assign``, with who is asked
human.task_assigned                 ``start`` by who took it, ``reassign`` to who was given it
human.task_escalated                ``reassign``
step.completed                      ``complete``, by who answered where a person did
step.failed, .retrying, .lost       ``ate_abort``; a retry says so, a step that was lost is due again at once
step.released, or the run paused    ``suspend``
step.skipped                        ``autoskip``
==================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Any

from llmteam.events.models import EventType
from llmteam.mining.models import ABORT, COMPLETE, START, Case, ProcessEvent
from llmteam.mining.records import Key, StoredEvent, StoredRun

#: The type of steps that a person does.
HUMAN = "human_task"
#: Events of one run that are put in order of time. Those of a longer run keep the order of their numbers, so that
#: memory stays bounded.
IN_ORDER = 100_000


def case_of(run: StoredRun) -> Case:
    """The run as a case. Its events are read on the way."""
    attributes = {
        "segment": run.segment_id,
        "status": run.status,
        "definition": run.definition_hash,
        "link": run.link,
        "created": run.created_at,
        "started": run.started_at,
        "finished": run.finished_at,
    }
    return Case(run.run_id, in_order(process_events(run.events)), attributes)


def in_order(events: Iterable[ProcessEvent], most: int = IN_ORDER) -> Iterator[ProcessEvent]:
    """``events`` by time, those of one moment as they come, if they are no more than ``most``."""
    coming = iter(events)
    first = list(islice(coming, most))
    beyond = list(islice(coming, 1))
    if not beyond:
        first.sort(key=lambda event: event.timestamp)
    return chain(first, beyond, coming)


def process_events(events: Iterable[StoredEvent]) -> Iterator[ProcessEvent]:
    """The transitions of one run's events; ``schedule`` may come later than its time."""
    tracer = Tracer()
    for event in events:
        yield from tracer.of(event)


@dataclass(slots=True)
class Tracer:
    """Turns the events of one run, in order, into transitions, and remembers what it has to on the way."""

    scheduled: dict[Key, datetime] = field(default_factory=dict)
    running: set[Key] = field(default_factory=set)
    suspended: set[Key] = field(default_factory=set)
    answered_by: dict[Key, str] = field(default_factory=dict)

    def of(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        """The transitions that ``event`` stands for."""
        if event.step_id is None:
            return self._pause(event) if event.kind == EventType.SEGMENT_PAUSED else iter(())
        told = _TELL.get(event.kind)
        return iter(()) if told is None else told(self, event)

    def _schedule(self, event: StoredEvent, at: datetime) -> Iterator[ProcessEvent]:
        if self.scheduled.get(event.key) != at:
            self.scheduled[event.key] = at
            yield _transition(event, "schedule", at=at, suffix=":due")

    def _due(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        """That the step was due before; what the row says of a later claim does not hold for this one."""
        if event.ready_at is not None and event.ready_at <= event.at and event.key not in self.suspended:
            yield from self._schedule(event, event.ready_at)

    def _started(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        yield from self._due(event)
        resumes = event.key in self.suspended
        self.suspended.discard(event.key)
        self.running.add(event.key)
        if event.step_type != HUMAN:
            yield _transition(event, "resume" if resumes else START)

    def _delayed(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        yield from self._due(event)
        said = event.told or {}
        yield _transition(event, "suspend", limit=said.get("limit"), limited_by=said.get("limited_by"))

    def _asked(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self.running.discard(event.key)
        said = event.told or {}
        yield _transition(event, "assign", resource=said.get("assignee"), group=said.get("group"))

    def _assigned(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        said = event.told or {}
        lifecycle = START if said.get("claimed") else "reassign"
        yield _transition(event, lifecycle, resource=said.get("assignee"), level=said.get("level"))

    def _answered(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self.answered_by[event.key] = str((event.told or {}).get("completed_by") or "")
        return iter(())

    def _completed(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self._forget(event.key)
        yield _transition(event, COMPLETE, resource=self.answered_by.pop(event.key, None))

    def _failed(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self._forget(event.key)
        retry = True if event.kind == EventType.STEP_RETRYING else None
        yield _transition(event, ABORT, resource=self.answered_by.pop(event.key, None), retry=retry)

    def _lost(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self._forget(event.key)
        yield _transition(event, ABORT)
        yield from self._schedule(event, event.at)

    def _released(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        self.running.discard(event.key)
        self.suspended.add(event.key)
        yield _transition(event, "suspend")

    def _skipped(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        yield _transition(event, "autoskip")

    def _pause(self, event: StoredEvent) -> Iterator[ProcessEvent]:
        """What still ran lost its claim, and will run again."""
        for number, (step_id, visit) in enumerate(sorted(self.running)):
            self.suspended.add((step_id, visit))
            one = event._replace(step_id=step_id, visit=visit)
            yield _transition(one, "suspend", suffix=f":{number}")
        self.running.clear()

    def _forget(self, key: Key) -> None:
        self.running.discard(key)
        self.suspended.discard(key)


_TELL: dict[str, Callable[[Tracer, StoredEvent], Iterator[ProcessEvent]]] = {
    EventType.STEP_STARTED: Tracer._started,
    EventType.STEP_DELAYED: Tracer._delayed,
    EventType.STEP_COMPLETED: Tracer._completed,
    EventType.STEP_FAILED: Tracer._failed,
    EventType.STEP_RETRYING: Tracer._failed,
    EventType.STEP_LOST: Tracer._lost,
    EventType.STEP_RELEASED: Tracer._released,
    EventType.STEP_SKIPPED: Tracer._skipped,
    EventType.HUMAN_TASK_CREATED: Tracer._asked,
    EventType.HUMAN_TASK_ASSIGNED: Tracer._assigned,
    EventType.HUMAN_TASK_ESCALATED: Tracer._assigned,
    EventType.HUMAN_TASK_COMPLETED: Tracer._answered,
}


#: Attributes whose name in XES is no name in Python.
_NAMES = {"group": "org:group"}


def _transition(
    event: StoredEvent,
    lifecycle: str,
    *,
    resource: str | None = None,
    at: datetime | None = None,
    suffix: str = "",
    **more: Any,
) -> ProcessEvent:
    attributes: dict[str, Any] = {"event": event.kind, "visit": event.visit or 1}
    if event.attempt is not None:
        attributes["attempt"] = event.attempt
    if event.step_type is not None:
        attributes["step_type"] = event.step_type
    if event.error is not None:
        attributes["error"] = event.error
    attributes.update((_NAMES.get(name, name), value) for name, value in more.items() if value is not None)
    return ProcessEvent(
        event_id=f"{event.run_id}:{event.seq}{suffix}",
        timestamp=event.at if at is None else at,
        activity=event.step_id or "",
        resource=resource or "",
        case_id=event.run_id,
        lifecycle=lifecycle,
        duration_ms=event.duration_ms or 0 if lifecycle in (COMPLETE, ABORT) else 0,
        attributes=attributes,
    )
