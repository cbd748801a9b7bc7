"""Where the time of runs went: work, and waiting told apart by what was waited for. Pure.

Each moment of an open step has one cause. Times are seconds; branches that wait side by side count each for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from llmteam.events.models import TERMINAL_TYPES, EventType
from llmteam.mining.records import Key, StoredEvent


class Cause(StrEnum):
    """What the time of a step went into."""

    WORK = "work"
    HUMAN = "human"
    QUEUE = "queue"
    LIMIT = "limit"
    RETRY = "retry"
    LOST = "lost"
    PAUSE = "pause"
    ADMISSION = "admission"

    @property
    def says(self) -> str:
        """What it means, in words."""
        return _WORDS[self]


_WORDS = {
    Cause.WORK: "handlers at work",
    Cause.HUMAN: "waiting for a person",
    Cause.QUEUE: "due, waiting for a free worker",
    Cause.LIMIT: "held by a limit",
    Cause.RETRY: "failed, until the next attempt",
    Cause.LOST: "begun by a worker that vanished",
    Cause.PAUSE: "the run was paused",
    Cause.ADMISSION: "before the tenant had room for the run",
}
#: The name under which the time counts that a run waited as a whole.
WHOLE_RUN = "(run)"


@dataclass(slots=True)
class Spent:
    """How often a cause held, and for how long, in seconds."""

    times: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.times += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


@dataclass(slots=True)
class Waits:
    """Time by activity and cause, summed over runs."""

    spent: dict[str, dict[Cause, Spent]] = field(default_factory=dict)

    def add(self, activity: str, cause: Cause, since: datetime, until: datetime) -> None:
        """``activity`` was in ``cause`` for this long."""
        seconds = (until - since).total_seconds()
        if seconds >= 0:
            self.spent.setdefault(activity, {}).setdefault(cause, Spent()).add(seconds)

    def seconds(self, activity: str, cause: Cause) -> float:
        """All that an activity spent in a cause."""
        found = self.spent.get(activity, {}).get(cause)
        return 0.0 if found is None else found.seconds

    def by_cause(self) -> dict[Cause, float]:
        """Seconds of all activities together."""
        return {cause: sum(self.seconds(activity, cause) for activity in self.spent) for cause in Cause}

    def slowest(self) -> list[tuple[str, Cause, float]]:
        """Activities by what held them up longest, that cause and its seconds; the worst first."""
        worst = []
        for activity, causes in self.spent.items():
            cause = max(causes, key=lambda one: causes[one].seconds)
            worst.append((activity, cause, causes[cause].seconds))
        return sorted(worst, key=lambda one: (-one[2], one[0]))


_WHOLE: Key = (WHOLE_RUN, 1)


class RunClock:
    """The clock of one run: what each of its steps waits for at the moment, and since when."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._open: dict[Key, tuple[Cause, datetime]] = {}
        self._frozen: dict[Key, Cause] = {}

    def feed(self, event: StoredEvent) -> None:
        """The next event of the run."""
        if event.kind in TERMINAL_TYPES:
            self._end(event.at)
        elif event.kind == EventType.SEGMENT_QUEUED:
            self._open[_WHOLE] = (Cause.ADMISSION, event.at)
        elif event.kind == EventType.SEGMENT_STARTED:
            self._close(_WHOLE, event.at)
        elif event.kind == EventType.SEGMENT_PAUSED:
            self._freeze(event.at)
        elif event.kind == EventType.SEGMENT_RESUMED:
            self._thaw(event.at)
        elif event.step_id is not None and (move := _MOVES.get(event.kind)) is not None:
            move(self, event)

    def _into(self, key: Key, cause: Cause | None, at: datetime, *, was: Cause | None = None) -> None:
        """The step goes over into ``cause`` (None: it is over); ``was`` corrects what it was in until now."""
        self._close(key, at, was)
        if cause is not None:
            self._open[key] = (cause, at)

    def _close(self, key: Key, at: datetime, was: Cause | None = None) -> None:
        cause, since = self._open.pop(key, (None, at))
        if cause is not None:
            self._waits.add(key[0], was or cause, since, at)

    def _due(self, event: StoredEvent) -> None:
        """A step of which nothing was heard before has been due since its row says so."""
        if event.key not in self._open and event.ready_at is not None and event.ready_at <= event.at:
            self._open[event.key] = (Cause.QUEUE, event.ready_at)

    def _started(self, event: StoredEvent) -> None:
        self._due(event)
        self._into(event.key, Cause.WORK, event.at)

    def _delayed(self, event: StoredEvent) -> None:
        self._due(event)
        self._into(event.key, Cause.LIMIT, event.at)

    def _asked(self, event: StoredEvent) -> None:
        self._into(event.key, Cause.HUMAN, event.at)

    def _over(self, event: StoredEvent) -> None:
        self._into(event.key, None, event.at)

    def _again(self, event: StoredEvent) -> None:
        self._into(event.key, Cause.RETRY, event.at)

    def _lost(self, event: StoredEvent) -> None:
        self._into(event.key, Cause.QUEUE, event.at, was=Cause.LOST)

    def _released(self, event: StoredEvent) -> None:
        self._into(event.key, Cause.QUEUE, event.at)

    def _freeze(self, at: datetime) -> None:
        for key, (cause, _) in list(self._open.items()):
            self._frozen[key] = Cause.QUEUE if cause is Cause.WORK else cause
            self._into(key, Cause.PAUSE, at)
        self._open.setdefault(_WHOLE, (Cause.PAUSE, at))

    def _thaw(self, at: datetime) -> None:
        self._close(_WHOLE, at)
        for key, cause in self._frozen.items():
            if self._open.get(key, (None, at))[0] is Cause.PAUSE:
                self._into(key, cause, at)
        self._frozen.clear()

    def _end(self, at: datetime) -> None:
        for key in list(self._open):
            self._close(key, at)


_MOVES: dict[str, Callable[[RunClock, StoredEvent], None]] = {
    EventType.STEP_STARTED: RunClock._started,
    EventType.STEP_DELAYED: RunClock._delayed,
    EventType.HUMAN_TASK_CREATED: RunClock._asked,
    EventType.STEP_COMPLETED: RunClock._over,
    EventType.STEP_FAILED: RunClock._over,
    EventType.STEP_RETRYING: RunClock._again,
    EventType.STEP_LOST: RunClock._lost,
    EventType.STEP_RELEASED: RunClock._released,
}
