from __future__ import annotations

from datetime import UTC, datetime

from llmteam.cli.progress import ROWS, Board, Lines, Live, Silent, line_of, progress_for
from llmteam.events.models import ErrorInfo, EventType, WorktrailEvent

NOON = datetime(2026, 11, 24, 12, 0, 0, 250_000, tzinfo=UTC)


def event(kind: EventType, step: str | None = "fetch", **fields: object) -> WorktrailEvent:
    return WorktrailEvent(
        event_id="r:1",
        event_type=kind,
        timestamp=NOON,
        tenant_id="t",
        instance_id="",
        run_id="r",
        segment_id="s",
        step_id=step,
        **fields,  # type: ignore[arg-type]
    )


def test_an_event_is_a_line_with_time_step_attempt_duration_and_error() -> None:
    failed = event(
        EventType.STEP_FAILED,
        visit=2,
        attempt=3,
        duration_ms=1500,
        error=ErrorInfo(error_type="ValueError", error_message="no\nway \x1b[31m"),
    )

    assert line_of(failed) == "12:00:00.250 step.failed       fetch#2 attempt 3 1.5 s ValueError: no\\nway \\x1b[31m"


def test_a_board_counts_each_step_once_however_often_it_runs() -> None:
    board = Board(2)
    for kind in (EventType.STEP_STARTED, EventType.STEP_RETRYING, EventType.STEP_STARTED, EventType.STEP_COMPLETED):
        board.event(event(kind, visit=1), 0.0)
    board.event(event(EventType.STEP_COMPLETED, visit=2), 0.0)
    board.event(event(EventType.SEGMENT_COMPLETED, None), 0.0)

    assert board.finished == 1
    assert [(row.step_id, row.state) for row in board.shown()] == [("fetch", "completed"), ("fetch#2", "completed")]


def test_a_board_of_many_steps_shows_those_that_moved_last() -> None:
    board = Board(1000)
    for number in range(1000):
        board.event(event(EventType.STEP_STARTED, f"step_{number}", visit=1), 0.0)
    board.event(event(EventType.STEP_COMPLETED, "step_3", visit=1), 0.0)

    shown = [row.step_id for row in board.shown()]

    assert len(shown) == ROWS
    assert board.hidden == 1000 - ROWS
    assert shown[0] == "step_3"
    assert shown[-1] == "step_999"


def test_progress_moves_on_a_terminal_only_and_shows_nothing_unless_watched() -> None:
    assert isinstance(progress_for(True, terminal=True, total=1), Live)
    assert isinstance(progress_for(True, terminal=False, total=1), Lines)
    assert type(progress_for(False, terminal=True, total=1)) is Silent
