"""The stores of contexts keep the same promises, and so do the contexts of runs over each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from llmteam.audit import AuditTrail, MemoryAuditStore
from llmteam.context import (
    ContextAccessPolicy,
    ContextConflictError,
    Contexts,
    ContextStore,
    MemoryContextStore,
    PostgresContextStore,
    SealedDataAccessError,
    SensitivityLevel,
)
from llmteam.crypto import MasterKeys, NoEncryptionKeysError, SealBrokenError
from llmteam.db import Database
from llmteam.errors import ConfigurationError, NotJSONError
from llmteam.keys import (
    KeyStore,
    MemoryKeyStore,
    PostgresKeyStore,
    TenantKeyDestroyedError,
    TenantKeys,
    UnknownDataKeyError,
)
from tests.conformance.desk import at_once

CARD = "4111-1111-1111-1111"
MASTER = ("m", b"m" * 32)


@dataclass
class Place:
    """A store of contexts with one of keys. ``contexts()`` is what another process has over both."""

    store: ContextStore
    keys: KeyStore
    contents: Callable[[], str]

    def contexts(self, *masters: tuple[str, bytes]) -> Contexts:
        return Contexts(self.store, TenantKeys(self.keys, MasterKeys(masters or (MASTER,))).vault)


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        memory = MemoryContextStore()
        yield Place(memory, MemoryKeyStore(), lambda: repr(memory._kept))
        return
    database: Database = request.getfixturevalue("database")

    def contents() -> str:
        found = []
        for tenant in ("acme", "globex"):
            with database.hot(tenant) as hot:
                found.append(hot.script("SELECT c::text FROM llmteam.agent_contexts c"))
        return repr(found)

    yield Place(PostgresContextStore(database), PostgresKeyStore(database), contents)


# -- the store


def test_what_was_written_is_read_again(place: Place) -> None:
    store = place.store

    assert store.load("acme", "run", "one") is None
    assert store.save("acme", "run", "one", {"n": [1, {"a": None}]}, 0) == 1
    assert store.save("acme", "run", "two", {}, 0) == 1
    assert store.save("acme", "run", "one", {"n": 2}, 1) == 2

    found = store.load("acme", "run", "one")
    assert found is not None
    assert (found.path, found.version, found.document) == ("one", 2, {"n": 2})
    assert [one.path for one in store.all("acme", "run")] == ["one", "two"]


def test_each_tenant_and_run_has_its_own(place: Place) -> None:
    place.store.save("acme", "run", "one", {"whose": "acme"}, 0)

    assert place.store.load("globex", "run", "one") is None
    assert place.store.load("acme", "other", "one") is None
    assert place.store.all("globex", "run") == []
    assert place.store.delete("globex", "run") == 0
    assert place.store.save("globex", "run", "one", {"whose": "globex"}, 0) == 1
    assert place.store.delete("acme", "run") == 1
    assert [one.document for one in place.store.all("globex", "run")] == [{"whose": "globex"}]


@pytest.mark.parametrize("version", [0, 2, 7])
def test_writing_over_another_version_is_a_conflict_and_changes_nothing(place: Place, version: int) -> None:
    place.store.save("acme", "run", "one", {"n": 1}, 0)

    with pytest.raises(ContextConflictError) as caught:
        place.store.save("acme", "run", "one", {"n": 2}, version)

    assert caught.value.retryable is True
    found = place.store.load("acme", "run", "one")
    assert found is not None
    assert found.document == {"n": 1}


def test_of_many_that_write_at_once_one_succeeds(place: Place) -> None:
    def write(number: int) -> bool:
        try:
            place.store.save("acme", "run", "one", {"n": number}, 0)
        except ContextConflictError:
            return False
        return True

    assert sum(at_once([lambda number=number: write(number) for number in range(8)])) == 1


def test_what_json_cannot_carry_is_refused(place: Place) -> None:
    with pytest.raises(NotJSONError, match="context"):
        place.store.save("acme", "run", "one", {"n": {1, 2}}, 0)


# -- contexts of runs


def test_what_an_agent_seals_it_reads_again_in_another_process_and_nothing_in_the_store_shows_it(place: Place) -> None:
    with place.contexts().open("acme", "run", "charge", name="Charge") as context:
        context.set_sealed("card", CARD)
        context.set_data("note", {"said": f"card {CARD}", "fine": True})
        context.update_status("running")

    with place.contexts().open("acme", "run", "charge") as context:
        assert context.get_sealed("card") == CARD
        assert context.data == {"note": {"said": "card ***", "fine": True}}
        assert (context.agent_name, context.status) == ("Charge", "running")
    assert "4111-1111" not in place.contents()
    assert "s1." in place.contents()


def test_a_block_that_fails_writes_nothing_and_one_that_changes_nothing_no_version(place: Place) -> None:
    contexts = place.contexts()
    with pytest.raises(ZeroDivisionError), contexts.open("acme", "run", "charge") as context:
        context.set_data("note", 1 / 0)
    assert place.store.load("acme", "run", "charge") is None

    for _ in range(3):
        with contexts.open("acme", "run", "charge") as context:
            assert context.status == "idle"

    found = place.store.load("acme", "run", "charge")
    assert found is not None
    assert found.version == 1


def test_two_attempts_at_once_do_not_overwrite_each_other(place: Place) -> None:
    contexts = place.contexts()
    with contexts.open("acme", "run", "charge") as context:
        context.set_data("n", 1)

    slow, quick = (contexts.open("acme", "run", "charge") for _ in range(2))
    slow.__enter__().set_data("n", 3)
    with quick as context:
        context.set_data("n", 2)
    with pytest.raises(ContextConflictError):
        slow.__exit__(None, None, None)

    with contexts.open("acme", "run", "charge") as context:
        assert context.data == {"n": 2}


def test_no_other_agent_tenant_or_run_opens_it(place: Place) -> None:
    contexts = place.contexts()
    with contexts.open("acme", "run", "charge") as context:
        context.set_sealed("card", CARD)
    (stored,) = place.store.all("acme", "run")

    for ident in (("acme", "run", "other"), ("acme", "second", "charge"), ("globex", "run", "charge")):
        place.store.save(*ident, stored.document, 0)
        with (
            contexts.open(*ident) as moved,
            pytest.raises((SealedDataAccessError, SealBrokenError, UnknownDataKeyError)),
        ):
            moved.get_sealed("card", "charge")
        with (
            contexts.open(*ident) as moved,
            pytest.raises((SealedDataAccessError, SealBrokenError, UnknownDataKeyError)),
        ):
            moved.get_sealed("card")


def test_the_orchestrator_of_the_run_sees_its_agents_and_nobody_reads_what_is_sealed(place: Place) -> None:
    contexts, trail = place.contexts(), MemoryAuditStore()
    for name, errors in (("charge", 2), ("mail", 3)):
        with contexts.open("acme", "run/1", name) as context:
            context.set_sealed("card", CARD)
            for _ in range(errors):
                context.increment_error_count()
    with contexts.open("acme", "run/1", "quiet", policy=ContextAccessPolicy(sensitivity=SensitivityLevel.SECRET)):
        pass

    views = contexts.views("acme", "run/1", audit_trail=AuditTrail(trail, tenant_id="acme"))
    tree = contexts.tree("acme", "run/1")

    assert (views["charge"]["error_count"], views["charge"]["sealed_fields"]) == (2, ["card"])
    assert views["quiet"]["access"] == "denied"
    assert CARD not in repr(views)
    assert tree.aggregated["error_count"] == 5
    assert [record.event_type.name for record in trail.get_all()] == ["ACCESS_DENIED"]
    charge = tree.children["charge"].secure_context
    assert charge is not None
    for requester in (None, "", "charge", "run/1"):
        with pytest.raises(SealedDataAccessError):
            charge.get_sealed("card", requester)


def test_reads_and_refusals_are_audited_with_the_run(place: Place) -> None:
    trail = MemoryAuditStore()
    with place.contexts().open("acme", "run", "charge", audit_trail=AuditTrail(trail, tenant_id="acme")) as context:
        context.set_sealed("card", CARD)
        context.get_sealed("card")
        with pytest.raises(SealedDataAccessError):
            context.get_sealed("card", "mail")

    told = [(record.event_type.name, record.run_id, record.actor_id, record.success) for record in trail.get_all()]
    assert told == [
        ("SEALED_DATA_ACCESSED", "run", "charge", True),
        ("ACCESS_DENIED", "run", "charge as mail", False),
    ]


def test_a_context_opens_from_an_event_loop(place: Place) -> None:
    async def both() -> Any:
        async with place.contexts().open("acme", "run", "charge") as context:
            context.set_sealed("card", CARD)
        async with place.contexts().open("acme", "run", "charge") as context:
            return context.get_sealed("card")

    assert asyncio.run(both()) == CARD


def test_without_a_master_key_contexts_work_and_sealing_says_what_to_set(place: Place) -> None:
    contexts = Contexts(place.store, TenantKeys(place.keys, MasterKeys()).vault)

    with contexts.open("acme", "run", "charge") as context:
        context.set_data("note", 1)
        with pytest.raises(NoEncryptionKeysError, match="LLMTEAM_ENCRYPTION_KEYS"):
            context.set_sealed("card", CARD)

    assert contexts.views("acme", "run")["charge"]["data"] == {"note": 1}


@pytest.mark.parametrize("masters", [(), [("other", b"o" * 32)]])
def test_who_has_no_key_sees_what_is_not_sealed(place: Place, masters: list[tuple[str, bytes]]) -> None:
    with place.contexts().open("acme", "run", "charge") as context:
        context.set_sealed("card", CARD)
        context.set_data("note", f"said {CARD}")
    without = Contexts(place.store, TenantKeys(place.keys, MasterKeys(masters)).vault)

    assert without.views("acme", "run")["charge"]["data"] == {"note": "said ***"}
    with without.open("acme", "run", "charge") as context, pytest.raises(ConfigurationError):
        context.get_sealed("card")


def test_after_the_tenants_key_is_destroyed_what_it_sealed_is_gone_and_the_rest_is_not(place: Place) -> None:
    with place.contexts().open("acme", "run", "charge") as context:
        context.set_sealed("card", CARD)
        context.set_data("note", 1)

    TenantKeys(place.keys, MasterKeys([MASTER])).destroy("acme")

    with place.contexts().open("acme", "run", "charge") as context, pytest.raises(TenantKeyDestroyedError):
        context.get_sealed("card")
    assert place.contexts().views("acme", "run")["charge"]["data"] == {"note": 1}
