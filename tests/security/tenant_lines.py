"""A line for each method of the stores of tenants' records and values, and of what wakes those who wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llmteam.tenancy import TenantConfig, TenantIsolatedStore
from llmteam.tenancy.limits import TenantTier
from llmteam.tenancy.postgres import PostgresKeyValueStore, PostgresTenantStore
from llmteam.tenancy.postgres.storage import StorageMeter
from llmteam.tenancy.redis import RedisKeyValueStore
from llmteam.tenancy.stores import MemoryKeyValueStore, MemoryTenantStore
from llmteam.wakeup import channel
from llmteam.wakeup.redis import RedisWakeup
from tests.security.walking import Group, Line, Scene, operator, plain, settled

ADMINISTERED = "lists tenants for whoever runs the installation: `llmteam tenants`"


def _record(scene: Scene, name: str) -> TenantConfig:
    return TenantConfig(scene.me or scene.owner, name, TenantTier.ENTERPRISE)


def _seed_tenants(scene: Scene) -> None:
    scene.store.add(TenantConfig(scene.owner, scene.canary, TenantTier.ENTERPRISE, metadata={"said": scene.canary}))


TENANTS = Group(
    stores={
        PostgresTenantStore: lambda s: PostgresTenantStore(s.db),
        MemoryTenantStore: lambda s: MemoryTenantStore(),
    },
    seed=_seed_tenants,
    look=lambda s: (s.store.find(s.owner), s.store.start_limits(s.owner)),
    lines={
        "call": plain(lambda s: s.store.call(lambda: 1), "calls what it is given"),
        "find": Line(lambda s: s.store.find(s.me)),
        "start_limits": Line(lambda s: s.store.start_limits(s.me)),
        "add": Line(lambda s: s.store.add(_record(s, "mine"))),
        "put": Line(lambda s: s.store.put(_record(s, "mine"))),
        "remove": Line(lambda s: s.store.remove(s.me)),
        "forget": Line(lambda s: s.store.forget(s.me)),
        "get": Line(lambda s: s.store.get(s.me)),
        "create": Line(lambda s: s.store.create(_record(s, "mine"))),
        "update": Line(lambda s: s.store.update(_record(s, "mine"))),
        "delete": Line(lambda s: s.store.delete(s.me)),
        "hard_delete": Line(lambda s: s.store.hard_delete(s.me)),
        "page": operator(lambda s: s.store.page(None, 0, True), ADMINISTERED),
        "number": operator(lambda s: s.store.number(True), ADMINISTERED),
        "list": operator(lambda s: s.store.list(10_000), ADMINISTERED),
        "list_by_tier": operator(lambda s: s.store.list_by_tier(TenantTier.ENTERPRISE), ADMINISTERED),
        "count": operator(lambda s: s.store.count(), ADMINISTERED),
    },
    also={
        MemoryTenantStore: {
            "clear": operator(lambda s: s.store.clear(), "forgets the tenants of a process that has no other"),
        }
    },
)


def _seed_storage(scene: Scene) -> None:
    record = TenantConfig(scene.owner, scene.canary, TenantTier.FREE, metadata={"said": scene.canary})
    PostgresTenantStore(scene.db).add(record)


STORAGE = Group(
    stores={StorageMeter: lambda s: StorageMeter(s.db)},
    seed=_seed_storage,
    lines={
        "meter": Line(lambda s: s.store.meter(s.me).size),
        "meter_due": operator(lambda s: s.store.meter_due(10_000), "a sweep meters every tenant, as that tenant"),
    },
)


def _isolated(scene: Scene) -> TenantIsolatedStore:
    """The store as tenants get it."""
    return TenantIsolatedStore(scene.store)


def _seed_values(scene: Scene) -> None:
    with scene.acting(scene.owner):
        settled(_isolated(scene).set("key", scene.canary))
    scene.me = ""


def _stored(scene: Scene) -> str:
    """The owner's key as it is stored, and what a stranger might take for a way there."""
    return f"{scene.owner}:key"


def _values(scene: Scene) -> Any:
    async def look() -> Any:
        store = _isolated(scene)
        return await store.list(), await store.get_many(await store.list())

    return settled(look())


def _tried(name: str, *more: Any) -> Line:
    """A method with the owner's key; and, as the stranger, with the key as it is stored, and ways out of one's part."""

    def way(key: str) -> Any:
        return lambda scene: getattr(_isolated(scene), name)(key.format(owner=scene.owner), *more)

    async def each(scene: Scene) -> Any:
        ways = ("{owner}:key", ":{owner}:key", "../{owner}:key", "*", "[a-z]*", "\\{owner}")
        return [await way(key)(scene) for key in ways]

    return Line(way("key"), further=each)


def _tried_many(name: str, make: Any) -> Line:
    return Line(
        lambda s: getattr(_isolated(s), name)(make(["key"])),
        further=lambda s: getattr(_isolated(s), name)(make([_stored(s), "*"])),
    )


async def _list(scene: Scene) -> Any:
    store = _isolated(scene)
    return [await store.list(prefix) for prefix in ("", "*", "key", "[a-z]", scene.owner)][: 5 if scene.me else 1]


VALUES = Group(
    stores={
        PostgresKeyValueStore: lambda s: PostgresKeyValueStore(s.db),
        RedisKeyValueStore: lambda s: RedisKeyValueStore(s.valkey),
        MemoryKeyValueStore: lambda s: MemoryKeyValueStore(),
    },
    seed=_seed_values,
    look=_values,
    lines={
        "get": _tried("get"),
        "set": _tried("set", "mine"),
        "delete": _tried("delete"),
        "exists": _tried("exists"),
        "list": Line(_list),
        "get_many": _tried_many("get_many", list),
        "set_many": _tried_many("set_many", lambda keys: dict.fromkeys(keys, "mine")),
        "delete_many": _tried_many("delete_many", list),
    },
    also={
        PostgresKeyValueStore: {
            "list_everything": operator(lambda s: s.store.list_everything(), "the names of keys, for administration")
        },
        RedisKeyValueStore: {"close": plain(lambda s: s.store.close(), "lets go of connections")},
        MemoryKeyValueStore: {
            "clear": operator(lambda s: s.store.clear(), "forgets the values of a process that has no other"),
        },
    },
)

#: Isolated stores have one method more than those they are made of.
ISOLATED = Group(
    stores={TenantIsolatedStore: lambda s: TenantIsolatedStore(MemoryKeyValueStore())},
    seed=_seed_values,
    lines={"clear_tenant": Line(lambda s: s.store.clear_tenant())},
)


def _hears(scene: Scene) -> Any:
    """Whether a watch of the caller's wakes when something happens in the owner's run of that name."""
    watch = scene.store.watch(scene.me, "run-1")
    # A subscription that begins wakes once.
    watch.wait(5)
    scene.store.notify(channel(scene.owner, "run-1"))
    return watch.wait(10 if scene.me == scene.owner else 0.3)


WAKEUPS = Group(
    stores={RedisWakeup: lambda s: RedisWakeup(s.valkey)},
    seed=lambda s: setattr(s, "things", SimpleNamespace()),
    lines={
        "watch": Line(_hears),
        "notify": plain(lambda s: s.store.notify(channel(s.me, "run-1")), "says that something happened, not what"),
        "subscribe": plain(lambda s: s.store.subscribe(channel(s.me, "run-1")), "as watch, by the full name"),
        "watched": plain(lambda s: s.store.watched(), "names of this process's own watches"),
        "close": plain(lambda s: s.store.close(), "lets go of connections"),
    },
)
