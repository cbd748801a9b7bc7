"""A line for each method of the stores of snapshots, and of what carries paused runs elsewhere."""

from __future__ import annotations

from dataclasses import replace

from llmteam import codec
from llmteam.audit.models import AuditDraft, AuditEventType
from llmteam.canvas.portable import carried, packed
from llmteam.canvas.postgres.carrying import PostgresCarrying
from llmteam.canvas.postgres.store import PostgresRunStore
from llmteam.canvas.surgery import Surgery
from llmteam.ids import utc_now
from llmteam.persistence import (
    HybridSnapshotStore,
    MemorySnapshotStore,
    PipelineSnapshot,
    PostgresSnapshotStore,
    RedisSnapshotStore,
)
from llmteam.persistence.documents import read, sealed, written
from llmteam.tenancy.admission import StartLimits
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import new_run
from tests.drawing import draw
from tests.security.run_lines import engine_of
from tests.security.walking import Group, Line, Scene, plain, settled
from tests.snapshots import snapshot


def _taken(tenant_id: str, said: str) -> PipelineSnapshot:
    return snapshot(tenant_id=tenant_id, global_state={"said": said})


def _seed_snapshots(scene: Scene) -> None:
    with scene.acting(scene.owner):
        settled(scene.store.save(_taken(scene.owner, scene.canary)))


def _put(scene: Scene) -> None:
    taken = sealed(_taken(scene.me, "mine"))
    scene.store.put(scene.store.server.client, scene.me, taken, written(taken))


_CLOSES = plain(lambda s: s.store.close(), "lets go of connections")

SNAPSHOTS = Group(
    stores={
        PostgresSnapshotStore: lambda s: PostgresSnapshotStore(s.db),
        RedisSnapshotStore: lambda s: RedisSnapshotStore(s.valkey),
        HybridSnapshotStore: lambda s: HybridSnapshotStore(RedisSnapshotStore(s.valkey), PostgresSnapshotStore(s.db)),
        MemorySnapshotStore: lambda s: MemorySnapshotStore(),
    },
    seed=_seed_snapshots,
    look=lambda s: settled(s.store.load("s-1")),
    lines={
        "save": Line(
            lambda s: s.store.save(_taken(s.me, "mine")), naming=lambda s: s.store.save(_taken(s.owner, "mine"))
        ),
        "load": Line(lambda s: s.store.load("s-1")),
        "load_latest": Line(lambda s: s.store.load_latest("run-77")),
        "list": Line(lambda s: s.store.list("invoice_triage")),
        "delete": Line(lambda s: s.store.delete("s-1")),
    },
    also={
        PostgresSnapshotStore: {
            "close": _CLOSES,
            "entries": Line(lambda s: s.store.entries("pipeline", "invoice_triage", 10)),
            "texts": Line(lambda s: s.store.texts(["s-1"])),
        },
        RedisSnapshotStore: {
            "close": _CLOSES,
            "erase": Line(lambda s: s.store.erase(s.me), naming=lambda s: s.store.erase(s.owner)),
            "put": Line(_put),
            "texts": Line(lambda s: s.store.texts(s.store.server.client, s.me, ["s-1"])),
            "drop": Line(lambda s: s.store.drop(s.store.server.client, s.me, "s-1")),
        },
        HybridSnapshotStore: {"close": _CLOSES},
        MemorySnapshotStore: {
            "find": Line(lambda s: s.store.find(s.me, "s-1")),
            "take": Line(lambda s: s.store.take(sealed(_taken(s.me, "mine")))),
            "forget_runs": Line(lambda s: s.store.forget_runs({(s.me, "run-77")})),
        },
    },
)


def _seed_paused(scene: Scene) -> None:
    engine = engine_of(PostgresRunStore(scene.db))
    run = new_run(draw("a -> b"), "r-1", input_text=codec.dumps({"said": scene.canary}))
    facts = {type_id: found.model_dump(mode="json") for type_id, found in run.pinned.facts.items()}
    key = codec.digest(codec.canonical([run.pinned.definition.to_dict(), facts]))
    assert engine.submit(replace(run, tenant_id=scene.owner, pinned=replace(run.pinned, hash=key)))
    assert Surgery(engine, MemoryWakeup()).pause(scene.owner, "r-1", 0.0)
    rows = scene.store.read(scene.owner, "r-1")
    scene.things.run = carried(packed(read(rows["snapshots"][0]["document"]), rows), scene.owner)


_TOLD = AuditDraft(event_type=AuditEventType.DATA_IMPORTED, action="import")

CARRIED = Group(
    stores={PostgresCarrying: lambda s: PostgresCarrying(s.db, StartLimits())},
    seed=_seed_paused,
    lines={
        "read": Line(lambda s: s.store.read(s.me, "r-1")),
        "write": Line(lambda s: s.store.write(s.me, s.things.run, _TOLD, utc_now())),
    },
)
