"""Mining of events that a program records: metrics, the directly-follows graph, and what counts once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmteam.mining import InvalidProcessEventError, ProcessEvent, ProcessMiningEngine
from tests.mined import START, at


def recorded(*events: tuple[str, str, float, str], **more: int) -> ProcessMiningEngine:
    engine = ProcessMiningEngine()
    for case, activity, seconds, lifecycle in events:
        engine.record_event(case, activity, at(seconds), lifecycle=lifecycle, **more)
    return engine


def test_nothing_recorded_gives_zeros_and_an_empty_log() -> None:
    engine = ProcessMiningEngine()

    metrics, model = engine.calculate_metrics(), engine.discover_model()

    assert (metrics.avg_duration, metrics.cases_per_hour, metrics.completion_rate) == (timedelta(0), 0.0, 0.0)
    assert (metrics.bottleneck_activities, metrics.waiting_time_by_activity) == ([], {})
    assert (model.activities, model.transitions, model.frequencies) == ([], {}, {})
    assert "<trace>" not in engine.export_xes()


def test_an_event_is_recorded_by_its_parts_or_as_a_whole() -> None:
    engine = ProcessMiningEngine()
    whole = ProcessEvent("e2", START, "b", "ann", "case_1")

    parts = engine.record_event("case_1", "a", "2026-01-01T00:00:00", resource="bob", event_id="e1")
    kept = engine.record_event(whole)

    assert (parts.event_id, parts.timestamp, parts.lifecycle, parts.resource) == ("e1", START, "complete", "bob")
    assert kept == whole
    assert (engine.get_event_count(), engine.get_case_count()) == (2, 1)


def test_an_event_id_counts_once_until_all_is_cleared() -> None:
    engine = ProcessMiningEngine()

    for _ in range(3):
        engine.record_event("c", "a", START, event_id="same")

    assert engine.get_event_count() == 1
    engine.clear()
    assert (engine.get_event_count(), engine.get_case_count()) == (0, 0)
    engine.record_event("c", "a", START, event_id="same")
    assert engine.get_event_count() == 1


@pytest.mark.parametrize(
    "given",
    [
        "2026-01-01T01:00:00+01:00",
        "2026-01-01",
        datetime(2026, 1, 1),  # noqa: DTZ001  # what is tested
        datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_times_are_utc_and_naive_ones_are_read_as_utc(given: datetime | str) -> None:
    event = ProcessMiningEngine().record_event("c", "a", given)

    assert event.timestamp == START
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize("arguments", [("c",), ("c", ""), ("c", "a"), ("c", "a", "yesterday"), ("c", "a", 7)])
def test_what_is_no_event_is_refused(arguments: tuple[object, ...]) -> None:
    engine = ProcessMiningEngine()

    with pytest.raises(InvalidProcessEventError):
        engine.record_event(*arguments)  # type: ignore[call-overload]

    assert engine.get_event_count() == 0


def test_of_more_cases_than_are_kept_the_oldest_is_forgotten() -> None:
    engine = ProcessMiningEngine(max_cases=2)
    for case_id in ("first", "second", "first", "third"):
        engine.record_event(case_id, "a", START, event_id=f"{case_id}-{engine.get_event_count()}")

    assert (engine.get_case_count(), engine.get_event_count()) == (2, 2)
    assert 'value="first"' not in engine.export_xes()
    engine.record_event("fourth", "a", START, event_id="first-0")
    assert engine.get_case_count() == 2


@pytest.mark.parametrize(
    "event",
    [
        ProcessEvent("1", START, "a", "r", 7),  # type: ignore[arg-type]  # what is tested, here and below
        ProcessEvent("1", START, "a", None, "c"),  # type: ignore[arg-type]
        ProcessEvent("1", "yesterday", "a", "r", "c"),  # type: ignore[arg-type]
        ProcessEvent("1", START, "a", "r", "c", duration_ms=None),  # type: ignore[arg-type]
    ],
)
def test_an_event_that_no_document_could_be_written_of_is_refused_when_it_is_recorded(event: ProcessEvent) -> None:
    engine = ProcessMiningEngine()

    with pytest.raises(InvalidProcessEventError, match="of an event is"):
        engine.record_event(event)

    assert engine.get_event_count() == 0


def test_a_case_that_begins_and_completes_is_complete_and_has_no_error() -> None:
    metrics = recorded(("c", "a", 0, "start"), ("c", "a", 5, "complete")).calculate_metrics()

    assert (metrics.completion_rate, metrics.error_rate, metrics.retry_rate) == (1.0, 0.0, 0.0)
    assert metrics.min_duration == metrics.avg_duration == metrics.max_duration == timedelta(seconds=5)


def test_a_case_that_stops_on_the_way_is_not_complete() -> None:
    events = [("c", "a", 0, "start"), ("c", "a", 1, "complete"), ("c", "b", 2, "start")]

    assert recorded(*events).calculate_metrics().completion_rate == 0.0
    assert recorded(*events, ("c", "b", 3, "ate_abort")).calculate_metrics().completion_rate == 0.0
    assert recorded(*events, ("c", "b", 3, "complete")).calculate_metrics().completion_rate == 1.0


def test_errors_and_retries_are_told_by_transition_attribute_or_name() -> None:
    engine = recorded(("c", "a", 0, "ate_abort"), ("c", "error_handler", 1, "complete"))
    engine.record_event("c", "b", at(2), attributes={"error": "ValueError"})
    engine.record_event("c", "Retry_attempt", at(3))
    engine.record_event("c", "d", at(4), attributes={"retry": True})

    metrics = engine.calculate_metrics()

    assert (metrics.error_rate, metrics.retry_rate) == (pytest.approx(3 / 5), pytest.approx(2 / 5))


def test_throughput_is_over_the_time_that_was_seen_whenever_it_is_asked_for() -> None:
    hours = recorded(*((f"c{n}", "a", n * 1800.0, "complete") for n in range(5)))
    moment = recorded(("c1", "a", 0, "complete"), ("c2", "a", 0, "complete"))

    assert hours.calculate_metrics().cases_per_hour == pytest.approx(2.5)
    assert moment.calculate_metrics().cases_per_hour == 2.0


def test_bottlenecks_are_the_three_that_take_longest_on_average_whenever_they_start() -> None:
    engine = ProcessMiningEngine()
    for activity, took in (("quick", 10), ("slow", 5000), ("middling", 900), ("short", 20)):
        engine.record_event("c", activity, START, lifecycle="start")
        engine.record_event("c", activity, START, duration_ms=took)

    assert engine.calculate_metrics().bottleneck_activities == ["slow", "middling", "short"]


def test_waiting_is_the_time_since_what_was_completed_before() -> None:
    engine = recorded(
        ("c", "a", 0, "start"), ("c", "a", 1, "complete"), ("c", "b", 4, "start"), ("c", "b", 5, "complete"),
        ("d", "a", 0, "complete"), ("d", "b", 1, "start"),
    )  # fmt: skip

    assert engine.calculate_metrics().waiting_time_by_activity == {"b": timedelta(seconds=2)}


def test_the_model_says_what_directly_follows_what_and_how_often() -> None:
    engine = recorded(
        *(("c", activity, seconds, "complete") for seconds, activity in enumerate("ABABC")),
    )

    model = engine.discover_model()

    assert model.activities == ["A", "B", "C"]
    assert model.transitions == {"A": ["B"], "B": ["A", "C"]}
    assert model.frequencies == {"A->B": 2, "B->A": 1, "B->C": 1}
    assert (model.fitness, model.precision) == (1.0, 1.0)


def test_starts_do_not_follow_completions_in_the_model_unless_there_is_nothing_else() -> None:
    both = recorded(
        ("c", "a", 0, "start"), ("c", "a", 1, "complete"), ("c", "b", 2, "start"), ("c", "b", 3, "complete")
    )
    only_starts = recorded(("c", "a", 0, "start"), ("c", "b", 2, "start"))

    assert both.discover_model().frequencies == only_starts.discover_model().frequencies == {"a->b": 1}


def test_events_are_put_in_order_of_time_and_of_recording() -> None:
    engine = recorded(("c", "late", 9, "complete"), ("c", "x", 1, "complete"), ("c", "y", 1, "complete"))

    assert engine.discover_model().frequencies == {"x->y": 1, "y->late": 1}
