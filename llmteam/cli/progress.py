"""How a run that goes on is shown: a table that moves on a terminal, a line per event elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from llmteam.cli.render import COLOURS, duration, say
from llmteam.events.models import EventType, WorktrailEvent
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Rows of the table; of larger segments those that moved last are shown.
ROWS = 25

_STATES = {
    EventType.STEP_STARTED: "running",
    EventType.STEP_COMPLETED: "completed",
    EventType.STEP_FAILED: "failed",
    EventType.STEP_SKIPPED: "skipped",
    EventType.STEP_RETRYING: "retrying",
    EventType.HUMAN_TASK_CREATED: "waiting",
    EventType.HUMAN_TASK_ASSIGNED: "waiting",
    EventType.HUMAN_TASK_ESCALATED: "waiting",
    EventType.HUMAN_TASK_COMPLETED: "waiting",
}
#: States that are shown with the time that they have lasted.
_GOING = ("running", "waiting")
_MARKS = {"running": "▶", "completed": "✔", "failed": "✘", "skipped": "–", "retrying": "↻", "waiting": "⏸"}


class Progress(Protocol):
    """Told what happens."""

    def note(self, text: str) -> None:
        """What is being done, before the run says anything itself."""

    def event(self, event: WorktrailEvent, about: str = "") -> None:
        """An event of the run; ``about`` says what it does not: whom a step asks, what was answered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Shows nothing but warnings."""

    def note(self, text: str) -> None:
        """Not shown."""

    def event(self, event: WorktrailEvent, about: str = "") -> None:
        """Not shown."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Lines(Silent):
    """A line per note and event, for logs."""

    def note(self, text: str) -> None:
        say(text)

    def event(self, event: WorktrailEvent, about: str = "") -> None:
        say(line_of(event, about))


def line_of(event: WorktrailEvent, about: str = "") -> str:
    """An event on one line: time, what happened, to which step, how long it took, why it failed, ``about`` what."""
    parts = [f"{event.timestamp:%H:%M:%S.%f}"[:-3], event.event_type.value.ljust(17)]
    if event.step_id is not None:
        visit = f"#{event.visit}" if event.visit is not None and event.visit > 1 else ""
        parts.append(f"{event.step_id}{visit}")
    if event.attempt is not None and event.attempt > 1:
        parts.append(f"attempt {event.attempt}")
    if event.duration_ms is not None:
        parts.append(duration(event.duration_ms / 1000))
    if event.error is not None:
        parts.append(f"{event.error.error_type}: {event.error.error_message}")
    parts.append(about)
    return printable(" ".join(filter(None, parts)))


@dataclass
class _Row:
    step_id: str
    step_type: str
    state: str
    attempt: int
    moved: int
    since: float
    took: float | None = None
    error: str = ""
    about: str = ""


class Board:
    """The steps of a run as their events tell."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0
        self._rows: dict[tuple[str, int], _Row] = {}
        self._moves = 0

    def event(self, event: WorktrailEvent, now: float, about: str = "") -> None:
        """Take in an event; ``now`` is seconds of a monotonic clock, ``about`` what there is to say beside it."""
        state = _STATES.get(event.event_type)
        if state is None or event.step_id is None:
            return
        self._moves += 1
        key = (event.step_id, event.visit or 1)
        old = self._rows.get(key)
        row = _Row(
            step_id=event.step_id if key[1] == 1 else f"{event.step_id}#{key[1]}",
            step_type=event.step_type or (old.step_type if old else ""),
            state=state,
            attempt=event.attempt or (old.attempt if old else 1),
            moved=self._moves,
            since=old.since if old is not None and old.state == state == "waiting" else now,
            about=printable(about) or (old.about if old else ""),
        )
        if event.duration_ms is not None:
            row.took = event.duration_ms / 1000
        if event.error is not None:
            row.error = printable(f"{event.error.error_type}: {event.error.error_message}")
        self._rows[key] = row
        self.finished += state in {"completed", "failed", "skipped"} and key[1] == 1

    def shown(self) -> Sequence[_Row]:
        """The rows to show, in the order in which steps first moved."""
        rows = list(self._rows.values())
        if len(rows) <= ROWS:
            return rows
        latest = {id(row) for row in sorted(rows, key=lambda row: row.moved)[-ROWS:]}
        return [row for row in rows if id(row) in latest]

    @property
    def hidden(self) -> int:
        return max(0, len(self._rows) - ROWS)


class Live(Silent):
    """A table on standard error that moves with the steps, and stays when the run is over."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._board = Board(total)
        self._note = ""
        self._began = time.monotonic()
        self._live = RichLive(
            console=Console(stderr=True, highlight=False), get_renderable=self._render, refresh_per_second=8
        )

    def note(self, text: str) -> None:
        self._note = text

    def event(self, event: WorktrailEvent, about: str = "") -> None:
        self._note = ""
        self._board.event(event, time.monotonic(), about)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for row in self._board.shown():
            colour = COLOURS.get(row.state, "white")
            took = row.took if row.took is not None else (now - row.since if row.state in _GOING else None)
            attempt = f"attempt {row.attempt}" if row.attempt > 1 else ""
            table.add_row(
                Text(f"{_MARKS[row.state]} {row.step_id}", style=colour),
                Text(row.step_type, style="dim"),
                Text(row.state, style=colour),
                Text("" if took is None else duration(took), style="dim"),
                Text(" ".join(filter(None, (attempt, row.error or row.about))), style="red" if row.error else "yellow"),
            )
        hidden = f", {self._board.hidden} not shown" if self._board.hidden else ""
        foot = f"{self._board.finished} of {self._board.total} steps{hidden} · {duration(now - self._began)}"
        return Group(table, Text(f"{self._note}…" if self._note else foot, style="dim"))


def progress_for(watch: bool, *, terminal: bool, total: int) -> Progress:
    """The progress that fits: nothing unless it is watched."""
    if not watch:
        return Silent()
    return Live(total) if terminal else Lines()
