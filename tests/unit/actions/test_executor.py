"""Taking actions: what is refused, what is repeated, what is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from llmteam.actions import (
    ActionConfig,
    ActionContext,
    ActionExecutor,
    ActionHandler,
    ActionRegistry,
    ActionResult,
    ActionStatus,
    ActionType,
    MemoryAttemptStore,
)
from llmteam.actions.stores import Begun, Call
from llmteam.audit import AuditTrail
from llmteam.errors import InfrastructureError
from llmteam.events import EventEmitter, EventType, MemoryEventStore
from llmteam.runtime import RuntimeContext, RuntimeContextManager
from llmteam.runtime.context import working_for
from llmteam.tenancy import TenantConfig, TenantContext, TenantManager, TenantTier
from llmteam.tenancy.stores import MemoryTenantStore
from tests.unit.actions.conftest import Stand
from tests.waiting import wait_until, wait_until_async


class Scripted(ActionHandler):
    """Answers one after the other; the last one for ever."""

    def __init__(self, *answers: ActionResult | BaseException) -> None:
        self.answers = list(answers)
        self.calls: list[ActionContext] = []

    async def execute(self, context: ActionContext) -> ActionResult:
        self.calls.append(context)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def done(data: Any = None) -> ActionResult:
    return ActionResult("a", ActionStatus.COMPLETED, data)


def broken(code: int = 0, **others: Any) -> ActionResult:
    return ActionResult.failure("a", "HTTPStatusError", f"HTTP {code}", response_code=code, **others)


def scripted(stand: Stand, *answers: ActionResult | BaseException, **fields: Any) -> Scripted:
    handler = Scripted(*answers)
    stand.registry.register(ActionConfig("a", ActionType.FUNCTION, **fields), handler)
    return handler


def types(stand: Stand, tenant_id: str = "default") -> list[str]:
    return [record.event_type.value for record in stand.audited(tenant_id)]


def test_an_unknown_action_fails_and_is_audited(stand: Stand) -> None:
    result = stand.execute("missing", payload={})

    assert (result.status, result.error_type) == (ActionStatus.FAILED, "ActionNotFound")
    assert "not found" in result.error_message.lower()
    assert types(stand) == ["action.failed"]


def test_what_a_handler_raises_is_its_result(stand: Stand) -> None:
    scripted(stand, ValueError("no such customer"))

    result = stand.execute("a")

    assert (result.status, result.error_type, result.error_message) == (
        ActionStatus.FAILED,
        "ValueError",
        "no such customer",
    )
    assert result.retry_count == 0


def test_an_upstream_context_can_be_given_in_place_of_a_payload(stand: Stand) -> None:
    stand.registry.register_function("sum", lambda data, state: data["a"] + state["b"])
    context = ActionContext("sum", "run-1", "agent-1", "acme", {"a": 1}, {"b": 2}, correlation_id="c-1")

    by_position = stand.execute("sum", context)
    by_name = stand.execute("sum", context=context)

    assert (by_position.response_data, by_name.response_data) == (3, 3)
    invoked = stand.audited("acme")[0]
    assert (invoked.actor_id, invoked.run_id) == ("agent-1", "run-1")


@pytest.mark.parametrize("payload", [["a"], "a", 7])
def test_a_payload_that_is_no_mapping_is_a_mistake_of_the_program(stand: Stand, payload: Any) -> None:
    with pytest.raises(TypeError, match="mapping"):
        stand.execute("a", payload=payload)


def test_transient_failures_are_repeated_until_one_attempt_succeeds(stand: Stand) -> None:
    handler = scripted(stand, ConnectionResetError(), broken(503), done("yes"))

    result = stand.execute("a")

    assert (result.status, result.response_data, result.retry_count) == (ActionStatus.COMPLETED, "yes", 2)
    assert stand.waits == [1.0, 2.0]
    assert len({call.idempotency_key for call in handler.calls}) == 1


def test_attempts_end_with_the_number_that_the_action_allows(stand: Stand) -> None:
    handler = scripted(stand, broken(503), retry_count=2)

    result = stand.execute("a")

    assert (result.status, result.response_code, result.retry_count) == (ActionStatus.FAILED, 503, 2)
    assert len(handler.calls) == 3


@pytest.mark.parametrize("failure", [broken(404), broken(400), ValueError("no")])
def test_permanent_failures_are_not_repeated(stand: Stand, failure: ActionResult | BaseException) -> None:
    handler = scripted(stand, failure)

    assert stand.execute("a").retry_count == 0
    assert (len(handler.calls), stand.waits) == (1, [])


def test_the_other_side_is_given_the_time_that_it_asks_for_up_to_the_cap(stand: Stand) -> None:
    scripted(stand, broken(429, retry_after=7.0), broken(429, retry_after=3600.0), done(), retry_max_delay=30)

    assert stand.execute("a").success
    assert stand.waits == [7.0, 30.0]


def test_a_long_wait_is_left_to_the_caller(stand: Stand) -> None:
    handler = scripted(stand, broken(429, retry_after=7.0))
    executor = stand.executor(longest_wait=timedelta(seconds=1))

    result = stand.execute("a", executor=executor)

    assert (result.status, result.retryable, result.retry_after, result.retry_count) == (
        ActionStatus.FAILED,
        True,
        7.0,
        0,
    )
    assert (len(handler.calls), stand.waits) == (1, [])


def test_a_function_that_takes_too_long_is_over_and_its_late_answer_is_dropped(stand: Stand) -> None:
    go, ended = threading.Event(), threading.Event()

    def slow(data: Mapping[str, Any], state: Mapping[str, Any]) -> str:
        go.wait(30)
        ended.set()
        return "late"

    stand.registry.register_function("slow", slow, timeout_seconds=0.05, retry_count=0)

    result = stand.execute("slow")

    assert (result.status, result.error_type, result.response_data) == (ActionStatus.TIMEOUT, "TimeoutError", None)
    go.set()
    wait_until(ended.is_set, "the function to return")
    assert types(stand) == ["action.invoked", "action.failed"]


def test_coroutines_have_the_same_limit(stand: Stand) -> None:
    async def slow(data: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        await asyncio.Event().wait()

    stand.registry.register_function("slow", slow, timeout=0.01, retry_count=1)

    result = stand.execute("slow")

    assert (result.status, result.retry_count) == (ActionStatus.TIMEOUT, 1)


def test_a_timeout_of_the_handlers_own_is_a_failure_of_its_name(stand: Stand) -> None:
    scripted(stand, TimeoutError("the lock is taken"), done())

    assert stand.execute("a").retry_count == 1


def test_a_cancelled_call_is_recorded_and_goes_on_being_cancelled(stand: Stand) -> None:
    started = threading.Event()

    async def endless(data: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    stand.registry.register_function("endless", endless)
    context = ActionContext("endless", "run-1", "agent", "acme", step_id="step")

    async def cancel() -> None:
        task = asyncio.create_task(stand.executor().execute("endless", context))
        await wait_until_async(started.is_set, "the action to begin")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    last = stand.audited("acme")[-1]
    assert (last.metadata["status"], last.success) == ("cancelled", False)
    (attempt,) = stand.attempts.records("acme", "run-1")
    assert attempt.status is ActionStatus.CANCELLED


SCHEMA = {"type": "object", "properties": {"amount": {"type": "number", "minimum": 1}}, "required": ["amount"]}


@pytest.mark.parametrize("payload", [{}, {"amount": "s3cret"}, {"amount": 0}])
def test_a_payload_that_does_not_fit_is_refused_without_being_shown(stand: Stand, payload: dict[str, Any]) -> None:
    handler = scripted(stand, done(), request_schema=SCHEMA)

    result = stand.execute("a", payload=payload)

    assert (result.status, result.error_type) == (ActionStatus.FAILED, "RequestValidationError")
    assert "s3cret" not in result.error_message
    assert handler.calls == []


def test_a_payload_that_is_no_json_is_refused(stand: Stand) -> None:
    scripted(stand, done())

    assert stand.execute("a", payload={"when": {1, 2}}).error_type == "RequestValidationError"


def test_an_answer_that_does_not_fit_is_a_failure_and_not_repeated(stand: Stand) -> None:
    handler = scripted(stand, done({"amount": "s3cret"}), response_schema=SCHEMA)

    result = stand.execute("a")

    assert (result.status, result.error_type) == (ActionStatus.FAILED, "ResponseValidationError")
    assert "s3cret" not in result.error_message
    assert len(handler.calls) == 1


def test_a_handlers_own_checks_count_too(stand: Stand) -> None:
    class Picky(Scripted):
        async def validate_request(self, context: ActionContext) -> bool:
            return "please" in context.input_data

        async def validate_response(self, result: ActionResult) -> bool:
            return bool(result.response_data)

    stand.registry.register(ActionConfig("a", ActionType.FUNCTION), Picky(done()))

    assert stand.execute("a").error_type == "RequestValidationError"
    assert stand.execute("a", {"please": 1}).error_type == "ResponseValidationError"


def tenants(**fields: Any) -> TenantManager:
    store = MemoryTenantStore()
    store.add(TenantConfig("acme", "Acme", **{"tier": TenantTier.PROFESSIONAL, **fields}))
    return TenantManager(store)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"blocked_actions": {"a"}}, "ActionDeniedError"),
        ({"allowed_actions": {"b"}}, "ActionDeniedError"),
        ({"tier": TenantTier.FREE}, "TenantFeatureDisabledError"),
        ({"is_active": False}, "TenantInactiveError"),
    ],
)
def test_what_a_tenant_may_not_do_is_not_done_and_audited(stand: Stand, fields: dict[str, Any], error: str) -> None:
    handler = scripted(stand, done())

    result = stand.execute("a", tenant_id="acme", executor=stand.executor(tenants=tenants(**fields)))

    assert (result.status, result.error_type, handler.calls) == (ActionStatus.FAILED, error, [])
    assert types(stand, "acme") == ["security.access_denied", "action.failed"]


@pytest.mark.parametrize("tenant_id", ["acme", "unknown"])
def test_what_a_tenant_may_do_is_done(stand: Stand, tenant_id: str) -> None:
    scripted(stand, done())
    executor = stand.executor(tenants=tenants(allowed_actions={"a"}))

    assert stand.execute("a", tenant_id=tenant_id, executor=executor).success


def test_an_action_of_another_tenant_than_the_current_one_is_not_taken(stand: Stand) -> None:
    handler = scripted(stand, done())

    with TenantContext("globex"):
        result = stand.execute("a", ActionContext("a", "r", "x", "acme"))

    assert (result.error_type, handler.calls) == ("TenantContextError", [])


def test_an_action_for_nobody_in_particular_is_taken_for_the_tenant_whose_trail_is_told(stand: Stand) -> None:
    scripted(stand, done())

    result = stand.execute("a", executor=stand.executor(audit_trail=AuditTrail(stand.audit, tenant_id="acme")))

    assert result.success, result.error_message
    assert types(stand, "acme") == ["action.invoked", "action.completed"]


def test_the_audit_trail_has_a_hash_and_no_payload(stand: Stand) -> None:
    scripted(stand, broken(500), done("s3cret answer"))

    stand.execute("a", payload={"card": "s3cret"}, tenant_id="acme", correlation_id="c-1")

    invoked, completed = stand.audited("acme")
    assert (invoked.event_type.value, completed.event_type.value) == ("action.invoked", "action.completed")
    assert len(invoked.metadata["payload_hash"]) == 64
    assert invoked.metadata["payload_hash"] == completed.metadata["payload_hash"]
    assert (completed.resource_type, completed.resource_id) == ("external_action", "a")
    assert (completed.metadata["status"], completed.metadata["correlation_id"]) == ("completed", "c-1")
    assert (completed.metadata["retry_count"], completed.metadata["error_message"]) == (1, None)
    assert "s3cret" not in repr([invoked, completed]) + str([invoked.metadata, completed.metadata])


def test_a_failure_is_audited_as_a_warning_with_its_text(stand: Stand) -> None:
    scripted(stand, broken(404))

    stand.execute("a")

    failed = stand.audited()[-1]
    assert (failed.event_type.value, failed.severity.value, failed.success) == ("action.failed", "warning", False)
    assert (failed.metadata["response_code"], failed.error_message) == (404, "HTTP 404")


def test_nothing_is_done_that_the_trail_does_not_take(stand: Stand) -> None:
    class Full:
        async def log(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("no space left")

    handler = scripted(stand, done())

    result = stand.execute("a", executor=stand.executor(audit_trail=Full()))

    assert (result.status, result.error_type, handler.calls) == (ActionStatus.FAILED, "OSError", [])


def test_a_batch_keeps_its_order_and_its_bound(stand: Stand) -> None:
    running, most = 0, 0

    async def count(data: Mapping[str, Any], state: Mapping[str, Any]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return int(data["n"])

    stand.registry.register_function("count", count)
    contexts = [ActionContext("count", "", "x", "acme", {"n": n}) for n in range(20)]

    results = asyncio.run(stand.executor(at_once=3).execute_batch(contexts))

    assert [result.response_data for result in results] == list(range(20))
    assert most == 3


def in_step(stand: Stand, runtime: RuntimeContext, work: Any, **step: Any) -> ActionResult:
    """What ``work`` gives inside a handler of the step ``pay``."""

    async def handler() -> ActionResult:
        with RuntimeContextManager().activate(runtime), working_for(runtime.child_context("pay", **step)):
            result: ActionResult = await work()
            return result

    return asyncio.run(handler())


def runtime() -> RuntimeContext:
    return RuntimeContext("acme", "", "run-1", "shop")


def test_in_a_step_the_call_is_the_steps_and_told_as_events(stand: Stand) -> None:
    handler, store = scripted(stand, done("ok")), MemoryEventStore()
    executor = stand.executor(events=EventEmitter(store))

    result = in_step(stand, runtime(), lambda: executor.execute("a", {"n": 1}), visit=2)

    (context,) = handler.calls
    assert (context.run_id, context.step_id, context.visit, context.agent_name) == ("run-1", "pay", 2, "pay")
    assert (context.tenant_id, context.correlation_id) == ("acme", "run-1")
    assert context.idempotency_key.startswith("run-1:pay:2:")
    events = asyncio.run(store.get_by_run("run-1"))
    assert [event.event_type for event in events] == [EventType.ACTION_STARTED, EventType.ACTION_COMPLETED]
    assert {(event.step_id, event.visit) for event in events} == {("pay", 2)}
    assert result.success


def test_a_failure_is_told_as_an_event_too(stand: Stand) -> None:
    scripted(stand, broken(404))
    store = MemoryEventStore()
    executor = stand.executor(events=EventEmitter(store))

    in_step(stand, runtime(), lambda: executor.execute("a"))

    failed = asyncio.run(store.get_by_run("run-1"))[-1]
    assert (failed.event_type, failed.payload["status_code"]) == (EventType.ACTION_FAILED, 404)
    assert failed.error is not None
    assert failed.error.error_type == "HTTPStatusError"


def test_outside_of_steps_there_are_no_events(stand: Stand) -> None:
    scripted(stand, done())
    store = MemoryEventStore()

    stand.execute("a", run_id="run-1", executor=stand.executor(events=EventEmitter(store)))

    assert asyncio.run(store.get_by_run("run-1")) == []


def test_a_step_that_is_tried_again_finds_what_was_done(stand: Stand) -> None:
    handler = scripted(stand, done({"charge": 17}))

    first = in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 5}), attempt=1)
    again = in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 5}), attempt=2)

    assert len(handler.calls) == 1
    assert again.response_data == first.response_data == {"charge": 17}
    assert (again.audit_metadata["replayed"], "replayed" in first.audit_metadata) == (True, False)
    assert types(stand, "acme") == ["action.invoked", "action.completed"]


def test_another_payload_in_the_same_step_is_another_call(stand: Stand) -> None:
    handler = scripted(stand, done())

    in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 5}))
    in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 6}))

    assert len(handler.calls) == 2


def test_a_key_that_was_used_for_another_payload_is_refused(stand: Stand) -> None:
    handler = scripted(stand, done())

    in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 5}, idempotency_key="k"))
    other = in_step(stand, runtime(), lambda: stand.executor().execute("a", {"amount": 6}, idempotency_key="k"))

    assert (other.status, other.error_type) == (ActionStatus.FAILED, "IdempotencyKeyReused")
    assert len(handler.calls) == 1


def test_a_failed_call_can_be_made_again_and_every_attempt_is_kept(stand: Stand) -> None:
    handler = scripted(stand, broken(503), broken(404), done())

    failed = in_step(stand, runtime(), lambda: stand.executor().execute("a"))
    again = in_step(stand, runtime(), lambda: stand.executor().execute("a"))

    assert (failed.response_code, again.success, len(handler.calls)) == (404, True, 3)
    kept = stand.attempts.records("acme", "run-1")
    assert [(one.attempt, one.status.value) for one in kept] == [(1, "failed"), (2, "failed"), (3, "completed")]
    assert [call.attempt for call in handler.calls] == [1, 2, 3]


def test_an_attempt_that_nothing_was_heard_of_is_lost_and_followed_by_another_under_its_key(stand: Stand) -> None:
    class Died(BaseException):
        pass

    handler = scripted(stand, Died(), done("ok"))
    with pytest.raises(Died):
        in_step(stand, runtime(), lambda: stand.executor().execute("a"))

    result = in_step(stand, runtime(), lambda: stand.executor().execute("a"))

    assert result.response_data == "ok"
    lost, made = stand.attempts.records("acme", "run-1")
    assert (lost.status, lost.error_type, made.status) == (ActionStatus.FAILED, "AttemptLost", ActionStatus.COMPLETED)
    assert handler.calls[0].idempotency_key == handler.calls[1].idempotency_key


def test_the_runtimes_own_trail_is_told_when_there_is_no_other(stand: Stand) -> None:
    scripted(stand, done())
    within = runtime()
    within.audit_trail = AuditTrail(stand.audit, tenant_id="acme")

    in_step(stand, within, lambda: ActionExecutor(stand.registry).execute("a"))

    assert types(stand, "acme") == ["action.invoked", "action.completed"]


def test_an_executor_needs_nothing_but_a_registry() -> None:
    registry = ActionRegistry()
    registry.register_function("double", lambda data, state: 2 * data["n"])

    result = asyncio.run(ActionExecutor(registry).execute("double", payload={"n": 4}))

    assert (result.success, result.response_data) == (True, 8)
    assert result.completed_at is not None
    assert result.completed_at >= result.started_at


def test_a_store_that_is_away_between_two_attempts_is_a_failure_too(stand: Stand) -> None:
    class Away(MemoryAttemptStore):
        def begin(self, call: Call, now: datetime) -> Begun:
            if self.records("acme", "run-1"):
                raise InfrastructureError("Postgres is away")
            return super().begin(call, now)

    handler = scripted(stand, broken(503), done())

    result = in_step(stand, runtime(), lambda: stand.executor(attempts=Away()).execute("a"))

    assert (result.error_type, result.retryable, len(handler.calls)) == ("InfrastructureError", True, 1)
    assert types(stand, "acme") == ["action.invoked", "action.failed"]


def test_an_outcome_that_could_not_be_written_down_is_the_result_all_the_same(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(MemoryAttemptStore):
        def finish(self, call: Call, attempt: int, result: ActionResult, now: datetime) -> None:
            raise InfrastructureError("Postgres is away")

    scripted(stand, done("ok"))

    result = in_step(stand, runtime(), lambda: stand.executor(attempts=Full()).execute("a"))

    assert result.response_data == "ok"
    assert "its outcome was not written down" in caplog.text
