from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmteam.events import (
    EmitterError,
    ErrorInfo,
    EventEmitter,
    EventSeverity,
    EventStream,
    EventType,
    MemoryEventStore,
    WorktrailEvent,
)
from llmteam.events.stores import EventStoreFace
from llmteam.runtime import RuntimeContext, RuntimeContextManager
from llmteam.tenancy import TenantContext, TenantContextError
from tests.unit.events.samples import MOMENT, Runtime, event

FAILURE = ErrorInfo(error_type="ConnectError", error_message="refused")
FAILURE_DOCUMENT = {"error_type": "ConnectError", "error_message": "refused"}


def test_the_seeds_calls_store_what_they_emit() -> None:
    async def main() -> list[WorktrailEvent]:
        store = MemoryEventStore()
        emitter = EventEmitter(store, clock=lambda: MOMENT)
        await emitter.emit_step_started("run-1", "load", {"a": 1})
        await emitter.emit_step_completed("run-1", "load", [1, 2], 12)
        await emitter.emit_step_failed("run-1", "post", FAILURE_DOCUMENT)
        return await store.query(run_id="run-1")

    started, completed, failed = asyncio.run(main())

    assert (started.event_id, started.event_type, started.payload) == (
        "run-1:1",
        EventType.STEP_STARTED,
        {"input": {"a": 1}},
    )
    assert (completed.event_id, completed.payload, completed.duration_ms) == ("run-1:2", {"output": [1, 2]}, 12)
    assert (failed.error, failed.severity) == (FAILURE, EventSeverity.ERROR)
    assert started.timestamp == MOMENT


def test_a_second_emitter_goes_on_with_the_runs_numbers() -> None:
    async def main() -> list[str]:
        store = MemoryEventStore()
        events = [await EventEmitter(store).emit_segment_paused("run-1") for _ in range(3)]
        return [event.event_id for event in events]

    assert asyncio.run(main()) == ["run-1:1", "run-1:2", "run-1:3"]


ASYNC_CALLS: list[tuple[Callable[[EventEmitter], Awaitable[WorktrailEvent]], EventType, dict[str, Any]]] = [
    (lambda e: e.emit_step_skipped("r", "a", "dead"), EventType.STEP_SKIPPED, {"reason": "dead"}),
    (
        lambda e: e.emit_step_retrying("r", "a", 1, 3, FAILURE),
        EventType.STEP_RETRYING,
        {"attempt": 1, "max_attempts": 3},
    ),
    (lambda e: e.emit_segment_started("r", {"x": 1}), EventType.SEGMENT_STARTED, {"input": {"x": 1}}),
    (lambda e: e.emit_segment_completed("r", {"y": 1}, 3), EventType.SEGMENT_COMPLETED, {"output": {"y": 1}}),
    (lambda e: e.emit_segment_failed("r", ValueError("no")), EventType.SEGMENT_FAILED, {}),
    (lambda e: e.emit_segment_cancelled("r"), EventType.SEGMENT_CANCELLED, {}),
    (lambda e: e.emit_segment_paused("r", {"by": "me"}), EventType.SEGMENT_PAUSED, {"by": "me"}),
    (lambda e: e.emit_segment_resumed("r"), EventType.SEGMENT_RESUMED, {}),
    (lambda e: e.emit_event(EventType.CUSTOM, "r", payload={"k": "v"}), EventType.CUSTOM, {"k": "v"}),
]


@pytest.mark.parametrize(("call", "event_type", "payload"), ASYNC_CALLS, ids=lambda part: str(part)[:20])
def test_each_awaited_call_emits_its_type(
    call: Callable[[EventEmitter], Awaitable[WorktrailEvent]], event_type: EventType, payload: dict[str, Any]
) -> None:
    async def main() -> WorktrailEvent:
        return await call(EventEmitter(MemoryEventStore()))

    emitted = asyncio.run(main())

    assert (emitted.event_type, emitted.payload, emitted.severity) == (event_type, payload, event_type.severity)


PLAIN_CALLS: list[tuple[Callable[[EventEmitter], WorktrailEvent], str, EventSeverity, str | None, dict[str, Any]]] = [
    (lambda e: e.segment_started(), "segment.started", EventSeverity.INFO, None, {}),
    (lambda e: e.segment_completed(5), "segment.completed", EventSeverity.INFO, None, {}),
    (lambda e: e.segment_failed(FAILURE), "segment.failed", EventSeverity.ERROR, None, {}),
    (lambda e: e.segment_cancelled(), "segment.cancelled", EventSeverity.WARNING, None, {}),
    (lambda e: e.segment_paused(), "segment.paused", EventSeverity.INFO, None, {}),
    (lambda e: e.segment_resumed({"by": "me"}), "segment.resumed", EventSeverity.INFO, None, {"by": "me"}),
    (lambda e: e.step_started("a", "t"), "step.started", EventSeverity.INFO, "t", {}),
    (lambda e: e.step_completed("a", "t", 5), "step.completed", EventSeverity.INFO, "t", {}),
    (lambda e: e.step_failed("a", "t", FAILURE), "step.failed", EventSeverity.ERROR, "t", {}),
    (lambda e: e.step_skipped("a", "t", "dead"), "step.skipped", EventSeverity.INFO, "t", {"reason": "dead"}),
    (
        lambda e: e.step_retrying("a", "t", 1, 3, FAILURE),
        "step.retrying",
        EventSeverity.WARNING,
        "t",
        {"attempt": 1, "max_attempts": 3},
    ),
    (
        lambda e: e.human_task_created("a", "7", "approval"),
        "human.task_created",
        EventSeverity.INFO,
        "human_task",
        {"task_id": "7", "task_type": "approval", "assignee": None},
    ),
    (
        lambda e: e.human_task_assigned("a", "7", "ann"),
        "human.task_assigned",
        EventSeverity.INFO,
        "human_task",
        {"task_id": "7", "assignee": "ann"},
    ),
    (
        lambda e: e.human_task_escalated("a", "7", 2, "bob"),
        "human.task_escalated",
        EventSeverity.WARNING,
        "human_task",
        {"task_id": "7", "level": 2, "assignee": "bob"},
    ),
    (
        lambda e: e.human_task_completed("a", "7", "ann", 5),
        "human.task_completed",
        EventSeverity.INFO,
        "human_task",
        {"task_id": "7", "completed_by": "ann"},
    ),
    (
        lambda e: e.action_started("a", "webhook"),
        "action.started",
        EventSeverity.INFO,
        "action",
        {"action_type": "webhook"},
    ),
    (
        lambda e: e.action_completed("a", "webhook", 5, status_code=204),
        "action.completed",
        EventSeverity.INFO,
        "action",
        {"action_type": "webhook", "status_code": 204},
    ),
    (
        lambda e: e.action_failed("a", "webhook", FAILURE),
        "action.failed",
        EventSeverity.ERROR,
        "action",
        {"action_type": "webhook"},
    ),
    (
        lambda e: e.data_produced("a", "out", "json", 9),
        "data.produced",
        EventSeverity.DEBUG,
        None,
        {"output_port": "out", "data_type": "json", "size_bytes": 9},
    ),
    (
        lambda e: e.data_consumed("a", "in", "b", "out"),
        "data.consumed",
        EventSeverity.DEBUG,
        None,
        {"input_port": "in", "from_step": "b", "from_port": "out"},
    ),
]


@pytest.mark.parametrize(("call", "value", "severity", "step_type", "payload"), PLAIN_CALLS, ids=lambda p: str(p)[:20])
def test_each_plain_call_of_a_bound_emitter_emits_its_type(
    call: Callable[[EventEmitter], WorktrailEvent],
    value: str,
    severity: EventSeverity,
    step_type: str | None,
    payload: dict[str, Any],
) -> None:
    emitted = call(EventEmitter(Runtime()))

    assert (emitted.event_type, emitted.severity) == (EventType(value), severity)
    assert (emitted.step_type, emitted.payload) == (step_type, payload)
    assert (emitted.error == FAILURE) == value.endswith(("failed", "retrying"))


def test_a_bound_emitter_takes_identity_from_its_runtime_and_counts_by_itself() -> None:
    emitter = EventEmitter(Runtime())

    first, second = emitter.step_started("load", "transform"), emitter.step_completed("load", "transform", 5)

    assert (first.tenant_id, first.instance_id, first.run_id, first.segment_id) == ("acme", "wf-9", "run-77", "triage")
    assert (first.event_id, second.event_id) == ("run-77:1", "run-77:2")


def test_with_a_store_plain_calls_are_stored_under_the_stores_numbers() -> None:
    store = MemoryEventStore()
    store.add([event("run-77")])

    emitted = EventEmitter(store, Runtime()).segment_started()

    assert emitted.event_id == "run-77:2"
    assert asyncio.run(store.get_by_run("run-77"))[-1] == emitted


class _ServerStore(MemoryEventStore):
    blocks = True


def test_plain_calls_never_wait_for_a_server_inside_a_running_loop() -> None:
    emitter = EventEmitter(_ServerStore(), Runtime())

    async def main() -> None:
        with pytest.raises(EmitterError, match="await emitter"):
            emitter.segment_started()

    asyncio.run(main())
    assert emitter.segment_started().seq == 1


class _Minimal:
    """A store of a caller's own, with nothing but what is needed to append."""

    def __init__(self) -> None:
        self.events: list[WorktrailEvent] = []

    async def append(self, event: WorktrailEvent) -> None:
        self.events.append(event)


def test_a_store_of_ones_own_is_awaited_and_not_called_plainly() -> None:
    store = _Minimal()

    emitted = asyncio.run(EventEmitter(store).emit_step_started("r", "a", 1))  # type: ignore[arg-type]

    assert store.events == [emitted]
    with pytest.raises(EmitterError, match="await"):
        EventEmitter(store, Runtime()).segment_started()  # type: ignore[arg-type]


def test_an_emitter_is_built_from_a_store_or_a_runtime() -> None:
    with pytest.raises(EmitterError, match="not a dict"):
        EventEmitter({})  # type: ignore[arg-type]
    with pytest.raises(EmitterError, match="EventEmitter\\(runtime\\)"):
        EventEmitter(MemoryEventStore()).segment_started()


def test_the_runtimes_hook_hears_every_event() -> None:
    heard: list[WorktrailEvent] = []
    runtime = Runtime(on_event=heard.append)
    emitter = EventEmitter(MemoryEventStore(), runtime)

    plain = emitter.step_started("a", "t")
    awaited = asyncio.run(emitter.emit_step_completed("run-77", "a", 1, 2))

    assert heard == [plain, awaited]


def test_a_failing_hook_is_logged_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: WorktrailEvent) -> None:
        raise RuntimeError("hook")

    with caplog.at_level(logging.ERROR):
        emitted = EventEmitter(Runtime(on_event=fail)).segment_started()

    assert emitted.seq == 1
    assert "on_event failed for segment.started run-77:1" in caplog.text


def test_without_a_runtime_the_current_tenant_is_the_events_tenant() -> None:
    async def main() -> WorktrailEvent:
        async with TenantContext("acme"):
            return await EventEmitter(MemoryEventStore()).emit_step_started("r", "a", 1)

    emitted = asyncio.run(main())

    assert (emitted.tenant_id, emitted.instance_id, emitted.segment_id) == ("acme", "", "")


def test_the_current_runtime_gives_identity_to_its_own_run_only() -> None:
    runtime = RuntimeContext(tenant_id="acme", instance_id="wf-9", run_id="run-77", segment_id="triage")

    async def main() -> tuple[WorktrailEvent, WorktrailEvent]:
        emitter = EventEmitter(MemoryEventStore())
        with RuntimeContextManager(runtime):
            return await emitter.emit_step_started("run-77", "a", 1), await emitter.emit_step_started("other", "a", 1)

    own, other = asyncio.run(main())

    assert (own.tenant_id, own.instance_id, own.segment_id) == ("acme", "wf-9", "triage")
    assert (other.tenant_id, other.instance_id, other.segment_id) == ("acme", "", "")


def test_an_event_of_another_tenant_than_the_current_one_is_refused() -> None:
    async def main() -> None:
        async with TenantContext("globex"):
            await EventEmitter(MemoryEventStore(), Runtime()).emit_segment_paused("run-77")

    with pytest.raises(TenantContextError, match="globex"):
        asyncio.run(main())


def test_payloads_are_redacted_capped_and_made_json() -> None:
    store = MemoryEventStore()
    emitter = EventEmitter(store, inline_bytes=100)

    async def main() -> None:
        await emitter.emit_step_started("r", "a", {"api_key": "hunter2", "when": MOMENT})
        await emitter.emit_step_completed("r", "a", "x" * 200, 1)

    asyncio.run(main())
    started, completed = asyncio.run(store.get_by_run("r"))

    assert started.payload == {"input": {"api_key": "[redacted]", "when": "2026-03-01 08:15:30.120000+00:00"}}
    assert completed.payload == {"output": {"$omitted": "too large", "bytes": 202}}


def test_an_emitter_with_a_stream_stores_where_the_stream_reads() -> None:
    stream = EventStream()

    emitted = EventEmitter(runtime=Runtime(), stream=stream).segment_started()

    assert isinstance(stream.store, EventStoreFace)
    assert asyncio.run(stream.get_history("run-77")) == [emitted]
