"""Runs for process mining: those of a desk, and events written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.nets import net_of
from llmteam.canvas.records import RunStore, StepRecord
from llmteam.canvas.state import Key
from llmteam.events.models import EventType, WorktrailEvent
from llmteam.mining.records import OF_STEPS, TELLING, StoredEvent, StoredRun
from llmteam.mining.replay import Net
from tests.conformance.desk import TENANT, Desk
from tests.drawing import compiled

START = datetime(2026, 1, 1, tzinfo=UTC)


def run_of(desk: Desk, run_id: str) -> StoredRun:
    """A run of ``desk`` as a reader gives it."""
    return stored_run(desk.store, TENANT, run_id, desk.told(run_id))


def stored_run(store: RunStore, tenant_id: str, run_id: str, told: Iterable[WorktrailEvent]) -> StoredRun:
    """A run of any store with what was told of it."""
    record = store.record(tenant_id, run_id)
    assert record is not None
    rows = {step.row.key: step for step in store.steps(tenant_id, run_id)}
    return StoredRun(
        tenant_id,
        run_id,
        record.segment_id,
        record.status.value,
        record.definition_hash,
        record.link,
        record.created_at,
        record.started_at,
        record.finished_at,
        [_event(event, rows) for event in told],
    )


def _event(event: WorktrailEvent, rows: Mapping[Key, StepRecord]) -> StoredEvent:
    kind = event.event_type
    record = rows.get((event.step_id or "", event.visit or 1)) if kind in OF_STEPS else None
    return StoredEvent(
        event.run_id,
        event.seq or 0,
        kind.value,
        event.timestamp,
        event.step_id,
        event.step_type,
        event.visit,
        event.attempt,
        event.duration_ms,
        None if event.error is None else event.error.error_type,
        event.payload if kind in TELLING else None,
        None if record is None else record.row.ready_at,
        None if record is None or record.row.decisions is None else list(record.row.decisions),
    )


def drawn_net(*lines: str, **how: Any) -> Net:
    """The net of a drawing."""
    from tests.drawing import draw

    return net_of(compiled(draw(*lines, **how)))


def net_of_segment(segment: SegmentDefinition) -> Net:
    """The net of a definition."""
    return net_of(compiled(segment))


def told(*lines: str, **more: Mapping[str, Any]) -> list[StoredEvent]:
    """Events from lines like ``12 step.started a#2``: seconds, type, step and visit. ``more`` adds fields by number."""
    return list(_told(lines, more))


def _told(lines: Iterable[str], more: Mapping[str, Mapping[str, Any]]) -> Iterator[StoredEvent]:
    for seq, line in enumerate(lines, 1):
        seconds, kind, *about = line.split()
        step_id, _, visit = about[0].partition("#") if about else ("", "", "")
        yield StoredEvent(
            "run",
            seq,
            EventType(kind).value,
            at(float(seconds)),
            step_id or None,
            "human_task" if step_id.startswith("human") else "work" if step_id else None,
            int(visit or 1) if step_id else None,
            **more.get(f"e{seq}", {}),
        )


def at(seconds: float) -> datetime:
    """That long after the start of all."""
    return START + timedelta(seconds=seconds)
