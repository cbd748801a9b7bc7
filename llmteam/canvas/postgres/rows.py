"""Between rows of the tables and the values that transitions work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmteam import codec
from llmteam.canvas.records import RunHeader, RunOptions, RunRecord, StepRecord, Work
from llmteam.canvas.routing import Source, StepOutput, failure_output
from llmteam.canvas.state import LoopState, RunState, SegmentStatus, StepRow, StepState
from llmteam.events.models import ErrorInfo

RUN_WIDTH = 13
STEP_WIDTH = 20
HEADER_WIDTH = 8


def run_state(run_id: str, row: Sequence[Any]) -> RunState:
    """From :data:`RUN_COLUMNS`."""
    return RunState(
        run_id,
        SegmentStatus(row[0]),
        row[1],
        row[2],
        row[3],
        row[4],
        row[5],
        deadline=row[6],
        started_at=row[7],
        finished_at=row[8],
        error=error_info(row[9]),
        paused_at=row[10],
        snapshot_id=row[11],
        region=row[12],
    )


def step_row(row: Sequence[Any]) -> StepRow:
    """From :data:`STEP_COLUMNS`."""
    return StepRow(
        step_id=row[0],
        visit=row[1],
        state=StepState(row[2]),
        undecided=row[3],
        live=row[4],
        failed_in=row[5],
        attempt=row[6],
        losses=row[7],
        fence=row[8],
        owner=row[9],
        wake_at=row[10],
        deadline=row[11],
        ready_at=row[12],
        started_at=row[13],
        finished_at=row[14],
        decisions=None if row[15] is None else tuple(row[15]),
        terminal=row[16],
        error=error_info(row[17]),
        chord_id=row[18],
        loop=loop_state(row[19]),
    )


def error_info(value: Mapping[str, Any] | None) -> ErrorInfo | None:
    """The error of a json column."""
    return None if value is None else ErrorInfo.from_dict(value)


def error_text(error: ErrorInfo | None) -> str | None:
    """The value of a json column of an error."""
    return None if error is None else codec.dumps(error.to_dict())


def loop_state(value: Mapping[str, Any] | None) -> LoopState | None:
    """The state of a loop's iteration, from its header's row."""
    if value is None:
        return None
    exits = {int(index): decision for index, decision in value["exits"].items()}
    return LoopState(value["iteration"], value["parent"], value["open"], value["back"], exits, dict(value["children"]))


def loop_text(loop: LoopState | None) -> str | None:
    """The column of :func:`loop_state`."""
    if loop is None:
        return None
    return codec.dumps(
        {
            "iteration": loop.iteration,
            "parent": loop.parent,
            "open": loop.open,
            "back": loop.back,
            "exits": {str(index): decision for index, decision in loop.exits.items()},
            "children": loop.children,
        }
    )


def decisions_list(row: StepRow) -> list[int] | None:
    """The decisions as the driver takes an array."""
    return None if row.decisions is None else list(row.decisions)


def step_values(row: StepRow) -> tuple[Any, ...]:
    """What a transition may have changed, in the order of both UPDATE statements."""
    return (
        row.state.value,
        row.undecided,
        row.live,
        row.failed_in,
        row.attempt,
        row.losses,
        row.owner,
        row.wake_at,
        row.deadline,
        row.ready_at,
        row.finished_at,
        decisions_list(row),
        row.terminal,
        error_text(row.error),
        row.chord_id,
        loop_text(row.loop),
    )


def header(tenant_id: str, run_id: str, row: Sequence[Any]) -> RunHeader:
    """From :data:`HEADER_COLUMNS`."""
    return RunHeader(tenant_id, run_id, row[0], row[1], row[2], RunOptions(**row[3]), *row[4:HEADER_WIDTH])


def work(tenant_id: str, run_id: str, row: Sequence[Any]) -> Work:
    """From the one row of GATHER."""
    run_at, step_at = HEADER_WIDTH, HEADER_WIDTH + RUN_WIDTH
    local_state, own, run_input, sources = row[step_at + STEP_WIDTH :]
    return Work(
        header=header(tenant_id, run_id, row),
        run=run_state(run_id, row[run_at:step_at]),
        row=step_row(row[step_at : step_at + STEP_WIDTH]),
        sources=[source(*given) for given in sources or ()],
        input=run_input,
        takes_run_input=own,
        local_state=local_state,
    )


def source(
    step_id: str,
    decisions: Sequence[int],
    whole: bool,
    body: Mapping[str, Any] | None,
    error: Mapping[str, Any] | None,
    superseded: bool,
) -> Source:
    """From one of the sources that GATHER collects."""
    output = StepOutput(body or {}, whole) if error is None else failure_output(ErrorInfo.from_dict(error))
    return Source(step_id, decisions, output, superseded)


def run_record(row: Sequence[Any]) -> RunRecord:
    """From :data:`RECORD_COLUMNS`."""
    return RunRecord(
        tenant_id=row[0],
        run_id=row[1],
        instance_id=row[2],
        segment_id=row[3],
        definition_hash=row[4],
        status=SegmentStatus(row[5]),
        steps_completed=row[6],
        steps_total=row[7],
        error=error_info(row[8]),
        created_at=row[9],
        started_at=row[10],
        finished_at=row[11],
        deadline=row[12],
        running=row[13],
        paused_at=row[14],
        snapshot_id=row[15],
        parent_run_id=row[16],
        root_run_id=row[17],
        link=row[18],
        idempotency_key=row[19],
        wake_at=row[20],
        region=row[21],
    )


def step_record(row: Sequence[Any]) -> StepRecord:
    """From a row of READ_STEPS."""
    queue, holder, lease_until, hints, held_owner, held_wake_at, body, whole = row[STEP_WIDTH:]
    output = None if body is None else StepOutput(body, whole).value
    return StepRecord(step_row(row[:STEP_WIDTH]), queue, holder, lease_until, output, hints, held_owner, held_wake_at)
