"""The values that transitions read and write: a run, its steps, and what changes about them.

Rows of both run stores map onto these one to one. Outputs are not here: a transition needs to know where an edge
leads, never what it carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from llmteam.canvas.routing import Decisions
from llmteam.errors import LLMTeamError
from llmteam.events.models import ErrorInfo, EventDraft
from llmteam.human.rulings import Ruling
from llmteam.regions import DEFAULT_REGION

#: How long a step that is ready may lie before a sweep hints at it again.
HINT_AFTER = timedelta(seconds=10)
#: The same for a join whose hint a chord's body is bringing.
CHORD_GRACE = timedelta(seconds=1)
#: No retry waits longer than this.
MAX_RETRY_DELAY = timedelta(minutes=5)
#: Lost leases after which a step is kept apart from others, and further ones after which it has failed.
QUARANTINE_AFTER, QUARANTINE_LOSSES = 2, 3
#: What a worker gets to notice a step's deadline itself, before a sweep does.
DEADLINE_GRACE = timedelta(seconds=5)

#: A step execution: step id and visit.
Key = tuple[str, int]


class SegmentStatus(StrEnum):
    """What a run is doing, or how it ended."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def accepts_results(self) -> bool:
        """Whether what a running step gave may still be applied: also while the run drains for a pause."""
        return self in (SegmentStatus.RUNNING, SegmentStatus.PAUSING)


_TERMINAL = frozenset({SegmentStatus.COMPLETED, SegmentStatus.FAILED, SegmentStatus.CANCELLED, SegmentStatus.TIMEOUT})


class StepState(StrEnum):
    """``pending → ready → running → completed | failed | waiting | skipped | cancelled``.

    A retry, a lost lease and a hand-back go from ``running`` back to ``ready``, ``waiting`` returns through it.
    """

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        return self in OPEN_STATES


OPEN_STATES = frozenset({StepState.PENDING, StepState.READY, StepState.RUNNING, StepState.WAITING})

#: Whom an open step waits for.
Owner = Literal["inputs", "queue", "lease", "timer", "person", "limit", "pause"]


@dataclass(slots=True)
class LoopState:
    """One iteration of a loop, kept on its header's row of that visit.

    ``parent`` is the visit of the enclosing loop's header (1 outside any), ``open`` the units not yet over, ``exits``
    the decisions on edges that leave the loop, by edge index, and ``children`` the latest visit of each child loop.
    """

    iteration: int = 1
    parent: int = 1
    open: int = 0
    back: bool = False
    exits: dict[int, int] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class RunState:
    """The run's row, as far as transitions look at it.

    ``paused_at`` is when its timers froze, ``snapshot_id`` the snapshot of the current pause. ``region`` is where its
    steps run; a store that writes a new run sets it.
    """

    run_id: str
    status: SegmentStatus = SegmentStatus.RUNNING
    open: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    terminals: int = 0
    deadline: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorInfo | None = None
    paused_at: datetime | None = None
    snapshot_id: str | None = None
    region: str = DEFAULT_REGION


@dataclass(slots=True)
class StepRow:
    """One execution of a step.

    ``attempt`` counts failures of its handler, ``losses`` leases that ran out, ``fence`` claims: a result is accepted
    for the latest claim only. ``wake_at`` is when a sweep looks at the row again.
    """

    step_id: str
    visit: int = 1
    state: StepState = StepState.PENDING
    undecided: int = 0
    live: int = 0
    failed_in: int = 0
    attempt: int = 0
    losses: int = 0
    fence: int = 0
    owner: Owner | None = "inputs"
    wake_at: datetime | None = None
    deadline: datetime | None = None
    ready_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    decisions: Decisions | None = None
    terminal: bool = False
    error: ErrorInfo | None = None
    chord_id: str | None = None
    loop: LoopState | None = None

    @property
    def key(self) -> Key:
        return (self.step_id, self.visit)

    @property
    def quarantined(self) -> bool:
        """Whether the step took so many workers with it that it runs apart from all others."""
        return self.losses >= QUARANTINE_AFTER


class NeedRows(LLMTeamError):  # noqa: N818  # a request, not a fault
    """A transition looked at rows that the slice lacks: load them and call it again. Never leaves the store."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = frozenset(keys)
        super().__init__(f"{len(self.keys)} rows are not loaded")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed step runs again.

    ``chance`` in [0, 1) spreads retries out: the delay is between half and all of ``delay * 2**(n-1)``, at most
    :data:`MAX_RETRY_DELAY` ("equal jitter" of the AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
    """

    max_retries: int = 3
    delay: timedelta = timedelta(seconds=1)

    def delay_after(self, failures: int, chance: float) -> timedelta:
        full: timedelta = min(self.delay * 2 ** min(failures - 1, 32), MAX_RETRY_DELAY)
        return full * (0.5 + 0.5 * chance)


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler's answer, reduced to what a transition needs.

    ``payload`` goes into the step's event, ``result`` into the run's last one if this answer alone is its output.
    """

    decisions: Decisions
    payload: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler's failure.

    ``retryable`` is its own opinion (None: the policy decides), ``retry_after`` the least delay.
    """

    error: ErrorInfo
    retryable: bool | None = None
    retry_after: timedelta = timedelta()
    payload: Mapping[str, Any] = field(default_factory=dict)


Outcome = Completed | Failed


@dataclass(frozen=True, slots=True)
class Hold:
    """A pause that begins, takes hold or ends: what it writes about the run, and whether it stops all timers.

    ``wake_at`` is when a sweep looks at the run again. ``freeze``: open steps that wait or run are handed to the pause,
    with what they waited for remembered; ``thaw``: they are handed back, every moment later by that much.
    """

    wake_at: datetime | None
    freeze: bool = False
    thaw: timedelta | None = None


@dataclass(slots=True)
class Change:
    """What a transition changed. Stores write it in one transaction; hints go out after the commit.

    ``steps`` are rows that existed, ``added`` new ones; ``cancel_open`` means: every step still open is cancelled, in
    one statement. ``ready`` are the steps to hint at now; ``chord`` is the id of the chord that brings them.
    ``hold`` is what a pause or its end does to all rows at once. ``asks`` is the request of a step that waits for a
    person from now on; ``withdrawn`` are steps that did and will not go on, so that nobody needs to answer them.
    ``moves_deadline`` says that the run has until another moment now, ``checkpoint`` that the step which is over asked
    for a snapshot of the run.
    ``applied`` is False when the claim no longer holds the step and nothing was changed. ``by`` is the person who
    wanted the change, if one did and is known.
    """

    run: RunState
    now: datetime
    steps: dict[Key, StepRow] = field(default_factory=dict)
    added: dict[Key, StepRow] = field(default_factory=dict)
    events: list[EventDraft] = field(default_factory=list)
    ready: list[Key] = field(default_factory=list)
    cancel_open: bool = False
    hold: Hold | None = None
    chord: str | None = None
    asks: Ruling | None = None
    withdrawn: list[Key] = field(default_factory=list)
    moves_deadline: bool = False
    checkpoint: bool = False
    applied: bool = True
    ended: bool = False
    by: str = ""

    @property
    def lacks_outputs(self) -> bool:
        """Whether the run ended well and its last event has yet to be told what several last steps gave."""
        ended_well = self.ended and self.run.status is SegmentStatus.COMPLETED
        return ended_well and "output" not in self.events[-1].payload

    def end(self, status: SegmentStatus, error: ErrorInfo | None, event: EventDraft) -> None:
        """End the run: whatever is still open is cancelled, nothing more is hinted at."""
        run = self.run
        if run.started_at is not None:
            event = replace(event, duration_ms=round((self.now - run.started_at).total_seconds() * 1000))
        self.cancel_open = run.open > 0
        run.status, run.error, run.finished_at, run.open, run.running = status, error, self.now, 0, 0
        self.ready.clear()
        self.chord = None
        self.ended = True
        self.events.append(event)


class Slice:
    """The part of a run that a transition sees; rows are copied before they are changed."""

    def __init__(self, run: RunState, rows: Iterable[StepRow], now: datetime) -> None:
        self._rows = {row.key: row for row in rows}
        self.change = Change(replace(run), now)

    @property
    def run(self) -> RunState:
        return self.change.run

    def read(self, key: Key) -> StepRow:
        """The row as it now is. Raises :class:`NeedRows`."""
        change = self.change
        found = change.steps.get(key) or change.added.get(key) or self._rows.get(key)
        if found is None:
            raise NeedRows([key])
        return found

    def need(self, keys: Iterable[Key]) -> None:
        """Raise one :class:`NeedRows` for all of ``keys`` that are missing."""
        missing = [key for key in keys if key not in self._rows and key not in self.change.added]
        if missing:
            raise NeedRows(missing)

    def need_first(self, keys: Iterable[Key]) -> None:
        """:meth:`need` when the first of ``keys`` is missing; else do not look at the others."""
        keys = iter(keys)
        first = next(keys)
        if first not in self._rows and first not in self.change.added:
            self.need((first, *keys))

    def edit(self, key: Key) -> StepRow:
        """The row, copied on first use, for changing. Raises :class:`NeedRows`."""
        change = self.change
        row = change.steps.get(key) or change.added.get(key)
        if row is None:
            row = replace(self.read(key))
            if row.loop is not None:
                row.loop = replace(row.loop, exits=dict(row.loop.exits), children=dict(row.loop.children))
            change.steps[key] = row
        return row

    def add(self, row: StepRow) -> None:
        self.change.added[row.key] = row

    def emit(self, draft: EventDraft) -> None:
        self.change.events.append(draft)
