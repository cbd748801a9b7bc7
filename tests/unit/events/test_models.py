from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from pydantic import BaseModel, ValidationError

from llmteam.events import (
    ErrorInfo,
    EventDraft,
    EventQuery,
    EventScope,
    EventSeverity,
    EventType,
    InvalidEventError,
    MissingEventKeyError,
    WorktrailEvent,
)
from tests.unit.events.samples import MOMENT, event, events

EXAMPLE = """
{"event_id": "run-77:5", "event_type": "step.retrying", "timestamp": "2026-03-01T08:15:30.120000+00:00",
 "tenant_id": "acme", "instance_id": "wf-9", "run_id": "run-77", "segment_id": "invoice_triage",
 "step_id": "load", "step_type": "http_action", "severity": "warning", "correlation_id": null,
 "parent_event_id": "run-77:4", "payload": {"attempt": 1, "max_attempts": 3},
 "error": {"error_type": "ConnectError", "error_message": "refused", "error_code": null, "stack_trace": null,
           "recoverable": true},
 "duration_ms": null}
"""
MINIMAL = {
    "event_id": "r:1",
    "event_type": "segment.started",
    "timestamp": "2026-03-01T08:15:30",
    "tenant_id": "acme",
    "instance_id": "",
    "run_id": "r",
    "segment_id": "s",
}


@given(events)
def test_an_event_survives_its_document_and_its_json_text(event: WorktrailEvent) -> None:
    assert WorktrailEvent.from_dict(event.to_dict()) == event
    assert WorktrailEvent.from_json(event.to_json()) == event
    assert WorktrailEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


@given(events)
def test_pydantic_reads_and_writes_the_same_json(event: WorktrailEvent) -> None:
    assert WorktrailEvent.model_validate_json(event.model_dump_json()) == event


def test_the_json_form_is_the_documented_one() -> None:
    event = WorktrailEvent.from_json(EXAMPLE)

    assert event.event_type is EventType.STEP_RETRYING
    assert event.error == ErrorInfo(error_type="ConnectError", error_message="refused", recoverable=True)
    assert event.seq == 5
    assert event.to_dict() == {**json.loads(EXAMPLE), "visit": None, "attempt": None}


def test_what_is_not_required_has_its_default() -> None:
    event = WorktrailEvent.from_dict(MINIMAL)

    assert (event.severity, event.payload, event.error, event.step_id) == (EventSeverity.INFO, {}, None, None)


def test_keys_of_a_newer_version_are_ignored() -> None:
    assert WorktrailEvent.from_dict({**MINIMAL, "colour": "blue"}) == WorktrailEvent.from_dict(MINIMAL)


@pytest.mark.parametrize("key", MINIMAL)
def test_a_missing_required_key_is_a_key_error_that_names_it(key: str) -> None:
    document = {name: value for name, value in MINIMAL.items() if name != key}

    with pytest.raises(KeyError, match=key) as caught:
        WorktrailEvent.from_dict(document)

    assert isinstance(caught.value, MissingEventKeyError)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "wrong",
    [{"event_type": "step.exploded"}, {"severity": "critical"}, {"timestamp": "yesterday"}, {"payload": [1]}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_value_that_cannot_be_is_a_value_error_that_names_its_field(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidEventError, match=next(iter(wrong))):
        WorktrailEvent.from_dict({**MINIMAL, **wrong})


@pytest.mark.parametrize("text", ["[]", "3", '{"a": NaN}', "{"])
def test_text_that_is_no_event_document_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        WorktrailEvent.from_json(text)


def test_timestamps_are_utc_and_naive_ones_are_read_as_utc() -> None:
    berlin = timezone(timedelta(hours=1))

    assert event(timestamp=datetime(2026, 3, 1, 12)).timestamp == datetime(2026, 3, 1, 12, tzinfo=UTC)  # noqa: DTZ001
    assert event(timestamp=datetime(2026, 3, 1, 12, tzinfo=berlin)).timestamp.isoformat() == "2026-03-01T11:00:00+00:00"


def test_json_text_shows_what_json_does_not_know_as_text() -> None:
    assert json.loads(event(payload={"amount": Decimal("1.50")}).to_json())["payload"] == {"amount": "1.50"}


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        event().run_id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("event_id", "seq"),
    [("run-1:12", 12), ("run-1:x", None), ("other:3", None), ("evt_1", None), ("", None), ("run-1:²", None)],
)
def test_the_number_is_read_from_ids_of_the_run(event_id: str, seq: int | None) -> None:
    assert event(event_id=event_id).seq == seq


def test_a_draft_becomes_an_event_with_scope_time_and_number() -> None:
    draft = EventDraft(EventType.STEP_COMPLETED, "load", "transform", visit=2, attempt=1, duration_ms=7)
    scope = EventScope(tenant_id="acme", run_id="run-1", instance_id="wf-9", segment_id="triage")

    stamped = draft.stamp(scope, MOMENT, 4)

    assert (stamped.event_id, stamped.seq, stamped.timestamp) == ("run-1:4", 4, MOMENT)
    assert (stamped.tenant_id, stamped.instance_id, stamped.segment_id) == ("acme", "wf-9", "triage")
    assert (stamped.step_id, stamped.visit, stamped.duration_ms) == ("load", 2, 7)
    assert draft.stamp(scope, MOMENT).event_id == ""


def test_severities_are_ordered() -> None:
    assert [severity.rank for severity in EventSeverity] == [0, 1, 2, 3]
    assert EventSeverity.WARNING.and_above() == (EventSeverity.WARNING, EventSeverity.ERROR)


def test_a_query_holds_every_condition_and_includes_both_ends_of_the_time() -> None:
    subject = event(step_id="load", severity=EventSeverity.WARNING)

    assert EventQuery().matches(subject, 1)
    assert EventQuery(start=MOMENT, end=MOMENT, severity=EventSeverity.INFO, after_seq=0).matches(subject, 1)
    assert not EventQuery(step_id="load", run_id="other").matches(subject, 1)
    assert not EventQuery(end=MOMENT - timedelta(microseconds=1)).matches(subject, 1)
    assert not EventQuery(after_seq=1).matches(subject, 1)
    assert not EventQuery(with_error=True).matches(subject, 1)


def test_error_info_tells_of_the_exception_it_was_given() -> None:
    given = ValueError("the one")
    try:
        raise KeyError("another, being handled")
    except KeyError:
        info = ErrorInfo.from_exception(given)
        traced = ErrorInfo.from_exception(given, recoverable=True, stack_trace=True)

    assert info == ErrorInfo(error_type="ValueError", error_message="the one")
    assert traced.recoverable
    assert traced.stack_trace is not None
    assert "the one" in traced.stack_trace
    assert "another" not in traced.stack_trace


def test_error_messages_are_capped_storable_and_without_credentials() -> None:
    message = "redis://user:hunter2@host/0 sent Authorization: Bearer abcdef123456 \x00 \ud800" + "x" * 5000

    info = ErrorInfo.from_exception(RuntimeError(message))

    assert len(info.error_message) == 2000
    assert "hunter2" not in info.error_message
    assert "abcdef123456" not in info.error_message
    assert "\x00" not in info.error_message
    info.error_message.encode()


def test_a_validation_error_does_not_quote_its_input() -> None:
    class Card(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Card.model_validate({"number": "4111-1111"})
    info = ErrorInfo.from_exception(caught.value)

    assert "number" in info.error_message
    assert "4111" not in info.error_message


def test_an_error_may_be_given_as_what_is_at_hand() -> None:
    info = ErrorInfo(error_type="ValueError", error_message="no")

    assert ErrorInfo.of(info) is info
    assert ErrorInfo.of(info.to_dict()) == info
    assert ErrorInfo.of(ValueError("no")) == info
    assert ErrorInfo.of("no").error_message == "no"
    with pytest.raises(KeyError, match="error document without 'error_message'"):
        ErrorInfo.from_dict({"error_type": "ValueError"})
