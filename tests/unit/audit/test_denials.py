"""Refusals are written at once; a flood of them is a record and a number."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmteam.audit import AuditDraft, AuditEventType, AuditRecord, AuditStorageError, MemoryAuditStore
from llmteam.audit.denials import MOST, WINDOW_SECONDS, Denials

TENANT = "acme"


class Moment:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
def store() -> MemoryAuditStore:
    return MemoryAuditStore()


@pytest.fixture
def denials(store: MemoryAuditStore, moment: Moment) -> Denials:
    return Denials(store.add, monotonic=moment)


def refused(person: str = "eve", action: str = "start", reason: str = "inactive", resource: str = "s") -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.ACCESS_DENIED,
        actor_id=person,
        action=action,
        resource_id=resource,
        success=False,
        error_message=reason,
    )


def told(store: MemoryAuditStore) -> list[tuple[str, int]]:
    """The person of each record, and how many were only counted before it."""
    return [(one.actor_id, one.metadata.get("not_written_before", 0)) for one in store.get_all()]


def test_the_first_refusal_of_each_person_action_and_reason_is_written_at_once(
    denials: Denials, store: MemoryAuditStore
) -> None:
    for draft in (refused(), refused(person="mallory"), refused(action="retry"), refused(reason="limit")):
        denials.note(TENANT, draft)
        denials.note(TENANT, draft)

    assert [person for person, _ in told(store)] == ["eve", "mallory", "eve", "eve"]


def test_a_flood_is_one_record_a_minute_and_the_next_one_says_how_many(
    denials: Denials, store: MemoryAuditStore, moment: Moment
) -> None:
    for number in range(1000):
        denials.note(TENANT, refused(resource=f"run-{number}"))
    moment.now = WINDOW_SECONDS
    denials.note(TENANT, refused())

    assert told(store) == [("eve", 0), ("eve", 999)]


def test_a_flood_of_many_names_is_bounded_too(denials: Denials, store: MemoryAuditStore) -> None:
    for number in range(1000):
        denials.note(TENANT, refused(person=f"p{number}"))
    denials.flush()

    assert len(store) == MOST + 1
    assert told(store)[-1] == ("", 1000 - MOST)


def test_tenants_are_counted_apart(denials: Denials, store: MemoryAuditStore) -> None:
    denials.note(TENANT, refused())
    denials.note("globex", refused())

    assert [record.tenant_id for record in store.get_all()] == [TENANT, "globex"]


def test_nothing_is_left_to_write_after_a_flush(denials: Denials, store: MemoryAuditStore) -> None:
    denials.note(TENANT, refused())
    denials.note(TENANT, refused())

    denials.flush()
    denials.flush()

    assert told(store) == [("eve", 0), ("", 1)]


def test_what_could_not_be_written_is_counted_in_the_next_record(store: MemoryAuditStore, moment: Moment) -> None:
    away = True

    def add(tenant_id: str, drafts: Sequence[AuditDraft]) -> list[AuditRecord]:
        if away:
            raise AuditStorageError("the database is away")
        return store.add(tenant_id, drafts)

    denials = Denials(add, monotonic=moment)
    denials.note(TENANT, refused())
    away, moment.now = False, WINDOW_SECONDS
    denials.note(TENANT, refused())

    assert told(store) == [("eve", 1)]


def test_of_refusals_at_once_each_is_written_or_counted(denials: Denials, store: MemoryAuditStore) -> None:
    barrier = threading.Barrier(8)

    def flood(number: int) -> None:
        barrier.wait()
        for _ in range(100):
            denials.note(TENANT, refused(person=f"p{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(flood, range(8)))
    denials.flush()

    assert len([person for person, _ in told(store) if person]) == 8
    assert sum(1 + counted for _, counted in told(store)) - 1 == 800
