"""What every registry of published segments promises: in memory and in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest

from llmteam.audit import AuditEventType, AuditRecord
from llmteam.audit.stores import AuditStoreFace
from llmteam.canvas.exceptions import (
    SegmentArchivedError,
    SegmentExistsError,
    SegmentValidationError,
    UnknownSegmentError,
)
from llmteam.canvas.models import SegmentDefinition, StepDefinition
from llmteam.canvas.registry import MemorySegmentRegistry, SegmentRegistry, parse_reference
from llmteam.ids import InvalidIdentifierError
from llmteam.tenancy.context import TenantContext
from llmteam.tenancy.exceptions import TenantContextError

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The coroutine of a test, run in a loop of its own."""

    @wraps(test)
    def run(*args: Any, **given: Any) -> None:
        asyncio.run(test(*args, **given))

    return run


class TickingClock:
    """A clock that is a second later each time it is read."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture(params=["memory", "postgres"])
def registry(request: pytest.FixtureRequest) -> Iterator[SegmentRegistry]:
    if request.param == "memory":
        yield MemorySegmentRegistry(TickingClock())
        return
    from llmteam.canvas.registry.postgres import PostgresSegmentRegistry

    yield PostgresSegmentRegistry(request.getfixturevalue("database"), TickingClock())


def made(version: str = "1.0", segment_id: str = "triage", **config: Any) -> SegmentDefinition:
    step = StepDefinition(step_id="a", step_type="transform", config=config)
    return SegmentDefinition(segment_id=segment_id, name="Triage ✓", version=version, steps=[step])


@in_a_loop
async def test_what_is_published_is_found_by_id_and_version(registry: SegmentRegistry) -> None:
    published = await registry.publish(made("1.0", x=[1, None, "ü"]), published_by="ada", tenant_id="acme")

    found = await registry.get("triage", "1.0", tenant_id="acme")

    assert found.version == published
    assert found.definition == made("1.0", x=[1, None, "ü"])
    assert (published.reference, published.published_by) == ("triage@1.0", "ada")
    assert published.content_hash == found.definition.content_hash
    assert START < published.published_at < START + timedelta(minutes=1)
    assert published.to_dict()["archived_at"] is None


@in_a_loop
async def test_without_a_version_the_latest_published_is_found(registry: SegmentRegistry) -> None:
    await registry.publish(made("2.0"))
    await registry.publish(made("1.9"))
    await registry.publish(made("9.0", "other"))

    assert (await registry.get("triage")).version.version == "1.9"
    assert (await registry.get("triage", "2.0")).version.version == "2.0"


@in_a_loop
async def test_publishing_the_same_content_again_changes_nothing(registry: SegmentRegistry) -> None:
    first = await registry.publish(made(), published_by="ada")

    assert await registry.publish(made(), published_by="bob") == first


@in_a_loop
async def test_a_published_version_never_changes(registry: SegmentRegistry) -> None:
    await registry.publish(made(x=1))

    with pytest.raises(SegmentExistsError, match="'triage' version"):
        await registry.publish(made(x=2))
    assert (await registry.get("triage")).definition == made(x=1)


@in_a_loop
async def test_what_its_owner_does_with_a_definition_afterwards_does_not_reach_it(registry: SegmentRegistry) -> None:
    mine = made(x=1)
    await registry.publish(mine)

    mine.steps[0].config["x"] = 2
    (await registry.get("triage")).definition.steps[0].config["x"] = 3

    assert (await registry.get("triage")).definition == made(x=1)


@in_a_loop
async def test_one_content_may_be_published_under_two_versions(registry: SegmentRegistry) -> None:
    await registry.publish(made("1.0"))
    await registry.publish(made("1.1"))

    assert [one.version for one in await registry.list("triage")] == ["1.1", "1.0"]


@in_a_loop
async def test_an_unsound_definition_is_refused(registry: SegmentRegistry) -> None:
    with pytest.raises(SegmentValidationError, match="no steps"):
        await registry.publish(SegmentDefinition(segment_id="s", name="", steps=[]))
    with pytest.raises(SegmentValidationError, match="@ not among them"):
        await registry.publish(made("1@2"))
    with pytest.raises(SegmentValidationError, match="NUL"):
        await registry.publish(made(text="\x00"))
    assert await registry.list() == []


@in_a_loop
async def test_what_was_never_published_is_unknown(registry: SegmentRegistry) -> None:
    await registry.publish(made())

    for segment_id, version in (("gone", None), ("triage", "7"), ("gone", "1.0")):
        with pytest.raises(UnknownSegmentError, match="llmteam segment"):
            await registry.get(segment_id, version)
        with pytest.raises(UnknownSegmentError):
            registry.fetch("default", segment_id, version)
    with pytest.raises(UnknownSegmentError):
        await registry.archive("triage", "7")


@in_a_loop
async def test_versions_are_listed_newest_first(registry: SegmentRegistry) -> None:
    for version, segment_id in (("1", "a"), ("1", "b"), ("2", "a")):
        await registry.publish(made(version, segment_id))

    assert [one.reference for one in await registry.list()] == ["a@2", "b@1", "a@1"]
    assert [one.reference for one in await registry.list("a")] == ["a@2", "a@1"]
    assert await registry.list("gone") == []


@in_a_loop
async def test_an_archived_version_starts_nothing_and_can_still_be_read(registry: SegmentRegistry) -> None:
    await registry.publish(made("1"))
    await registry.publish(made("2"))

    archived = await registry.archive("triage", "2")

    assert archived.archived_at is not None
    assert await registry.archive("triage", "2") == archived
    assert (await registry.get("triage", "2")).version == archived
    assert (await registry.get("triage")).version.version == "1"
    assert registry.fetch("default", "triage").version.version == "1"
    with pytest.raises(SegmentArchivedError, match="version '2'"):
        registry.fetch("default", "triage", "2")
    assert [one.version for one in await registry.list()] == ["1"]
    assert [one.version for one in await registry.list(archived=True)] == ["2", "1"]


@in_a_loop
async def test_publishing_an_archived_content_again_brings_it_back(registry: SegmentRegistry) -> None:
    first = await registry.publish(made())
    await registry.archive("triage", "1.0")

    assert await registry.publish(made()) == first
    assert registry.fetch("default", "triage").version == first


@in_a_loop
async def test_tenants_do_not_see_each_other(registry: SegmentRegistry) -> None:
    await registry.publish(made(x=1), tenant_id="acme")
    await registry.publish(made(x=2), tenant_id="globex")

    assert (await registry.get("triage", tenant_id="acme")).definition == made(x=1)
    assert (await registry.get("triage", tenant_id="globex")).definition == made(x=2)
    assert await registry.list() == []
    with pytest.raises(UnknownSegmentError):
        await registry.archive("triage", "1.0")


@in_a_loop
async def test_the_current_tenant_is_used_and_no_other_can_be_named(registry: SegmentRegistry) -> None:
    with TenantContext("acme"):
        await registry.publish(made())
        with pytest.raises(TenantContextError, match="globex"):
            await registry.get("triage", tenant_id="globex")

    assert (await registry.get("triage", tenant_id="acme")).definition == made()
    with pytest.raises(InvalidIdentifierError):
        await registry.list(tenant_id="not a tenant")


def test_of_many_who_publish_at_once_one_content_wins(registry: SegmentRegistry) -> None:
    def publish(number: int) -> str | None:
        try:
            return registry.put("acme", made(x=number % 3)).content_hash
        except SegmentExistsError:
            return None

    with ThreadPoolExecutor(6) as pool:
        hashes = set(pool.map(publish, range(12))) - {None}

    found = registry.find("acme", "triage")
    assert found is not None
    assert hashes == {found.version.content_hash}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("a", ("a", None)), ("a@1.0", ("a", "1.0")), ("a@", ("a", None)), ("a@b@c", ("a", "b@c"))],
)
def test_a_reference_is_an_id_or_an_id_with_a_version(reference: str, expected: tuple[str, str | None]) -> None:
    assert parse_reference(reference) == expected


def test_each_publication_is_told_once_with_its_publisher(registry: SegmentRegistry) -> None:
    registry.put("acme", made(), "ann")
    registry.put("acme", made(), "bob")
    registry.retire("acme", "triage", "1.0")
    registry.retire("acme", "triage", "1.0")
    registry.put("acme", made(), "bob")
    with pytest.raises(SegmentExistsError):
        registry.put("acme", made(expression="2"), "eve")
    registry.retire("acme", "triage", "2.0")

    store = audit_of(registry)
    assert store.check("acme").valid
    told = [one for one in store.links("acme", 1, 99) if isinstance(one, AuditRecord)]
    assert [(one.action, one.actor_id, one.resource_id) for one in told] == [
        ("publish", "ann", "triage@1.0"),
        ("archive", "", "triage@1.0"),
        ("restore", "bob", "triage@1.0"),
    ]
    assert {one.event_type for one in told} == {AuditEventType.CONFIG_CHANGED}
    assert told[0].new_value == {"content_hash": made().content_hash}


def test_of_many_who_publish_the_same_one_is_told(registry: SegmentRegistry) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda person: registry.put("acme", made(), person), ["ann", "bob", "cy", "dee"]))

    assert audit_of(registry).total("acme") == 1


def audit_of(registry: SegmentRegistry) -> AuditStoreFace:
    """Where the registry tells what was published."""
    if isinstance(registry, MemorySegmentRegistry):
        return registry.audit
    from llmteam.audit import PostgresAuditStore
    from llmteam.canvas.registry.postgres import PostgresSegmentRegistry

    assert isinstance(registry, PostgresSegmentRegistry)
    return PostgresAuditStore(registry._database)
