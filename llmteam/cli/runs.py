"""``llmteam runs``: what runs there are, how one went, and ending one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmteam.cli.options import by_option, json_option, load_settings, tenant_option
from llmteam.cli.render import coloured, duration, json_text, moment, pairs, print_json, steps_done, table
from llmteam.cli.servers import installation

if TYPE_CHECKING:
    from llmteam.canvas.records import RunRecord, StepRecord
    from llmteam.canvas.runs import Runs
    from llmteam.canvas.state import Key, SegmentStatus
    from llmteam.events.models import ErrorInfo, WorktrailEvent
    from llmteam.human.models import InteractionRequest


@click.group()
def runs() -> None:
    """Runs: list, show, cancel, pause, resume, retry, fork, carry elsewhere."""


@runs.command(name="list")
@tenant_option
@click.option("--status", metavar="STATUS", help="Only runs that are running, paused, completed, failed …")
@click.option("--segment", metavar="ID", help="Only runs of this segment.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@json_option
def list_runs(tenant: str, status: str | None, segment: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    wanted = None if status is None else _status(status)
    with opened_runs() as known:
        found = known.engine.store.records(tenant, status=wanted, segment_id=segment, limit=limit)
    if as_json:
        print_json([_run_document(record) for record in found])
        return
    rows = [
        [
            record.run_id,
            record.segment_id,
            record.status.value,
            f"{record.steps_completed}/{record.steps_total}",
            record.created_at,
            _took(record.started_at, record.finished_at),
            _short(record.error),
        ]
        for record in found
    ]
    headings = ["RUN", "SEGMENT", "STATUS", "STEPS", "CREATED", "TOOK", "ERROR"]
    table(headings, rows, f"no runs in tenant {tenant}: llmteam run SEGMENT.json starts one")


@runs.command()
@click.argument("run_id", metavar="RUN")
@tenant_option
@click.option("--events", "with_events", is_flag=True, help="Show the run's events too.")
@json_option
def show(run_id: str, tenant: str, with_events: bool, as_json: bool) -> None:
    """Show a run: status, steps with timings, error and outputs."""
    from llmteam.events.models import EventQuery

    with opened_runs() as known:
        record = known.record(tenant, run_id)
        result = known.result(tenant, run_id, events=False)
        steps = known.engine.store.steps(tenant, run_id)
        asked = _asked(known, tenant, run_id, steps)
        events = known.events.select(EventQuery(tenant_id=tenant, run_id=run_id)) if with_events else []
    if as_json:
        document = {
            **_run_document(record),
            "outputs": result.outputs,
            "steps": [_step_document(one, asked) for one in steps],
        }
        print_json({**document, "events": [one.to_dict() for one in events]} if with_events else document)
        return
    _print_run(record)
    click.echo()
    _print_steps(steps, asked)
    if record.status == "completed":
        click.echo(f"\n{click.style('outputs', bold=True)}\n{json_text(result.outputs)}")
    if with_events:
        _print_events(events)


@runs.command()
@click.argument("run_id", metavar="RUN")
@tenant_option
@by_option
@json_option
def cancel(run_id: str, tenant: str, by: str, as_json: bool) -> None:
    """Cancel a run. Steps that run are told; what they did is not undone. One that is over stays as it is."""
    with opened_runs() as known:
        cancelled = known.cancel(tenant, run_id, by=by)
        record = known.record(tenant, run_id)
    if as_json:
        print_json({"run_id": run_id, "status": record.status.value, "cancelled": cancelled})
    elif cancelled:
        click.echo(f"run {run_id} is cancelled")
    else:
        click.echo(f"run {run_id} is over already: {coloured(record.status.value)}")


def _status(text: str) -> SegmentStatus:
    from llmteam.canvas.state import SegmentStatus

    try:
        return SegmentStatus(text)
    except ValueError:
        known = ", ".join(SegmentStatus)
        raise click.UsageError(f"--status: there is no status {text!r}; there are: {known}") from None


@contextmanager
def opened_runs() -> Iterator[Runs]:
    """The runs of the installation that the settings name."""
    with installation(load_settings()) as place:
        known = place.runs()
        try:
            yield known
        finally:
            known.close()


def _run_document(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "tenant_id": record.tenant_id,
        "segment_id": record.segment_id,
        "definition_hash": record.definition_hash,
        "status": record.status.value,
        "steps_completed": record.steps_completed,
        "steps_total": record.steps_total,
        "error": None if record.error is None else record.error.to_dict(),
        "created_at": _iso(record.created_at),
        "started_at": _iso(record.started_at),
        "finished_at": _iso(record.finished_at),
        "deadline": _iso(record.deadline),
        "paused_at": _iso(record.paused_at),
        "snapshot_id": record.snapshot_id,
        "idempotency_key": record.idempotency_key,
        "link": record.link,
        "parent_run_id": record.parent_run_id,
    }


def _asked(known: Runs, tenant: str, run_id: str, steps: list[StepRecord]) -> dict[Key, InteractionRequest]:
    """What the steps that wait ask people."""
    from llmteam.canvas.state import StepState

    waiting = {step.row.key for step in steps if step.row.state is StepState.WAITING}
    found = known.engine.store.interactions.of_run(tenant, run_id) if waiting else []
    return {(one.step_name, one.visit): one for one in found if one.parked and (one.step_name, one.visit) in waiting}


def _step_document(step: StepRecord, asked: Mapping[Key, InteractionRequest]) -> dict[str, Any]:
    row, request = step.row, asked.get(step.row.key)
    return {
        "step_id": row.step_id,
        "visit": row.visit,
        "state": row.state.value,
        "attempt": row.attempt,
        "losses": row.losses,
        "queue": step.queue,
        "waits_for": row.owner,
        "wake_at": _iso(row.wake_at),
        "request_id": None if request is None else request.request_id,
        "holder": step.holder,
        "started_at": _iso(row.started_at),
        "finished_at": _iso(row.finished_at),
        "error": None if row.error is None else row.error.to_dict(),
        "output": step.output,
    }


def _print_run(record: RunRecord) -> None:
    pairs(
        {
            "run": record.run_id,
            "segment": record.segment_id,
            "tenant": record.tenant_id,
            "status": record.status.value,
            "steps": steps_done(record.steps_completed, record.steps_total),
            "created": record.created_at,
            "took": _took(record.started_at, record.finished_at) or None,
            "deadline": None if record.status.is_terminal else record.deadline,
            "paused": None if record.status.is_terminal else record.paused_at,
            "snapshot": None if record.status.is_terminal else record.snapshot_id,
            "key": record.idempotency_key,
            "from": None if record.link is None else f"{record.link} of {record.parent_run_id}",
            "error": None if record.error is None else f"{record.error.error_type}: {record.error.error_message}",
        }
    )


def _print_steps(steps: list[StepRecord], asked: Mapping[Key, InteractionRequest]) -> None:
    from llmteam.canvas.state import StepState

    rows = []
    for step in steps:
        row = step.row
        rows.append(
            [
                row.step_id if row.visit == 1 else f"{row.step_id}#{row.visit}",
                row.state.value,
                "" if row.started_at is None else f"{row.started_at:%H:%M:%S.%f}"[:-3],
                _took(row.started_at, row.finished_at),
                row.attempt + 1 if row.attempt and row.state is not StepState.FAILED else row.attempt or "",
                _waits(step, asked.get(row.key)) if row.state.is_open else _short(row.error),
            ]
        )
    table(["STEP", "STATE", "STARTED", "TOOK", "TRY", "WHY"], rows, "no steps")


def _waits(step: StepRecord, request: InteractionRequest | None) -> str:
    """Who an open step waits for."""
    from llmteam.human.words import question_in_words

    row = step.row
    if request is not None:
        paused = "pause, then " if row.owner == "pause" else ""
        return f"{paused}{question_in_words(request)} ({request.request_id})"
    if row.owner == "lease":
        return f"works on {step.holder}"
    if row.owner == "queue":
        return f"queue {step.queue}"
    until = "" if row.wake_at is None else f" until {moment(row.wake_at)}"
    error = "" if row.error is None else f": {_short(row.error)}"
    return f"{row.owner or ''}{until}{error}"


def _print_events(events: list[WorktrailEvent]) -> None:
    from llmteam.cli.progress import line_of

    click.echo(f"\n{click.style('events', bold=True)}")
    for event in events:
        click.echo(f"{event.seq or 0:>4} {line_of(event)}")


def _took(start: datetime | None, end: datetime | None) -> str:
    return "" if start is None or end is None else duration(max(0.0, (end - start).total_seconds()))


def _short(error: ErrorInfo | None) -> str:
    return "" if error is None else f"{error.error_type}: {error.error_message}"


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()
