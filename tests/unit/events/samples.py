"""Events, runtimes and Hypothesis strategies for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from llmteam.events import ErrorInfo, EventSeverity, EventType, WorktrailEvent

MOMENT = datetime(2026, 3, 1, 8, 15, 30, 120_000, tzinfo=UTC)


def event(run_id: str = "run-1", event_id: str = "", **fields: Any) -> WorktrailEvent:
    """An event that wants a number, unless ``event_id`` gives it one."""
    return WorktrailEvent(
        **{
            "event_id": event_id,
            "event_type": EventType.STEP_STARTED,
            "timestamp": MOMENT,
            "tenant_id": "acme",
            "instance_id": "wf-9",
            "run_id": run_id,
            "segment_id": "triage",
            **fields,
        }
    )


@dataclass
class Runtime:
    """What the emitter uses of a runtime context."""

    tenant_id: str = "acme"
    instance_id: str = "wf-9"
    run_id: str = "run-77"
    segment_id: str = "triage"
    on_event: Callable[[WorktrailEvent], object] | None = None


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
errors = st.builds(
    ErrorInfo,
    error_type=texts,
    error_message=texts,
    error_code=st.none() | texts,
    stack_trace=st.none() | texts,
    recoverable=st.booleans(),
)
events = st.builds(
    WorktrailEvent,
    event_id=texts,
    event_type=st.sampled_from(EventType),
    timestamp=st.datetimes(timezones=st.timezones() | st.none(), min_value=datetime(1900, 1, 1)),  # noqa: DTZ001
    tenant_id=texts,
    instance_id=texts,
    run_id=texts,
    segment_id=texts,
    step_id=st.none() | texts,
    step_type=st.none() | texts,
    visit=st.none() | st.integers(1, 100),
    attempt=st.none() | st.integers(1, 100),
    severity=st.sampled_from(EventSeverity),
    correlation_id=st.none() | texts,
    parent_event_id=st.none() | texts,
    payload=st.dictionaries(texts, json_values, max_size=4),
    error=st.none() | errors,
    duration_ms=st.none() | st.integers(0, 10**9),
)
