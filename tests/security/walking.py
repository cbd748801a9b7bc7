"""Walking through every method as a tenant that reaches for another one's rows.

A :class:`Line` is one method with a call of it. ``own`` is called as the stranger, with the names of all that the owner
has: nothing of the owner may come back, and nothing of the owner may change. Then it is called as the owner, where it
must find or change something, since a call that reaches nothing of anybody would prove nothing. ``operator`` is for
methods across tenants: the role that works as a tenant cannot do them. ``plain`` touches no rows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any, Literal

import psycopg2
from pydantic import BaseModel
from sqlalchemy import Connection

from llmteam.db import Database
from llmteam.db.hot import HotConnection, HotRole, Params
from llmteam.db.tables import metadata
from llmteam.errors import LLMTeamError
from llmteam.ids import new_id
from llmteam.tenancy import TenantContext
from tests.services import redis_client

#: What a refusal may be: an error of the project, or that the key is not there. Anything else is a broken line.
REFUSALS = (LLMTeamError, LookupError)


@dataclass
class Scene:
    """Two tenants at one store. ``me`` is who calls, ``things`` are the names of all that the owner has."""

    database: Database | None = None
    superuser_url: str = ""
    valkey: str = ""
    owner: str = field(default_factory=lambda: f"acme-{new_id()}")
    stranger: str = field(default_factory=lambda: f"globex-{new_id()}")
    canary: str = field(default_factory=lambda: f"canary-{new_id()}")
    me: str = ""
    store: Any = None
    things: SimpleNamespace = field(default_factory=SimpleNamespace)
    look: Callable[[Scene], Any] = lambda scene: None

    @property
    def db(self) -> Database:
        assert self.database is not None
        return self.database

    @contextmanager
    def acting(self, me: str) -> Iterator[None]:
        """Calls in the block are those of ``me``."""
        self.me = me
        with TenantContext(me):
            yield

    def snapshot(self) -> dict[str, Any]:
        """All that is kept of the owner, whoever may see it."""
        seen: dict[str, Any] = {}
        if self.superuser_url:
            seen |= rows_of(self.superuser_url, self.owner)
        if self.valkey:
            seen |= keys_of(self.valkey, self.owner, but=self.stranger)
        with self.acting(self.owner):
            seen["as the owner sees it"] = text_of(self.look(self))
        return seen


@dataclass(frozen=True)
class Line:
    """One method. Called as the stranger only: ``naming``, which says the owner's name and must be refused, and
    ``further``, which may do something of the stranger's own.
    """

    call: Callable[[Scene], Any]
    kind: Literal["own", "operator", "plain"] = "own"
    reason: str = ""
    naming: Callable[[Scene], Any] | None = None
    further: Callable[[Scene], Any] | None = None


def operator(call: Callable[[Scene], Any], reason: str) -> Line:
    """A method across tenants, and why there is one."""
    return Line(call, "operator", reason)


def plain(call: Callable[[Scene], Any], reason: str) -> Line:
    """A method that touches no rows."""
    return Line(call, "plain", reason)


@dataclass(frozen=True)
class Group:
    """Stores with the same methods: how each is made, what the owner has there, and a line for each method.

    ``also`` are lines of methods that one of them has beside the others'; ``without`` names those that it lacks.
    """

    stores: Mapping[type, Callable[[Scene], Any]]
    seed: Callable[[Scene], None]
    lines: Mapping[str, Line]
    look: Callable[[Scene], Any] = lambda scene: None
    also: Mapping[type, Mapping[str, Line]] = field(default_factory=dict)
    without: Mapping[type, frozenset[str]] = field(default_factory=dict)

    def lines_of(self, store: type) -> dict[str, Line]:
        lines = {**self.lines, **self.also.get(store, {})}
        return {name: line for name, line in lines.items() if name not in self.without.get(store, ())}


def rows_of(superuser_url: str, tenant: str) -> dict[str, Any]:
    """Every row of the tenant in every table, read past row security."""
    parts = [
        f"SELECT '{table.name}', t::text FROM {table.fullname} t WHERE tenant_id = %(tenant)s"
        for table in metadata.sorted_tables
    ]
    connection = psycopg2.connect(superuser_url.replace("+psycopg2", ""))
    try:
        cursor = connection.cursor()
        cursor.execute(" UNION ALL ".join(parts), {"tenant": tenant})
        found: dict[str, Any] = {}
        for name, row in sorted(cursor.fetchall()):
            found.setdefault(name, []).append(row)
        return found
    finally:
        connection.close()


def keys_of(url: str, tenant: str, but: str) -> dict[str, Any]:
    """Every key with the tenant's name in it, and what it holds; not those that ``but`` named after it."""
    with redis_client(url) as client:
        keys = [key for key in client.scan_iter(count=1000) if tenant.encode() in key and but.encode() not in key]
        return {repr(key): client.dump(key) for key in keys}


def text_of(value: Any, seen: frozenset[int] = frozenset()) -> str:
    """Everything that stands in ``value``, also what its ``repr`` leaves out."""
    if value is None or isinstance(value, str | bytes | int | float | Enum | type) or id(value) in seen:
        return repr(value)
    seen |= {id(value)}
    if isinstance(value, BaseModel):
        return text_of(value.model_dump(), seen)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text_of(key, seen)}: {text_of(one, seen)}' for key, one in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(text_of(one, seen) for one in value))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(text_of(one, seen) for one in value)}]"
    if dataclasses.is_dataclass(value):
        return text_of({one.name: getattr(value, one.name) for one in dataclasses.fields(value)}, seen)
    if isinstance(value, BaseException):
        return f"{value!r} {value} {text_of(vars(value), seen)} {text_of(value.__cause__, seen)}"
    return f"{value!r} {text_of(vars(value), seen)}" if hasattr(value, "__dict__") else repr(value)


def settled(value: Any) -> Any:
    """The answer of a call that may be a coroutine, or give one thing after the other."""
    if inspect.isawaitable(value):
        value = asyncio.run(_awaited(value))
    return list(value) if isinstance(value, Iterator) else value


async def _awaited(value: Any) -> Any:
    return await value


def answer_of(scene: Scene, me: str, call: Callable[[Scene], Any]) -> tuple[str, bool]:
    """What a call gives as ``me``, or how it is refused, as text; whether it was refused."""
    with scene.acting(me):
        try:
            return text_of(settled(call(scene))), False
        except REFUSALS as exc:
            return text_of(exc), True


def leaks_of(scene: Scene, line: Line) -> list[str]:
    """What a stranger gets, or changes, of the owner's by this method."""
    before, leaks = scene.snapshot(), []
    for call in (line.call, line.naming, line.further):
        if call is None:
            continue
        told, refused = answer_of(scene, scene.stranger, call)
        if scene.canary in told:
            leaks.append(f"the owner's content came back: {told[:2000]}")
        # A refusal may repeat the name that it was given.
        if scene.owner in told and not refused:
            leaks.append(f"the owner's name came back: {told[:2000]}")
        if call is line.naming and not refused:
            leaks.append(f"the owner could be named: {told[:2000]}")
        after = scene.snapshot()
        leaks += [
            f"{name} of the owner changed from {before.get(name)} to {after.get(name)}"
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        ]
    return leaks


def reaches(scene: Scene, line: Line, stranger_got: str) -> bool:
    """Whether the call finds or changes something of the owner's when the owner makes it."""
    before = scene.snapshot()
    told, _ = answer_of(scene, scene.owner, line.call)
    mine = told.replace(scene.owner, "ME") != stranger_got.replace(scene.stranger, "ME")
    return scene.canary in told or scene.owner in told or mine or scene.snapshot() != before


class _TenantOnly(HotConnection):
    """Works as its tenant, whatever role is asked for."""

    __slots__ = ()

    def script(
        self,
        sql: str,
        params: Params = (),
        *,
        role: HotRole = "llmteam_app",
        begin: bool = False,
        prepared: Any = (),
    ) -> list[tuple[Any, ...]] | None:
        return super().script(sql, params, begin=begin, prepared=prepared)


class TenantOnlyDatabase(Database):
    """A database in which everything, sweeps too, is done by the role that works as one tenant, and as ``tenant``."""

    tenant = ""

    def hot(self, tenant_id: str | None) -> HotConnection:
        return _TenantOnly(self, tenant_id or self.tenant)

    @contextmanager
    def sweeper_transaction(self) -> Iterator[Connection]:
        with self.tenant_transaction(self.tenant) as connection:
            yield connection


class _Unbound(HotConnection):
    """A connection that no row security binds."""

    __slots__ = ()

    def script(
        self,
        sql: str,
        params: Params = (),
        *,
        role: HotRole = "llmteam_app",
        begin: bool = False,
        prepared: Any = (),
    ) -> list[tuple[Any, ...]] | None:
        unbound = f"SELECT set_config('role', 'none', true);{sql}"
        return super().script(unbound, params, begin=begin, prepared=prepared)


class UnboundDatabase(Database):
    """A database whose login is a superuser and stays one: what deployments are refused."""

    def hot(self, tenant_id: str | None) -> HotConnection:
        return _Unbound(self, tenant_id or "")

    @contextmanager
    def tenant_transaction(self, tenant_id: str) -> Iterator[Connection]:
        with self.login_transaction() as connection:
            yield connection


__all__ = [
    "REFUSALS",
    "Group",
    "Line",
    "Scene",
    "TenantOnlyDatabase",
    "UnboundDatabase",
    "answer_of",
    "leaks_of",
    "operator",
    "plain",
    "reaches",
    "settled",
    "text_of",
]
