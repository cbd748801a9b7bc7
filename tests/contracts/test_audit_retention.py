"""Retention in every audit store: what is old goes, oldest first, and what stays is a chain that holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.audit import (
    AuditDraft,
    AuditEventType,
    AuditIntegrityError,
    AuditRecord,
    AuditTrail,
    MemoryAuditStore,
)
from llmteam.audit.exports import check_export, export_lines
from llmteam.audit.face import AuditStoreFace
from llmteam.audit.retention import AuditKeys, Removal, kept_since, prune, removable
from llmteam.crypto import SigningKey

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 15, 13, 30, tzinfo=UTC)
KEY = SigningKey.generate()
KEYS = AuditKeys(KEY)
TRUSTED = [KEY.verify_key]
FOREIGN = SigningKey.generate().verify_key


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> AuditStoreFace:
    if request.param == "memory":
        return MemoryAuditStore(clock=lambda: NOW)
    from llmteam.audit.postgres import PostgresAuditStore

    return PostgresAuditStore(request.getfixturevalue("database"), clock=lambda: NOW)


def fill(store: AuditStoreFace, *ages: int, tenant: str = "acme") -> None:
    """Records so many days old."""
    drafts = [
        AuditDraft(event_type=AuditEventType.DATA_UPDATED, timestamp=NOW - age * DAY, new_value={"age": age})
        for age in ages
    ]
    store.add(tenant, drafts)


def cut(store: AuditStoreFace, days: int, **how: Any) -> Removal:
    return prune(store, "acme", before=kept_since(NOW, days), keys=KEYS, now=NOW, **how)


def numbers(store: AuditStoreFace, tenant: str = "acme") -> list[int]:
    return [one.sequence_number for one in store.links(tenant, 1, 1_000_000)]


def test_what_is_older_goes_and_what_stays_holds_from_a_signed_checkpoint_on(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 7, 3, 1)
    (last,) = store.links("acme", 3, 3)

    done = cut(store, 5)

    assert done == Removal("acme", 3, 3)
    assert numbers(store) == [4, 5, 6]
    ends = store.ends("acme")
    assert ends.checkpoint is not None
    assert (ends.base.sequence_number, ends.base.checksum, ends.first) == (3, last.checksum, 4)
    assert ends.checkpoint.is_signed_by(KEY.verify_key)
    found = store.check("acme", keys=TRUSTED)
    assert (found.valid, found.checked, found.removed, found.removed_by) == (True, 3, 3, KEY.verify_key.key_id)


def test_the_removal_is_in_the_trail_that_it_shortens(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)

    cut(store, 5, actor_id="ann")

    (record,) = store.links("acme", 4, 4)
    assert isinstance(record, AuditRecord)
    assert (record.event_type, record.action, record.actor_id) == (AuditEventType.DATA_DELETED, "prune", "ann")
    assert (record.metadata["first"], record.metadata["last"]) == (1, 2)
    assert record.metadata["signed_by"] == KEY.verify_key.key_id


def test_days_are_whole_so_that_nothing_goes_before_its_time(store: AuditStoreFace) -> None:
    midnight = NOW.replace(hour=0, minute=0)
    store.add(
        "acme",
        [
            AuditDraft(event_type=AuditEventType.DATA_CREATED, timestamp=midnight - 5 * DAY + one)
            for one in (-timedelta(microseconds=1), timedelta())
        ],
    )

    assert cut(store, 5).removed == 1
    assert cut(store, 5) == Removal("acme", 0, 0), "a second look at the same day removes nothing, and records nothing"
    assert numbers(store) == [2, 3]


def test_a_young_record_keeps_the_older_ones_behind_it(store: AuditStoreFace) -> None:
    fill(store, 9, 1, 9)

    assert cut(store, 5).removed == 1
    assert numbers(store) == [2, 3, 4]


def test_a_chain_whose_records_are_all_old_goes_on_behind_them(store: AuditStoreFace) -> None:
    fill(store, 9, 8)

    assert cut(store, 5).removed == 2

    fill(store, 0)
    assert numbers(store) == [3, 4]
    assert store.check("acme", keys=TRUSTED).valid


def test_one_call_removes_at_most_its_limit_and_the_next_goes_on(store: AuditStoreFace) -> None:
    fill(store, *range(20, 8, -1))

    steps = [cut(store, 5, limit=5) for _ in range(4)]

    assert [(one.removed, one.up_to) for one in steps] == [(5, 5), (5, 10), (2, 12), (0, 0)]
    assert store.check("acme", keys=TRUSTED) == (True, [])
    assert numbers(store) == [13, 14, 15]


def test_other_tenants_keep_theirs(store: AuditStoreFace) -> None:
    fill(store, 9, 9)
    fill(store, 9, 9, tenant="globex")

    cut(store, 5)

    assert numbers(store, "globex") == [1, 2]
    assert store.check("globex", keys=TRUSTED).removed == 0


def test_what_would_go_can_be_asked_for(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)

    found = removable(store, "acme", kept_since(NOW, 5), KEYS)

    assert [point.sequence_number for point in found] == [1, 2]
    assert numbers(store) == [1, 2, 3]


def test_a_checkpoint_of_a_foreign_key_is_found(store: AuditStoreFace, request: pytest.FixtureRequest) -> None:
    if isinstance(store, MemoryAuditStore):
        # Nobody else writes to a process's memory: its base needs no signature.
        assert store.ends("acme").is_own
        return
    fill(store, 9, 8, 1)
    cut(store, 5)

    found = store.check("acme", keys=[FOREIGN])

    assert [(one.sequence_number, one.kind.value) for one in found.faults] == [(2, "forged")]
    assert store.check("acme", keys=[FOREIGN, *TRUSTED]).valid
    with pytest.raises(AuditIntegrityError, match="no signature to be trusted"):
        prune(store, "acme", before=NOW, keys=AuditKeys(SigningKey.generate()), now=NOW)
    older = AuditKeys(SigningKey.generate(), (KEY.verify_key,))
    assert prune(store, "acme", before=NOW, keys=older, now=NOW).removed == 1


def test_keys_can_be_changed_when_the_older_one_stays_trusted(store: AuditStoreFace) -> None:
    fill(store, 9, 7, 1)
    cut(store, 8)
    newer = AuditKeys(SigningKey.generate(), (KEY.verify_key,))

    assert prune(store, "acme", before=kept_since(NOW, 5), keys=newer, now=NOW).up_to == 2

    assert store.check("acme", keys=[newer.signing.verify_key]).valid


def test_reports_begin_behind_what_was_removed(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)
    cut(store, 5)
    trail = AuditTrail(store, "acme")

    whole = asyncio.run(trail.generate_report(NOW - 30 * DAY, NOW))
    gone = asyncio.run(trail.generate_report(NOW - 30 * DAY, NOW - 6 * DAY))

    assert (whole.total_events, whole.chain_valid, whole.removed_up_to) == (2, True, 2)
    assert (gone.total_events, gone.chain_valid, gone.removed_up_to) == (0, True, 2)


def test_checkpoints_kept_elsewhere_go_on_to_vouch(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)
    trail = AuditTrail(store, "acme", clock=lambda: NOW)
    early = asyncio.run(trail.checkpoint(KEY))

    cut(store, 5)

    late = asyncio.run(trail.checkpoint(KEY, since=early))
    assert asyncio.run(trail.verify_chain(checkpoints=[early, late], key=KEY.verify_key)) == (True, [])
    assert asyncio.run(trail.verify_chain(checkpoints=[early], key=KEY.verify_key)).removed == 2


def exported(store: AuditStoreFace) -> list[str]:
    return list(export_lines(store, "acme", now=NOW, key=KEY, keys=TRUSTED))


def test_an_export_begins_at_the_checkpoint_and_carries_it(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)
    cut(store, 5)

    found = check_export(exported(store), key=KEY.verify_key)

    assert (found.chain.valid, found.first, found.last) == (True, 3, 4)
    assert found.base is not None
    assert found.base.sequence_number == 2


def lost_base(header: dict[str, Any]) -> None:
    del header["base"]


def other_place(header: dict[str, Any]) -> None:
    header["first"] = 4


def other_base(header: dict[str, Any]) -> None:
    header["base"]["checksum"] = header["after"] = "0" * 64


def plain_checkpoint(header: dict[str, Any]) -> None:
    header["base"]["kind"] = "llmteam.audit.checkpoint"


@pytest.mark.parametrize("tamper", [other_place, other_base, plain_checkpoint])
def test_an_export_whose_beginning_was_changed_does_not_hold(
    store: AuditStoreFace, tamper: Callable[[dict[str, Any]], None]
) -> None:
    fill(store, 9, 8, 1)
    cut(store, 5)
    first, *rest = exported(store)
    header = json.loads(first)

    tamper(header)

    found = check_export([json.dumps(header), *rest], key=KEY.verify_key)
    assert (2 if tamper is not other_place else 3, "forged") in [
        (one.sequence_number, one.kind.value) for one in found.chain.faults
    ]


def test_an_export_without_its_checkpoint_is_but_a_part(store: AuditStoreFace) -> None:
    fill(store, 9, 8, 1)
    cut(store, 5)
    first, *rest = exported(store)
    header = json.loads(first)

    lost_base(header)

    found = check_export([json.dumps(header), *rest], key=KEY.verify_key)
    assert (found.base, found.first) == (None, 3)


@given(ages=st.lists(st.integers(0, 12), max_size=12), cuts=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6))))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_it_is_cut_the_chain_holds_and_nothing_young_is_gone(
    store: AuditStoreFace, ages: list[int], cuts: list[tuple[int, int]]
) -> None:
    before = store.ends("acme").last
    fill(store, *ages)

    for days, limit in cuts:
        cut(store, days, limit=limit)

    least = min((days for days, _ in cuts), default=13)
    kept = set(numbers(store))
    young = [before + place for place, age in enumerate(ages, 1) if age <= least]
    assert all(number in kept for number in young)
    assert store.check("acme", keys=TRUSTED) == (True, [])
    assert check_export(exported(store), key=KEY.verify_key).chain == (True, [])
