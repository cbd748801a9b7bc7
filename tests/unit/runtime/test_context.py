from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from llmteam.errors import NotJSONError
from llmteam.runtime import (
    NamespacedStore,
    OfflineProvider,
    OpenAIProvider,
    ResourceNotFoundError,
    RuntimeContext,
    RuntimeContextError,
    RuntimeContextManager,
    SecretValue,
    StepContext,
    current_runtime,
    default_manager,
    get_current_runtime,
)
from llmteam.tenancy import TenantContext, TenantContextError, get_current_tenant
from tests.unit.runtime.test_resources import EchoClient, MemoryStore


class Secrets:
    async def get_secret(self, secret_id: str) -> str:
        return {"api_key": "hunter2-hunter2"}[secret_id]


def runtime(**fields: Any) -> RuntimeContext:
    return RuntimeContext(tenant_id="acme", instance_id="w1", run_id="r1", segment_id="seg", **fields)


def test_the_seed_of_a_worker_registers_resources_and_steps_get_them_by_name():
    store, client, llm = MemoryStore(), EchoClient(), OfflineProvider()
    manager = RuntimeContextManager()
    manager.register_store("redis", store)
    manager.register_client("http", client)
    manager.register_llm("openai", llm)
    manager.register_secrets_provider(Secrets())
    step = manager.create_runtime(tenant_id="acme", instance_id="workflow_123").child_context("process_data")
    assert step.get_store("redis") is store
    assert step.get_client("http") is client
    assert step.get_llm("openai") is llm
    assert step.get_secret("api_key") == "hunter2-hunter2"
    assert (step.tenant_id, step.instance_id, step.segment_id) == ("acme", "workflow_123", "")
    assert step.run_id == step.runtime.run_id
    with pytest.raises(ResourceNotFoundError, match="Store 'other' not found"):
        step.get_store("other")


def test_a_resource_registered_later_is_seen_by_runtimes_made_before():
    manager = RuntimeContextManager()
    made_before = manager.create_runtime("acme", "w1")
    manager.register_store("late", MemoryStore())
    assert made_before.resolve_store("late") is manager.stores.get("late")


def test_models_that_the_settings_name_need_no_registration(monkeypatch):
    step = RuntimeContextManager().create_runtime("acme", "w1").child_context("s")
    assert isinstance(step.get_llm("offline"), OfflineProvider)
    with pytest.raises(ResourceNotFoundError, match="LLM provider 'openai' not found"):
        step.get_llm("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    assert isinstance(step.get_llm("openai"), OpenAIProvider)


def test_a_namespaced_store_is_wrapped_for_steps_and_plain_in_the_registry():
    manager, store = RuntimeContextManager(), MemoryStore()
    manager.register_store("main", store, namespaced=True)
    assert manager.stores.get("main") is store
    for tenant, instance in (("acme", "1"), ("acme", "2"), ("globex", "1")):
        mine = manager.create_runtime(tenant, instance).child_context("s").get_store("main")
        assert isinstance(mine, NamespacedStore)
        asyncio.run(mine.set("k", instance))
    assert sorted(store.values) == ["acme/1/k", "acme/2/k", "globex/1/k"]


@pytest.mark.parametrize("bad", [{"tenant_id": ""}, {"tenant_id": "a b"}, {"instance_id": "a b"}, {"run_id": ""}])
def test_ids_that_are_none_are_refused(bad: dict[str, str]):
    with pytest.raises(ValueError, match=next(iter(bad))):
        RuntimeContextManager().create_runtime(**{"tenant_id": "acme", "instance_id": "w1", **bad})


def test_a_misspelt_field_is_an_error():
    with pytest.raises(TypeError, match="dta"):
        RuntimeContextManager().create_runtime("acme", "w1", dta={})
    with pytest.raises(TypeError, match="segmentid"):
        runtime().copy(segmentid="x")


def test_a_copy_shares_registries_copies_data_and_keeps_its_age():
    one = runtime(data={"a": 1})
    other = one.copy(segment_id="other")
    other.data["b"] = 2
    assert one.data == {"a": 1}
    assert other.stores is one.stores
    assert other.secret_reader is one.secret_reader
    assert (other.segment_id, other.run_id, other.created_at) == ("other", "r1", one.created_at)
    assert one.created_at.tzinfo is UTC


def test_a_reference_is_json_and_becomes_the_same_runtime_over_another_managers_resources():
    manager = RuntimeContextManager()
    manager.register_store("main", MemoryStore())
    ref = runtime(data={"n": [1, {"x": None}]}).to_ref()
    rebuilt = manager.from_ref(json.loads(json.dumps(ref)))
    assert rebuilt.to_ref() == ref
    assert rebuilt.resolve_store("main") is manager.stores.get("main")


def test_a_reference_refuses_live_objects_and_secrets():
    with pytest.raises(NotJSONError, match=r"runtime\.data\.store"):
        runtime(data={"store": MemoryStore()}).to_ref()
    with pytest.raises(NotJSONError, match="never stored or sent"):
        runtime(data={"key": SecretValue("x")}).to_ref()
    with pytest.raises(RuntimeContextError, match="no runtime reference"):
        RuntimeContextManager().from_ref({"tenant_id": "acme"})


def test_activating_a_runtime_makes_it_current_with_its_tenant_and_restores_what_was():
    manager = RuntimeContextManager()
    outer, inner = manager.create_runtime("acme", "1"), manager.create_runtime("acme", "2")
    assert current_runtime.get() is None
    with pytest.raises(RuntimeContextError, match="No runtime is active"):
        get_current_runtime()
    with manager.activate(outer) as active:
        assert active is outer is get_current_runtime()
        assert get_current_tenant() == "acme"
        with manager.activate(inner):
            assert get_current_runtime() is inner
        assert get_current_runtime() is outer
    assert current_runtime.get() is None
    assert get_current_tenant() == ""


def test_a_runtime_is_not_entered_while_another_tenant_is_current():
    manager = RuntimeContextManager()
    with TenantContext("globex"):
        with pytest.raises(TenantContextError, match="'acme' cannot be entered while tenant 'globex'"):
            manager.activate(manager.create_runtime("acme", "1")).__enter__()
        assert get_current_tenant() == "globex"
    with TenantContext("acme"), manager.activate(manager.create_runtime("acme", "1")):
        assert get_current_tenant() == "acme"


def test_a_manager_over_one_context_is_its_block_sync_and_async_and_may_be_entered_again():
    one = runtime()
    manager = RuntimeContextManager(one)

    async def main() -> None:
        async with manager as active:
            assert active is get_current_runtime() is one
            with manager:
                assert get_current_runtime() is one
            assert get_current_runtime() is one

    asyncio.run(main())
    assert current_runtime.get() is None
    with pytest.raises(RuntimeContextError, match="use `with manager"):
        RuntimeContextManager().__enter__()


def test_tasks_that_share_an_activation_never_see_each_others_runtime():
    manager = RuntimeContextManager()

    async def one(instance: str, gate: asyncio.Event) -> str:
        async with manager.activate(manager.create_runtime("acme", instance)):
            await gate.wait()
            return get_current_runtime().instance_id

    async def main() -> list[str]:
        gate = asyncio.Event()
        tasks = [asyncio.create_task(one(str(n), gate)) for n in range(5)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == list("01234")


def test_a_step_context_has_defaults_for_what_the_engine_knows():
    step = StepContext(runtime(), "s")
    assert (step.visit, step.attempt, step.idempotency_key, step.deadline) == (1, 1, "", None)
    assert (step.inputs, step.outputs) == ((), ())
    assert isinstance(step.cancelled, threading.Event)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    step = runtime().child_context("s", visit=2, attempt=3, deadline=moment, inputs=("a",))
    assert (step.visit, step.attempt, step.deadline, step.inputs) == (2, 3, moment, ("a",))


def test_step_local_state_is_a_json_copy_and_says_when_it_changed():
    step = runtime().child_context("s", local_state={"seen": [1]})
    assert step.get_state("seen") == [1]
    assert step.dirty is False
    step.get_state("seen").append(2)
    assert step.get_state("seen") == [1]
    value = {"cursor": (1, 2)}
    step.set_state("at", value)
    value["cursor"] = ()
    assert step.get_state("at") == {"cursor": [1, 2]}
    assert (step.dirty, step.local_state) == (True, {"seen": [1], "at": {"cursor": [1, 2]}})
    assert step.get_state("never", "default") == "default"
    step.clear_state()
    assert (step.local_state, step.dirty) == ({}, True)
    with pytest.raises(NotJSONError, match=r"state\.x"):
        step.set_state("x", object())


def test_annotations_are_json_and_handed_out_as_a_copy():
    step = runtime().child_context("s")
    step.annotate("usage", {"input_tokens": 3})
    step.annotations["usage"] = None
    assert step.annotations == {"usage": {"input_tokens": 3}}
    with pytest.raises(NotJSONError, match=r"annotation\.key"):
        step.annotate("key", SecretValue("x"))


def test_secrets_that_a_step_was_given_can_be_taken_out_of_texts():
    step = runtime(secrets=Secrets()).child_context("s")
    assert step.redact("token hunter2-hunter2 refused") == "token hunter2-hunter2 refused"
    step.get_secret("api_key")
    assert step.redact("token hunter2-hunter2 refused") == "token *** refused"


def test_hooks_are_told_and_their_errors_end_in_the_log(caplog: pytest.LogCaptureFixture):
    told: list[str] = []
    good, bad = runtime(on_event=told.append), runtime(on_event=lambda event: 1 / 0)
    good.notify("on_event", "e")
    good.notify("on_step_start", "nobody")
    with caplog.at_level(logging.ERROR):
        bad.notify("on_event", "e")
    assert told == ["e"]
    assert "on_event of run r1 failed: ZeroDivisionError" in caplog.text


def test_the_process_has_one_manager_that_knows_offline():
    assert default_manager() is default_manager()
    assert isinstance(default_manager().llms.get("offline"), OfflineProvider)
    assert not default_manager().llms.has("default")


def test_closing_a_manager_closes_each_resource_once():
    closed: list[str] = []

    class Closing(MemoryStore):
        def close(self) -> None:
            closed.append("close")

    class AsyncClosing(EchoClient):
        async def aclose(self) -> None:
            closed.append("aclose")

    manager, store = RuntimeContextManager(), Closing()
    manager.register_store("a", store)
    manager.register_store("b", store)
    manager.register_client("c", AsyncClosing())
    manager.register_llm("offline", OfflineProvider())
    asyncio.run(manager.aclose())
    assert sorted(closed) == ["aclose", "close"]


def test_a_manager_is_given_a_context_or_nothing():
    with pytest.raises(TypeError, match="takes a RuntimeContext, not a str"):
        RuntimeContextManager("acme")  # type: ignore[arg-type]  # what is tested
