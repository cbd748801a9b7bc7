"""Runs and their events as they are read for mining: what happened and when, never what was worked on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from llmteam.events.models import EventType

#: Events whose payload says something of the process; that of others is not read.
TELLING = frozenset(
    {
        EventType.STEP_DELAYED,
        EventType.HUMAN_TASK_CREATED,
        EventType.HUMAN_TASK_ASSIGNED,
        EventType.HUMAN_TASK_ESCALATED,
        EventType.HUMAN_TASK_COMPLETED,
    }
)
#: Events with which what is known of the step is read: since when it was due, and where it led.
OF_STEPS = frozenset(
    {
        EventType.STEP_STARTED,
        EventType.STEP_DELAYED,
        EventType.STEP_COMPLETED,
        EventType.STEP_FAILED,
        EventType.STEP_SKIPPED,
    }
)

#: A step and its visit.
Key = tuple[str, int]


class StoredEvent(NamedTuple):
    """One event of a run. ``ready_at`` and ``decisions`` (one per edge that leaves the step) are the step's."""

    run_id: str
    seq: int
    kind: str
    at: datetime
    step_id: str | None = None
    step_type: str | None = None
    visit: int | None = None
    attempt: int | None = None
    duration_ms: int | None = None
    error: str | None = None
    told: dict[str, Any] | None = None
    ready_at: datetime | None = None
    decisions: Sequence[int] | None = None

    @property
    def key(self) -> Key:
        """The step that it is about."""
        return (self.step_id or "", self.visit or 1)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run. ``events`` are in order, and may be read once only, before the next run is asked for.

    ``link`` says of what kind the run is that goes on from another one (retry, fork), whose steps it took over.
    """

    tenant_id: str
    run_id: str
    segment_id: str
    status: str
    definition_hash: str
    link: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    events: Iterable[StoredEvent]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs: a tenant's, of one segment or all, that were started from ``since`` on and before ``until``."""

    tenant_id: str
    segment_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class RunReader(Protocol):
    """Reads runs for mining."""

    def runs(self, selection: Selection) -> Iterable[StoredRun]:
        """The wanted runs, oldest first, one after the other."""
