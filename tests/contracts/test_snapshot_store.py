"""The stores of snapshots keep the same promises, and the manager does over each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from llmteam.audit import AuditEventType, AuditQuery, AuditTrail, MemoryAuditStore
from llmteam.db import Database
from llmteam.masking import SecretValue
from llmteam.persistence import (
    HybridSnapshotStore,
    MemorySnapshotStore,
    PipelinePhase,
    PostgresSnapshotStore,
    RedisSnapshotStore,
    SnapshotIntegrityError,
    SnapshotManager,
    SnapshotSerializationError,
    SnapshotStore,
    SnapshotTooLargeError,
    SnapshotType,
)
from llmteam.persistence.documents import packed, sealed, unpacked
from llmteam.tenancy import TenantContext
from llmteam.tenancy.exceptions import TenantContextError
from tests.looping import in_a_loop
from tests.services import redis_client
from tests.snapshots import snapshot

KEY = b"k" * 32


@dataclass
class Shelf:
    """A store; ``damage`` changes what it keeps behind its back, by replacing one text by another."""

    store: SnapshotStore
    damage: Callable[[str, str], None]


SIZE = 100_000


def in_memory(request: pytest.FixtureRequest) -> Shelf:
    memory = MemorySnapshotStore(max_bytes=SIZE)

    def damage(old: str, new: str) -> None:
        for kept in memory._kept.values():
            for name, one in kept.items():
                kept[name] = replace(one, data=packed(unpacked(one.data).replace(old, new)))

    return Shelf(memory, damage)


def in_postgres(request: pytest.FixtureRequest) -> Shelf:
    database: Database = request.getfixturevalue("database")

    def damage(old: str, new: str) -> None:
        for tenant_id in ("acme", "globex", "default"):
            with database.tenant_transaction(tenant_id) as connection:
                connection.execute(
                    text("UPDATE llmteam.snapshots SET document = replace(document::text, :old, :new)::json"),
                    {"old": old, "new": new},
                )

    return Shelf(PostgresSnapshotStore(database, max_bytes=SIZE), damage)


def in_redis(request: pytest.FixtureRequest) -> Shelf:
    url: str = request.getfixturevalue("clean_valkey")

    def damage(old: str, new: str) -> None:
        with redis_client(url) as client:
            for key in client.scan_iter(match="*:snapshot:*"):
                data = unpacked(client.hget(key, "text") or b"").replace(old, new)
                client.hset(key, "text", packed(data))

    return Shelf(RedisSnapshotStore(url, max_bytes=SIZE), damage)


def in_both(request: pytest.FixtureRequest) -> Shelf:
    redis, postgres = in_redis(request), in_postgres(request)
    assert isinstance(redis.store, RedisSnapshotStore)
    assert isinstance(postgres.store, PostgresSnapshotStore)

    def damage(old: str, new: str) -> None:
        redis.damage(old, new)
        postgres.damage(old, new)

    return Shelf(HybridSnapshotStore(redis.store, postgres.store), damage)


SHELVES = {"memory": in_memory, "postgres": in_postgres, "redis": in_redis, "hybrid": in_both}


@pytest.fixture(params=SHELVES)
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    made = SHELVES[request.param](request)
    yield made
    if isinstance(made.store, RedisSnapshotStore):
        made.store.close()
    if isinstance(made.store, HybridSnapshotStore):
        made.store.redis.close()


@in_a_loop
async def test_what_is_saved_is_loaded_as_it_was(shelf: Shelf) -> None:
    taken = sealed(snapshot())

    await shelf.store.save(taken)
    taken.global_state["input"] = "changed since"

    with TenantContext("acme"):
        loaded = await shelf.store.load("s-1")
        assert loaded == sealed(snapshot())
        assert await shelf.store.load("unknown") is None


@in_a_loop
async def test_the_latest_comes_first_and_a_known_id_is_replaced(shelf: Shelf) -> None:
    for number in range(3):
        await shelf.store.save(snapshot(snapshot_id=f"s-{number}"))
    await shelf.store.save(snapshot(snapshot_id="s-1", current_step="again"))
    await shelf.store.save(snapshot(snapshot_id="old", created_at=datetime(2020, 1, 1, tzinfo=UTC)))
    await shelf.store.save(snapshot(snapshot_id="other", pipeline_id="p", run_id="r"))

    with TenantContext("acme"):
        latest = await shelf.store.load_latest("run-77")
        listed = await shelf.store.list("invoice_triage")
        few = await shelf.store.list("invoice_triage", 2)
    assert latest is not None
    assert latest.snapshot_id == "s-2"
    assert [one.snapshot_id for one in listed] == ["s-2", "s-1", "s-0", "old"]
    assert listed[1].current_step == "again"
    assert len(few) == 2


@in_a_loop
async def test_another_tenants_snapshots_are_not_there(shelf: Shelf) -> None:
    await shelf.store.save(snapshot())

    with TenantContext("globex"):
        assert await shelf.store.load("s-1") is None
        assert await shelf.store.load_latest("run-77") is None
        assert await shelf.store.list("invoice_triage") == []
        await shelf.store.delete("s-1")
        with pytest.raises(TenantContextError):
            await shelf.store.save(snapshot())
    with TenantContext("acme"):
        assert await shelf.store.load("s-1") is not None
        await shelf.store.delete("s-1")
        await shelf.store.delete("s-1")
        assert await shelf.store.load("s-1") is None


@in_a_loop
async def test_a_snapshot_that_was_changed_since_it_was_sealed_is_not_saved(shelf: Shelf) -> None:
    taken = sealed(snapshot())
    taken.agent_snapshots["risk"].state["score"] = 99

    with pytest.raises(SnapshotIntegrityError):
        await shelf.store.save(taken)
    with pytest.raises(SnapshotTooLargeError):
        await shelf.store.save(snapshot(global_state={"text": "x" * 100_000}))


@in_a_loop
async def test_both_forms_make_a_snapshot_that_can_be_restored(shelf: Shelf) -> None:
    manager = SnapshotManager(shelf.store)
    since = datetime(2026, 1, 2, tzinfo=UTC)

    with TenantContext("acme"):
        short = await manager.create_snapshot("p", {"a": {"since": since}}, {"reason": "lunch", "current_step": "s"})
        long = await manager.create_snapshot("p", "run-1", PipelinePhase.RUNNING, {"n": timedelta(hours=2)})
        result = await manager.restore_snapshot(short.snapshot_id)
        other = await manager.restore_snapshot(long.snapshot_id)
        nothing = await manager.restore_snapshot("unknown")

    assert nothing is None
    assert result
    assert (short.run_id, short.phase, short.snapshot_type) == ("p", PipelinePhase.PAUSED, SnapshotType.MANUAL)
    assert (result.agents_state, result.metadata["reason"], result.current_step) == (
        {"a": {"since": since}},
        "lunch",
        "s",
    )
    assert other
    assert (other.run_id, other.phase, other.global_state) == (
        "run-1",
        PipelinePhase.RUNNING,
        {"n": timedelta(hours=2)},
    )


@in_a_loop
async def test_an_agent_is_added_under_the_same_id(shelf: Shelf) -> None:
    manager = SnapshotManager(shelf.store, keys={"acme": KEY})
    with TenantContext("acme"):
        taken = await manager.create_snapshot("p", "r", PipelinePhase.RUNNING, {})

        await manager.save_agent_snapshot(taken, "a", {"n": 1}, {"seen": True}, tokens_used=3)
        await manager.save_agent_snapshot(taken, "a", {"n": 2}, {"seen": True}, tokens_used=4)

        listed = await manager.list_snapshots("p")
    assert listed == [taken]
    assert (taken.agents_state, taken.agent_snapshots["a"].tokens_used) == ({"a": {"n": 2}}, 4)


@in_a_loop
async def test_a_damaged_snapshot_restores_nothing_says_why_and_is_audited(shelf: Shelf) -> None:
    trail = AuditTrail(MemoryAuditStore())
    manager = SnapshotManager(shelf.store, trail)
    with TenantContext("acme"):
        taken = await manager.create_snapshot("p", {"risk": {"verdict": "granted"}}, {})
        shelf.damage("granted", "usurped")

        result = await manager.restore_snapshot(taken.snapshot_id)
        with pytest.raises(SnapshotIntegrityError, match="checksum"):
            await manager.restore_snapshot(taken.snapshot_id, strict=True)
        records = await trail.query(AuditQuery(success=False))

    assert result is not None
    assert not result
    assert (result.phase, result.agents_state, result.snapshot) == (PipelinePhase.FAILED, {}, None)
    assert "checksum" in result.warnings[0]
    assert [(one.resource_type, one.resource_id) for one in records] == [("pipeline_snapshot", taken.snapshot_id)] * 2
    assert "checksum" in records[0].error_message
    assert "usurped" not in records[0].error_message


@in_a_loop
async def test_a_snapshot_that_names_another_is_told_of_under_the_id_that_was_asked_for(shelf: Shelf) -> None:
    trail = AuditTrail(MemoryAuditStore())
    manager = SnapshotManager(shelf.store, trail)
    with TenantContext("acme"):
        taken = await manager.create_snapshot("p", {"risk": {"score": 1}}, {})
        shelf.damage(taken.snapshot_id, "00000000-0000-4000-8000-000000000000")

        result = await manager.restore_snapshot(taken.snapshot_id)
        records = await trail.query(AuditQuery(success=False))

    assert result is not None
    assert (result.success, result.snapshot_id) == (False, taken.snapshot_id)
    assert [one.resource_id for one in records] == [taken.snapshot_id]


@in_a_loop
async def test_a_forged_snapshot_is_refused_where_the_tenants_are_signed(shelf: Shelf) -> None:
    with TenantContext("acme"):
        forged = await SnapshotManager(shelf.store).create_snapshot("p", {"risk": {"score": 1}}, {})
        manager = SnapshotManager(shelf.store, keys={"acme": KEY})
        signed = await manager.create_snapshot("p", {"risk": {"score": 2}}, {})

        refused = await manager.restore_snapshot(forged.snapshot_id)
        accepted = await manager.restore_snapshot(signed.snapshot_id)

    assert refused is not None
    assert not refused
    assert "signature" in refused.warnings[0]
    assert accepted


@in_a_loop
async def test_who_takes_restores_and_deletes_is_in_the_trail(shelf: Shelf) -> None:
    trail = AuditTrail(MemoryAuditStore())
    manager = SnapshotManager(shelf.store, trail)
    with TenantContext("acme"):
        taken = await manager.create_snapshot("p", "r", "paused", {}, snapshot_type="pause")
        await manager.create_snapshot("p", "r", "running", {})
        await manager.restore_snapshot(taken.snapshot_id)
        await manager.delete_snapshot(taken.snapshot_id)
        records = await trail.query(AuditQuery())

    assert [one.event_type for one in reversed(records)] == [
        AuditEventType.PIPELINE_PAUSED,
        AuditEventType.DATA_CREATED,
        AuditEventType.PIPELINE_RESUMED,
        AuditEventType.DATA_DELETED,
    ]
    assert records[-1].metadata == {"pipeline_id": "p", "run_id": "r", "phase": "paused", "type": "pause"}


@in_a_loop
async def test_what_the_caller_lacks_is_left_out_with_a_warning(shelf: Shelf) -> None:
    manager = SnapshotManager(shelf.store)
    taken = await manager.create_snapshot("p", {"here": {"n": 1}, "gone": {"n": 2}}, {"pipeline_version": "1"})

    result = await manager.restore_snapshot(taken.snapshot_id, agents=["here"], pipeline_version="2")

    assert result
    assert (result.skipped_agents, result.agents_state) == (["gone"], {"here": {"n": 1}})
    assert len(result.warnings) == 2


@in_a_loop
async def test_a_secret_is_refused_and_nothing_is_kept(shelf: Shelf) -> None:
    manager = SnapshotManager(shelf.store)

    with pytest.raises(SnapshotSerializationError, match=r"\$.agent_snapshots.a.state.key"):
        await manager.create_snapshot("p", {"a": {"key": SecretValue("s3cr3t-value")}}, {})

    assert await manager.list_snapshots("p") == []


@in_a_loop
async def test_a_snapshot_is_taken_each_so_many_steps(shelf: Shelf) -> None:
    manager = SnapshotManager(shelf.store, auto_snapshot_interval=2)
    steps = ["a", "b", "c", "d", "e"]

    for number in range(6):
        await manager.on_step_complete("p", "r", {}, completed_steps=steps[:number])

    listed = await manager.list_snapshots("p")
    assert [len(one.completed_steps) for one in listed] == [4, 2]
    assert {one.snapshot_type for one in listed} == {SnapshotType.AUTO}


@in_a_loop
async def test_the_oldest_of_a_tenant_goes_when_memory_is_full() -> None:
    store = MemorySnapshotStore(max_snapshots=2)
    await store.save(snapshot(tenant_id="globex"))
    for number in range(3):
        await store.save(snapshot(snapshot_id=f"s-{number}"))

    with TenantContext("acme"):
        assert [one.snapshot_id for one in await store.list("invoice_triage")] == ["s-2", "s-1"]
    with TenantContext("globex"):
        assert len(await store.list("invoice_triage")) == 1
