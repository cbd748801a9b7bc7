"""What every audit store promises, in memory and in Postgres alike, and the trail over each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.audit import (
    AuditDraft,
    AuditError,
    AuditEventType,
    AuditIntegrityError,
    AuditQuery,
    AuditRecord,
    AuditSeverity,
    AuditStore,
    AuditTrail,
    ChainPoint,
    InvalidAuditQueryError,
    MemoryAuditStore,
    TenantAwareAuditTrail,
)
from llmteam.audit.chain import GENESIS, link
from llmteam.audit.exports import check_export, export_lines
from llmteam.audit.face import PAGE, AuditStoreFace
from llmteam.crypto import SigningKey
from llmteam.tenancy import TenantContext, TenantContextError
from tests.unit.events.samples import json_values

MOMENT = datetime(2026, 1, 2, 23, 59, 58, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
UPDATED = AuditEventType.DATA_UPDATED


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> AuditStoreFace:
    ticks = iter(MOMENT + number * SECOND for number in range(1_000_000))
    if request.param == "memory":
        return MemoryAuditStore(clock=lambda: next(ticks))
    from llmteam.audit.postgres import PostgresAuditStore

    return PostgresAuditStore(request.getfixturevalue("database"), clock=lambda: next(ticks))


@pytest.fixture
def trail(store: AuditStoreFace) -> AuditTrail:
    return AuditTrail(store, tenant_id="acme", clock=lambda: MOMENT)


def draft(**values: Any) -> AuditDraft:
    return AuditDraft(**{"event_type": UPDATED, **values})


def numbers(records: list[AuditRecord]) -> list[int]:
    return [record.sequence_number for record in records]


def test_it_satisfies_the_protocol(store: AuditStoreFace) -> None:
    assert isinstance(store, AuditStore)


def test_a_draft_comes_back_as_a_record_with_number_link_and_checksum(store: AuditStoreFace) -> None:
    given_draft = draft(
        severity=AuditSeverity.WARNING,
        pipeline_id="p",
        run_id="r",
        agent_name="agent",
        step_name="step",
        actor_type="user",
        actor_id="ann",
        actor_ip="10.0.0.1",
        actor_user_agent="Mozilla",
        action="update",
        resource_type="doc",
        resource_id="d-1",
        old_value={},
        new_value={"b": [1, 2.5, None, "ü"], "a": {}},
        success=False,
        error_message="it's 100 % broken \\ \"",
        metadata={"k": {"deep": [{}]}},
        tags=["x", "y,z", '"'],
        idempotency_key="key",
    )

    first, second = store.add("acme", [given_draft, draft()])

    assert [first, second] == store.links("acme", 1, 2)
    assert (first.sequence_number, first.previous_checksum, first.timestamp) == (1, "", MOMENT)
    assert (second.sequence_number, second.previous_checksum) == (2, first.checksum)
    assert first.verify_integrity()
    assert second.verify_integrity()
    for name in AuditDraft.__dataclass_fields__:
        if name != "timestamp":
            assert getattr(first, name) == getattr(given_draft, name), name
    assert (second.old_value, first.old_value, second.metadata) == (None, {}, {})


@given(old=st.none() | st.dictionaries(st.text("abc", max_size=3), json_values, max_size=3), text=st.text(max_size=20))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_verifies_when_it_is_read(
    store: AuditStoreFace, old: dict[str, Any] | None, text: str
) -> None:
    (kept,) = store.add("acme", [draft(old_value=old, metadata={"m": old}, error_message=text, tags=[text])])

    (read,) = store.links("acme", kept.sequence_number, kept.sequence_number)

    assert read == kept
    assert isinstance(read, AuditRecord)
    assert read.verify_integrity()


def test_each_tenant_has_a_chain_of_its_own(store: AuditStoreFace) -> None:
    store.add("acme", [draft(), draft()])
    store.add("globex", [draft()])
    store.add("acme", [draft()])

    for tenant, last in (("acme", 3), ("globex", 1), ("initech", 0)):
        assert asyncio.run(store.get_last_sequence(tenant)) == last
        assert store.check(tenant) == (True, [])
    assert numbers(asyncio.run(store.get_by_sequence_range("acme", 2, 3))) == [2, 3]
    assert asyncio.run(store.count("acme")) == 3


def test_a_known_key_gives_the_record_that_is_there(store: AuditStoreFace) -> None:
    (first,) = store.add("acme", [draft(idempotency_key="k", actor_id="ann")])

    again = store.add("acme", [draft(idempotency_key="k", actor_id="bob"), draft(), draft(idempotency_key="k")])

    assert [again[0], again[2]] == [first, first]
    assert asyncio.run(store.count("acme")) == 2
    assert store.add("globex", [draft(idempotency_key="k")])[0].sequence_number == 1


def test_of_drafts_of_which_one_cannot_be_kept_none_is(store: AuditStoreFace) -> None:
    with pytest.raises(Exception, match="not JSON"):
        store.add("acme", [draft(), draft(metadata={"x": object()})])

    assert asyncio.run(store.count("acme")) == 0


def test_what_the_caller_holds_does_not_change_what_is_kept(store: AuditStoreFace) -> None:
    value = {"list": [1]}
    (kept,) = store.add("acme", [draft(new_value=value)])

    value["list"].append(2)
    assert kept.new_value is not None
    kept.new_value["list"].append(3)
    for record in store.select(AuditQuery(tenant_id="acme")):
        assert record.new_value is not None
        record.new_value["list"].append(4)

    assert store.check("acme").valid


def test_a_finished_record_is_kept_as_it_is(store: AuditStoreFace) -> None:
    source = MemoryAuditStore()
    records = source.add("acme", [draft(new_value={"a": 1}), draft(idempotency_key="k")])

    for record in records:
        asyncio.run(store.append(record))

    assert store.links("acme", 1, 2) == records
    assert store.check("acme") == (True, [])
    assert store.add("acme", [draft()])[0].previous_checksum == records[1].checksum


def test_a_finished_record_never_takes_a_place_that_is_behind(store: AuditStoreFace) -> None:
    store.add("acme", [draft(), draft()])
    late = link(draft(), "acme", GENESIS, now=MOMENT)

    with pytest.raises(AuditIntegrityError, match="comes too late") as raised:
        asyncio.run(store.append(late))

    assert raised.value.invalid_records == [late.record_id]


def test_a_finished_record_that_leaves_a_gap_is_found_by_a_check(store: AuditStoreFace) -> None:
    (first,) = store.add("acme", [draft()])
    store.insert(link(draft(), "acme", ChainPoint(3, first.checksum), now=MOMENT))

    assert store.check("acme") == (False, [2, 3])


@pytest.fixture
def filled(store: AuditStoreFace) -> AuditStoreFace:
    """Six records of acme, a second apart, and one of globex."""
    started, denied = AuditEventType.PIPELINE_STARTED, AuditEventType.ACCESS_DENIED
    for one in (
        draft(event_type=started, actor_id="user1", actor_type="user", pipeline_id="p1", run_id="r1", tags=["a", "b"]),
        draft(event_type=denied, severity=AuditSeverity.WARNING, actor_id="user2", success=False, action="Read File"),
        draft(event_type=UPDATED, actor_id="user1", resource_type="doc", resource_id="50%_OFF\\", tags=["b"]),
        draft(event_type=UPDATED, severity=AuditSeverity.ERROR, success=False, error_message="Straße BROKEN"),
        draft(event_type=started, actor_id="Zoë", agent_name="agent", run_id="r2"),
        draft(event_type=UPDATED, timestamp=MOMENT - timedelta(days=1)),
    ):
        store.add("acme", [one])
    store.add("globex", [draft(actor_id="user1")])
    return store


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, [5, 4, 3, 2, 1, 6]),
        ({"order_desc": False}, [6, 1, 2, 3, 4, 5]),
        ({"order_by": "sequence_number", "limit": 2}, [6, 5]),
        ({"order_by": "sequence_number", "order_desc": False, "limit": 2, "offset": 4}, [5, 6]),
        ({"order_by": "actor_id", "order_desc": False}, [4, 6, 5, 1, 3, 2]),
        ({"order_by": "severity"}, [2, 6, 5, 3, 1, 4]),
        ({"limit": 0}, []),
        ({"event_types": [AuditEventType.PIPELINE_STARTED, AuditEventType.ACCESS_DENIED]}, [5, 2, 1]),
        ({"event_types": []}, []),
        ({"severities": [AuditSeverity.WARNING, AuditSeverity.ERROR]}, [4, 2]),
        ({"actor_id": "user1"}, [3, 1]),
        ({"actor_type": "user"}, [1]),
        ({"pipeline_id": "p1"}, [1]),
        ({"run_id": "r2"}, [5]),
        ({"agent_name": "agent"}, [5]),
        ({"resource_type": "doc"}, [3]),
        ({"resource_id": "50%_OFF\\"}, [3]),
        ({"success": False}, [4, 2]),
        ({"success": True, "actor_id": "user1", "tags": ["a"]}, [1]),
        ({"tags": ["a", "b"]}, [3, 1]),
        ({"tags": ["'"]}, []),
        ({"start_time": MOMENT + SECOND, "end_time": MOMENT + 2 * SECOND}, [3, 2]),
        ({"end_time": (MOMENT - SECOND).replace(tzinfo=None)}, [6]),
        ({"search_text": "broken"}, [4]),
        ({"search_text": "STRAßE b"}, [4]),
        ({"search_text": "STRASSE"}, []),
        ({"search_text": "0%_off\\"}, [3]),
        ({"search_text": "%"}, [3]),
        ({"search_text": "ead f"}, [2]),
        ({"search_text": "user1"}, []),
        ({"search_text": "\x00"}, []),
        ({"search_text": ""}, [5, 4, 3, 2, 1, 6]),
        ({"actor_id": "user1\x00"}, []),
        ({"actor_id": "' OR 1=1 --"}, []),
    ],
)
def test_a_query_gives_what_all_conditions_allow_in_order(
    filled: AuditStoreFace, conditions: dict[str, Any], found: list[int]
) -> None:
    query = AuditQuery(tenant_id="acme", **conditions)

    assert numbers(asyncio.run(filled.query(query))) == found


def test_the_current_tenants_records_are_asked_for_and_no_others(filled: AuditStoreFace) -> None:
    with TenantContext("globex"):
        assert numbers(asyncio.run(filled.query(AuditQuery()))) == [1]
        assert asyncio.run(filled.count()) == 1
        for call in (
            filled.query(AuditQuery(tenant_id="acme")),
            filled.get_last_sequence("acme"),
            filled.get_by_sequence_range("acme", 1, 2),
            filled.count("acme"),
            filled.append_chained(draft(), "acme"),
            filled.append(filled.select(AuditQuery(tenant_id="acme"))[0]),
        ):
            with pytest.raises(TenantContextError, match="acme"):
                asyncio.run(call)
        assert asyncio.run(filled.append_chained(draft())).tenant_id == "globex"


def test_a_trail_logs_for_its_tenant(trail: AuditTrail) -> None:
    record = asyncio.run(trail.log(UPDATED, actor_id="ann", resource_id="d-1", actor_user_agent="Mozilla"))

    assert (record.tenant_id, record.sequence_number, record.actor_type) == ("acme", 1, "system")
    assert asyncio.run(trail.query(AuditQuery())) == [record]
    assert asyncio.run(trail.verify_chain()) == (True, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"actor_id": None},
        {"resource_id": 17},
        {"metadata": "why"},
        {"old_value": [1]},
        {"success": "no"},
        {"tags": "finance"},
        {"timestamp": "2026-01-01"},
    ],
)
def test_a_field_of_the_wrong_kind_is_named_and_nothing_is_kept(trail: AuditTrail, wrong: dict[str, Any]) -> None:
    with pytest.raises(AuditError, match=f"{next(iter(wrong))} of an audit record|tags of an audit record"):
        asyncio.run(trail.log(AuditEventType.CONFIG_CHANGED, **wrong))

    assert asyncio.run(trail.query(AuditQuery())) == []


def test_two_trails_on_one_store_and_several_event_loops_write_one_chain(store: AuditStoreFace) -> None:
    one, other = AuditTrail(store, "acme"), AuditTrail(store, "acme", auto_flush=False, buffer_size=1)

    for trail in (one, other, one):
        asyncio.run(trail.log(UPDATED))
    other.log_sync(UPDATED)

    assert asyncio.run(one.verify_chain()).checked == 4


def test_nothing_is_logged_for_another_tenant_by_mistake(store: AuditStoreFace) -> None:
    trail, free = AuditTrail(store, tenant_id="acme"), AuditTrail(store, tenant_id="acme", use_context_tenant=False)

    with TenantContext("acme"):
        asyncio.run(trail.log(UPDATED))
    with TenantContext("globex"):
        for call in (trail.log(UPDATED), trail.query(AuditQuery()), trail.verify_chain()):
            with pytest.raises(TenantContextError, match="globex"):
                asyncio.run(call)
        with pytest.raises(TenantContextError, match="globex"):
            trail.log_sync(UPDATED)
        assert asyncio.run(free.log(UPDATED)).tenant_id == "acme"
        assert asyncio.run(AuditTrail(store).log(UPDATED)).tenant_id == "globex"
    assert asyncio.run(AuditTrail(store).log(UPDATED)).tenant_id == "default"


def test_a_trail_that_follows_the_context_needs_one(store: AuditStoreFace) -> None:
    trail = TenantAwareAuditTrail(store)

    for tenant in ("acme", "globex", "acme"):
        with TenantContext(tenant):
            assert asyncio.run(trail.log(UPDATED)).tenant_id == tenant
    with pytest.raises(TenantContextError, match="No tenant is current"):
        asyncio.run(trail.log(UPDATED))

    with TenantContext("acme"):
        assert asyncio.run(trail.verify_chain()).checked == 2


def test_a_trail_reads_its_tenant_only_and_leaves_the_query_alone(filled: AuditStoreFace, trail: AuditTrail) -> None:
    query = AuditQuery(actor_id="user1")

    assert numbers(asyncio.run(trail.query(query))) == [3, 1]
    assert query.tenant_id is None
    with pytest.raises(TenantContextError, match="globex"):
        asyncio.run(trail.query(AuditQuery(tenant_id="globex")))


def test_calls_at_once_leave_no_gap_and_no_double(trail: AuditTrail) -> None:
    async def main() -> list[AuditRecord]:
        return await asyncio.gather(*(trail.log(UPDATED, actor_id=str(n)) for n in range(30)))

    logged = asyncio.run(main())

    assert sorted(numbers(logged)) == list(range(1, 31))
    assert asyncio.run(trail.verify_chain()).checked == 30


def test_the_short_forms_write_what_they_say(trail: AuditTrail) -> None:
    async def main() -> list[AuditRecord]:
        return [
            await trail.log_pipeline_started("p", "r", "ann", {"n": 1}),
            await trail.log_pipeline_completed("p", "r"),
            await trail.log_pipeline_failed("p", "r", ValueError("no")),
            await trail.log_access_denied("bob", "doc", "d-1", "not his"),
            await trail.log_approval(True, "ann", "req-1"),
            await trail.log_approval(False, "ann", "req-2", "too dear"),
            await trail.log_config_change("ann", "limit", "l-1", {"a": 1}, {"a": 2}),
        ]

    logged = asyncio.run(main())

    shown = [
        (r.event_type.name, r.severity.name, r.actor_type, r.action, r.resource_type, r.resource_id, r.success)
        for r in logged
    ]
    assert shown == [
        ("PIPELINE_STARTED", "INFO", "user", "start", "pipeline", "p", True),
        ("PIPELINE_COMPLETED", "INFO", "system", "complete", "pipeline", "p", True),
        ("PIPELINE_FAILED", "ERROR", "system", "fail", "pipeline", "p", False),
        ("ACCESS_DENIED", "WARNING", "user", "access_denied", "doc", "d-1", False),
        ("APPROVAL_GRANTED", "INFO", "user", "approve", "approval_request", "req-1", True),
        ("APPROVAL_REJECTED", "WARNING", "user", "reject", "approval_request", "req-2", False),
        ("CONFIG_CHANGED", "INFO", "user", "update", "limit", "l-1", True),
    ]
    assert (logged[0].new_value, logged[1].new_value) == ({"input_summary": {"n": 1}}, None)
    assert (logged[0].pipeline_id, logged[0].run_id) == ("p", "r")
    assert (logged[2].error_message, logged[3].error_message) == ("no", "not his")
    assert (logged[4].metadata, logged[5].metadata) == ({}, {"reason": "too dear"})
    assert (logged[6].old_value, logged[6].new_value) == ({"a": 1}, {"a": 2})


def test_a_report_counts_the_period_and_shows_what_failed(filled: AuditStoreFace, trail: AuditTrail) -> None:
    naive = MOMENT.replace(hour=0, tzinfo=None)

    report = asyncio.run(trail.generate_report(naive, naive + timedelta(days=29)))

    assert (report.tenant_id, report.total_events, report.generated_by) == ("acme", 5, "system")
    assert report.generated_at == MOMENT
    assert report.events_by_type == {"pipeline.started": 2, "security.access_denied": 1, "data.updated": 2}
    assert report.events_by_severity == {"info": 3, "warning": 1, "error": 1}
    assert report.events_by_actor == {"user1": 2, "user2": 1, "Zoë": 1}
    assert report.events_by_day == {"2026-01-02": 2, "2026-01-03": 3}
    assert numbers(report.failed_operations) == [4, 2]
    assert numbers(report.security_incidents) == [2]
    assert (report.failed_operations_total, report.security_incidents_total) == (2, 1)
    assert (report.records, report.chain_valid, report.missing_sequence_numbers) == ([], True, [])


def test_a_reports_bounds_are_included(filled: AuditStoreFace, trail: AuditTrail) -> None:
    report = asyncio.run(trail.generate_report(MOMENT + SECOND, MOMENT + 3 * SECOND, include_records=True))

    assert numbers(report.records) == [4, 3, 2]
    assert asyncio.run(trail.generate_report(MOMENT, MOMENT)).total_events == 1
    with pytest.raises(InvalidAuditQueryError, match="ends before it begins"):
        asyncio.run(trail.generate_report(MOMENT, MOMENT - SECOND))


def test_a_report_cuts_its_examples_and_says_so(trail: AuditTrail) -> None:
    trail.store.add("acme", [draft(success=False) for _ in range(130)])

    report = asyncio.run(trail.generate_report(MOMENT, MOMENT))

    assert (report.total_events, report.failed_operations_total, len(report.failed_operations)) == (130, 130, 100)
    assert report.failed_operations[0].sequence_number == 130


def test_an_empty_trail_is_a_sound_one(trail: AuditTrail) -> None:
    asyncio.run(trail.initialize())
    asyncio.run(trail.flush())

    assert asyncio.run(trail.verify_chain()) == (True, [])
    assert asyncio.run(trail.generate_report(MOMENT, MOMENT)).total_events == 0


def test_a_chain_is_checked_over_many_pages(store: AuditStoreFace) -> None:
    store.add("acme", [draft() for _ in range(PAGE + 5)])

    assert store.check("acme").checked == PAGE + 5
    assert store.check("acme", PAGE, PAGE + 1).checked == 2
    assert store.check("acme", 3, PAGE + 7) == (False, [PAGE + 6, PAGE + 7])
    assert store.check("acme", PAGE * 3) == (True, [])


def test_a_checkpoint_tells_when_a_chain_was_replaced_as_a_whole(store: AuditStoreFace) -> None:
    key = SigningKey.generate()
    store.add("acme", [draft(actor_id="ann"), draft()])
    genuine = asyncio.run(AuditTrail(store, "acme").checkpoint(key))
    replaced = MemoryAuditStore()
    replaced.add("acme", [draft(actor_id="bob"), draft(), draft()])
    cut = MemoryAuditStore()
    cut.insert(store.select(AuditQuery(tenant_id="acme", order_desc=False))[0])

    def found(one: AuditStoreFace) -> list[str]:
        trail = AuditTrail(one, "acme")
        checked = asyncio.run(trail.verify_chain(checkpoints=[genuine], key=key.verify_key))
        return [fault.kind.value for fault in checked.faults]

    assert found(store) == []
    assert found(replaced) == ["forged"]
    assert found(cut) == ["truncated"]
    with pytest.raises(AuditIntegrityError, match="forged"):
        asyncio.run(AuditTrail(replaced, "acme").verify_chain(checkpoints=[genuine], raise_on_error=True))


def test_a_checkpoint_is_taken_from_what_was_added_since_the_last_one(store: AuditStoreFace) -> None:
    key, trail = SigningKey.generate(), AuditTrail(store, "acme", clock=lambda: MOMENT)
    empty = asyncio.run(trail.checkpoint(key))
    store.add("acme", [draft(), draft()])
    first = asyncio.run(trail.checkpoint(key, since=empty))
    store.add("acme", [draft()])

    second = asyncio.run(trail.checkpoint(key, since=first))

    assert [point.sequence_number for point in (empty, first, second)] == [0, 2, 3]
    assert second.issued_at == MOMENT
    with pytest.raises(AuditIntegrityError, match="not signed"):
        asyncio.run(trail.checkpoint(SigningKey.generate(), since=first))
    with pytest.raises(AuditIntegrityError, match="globex"):
        asyncio.run(AuditTrail(store, "globex").checkpoint(key, since=first))


def test_what_does_not_hold_is_neither_vouched_for_nor_exported(store: AuditStoreFace) -> None:
    (first,) = store.add("acme", [draft()])
    store.insert(replace(link(draft(), "acme", ChainPoint.of(first), now=MOMENT), actor_id="mallory"))

    with pytest.raises(AuditIntegrityError, match="altered"):
        asyncio.run(AuditTrail(store, "acme").checkpoint(SigningKey.generate()))
    with pytest.raises(AuditIntegrityError, match="altered"):
        list(export_lines(store, "acme", now=MOMENT))


@pytest.mark.parametrize(("first", "last"), [(1, None), (2, 3), (4, None), (9, None)])
def test_an_export_holds_without_the_store(store: AuditStoreFace, first: int, last: int | None) -> None:
    key = SigningKey.generate()
    store.add("acme", [draft(new_value={"n": n}) for n in range(4)])

    lines = list(export_lines(store, "acme", now=MOMENT, first=first, last=last, key=key))
    found = check_export(lines, key=key.verify_key)

    assert found.chain == (True, [])
    assert found.tenant_id == "acme"
    assert found.signed_by == key.verify_key.key_id
    assert found.chain.checked == len(lines) - 2 == max((last or 4) - first + 1, 0)


@pytest.fixture(autouse=True)
def no_tenant_is_left_current() -> Iterator[None]:
    yield
    from llmteam.tenancy import get_current_tenant

    assert get_current_tenant() == ""
