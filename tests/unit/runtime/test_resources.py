from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.runtime import (
    Client,
    ClientRegistry,
    LLMProvider,
    LLMRegistry,
    NamespacedStore,
    OfflineProvider,
    ResourceAccessDeniedError,
    ResourceNotFoundError,
    RuntimeContextError,
    SecretsProvider,
    Store,
    StoreRegistry,
)
from llmteam.runtime.providers import EnvironmentSecrets


class MemoryStore:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    async def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)


class EchoClient:
    async def request(self, method: str, path: str, **kwargs: Any) -> Any:
        return method, path, kwargs


def test_the_protocols_can_be_checked_at_run_time():
    assert isinstance(MemoryStore(), Store)
    assert isinstance(EchoClient(), Client)
    assert isinstance(OfflineProvider(), LLMProvider)
    assert isinstance(EnvironmentSecrets(), SecretsProvider)
    assert not isinstance(object(), Store)


def test_a_registry_gives_back_the_very_object_and_the_last_registration_wins():
    registry, first, second = StoreRegistry(), MemoryStore(), MemoryStore()
    registry.register("main", first)
    assert registry.get("main") is first
    registry.register("main", second)
    assert registry.get("main") is second
    assert registry.list() == ["main"]


def test_nothing_cannot_be_registered():
    registry = StoreRegistry()

    with pytest.raises(TypeError, match="Store 'main' is None"):
        registry.register("main", None)  # type: ignore[arg-type]  # what is tested

    assert registry.list() == []


def test_unregistering_and_clearing_forget_and_unknown_ids_are_ignored():
    registry = ClientRegistry()
    registry.register("b", EchoClient())
    registry.register("a", EchoClient())
    assert registry.list() == ["a", "b"]
    registry.unregister("a")
    registry.unregister("never there")
    assert (registry.has("a"), registry.has("b")) == (False, True)
    registry.clear()
    assert registry.list() == []


@pytest.mark.parametrize(
    ("registry", "says"),
    [
        (StoreRegistry(), "Store 'main' not found"),
        (ClientRegistry(), "Client 'main' not found"),
        (LLMRegistry(), "LLM provider 'main' not found"),
    ],
)
def test_an_unknown_id_is_answered_with_what_is_there_and_what_to_do(registry: Any, says: str):
    with pytest.raises(ResourceNotFoundError, match=says) as caught:
        registry.get("main")
    assert "nothing is registered" in str(caught.value)
    assert "--import" in str(caught.value)
    assert caught.value.retryable is False
    assert isinstance(caught.value, RuntimeContextError)
    registry.register("other", MemoryStore())
    with pytest.raises(ResourceNotFoundError, match="registered: 'other'"):
        registry.get("main")


def test_a_resource_registered_for_some_tenants_is_refused_to_the_rest():
    registry, store = StoreRegistry(), MemoryStore()
    registry.register("main", store, tenants=["acme"])
    assert registry.resolve("main", "acme")[0] is store
    with pytest.raises(ResourceAccessDeniedError, match="not open to tenant 'globex'"):
        registry.resolve("main", "globex")
    with pytest.raises(TypeError, match="collection"):
        registry.register("main", store, tenants="acme")
    with pytest.raises(ValueError, match="not empty"):
        registry.register("", store)


def test_a_registry_may_be_changed_while_others_read_it():
    registry, stop = StoreRegistry(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            for name in registry.list():
                registry.has(name)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for number in range(500):
            registry.register(f"s{number % 50}", MemoryStore())
            registry.unregister(f"s{(number + 25) % 50}")
        stop.set()
    assert [reader.result() for reader in readers] == [None] * 4


IDS = st.text(alphabet="ab/%2F", min_size=0, max_size=6)


@given(st.tuples(IDS, IDS, IDS), st.tuples(IDS, IDS, IDS))
def test_two_instances_never_meet_on_a_key_whatever_their_ids_look_like(one: tuple, other: tuple):
    shared = MemoryStore()

    async def main() -> Any:
        await NamespacedStore(shared, one[0], one[1]).set(one[2], "mine")
        return await NamespacedStore(shared, other[0], other[1]).get(other[2])

    found = asyncio.run(main())
    assert (found == "mine") == (one == other)


def test_a_namespaced_store_keeps_deletes_to_itself():
    shared = MemoryStore()
    a, b = NamespacedStore(shared, "acme", "1"), NamespacedStore(shared, "acme", "2")

    async def main() -> Any:
        await a.set("k", 1)
        await b.set("k", 2)
        await a.delete("k")
        return await a.get("k"), await b.get("k")

    assert asyncio.run(main()) == (None, 2)
    assert list(shared.values) == ["acme/2/k"]
