"""A line for each method of the stores of runs, of what sweeps look at, and of published segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from llmteam import codec
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import MAX_RETRY_AFTER, Execution, Limits
from llmteam.canvas.keeper import holding_of
from llmteam.canvas.memory import MemorySweeps
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.reads import PostgresReads
from llmteam.canvas.postgres.store import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.records import NewRun
from llmteam.canvas.registry.postgres import PostgresSegmentRegistry
from llmteam.canvas.registry.stores import MemorySegmentRegistry
from llmteam.canvas.stores import MemoryRunStore
from llmteam.canvas.surgery import Surgery
from llmteam.dispatch import Hint
from llmteam.ids import new_id, utc_now
from llmteam.mining.postgres import PostgresRunReader
from llmteam.mining.records import Selection
from llmteam.runtime import RuntimeContext
from llmteam.tenancy import TenantConfig
from llmteam.tenancy.admission import limits_of
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import Outbox, new_run
from tests.drawing import draw
from tests.security.walking import Group, Line, Scene, operator, plain

KEY = ("a", 1)
LEASE = timedelta(seconds=30)
AGO = timedelta(seconds=-1)


class Caught(Exception):  # noqa: N818  # no error: it ends a call whose arguments are wanted
    """The arguments with which a method of the store would have been called."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.given = (args, kwargs)


class Rehearsal:
    """A store whose method ``name`` is not called."""

    def __init__(self, store: Any, name: str) -> None:
        self._store = store
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return self._stop if name == self._name else getattr(self._store, name)

    @staticmethod
    def _stop(*args: Any, **kwargs: Any) -> Any:
        raise Caught(args, kwargs)


def engine_of(store: Any) -> Engine:
    return Engine(
        store,
        handler_of=lambda type_id: None,
        runtime_of=lambda header: RuntimeContext(header.tenant_id, "", header.run_id, header.segment_id),
        dispatcher=Outbox(),
        limits=Limits(),
        holder="walk",
        chance=lambda: 0.0,
    )


def arguments(store: Any, name: str, act: Callable[[Engine], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """With what the engine calls a method of the store."""
    try:
        act(engine_of(Rehearsal(store, name)))
    except Caught as caught:
        return caught.given
    raise AssertionError(f"{name} was not called")


def run_of(scene: Scene, run_id: str, *lines: str, **fields: Any) -> NewRun:
    segment = draw(*(lines or ("a -> b",)), config={"a": {"note": scene.canary}})
    return replace(
        new_run(segment, run_id, input_text=codec.dumps({"said": scene.canary})), tenant_id=scene.owner, **fields
    )


def seed_runs(scene: Scene) -> None:
    """Runs of the owner in every state that a method asks for."""
    store = scene.store if hasattr(scene.store, "create") else PostgresRunStore(scene.db)
    engine, owner = engine_of(store), scene.owner
    things = scene.things = SimpleNamespace(
        store=store, done=new_id(), going=new_id(), ready=new_id(), paused=new_id(), queued=new_id()
    )
    assert engine.submit(run_of(scene, things.done, "a", idempotency_key="order-17"))
    assert engine.answered(_claimed(engine, owner, things.done), scene.canary).applied
    assert engine.submit(run_of(scene, things.going))
    things.execution = _claimed(engine, owner, things.going)
    assert engine.submit(run_of(scene, things.ready))
    assert engine.submit(run_of(scene, things.paused))
    things.snapshot = Surgery(engine, MemoryWakeup()).pause(owner, things.paused)
    _let_starts_queue(scene)
    assert engine.submit(run_of(scene, things.queued))
    things.hash = run_of(scene, "").pinned.hash
    things.create = arguments(store, "create", lambda one: one.submit(run_of(scene, new_id())))
    things.claim = arguments(store, "claim", lambda one: one.begin(Hint(owner, things.ready, *KEY, "")))
    things.apply = arguments(store, "apply", lambda one: one.answered(things.execution, scene.canary))
    fork = arguments(
        store, "create", lambda one: Surgery(one, MemoryWakeup()).fork(owner, things.done, "a", given={"b": 1})
    )
    things.fork = fork
    things.header = store.header(owner, things.going)


def _claimed(engine: Engine, tenant: str, run_id: str) -> Execution:
    execution = engine.begin(Hint(tenant, run_id, *KEY, ""))
    assert execution is not None
    return execution


def _let_starts_queue(scene: Scene) -> None:
    config = TenantConfig(scene.owner, scene.canary, max_concurrent_pipelines=1, when_full="queue")
    if scene.database is None:
        scene.things.limits = limits_of(config)
    else:
        PostgresTenantStore(scene.db).add(config)


def look_at_runs(scene: Scene) -> Any:
    if scene.database is not None:
        return None
    store, owner = scene.things.store, scene.owner
    return [
        (record, store.steps(owner, record.run_id), store.outputs(owner, record.run_id))
        for record in store.records(owner)
    ]


def _create(scene: Scene) -> Any:
    """A run under the name of one of the owner's."""
    (run, change, nodes), _ = scene.things.create
    return scene.store.create(replace(run, tenant_id=scene.me, run_id=scene.things.done), change, nodes)


def _take_over(scene: Scene) -> Any:
    """A run that goes on from what the owner's has done: nothing of that comes along."""
    (run, change, nodes), _ = scene.things.fork
    made = scene.store.create(replace(run, tenant_id=scene.me, run_id=new_id()), change, nodes)
    return made, [scene.store.steps(scene.me, one.run_id) for one in scene.store.records(scene.me)]


def _claim(scene: Scene) -> Any:
    (work, *more), kwargs = scene.things.claim
    return scene.store.claim(replace(work, header=replace(work.header, tenant_id=scene.me)), *more, **kwargs)


def _apply(scene: Scene) -> Any:
    (header, *more), kwargs = scene.things.apply
    return scene.store.apply(replace(header, tenant_id=scene.me), *more, **kwargs)


def _take_hold(scene: Scene) -> Any:
    """What the one who seals a run gets to see of it."""
    seen: list[Any] = []

    def seal(*given: Any) -> Any:
        seen.append(given)
        raise LookupError(seen)

    return scene.store.take_hold(replace(scene.things.header, tenant_id=scene.me), seal, now=utc_now())


def holdings(scene: Scene) -> list[Any]:
    return [replace(holding_of(scene.things.execution), tenant_id=scene.me)]


_READS = {
    "definition": Line(lambda s: s.store.definition(s.me, s.things.hash)),
    "gather": Line(lambda s: s.store.gather(s.me, s.things.ready, KEY)),
    "snapshot": Line(lambda s: s.store.snapshot(s.me, s.things.snapshot)),
    "renew": Line(lambda s: s.store.renew(holdings(s), LEASE)),
    "lost": Line(lambda s: s.store.lost(holdings(s))),
    "queued": Line(lambda s: s.store.queued(s.me)),
    "ready": Line(lambda s: s.store.ready(s.me, s.things.ready)),
    "taken": Line(lambda s: (s.store.taken(s.me, s.things.done, None), s.store.taken(s.me, None, "order-17"))),
    "input": Line(lambda s: s.store.input(s.me, s.things.done)),
    "header": Line(lambda s: s.store.header(s.me, s.things.done)),
    "record": Line(lambda s: s.store.record(s.me, s.things.done)),
    "records": Line(lambda s: s.store.records(s.me)),
    "steps": Line(lambda s: s.store.steps(s.me, s.things.done)),
    "outputs": Line(lambda s: s.store.outputs(s.me, s.things.done)),
}

READS = Group(
    stores={PostgresReads: lambda s: PostgresReads(s.db, "default")}, seed=seed_runs, lines=_READS, look=look_at_runs
)

RUNS = Group(
    stores={
        PostgresRunStore: lambda s: PostgresRunStore(s.db),
        MemoryRunStore: lambda s: MemoryRunStore(
            limits_of=lambda tenant: getattr(s.things, "limits", None) if tenant == s.owner else None
        ),
    },
    seed=seed_runs,
    look=look_at_runs,
    lines={
        **_READS,
        "create": Line(_create, further=_take_over),
        "claim": Line(_claim),
        "apply": Line(_apply),
        "take_hold": Line(_take_hold),
    },
    also={
        MemoryRunStore: {
            "use_interactions": plain(
                lambda s: MemoryRunStore().use_interactions(s.store.interactions), "ties two stores of one process"
            )
        }
    },
)


SWEPT = "sweeps look after the runs of all tenants, and get to see names only"
INSTALLATION = "what sweeps say of themselves belongs to the installation"

_SWEEPS = {
    "take_due": operator(lambda s: s.store.take_due(10_000), SWEPT),
    "take_expired": operator(lambda s: s.store.take_expired(10_000), SWEPT),
    "late_runs": operator(lambda s: s.store.late_runs(10_000), SWEPT),
    "queued_tenants": operator(lambda s: s.store.queued_tenants(10_000), SWEPT),
    "purge": operator(lambda s: s.store.purge(AGO, 10_000), SWEPT),
    "record": plain(lambda s: s.store.record("steps", 1), INSTALLATION),
}


def _alone(scene: Scene) -> Any:
    with scene.store.alone() as alone:
        return alone


def _findings(scene: Scene) -> Any:
    found = scene.store.check()
    return found.runs, found.steps, found.rows


def seed_for_sweeps(scene: Scene) -> None:
    """Runs that everything is due of; in memory, those that the sweeps were made of."""
    swept = scene.store
    scene.store = scene.things.of_sweeps if scene.database is None else PostgresRunStore(scene.db)
    runs = scene.store
    seed_runs(scene)
    scene.store = swept
    scene.things.runs = runs
    make_due(scene, runs)


def make_due(scene: Scene, runs: Any) -> None:
    earlier = utc_now() - timedelta(hours=1)
    if scene.database is None:
        for run in runs._runs.values():
            run.rows = {key: (row.wake_at and replace(row, wake_at=earlier)) or row for key, row in run.rows.items()}
            run.wake_at = earlier if run.state.status.accepts_results else run.wake_at
        return
    with scene.db.hot(scene.owner) as connection:
        connection.script(
            "UPDATE llmteam.run_steps SET wake_at = %s, lease_until = lease_until - interval '1 hour' "
            "WHERE wake_at IS NOT NULL; UPDATE llmteam.runs SET wake_at = %s WHERE status = 'running'",
            (earlier, earlier),
        )


def _memory_sweeps(scene: Scene) -> MemorySweeps:
    store = MemoryRunStore(limits_of=lambda tenant: getattr(scene.things, "limits", None))
    scene.things.of_sweeps = store
    return store.sweeps


SWEEPS = Group(
    stores={PostgresSweeps: lambda s: PostgresSweeps(s.db), MemorySweeps: _memory_sweeps},
    seed=seed_for_sweeps,
    lines=_SWEEPS,
    look=look_at_runs,
    also={
        PostgresSweeps: {
            "ages": plain(lambda s: s.store.ages(), INSTALLATION),
            "alone": plain(_alone, "a lock of the installation"),
        }
    },
)


def _mined(scene: Scene) -> list[object]:
    """Runs with their events, which are read while the run is at hand."""
    return [(run, list(run.events)) for run in scene.store.runs(Selection(scene.me))]


MINING = Group(
    stores={PostgresRunReader: lambda s: PostgresRunReader(s.db)}, seed=seed_runs, lines={"runs": Line(_mined)}
)

CHECKS = Group(
    stores={PostgresChecks: lambda s: PostgresChecks(s.db, lease=LEASE, retry=MAX_RETRY_AFTER)},
    seed=seed_for_sweeps,
    lines={
        "check": operator(_findings, "`doctor` looks at the rows of all tenants, and says names only"),
        "clock": plain(lambda s: s.store.clock(), INSTALLATION),
    },
)


def _seed_segments(scene: Scene) -> None:
    segment = draw("a -> b", config={"a": {"note": scene.canary}})
    scene.things = SimpleNamespace(segment=segment, hash=segment.content_hash)
    scene.store.put(scene.owner, segment, scene.canary)


def _other_segment(scene: Scene) -> Any:
    """The same name and version, with another content."""
    return draw("a -> b -> c")


SEGMENTS = Group(
    stores={
        PostgresSegmentRegistry: lambda s: PostgresSegmentRegistry(s.db),
        MemorySegmentRegistry: lambda s: MemorySegmentRegistry(),
    },
    seed=_seed_segments,
    look=lambda s: (s.store.versions(s.owner, archived=True), s.store.find(s.owner, "drawn")),
    lines={
        "put": Line(lambda s: s.store.put(s.me, _other_segment(s))),
        "find": Line(lambda s: s.store.find(s.me, "drawn")),
        "versions": Line(lambda s: (s.store.versions(s.me), s.store.versions(s.me, "drawn", archived=True))),
        "retire": Line(lambda s: s.store.retire(s.me, "drawn", s.things.segment.version)),
        "fetch": Line(lambda s: s.store.fetch(s.me, "drawn")),
        "publish": Line(
            lambda s: s.store.publish(_other_segment(s)),
            naming=lambda s: s.store.publish(_other_segment(s), tenant_id=s.owner),
        ),
        "get": Line(lambda s: s.store.get("drawn"), naming=lambda s: s.store.get("drawn", tenant_id=s.owner)),
        "list": Line(lambda s: s.store.list(), naming=lambda s: s.store.list(tenant_id=s.owner)),
        "archive": Line(
            lambda s: s.store.archive("drawn", s.things.segment.version),
            naming=lambda s: s.store.archive("drawn", s.things.segment.version, tenant_id=s.owner),
        ),
    },
)
