"""What every event store promises, in memory and in Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.events import (
    ErrorInfo,
    EventEmitter,
    EventQuery,
    EventSeverity,
    EventStore,
    EventType,
    InvalidEventQueryError,
    MemoryEventStore,
    WorktrailEvent,
)
from llmteam.events.stores import EventStoreFace
from llmteam.tenancy import TenantContext, TenantContextError
from llmteam.wakeup import channel
from tests.unit.events.samples import MOMENT, event, json_values

SECOND = timedelta(seconds=1)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> EventStoreFace:
    if request.param == "memory":
        return MemoryEventStore()
    from llmteam.events.postgres import PostgresEventStore

    return PostgresEventStore(request.getfixturevalue("database"))


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    with TenantContext("acme"):
        yield


def ids(events: list[WorktrailEvent]) -> list[str]:
    return [event.event_id for event in events]


def query(store: EventStoreFace, **conditions: Any) -> list[str]:
    return ids(asyncio.run(store.query(**conditions)))


def test_it_satisfies_the_protocol(store: EventStoreFace) -> None:
    assert isinstance(store, EventStore)


def test_an_event_comes_back_as_it_was_given_with_the_next_number(store: EventStoreFace) -> None:
    given = event(
        step_id="load",
        step_type="http_action",
        visit=2,
        attempt=1,
        severity=EventSeverity.WARNING,
        correlation_id="corr",
        parent_event_id="run-1:0",
        payload={"b": [1, 2.5, None, "ü"], "a": {}},
        error=ErrorInfo(error_type="ValueError", error_message="no", recoverable=True),
        duration_ms=12,
    )

    kept = asyncio.run(store.append(given))

    assert kept == given.model_copy(update={"event_id": "run-1:1"})
    assert asyncio.run(store.get_by_run("run-1")) == [kept]
    assert list(kept.payload) == ["b", "a"]


@given(payload=st.dictionaries(st.text("abc", max_size=3), json_values, max_size=3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_payload_comes_back_unchanged(store: EventStoreFace, payload: dict[str, Any]) -> None:
    (kept,) = store.add([event(payload=payload)])

    assert store.select(EventQuery("acme", "run-1", after_seq=(kept.seq or 0) - 1)) == [kept]
    assert kept.payload == payload


def test_numbers_count_per_run_and_tenant_from_one(store: EventStoreFace) -> None:
    kept = store.add([event("r1"), event("r1"), event("r2"), event("r1", tenant_id="globex"), event("r1")])

    assert ids(kept) == ["r1:1", "r1:2", "r2:1", "r1:1", "r1:3"]


def test_the_same_event_again_changes_nothing(store: EventStoreFace) -> None:
    first, second = store.add([event(), event()])

    assert asyncio.run(store.append(first)) == first
    assert query(store, run_id="run-1") == [first.event_id, second.event_id]


def test_another_event_under_a_taken_id_gets_the_next_number(store: EventStoreFace) -> None:
    store.add([event()])

    late = asyncio.run(store.append(event(event_id="run-1:1", event_type=EventType.STEP_FAILED)))

    assert late.event_id == "run-1:2"


def test_a_number_that_would_leave_a_gap_is_not_taken(store: EventStoreFace) -> None:
    assert asyncio.run(store.append(event(event_id="run-1:7"))).event_id == "run-1:1"


def test_an_event_that_names_no_segment_gets_that_of_its_run(store: EventStoreFace) -> None:
    store.add([event()])

    (kept,) = store.add([event(instance_id="", segment_id="")])

    assert (kept.instance_id, kept.segment_id) == ("wf-9", "triage")


@pytest.fixture
def filled(store: EventStoreFace) -> EventStoreFace:
    """``r1:1`` to ``r1:5``, one second apart, then ``r2:1``."""
    failure = ErrorInfo(error_type="E", error_message="m")
    store.add(
        [
            event("r1", event_type=EventType.SEGMENT_STARTED, timestamp=MOMENT),
            event("r1", step_id="load", timestamp=MOMENT + SECOND),
            event(
                "r1", event_type=EventType.DATA_PRODUCED, severity=EventSeverity.DEBUG, timestamp=MOMENT + 2 * SECOND
            ),
            event(
                "r1",
                event_type=EventType.STEP_RETRYING,
                severity=EventSeverity.WARNING,
                step_id="load",
                error=failure,
                timestamp=MOMENT + 3 * SECOND,
            ),
            event(
                "r1",
                event_type=EventType.STEP_FAILED,
                severity=EventSeverity.ERROR,
                step_id="post",
                error=failure,
                timestamp=MOMENT + 4 * SECOND,
            ),
        ]
    )
    store.add([event("r2", segment_id="other", step_id="load", timestamp=MOMENT)])
    store.add([event("r1", tenant_id="globex")])
    return store


ALL = ["r1:1", "r1:2", "r1:3", "r1:4", "r1:5"]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, [*ALL, "r2:1"]),
        ({"run_id": "r1"}, ALL),
        ({"run_id": "r3"}, []),
        ({"run_id": "r1", "event_types": [EventType.STEP_FAILED, EventType.STEP_STARTED]}, ["r1:2", "r1:5"]),
        ({"run_id": "r1", "event_types": []}, []),
        ({"step_id": "load"}, ["r1:2", "r1:4", "r2:1"]),
        ({"segment_id": "other"}, ["r2:1"]),
        ({"tenant_id": "acme", "run_id": "r2"}, ["r2:1"]),
        ({"run_id": "r1", "severity": EventSeverity.DEBUG}, ALL),
        ({"run_id": "r1", "severity": EventSeverity.WARNING}, ["r1:4", "r1:5"]),
        ({"run_id": "r1", "start": MOMENT + SECOND, "end": MOMENT + 2 * SECOND}, ["r1:2", "r1:3"]),
        ({"run_id": "r1", "after_seq": 3}, ["r1:4", "r1:5"]),
        ({"run_id": "r1", "after_seq": 5}, []),
        ({"run_id": "r1", "limit": 2}, ["r1:1", "r1:2"]),
        ({"run_id": "r1", "after_seq": 1, "limit": 2, "severity": EventSeverity.INFO}, ["r1:2", "r1:4"]),
    ],
)
def test_a_query_gives_what_all_conditions_allow_in_order(
    filled: EventStoreFace, conditions: dict[str, Any], found: list[str]
) -> None:
    assert query(filled, **conditions) == found


def test_the_short_forms_ask_the_same_questions(filled: EventStoreFace) -> None:
    async def main() -> list[list[str]]:
        return [
            ids(await filled.get_by_run("r2")),
            ids(await filled.get_by_step("r1", "load")),
            ids(await filled.get_by_type("r1", EventType.STEP_FAILED)),
            ids(await filled.get_by_segment("triage")),
            ids(await filled.get_by_tenant("acme")),
            ids(await filled.get_by_time_range("r1", datetime(2026, 1, 1, tzinfo=UTC), MOMENT + SECOND)),
            ids(await filled.get_errors("r1")),
        ]

    assert asyncio.run(main()) == [
        ["r2:1"],
        ["r1:2", "r1:4"],
        ["r1:5"],
        ALL,
        [*ALL, "r2:1"],
        ["r1:1", "r1:2"],
        ["r1:4", "r1:5"],
    ]
    assert asyncio.run(filled.count_by_run("r1")) == 5


def test_a_naive_moment_in_a_query_is_read_as_utc(filled: EventStoreFace) -> None:
    naive = (MOMENT + 3 * SECOND).replace(tzinfo=None)

    assert query(filled, run_id="r1", start=naive) == ["r1:4", "r1:5"]


def test_types_and_severities_may_be_text(filled: EventStoreFace) -> None:
    assert query(filled, event_types=["step.failed"]) == query(filled, event_types=[EventType.STEP_FAILED]) != []
    assert query(filled, severity="error") == query(filled, severity=EventSeverity.ERROR) != []


@pytest.mark.parametrize(
    "conditions",
    [
        {"event_types": ["step.exploded"]},
        {"event_types": EventType.STEP_FAILED},
        {"severity": "fatal"},
        {"limit": -1},
    ],
)
def test_what_no_event_can_be_is_refused_rather_than_not_found(
    filled: EventStoreFace, conditions: dict[str, Any]
) -> None:
    with pytest.raises(InvalidEventQueryError, match=next(iter(conditions))):
        query(filled, run_id="r", **conditions)


def test_another_tenants_events_are_not_seen(filled: EventStoreFace) -> None:
    with TenantContext("globex"):
        assert query(filled) == ["r1:1"]
    with TenantContext("initech"):
        assert query(filled) == []


def test_asking_for_another_tenants_events_is_an_error(filled: EventStoreFace) -> None:
    with pytest.raises(TenantContextError, match="globex"):
        query(filled, tenant_id="globex")
    with pytest.raises(TenantContextError, match="globex"):
        asyncio.run(filled.get_by_tenant("globex"))
    with pytest.raises(TenantContextError, match="globex"):
        asyncio.run(filled.append(event(tenant_id="globex")))


def test_concurrent_appends_leave_no_gap_and_no_double(store: EventStoreFace) -> None:
    async def main() -> list[WorktrailEvent]:
        return await asyncio.gather(*(store.append(event()) for _ in range(30)))

    appended = asyncio.run(main())

    assert sorted(event.seq or 0 for event in appended) == list(range(1, 31))
    assert query(store, run_id="run-1") == [f"run-1:{seq}" for seq in range(1, 31)]


def test_the_emitter_goes_on_behind_what_is_stored(store: EventStoreFace) -> None:
    store.add([event(), event()])

    emitted = asyncio.run(EventEmitter(store).emit_step_completed("run-1", "load", {"a": 1}, 5))

    assert (emitted.event_id, emitted.tenant_id, emitted.segment_id) == ("run-1:3", "acme", "triage")
    assert query(store, run_id="run-1", event_types=[EventType.STEP_COMPLETED]) == ["run-1:3"]


def test_whoever_watches_the_run_is_woken_when_an_event_can_be_read(store: EventStoreFace) -> None:
    with store.wakeup.subscribe(channel("acme", "run-1")) as watch:
        store.add([event()])

        assert watch.wait(0)
