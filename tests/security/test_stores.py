"""No method of any store gives a tenant anything of another one, and none is left out of the table."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from types import ModuleType

import pytest
from sqlalchemy import make_url

import llmteam
from llmteam.context.postgres import PostgresContextStore
from llmteam.context.stores import StoredContext
from llmteam.db import Database
from llmteam.persistence import HybridSnapshotStore
from tests.security import (
    bought_lines,
    limit_lines,
    people_lines,
    postgres_functions,
    run_lines,
    snapshot_lines,
    tenant_lines,
    trail_lines,
)
from tests.security.postgres_functions import Functions
from tests.security.walking import (
    Group,
    Line,
    Scene,
    TenantOnlyDatabase,
    UnboundDatabase,
    answer_of,
    leaks_of,
    reaches,
)
from tests.services import PostgresService, url_of

GROUPS: list[Group] = [
    *(run_lines.READS, run_lines.RUNS, run_lines.SWEEPS, run_lines.CHECKS, run_lines.SEGMENTS),
    *(people_lines.PEOPLE, people_lines.FACES, people_lines.DELIVERIES),
    *(trail_lines.AUDIT, trail_lines.EVENTS, trail_lines.CONTEXTS, trail_lines.KEYS),
    *(
        tenant_lines.TENANTS,
        tenant_lines.VALUES,
        tenant_lines.ISOLATED,
        tenant_lines.WAKEUPS,
        postgres_functions.FUNCTIONS,
    ),
    run_lines.MINING,
    *(bought_lines.LICENSES, bought_lines.ATTEMPTS),
    *(snapshot_lines.SNAPSHOTS, snapshot_lines.CARRIED),
    *(limit_lines.LIMITS, limit_lines.CIRCUITS, tenant_lines.STORAGE),
]
#: Modules in which stores are, by any part of their names.
PLACES = {"stores", "postgres", "memory", "redis"}
#: Classes beside them that keep nothing.
NO_STORES = {
    "llmteam.actions.handlers.postgres.SqlEngine": "a database of the user's own, to which statements of actions go",
    "llmteam.canvas.postgres.combining.Combining": "calls others' functions, several calls at once",
    "llmteam.ratelimit.redis.SharedServer": "asks for the stores of limits and circuits, whatever they ask",
}
WALK = [(group, store, name) for group in GROUPS for store in group.stores for name in group.lines_of(store)]
OPERATORS = [one for one in WALK if one[0].lines_of(one[1])[one[2]].kind == "operator"]


def said(one: tuple[Group, type, str]) -> str:
    return f"{one[1].__name__}.{one[2]}"


def modules_with_stores() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(llmteam.__path__, "llmteam."):
        if PLACES & set(found.name.split(".")):
            yield importlib.import_module(found.name)


def stores_of_the_package() -> Iterator[type]:
    for module in modules_with_stores():
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and keeps_something(kind):
                yield kind


def functions_of_the_package() -> Iterator[str]:
    """Those that are given a database or a connection."""
    for module in modules_with_stores():
        for name, one in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(one) or one.__module__ != module.__name__:
                continue
            if next(iter(inspect.signature(one).parameters), "") in postgres_functions.WALKED:
                yield f"{module.__name__.removeprefix('llmteam.')}.{name}"


def keeps_something(kind: type) -> bool:
    is_protocol = getattr(kind, "_is_protocol", False)
    is_private = kind.__name__.startswith("_")
    return not (
        is_private or is_protocol or inspect.isabstract(kind) or is_dataclass(kind) or issubclass(kind, Exception)
    )


def methods_of(kind: type) -> set[str]:
    return {name for name, one in inspect.getmembers(kind) if not name.startswith("_") and inspect.isroutine(one)}


@pytest.fixture(scope="module")
def database(postgres: PostgresService) -> Iterator[Database]:
    """One database for the whole walk; each step of it has two tenants of its own."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    yield database
    database.close()
    own.drop_all()


@pytest.fixture
def superuser_url(database: Database, postgres: PostgresService) -> str:
    return url_of(postgres.superuser_url, database.url.database or "")


Stage = Callable[..., Scene]


@pytest.fixture
def stage(database: Database, superuser_url: str, valkey: str) -> Iterator[Stage]:
    """Makes a scene: a store, an owner who has things in it, and a stranger."""
    made: list[Scene] = []

    def stage(group: Group, store: type, opened: Database | None = None) -> Scene:
        scene = Scene(look=group.look)
        made.append(scene)
        if store is HybridSnapshotStore or "postgres" in store.__module__:
            scene.database, scene.superuser_url, scene.look = database, superuser_url, lambda scene: None
        if store is HybridSnapshotStore or "redis" in store.__module__:
            scene.valkey = valkey
        make = group.stores[store]
        scene.store = make(scene)
        group.seed(scene)
        if opened is not None:
            scene.database = opened
            scene.store = make(scene)
        scene.things.used = scene.store
        return scene

    yield stage
    for scene in made:
        if isinstance(scene.store, HybridSnapshotStore):
            scene.store.redis.close()
        elif "redis" in type(scene.store).__module__:
            scene.store.close()


def test_every_method_of_every_store_has_a_line_and_every_line_a_method() -> None:
    lines = {store: set(group.lines_of(store)) for group in GROUPS for store in group.stores}
    found = {store: methods_of(store) for store in stores_of_the_package() if where(store) not in NO_STORES}

    missing = {where(store): methods - lines.get(store, set()) for store, methods in found.items()}
    idle = {where(store): names - methods_of(store) for store, names in lines.items() if store is not Functions}

    assert not any(missing.values()), {name: methods for name, methods in missing.items() if methods}
    assert not any(idle.values()), {name: names for name, names in idle.items() if names}
    assert set(NO_STORES) <= {where(store) for store in stores_of_the_package()}


def test_every_function_on_a_database_has_a_line_and_every_line_a_function() -> None:
    assert set(functions_of_the_package()) == set(postgres_functions.FUNCTIONS.lines)


def where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def test_what_is_not_a_tenants_own_says_why() -> None:
    unexplained = [said(one) for one in WALK if (line := line_of(*one)).kind != "own" and len(line.reason) < 10]

    assert unexplained == []


def line_of(group: Group, store: type, name: str) -> Line:
    return group.lines_of(store)[name]


@pytest.mark.parametrize("step", [one for one in WALK if line_of(*one).kind != "operator"], ids=said)
def test_a_stranger_gets_nothing_and_changes_nothing(step: tuple[Group, type, str], stage: Stage) -> None:
    line, scene = line_of(*step), stage(*step[:2])

    assert leaks_of(scene, line) == []


@pytest.mark.parametrize("step", [one for one in WALK if line_of(*one).kind == "own"], ids=said)
def test_the_same_call_reaches_what_is_ones_own(step: tuple[Group, type, str], stage: Stage) -> None:
    """Or the walk would prove nothing."""
    line, scene = line_of(*step), stage(*step[:2])
    got, _ = answer_of(scene, scene.stranger, line.call)

    assert reaches(scene, line, got), got


@pytest.mark.parametrize("step", OPERATORS, ids=said)
def test_the_role_of_tenants_cannot_do_what_is_done_for_all(
    step: tuple[Group, type, str], stage: Stage, database: Database
) -> None:
    line = line_of(*step)
    if "postgres" not in step[1].__module__:
        scene = stage(*step[:2])
        assert scene.database is None, "one process has no roles"
        got = ""
    else:
        scene = stage(*step[:2])
        bound = TenantOnlyDatabase(database.url.render_as_string(hide_password=False))
        bound.tenant = scene.stranger
        free, scene.database = scene.store, bound
        scene.store = step[0].stores[step[1]](scene)
        try:
            assert leaks_of(scene, line) == []
            got, _ = answer_of(scene, scene.stranger, line.call)
        finally:
            bound.close()
        scene.database, scene.store = database, free

    assert reaches(scene, line, got), "as the sweeper it works"


# -- the walk can fail


class ForgetsTheTenant(PostgresContextStore):
    """Its query asks for the run only."""

    def load(self, tenant_id: str, run_id: str, path: str) -> StoredContext | None:
        query = "SELECT path, version, document FROM llmteam.agent_contexts WHERE run_id = %s AND path = %s"
        found = self._run(tenant_id, query, run_id, path)
        return StoredContext(*found[0]) if found else None

    def delete(self, tenant_id: str, run_id: str) -> int:
        return len(self._run(tenant_id, "DELETE FROM llmteam.agent_contexts WHERE run_id = %s RETURNING 1", run_id))


MUTANT = Group(
    stores={
        ForgetsTheTenant: lambda s: ForgetsTheTenant(s.db),
        PostgresContextStore: lambda s: PostgresContextStore(s.db),
    },
    seed=trail_lines.CONTEXTS.seed,
    lines=trail_lines.CONTEXTS.lines,
)


@pytest.fixture
def unbound(superuser_url: str) -> Iterator[UnboundDatabase]:
    unbound = UnboundDatabase(make_url(superuser_url).render_as_string(hide_password=False))
    yield unbound
    unbound.close()


def scene_of(store: type, database: Database, superuser_url: str) -> Scene:
    scene = Scene(database=database, superuser_url=superuser_url)
    scene.store = MUTANT.stores[store](scene)
    MUTANT.seed(scene)
    return scene


@pytest.mark.parametrize(("method", "what"), [("load", "content came back"), ("delete", "of the owner changed")])
def test_a_query_that_forgets_its_tenant_is_found(
    method: str, what: str, unbound: UnboundDatabase, database: Database, superuser_url: str
) -> None:
    line = MUTANT.lines[method]

    found = leaks_of(scene_of(ForgetsTheTenant, unbound, superuser_url), line)

    assert any(what in leak for leak in found), found
    # Each of the two walls holds alone: row security against the same query, and the query without row security.
    assert leaks_of(scene_of(ForgetsTheTenant, database, superuser_url), line) == []
    assert leaks_of(scene_of(PostgresContextStore, unbound, superuser_url), line) == []
