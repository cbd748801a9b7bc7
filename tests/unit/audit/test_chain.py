"""The chain as values: what holds, what does not, and what is said about it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmteam.audit import (
    AuditDraft,
    AuditError,
    AuditEventType,
    AuditIntegrityError,
    AuditQuery,
    AuditRecord,
    AuditSeverity,
    FaultKind,
    InvalidAuditQueryError,
)
from llmteam.audit.chain import GENESIS, ChainChecker, ChainPoint, ChainVerification, link, raise_on_faults
from llmteam.errors import NotJSONError

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def draft(**values: Any) -> AuditDraft:
    return AuditDraft(**{"event_type": AuditEventType.DATA_UPDATED, "actor_id": "ann", "action": "update", **values})


def chain(drafts: Sequence[AuditDraft], tenant_id: str = "acme") -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number, one in enumerate(drafts):
        after = ChainPoint.of(records[-1]) if records else GENESIS
        records.append(link(one, tenant_id, after, now=MOMENT + timedelta(seconds=number)))
    return records


def check(records: Sequence[AuditRecord], last: int | None = None, **options: Any) -> ChainVerification:
    checker = ChainChecker("acme", **options)
    checker.feed(records)
    return checker.finish(len(records) if last is None else last)


def kinds(found: ChainVerification) -> list[tuple[int, str]]:
    return [(fault.sequence_number, fault.kind.value) for fault in found.faults]


texts = st.text(max_size=8)
values = st.dictionaries(texts, st.recursive(st.none() | st.booleans() | st.integers() | texts, st.lists), max_size=3)
drafts = st.builds(
    AuditDraft,
    event_type=st.sampled_from(AuditEventType),
    severity=st.sampled_from(AuditSeverity),
    actor_id=texts,
    resource_id=texts,
    old_value=st.none() | values,
    new_value=st.none() | values,
    metadata=values,
    success=st.booleans(),
    tags=st.lists(texts, max_size=2),
)


# Drawing a record takes longer than all that is done with it.
@settings(max_examples=40)
@given(st.lists(drafts, max_size=4), st.integers(0, 4))
def test_what_was_linked_holds_in_pages_of_any_size(given_drafts: list[AuditDraft], page: int) -> None:
    records = chain(given_drafts)
    checker = ChainChecker("acme", vouched=[ChainPoint.of(record) for record in records[-1:]])

    checker.feed(records[:page])
    checker.feed(records[page:])

    found = checker.finish(len(records))
    assert found == (True, [])
    assert (found.valid, found.checked, found.faults, found.erased_record_ids) == (True, len(records), [], [])
    assert [record.sequence_number for record in records] == list(range(1, len(records) + 1))


@settings(max_examples=60)
@given(st.lists(drafts, min_size=1, max_size=2))
def test_a_record_comes_back_from_json_as_it_was(given_drafts: list[AuditDraft]) -> None:
    for record in chain(given_drafts):
        again = AuditRecord.from_dict(record.to_dict())

        assert again == record
        assert again.verify_integrity()


CHANGES: dict[str, Any] = {
    "record_id": "other",
    "sequence_number": 9,
    "timestamp": MOMENT + timedelta(microseconds=1),
    "event_type": AuditEventType.DATA_DELETED,
    "severity": AuditSeverity.ERROR,
    "old_value": {"a": 2},
    "new_value": None,
    "success": False,
    "metadata": {},
    "tags": ["a", "c"],
    "idempotency_key": "other",
    "hash_version": 2,
    "salt": "00",
}


@pytest.mark.parametrize("name", [item.name for item in fields(AuditRecord)])
def test_no_field_can_be_changed_unnoticed(name: str) -> None:
    given_draft = draft(old_value={"a": 1}, new_value={"a": 2}, metadata={"m": 1}, tags=["a", "b"], idempotency_key="k")
    (record,) = chain([given_draft])

    changed = replace(record, **{name: CHANGES.get(name, "other")})

    assert record.verify_integrity()
    assert changed != record
    assert not changed.verify_integrity()


def test_a_checksum_is_sha_256_in_lower_case_hex_and_the_same_every_time() -> None:
    def record() -> AuditRecord:
        return AuditRecord(
            "id", 1, MOMENT, AuditEventType.PIPELINE_STARTED, tenant_id="acme", metadata={"b": 1, "a": 2}
        )

    assert re.fullmatch("[0-9a-f]{64}", record().checksum)
    assert record().checksum == record().checksum
    assert replace(record(), checksum="", actor_id="x").checksum != record().checksum


def test_an_instant_has_one_form_whatever_its_time_zone() -> None:
    there = MOMENT.astimezone(timezone(timedelta(hours=2)))

    here, again = (AuditRecord("id", 1, when, AuditEventType.DATA_CREATED) for when in (MOMENT, there))

    assert here.checksum == again.checksum
    assert here.to_dict()["timestamp"] == "2026-01-02T03:04:05.678901Z"


def test_a_record_shares_nothing_with_what_it_was_made_of() -> None:
    value = {"list": [1]}
    record = AuditRecord("id", 1, MOMENT, AuditEventType.DATA_CREATED, new_value=value)

    value["list"].append(2)
    record.to_dict()["new_value"]["list"].append(3)

    assert record.new_value == {"list": [1]}
    with pytest.raises(AttributeError):
        record.actor_id = "mallory"  # type: ignore[misc]


def test_a_record_without_a_checksum_never_verifies() -> None:
    document = AuditRecord("id", 1, MOMENT, AuditEventType.DATA_CREATED).to_dict()

    for lacking in ({**document, "checksum": ""}, {k: v for k, v in document.items() if k != "checksum"}):
        again = AuditRecord.from_dict(lacking)
        assert not again.verify_integrity()
        assert not AuditRecord.from_dict(again.to_dict()).verify_integrity()


@pytest.mark.parametrize("broken", [{"event_type": "no.such"}, {"timestamp": "soon"}, {"record_id": None}, {"tags": 3}])
def test_what_is_no_record_is_refused_in_words(broken: dict[str, Any]) -> None:
    document = {**AuditRecord("id", 1, MOMENT, AuditEventType.DATA_CREATED).to_dict(), **broken}
    document = {name: value for name, value in document.items() if value is not None}

    with pytest.raises(AuditError, match="audit record"):
        AuditRecord.from_dict(document)


def test_payloads_can_be_erased_and_the_chain_still_holds() -> None:
    records = chain([draft(), draft(new_value={"name": "Ann"}, metadata={"reason": "x"}), draft()])
    records[1] = replace(records[1], new_value=None, metadata={}, salt="")

    found = check(records)

    assert found == (True, [])
    assert found.erased_record_ids == [records[1].record_id]


@pytest.mark.parametrize(
    "change",
    [{"new_value": None}, {"new_value": None, "salt": ""}, {"new_value": {"name": "Bob"}}, {"salt": ""}],
)
def test_a_payload_that_was_erased_in_part_or_exchanged_is_altered(change: dict[str, Any]) -> None:
    (record,) = chain([draft(new_value={"name": "Ann"}, metadata={"reason": "x"})])

    assert kinds(check([replace(record, **change)])) == [(1, "altered")]


def test_an_erased_payload_cannot_be_found_by_trying() -> None:
    one, other = chain([draft(new_value={"pin_code": 1}), draft(new_value={"pin_code": 1})])

    assert one.new_digest != other.new_digest


Tamper = Callable[[list[AuditRecord]], list[AuditRecord]]


def altered(records: list[AuditRecord]) -> list[AuditRecord]:
    return [*records[:2], replace(records[2], actor_id="mallory"), *records[3:]]


def recomputed(records: list[AuditRecord]) -> list[AuditRecord]:
    return [*records[:2], replace(records[2], actor_id="mallory", checksum=""), *records[3:]]


def rewritten(records: list[AuditRecord]) -> list[AuditRecord]:
    """Everything from the third on, linked anew: only what was vouched for tells."""
    made = [*records[:2], replace(records[2], actor_id="mallory", checksum="")]
    for record in records[3:]:
        made.append(replace(record, previous_checksum=made[-1].checksum, checksum=""))
    return made


def exchanged(records: list[AuditRecord]) -> list[AuditRecord]:
    second, third = records[1:3]
    number = {"sequence_number": 3, "checksum": ""}
    return [records[0], replace(third, sequence_number=2, checksum=""), replace(second, **number), *records[3:]]


@pytest.mark.parametrize(
    ("tamper", "faults", "missing"),
    [
        (altered, [(3, "altered")], []),
        (recomputed, [(4, "relinked")], []),
        (rewritten, [(5, "forged")], []),
        (exchanged, [(2, "relinked"), (3, "relinked"), (4, "relinked")], []),
        (lambda records: [records[0], *records[3:]], [(2, "gap")], [2, 3]),
        (lambda records: records[1:], [(1, "gap")], [1]),
        (lambda records: records[:3], [(4, "truncated")], [4, 5]),
        (lambda records: [], [(1, "truncated")], [1, 2, 3, 4, 5]),
        (lambda records: [*records[:3], records[2], *records[3:]], [(3, "forged")], []),
        (
            lambda records: [*records, link(draft(), "acme", ChainPoint.of(records[-1]), now=MOMENT)],
            [(6, "forged")],
            [],
        ),
    ],
)
def test_each_kind_of_tampering_is_found_and_named(
    tamper: Tamper, faults: list[tuple[int, str]], missing: list[int]
) -> None:
    records = chain([draft(resource_id=str(number)) for number in range(5)])

    found = check(tamper(records), 5, vouched=[ChainPoint.of(records[-1])], end=5)

    assert kinds(found) == faults
    assert found == (False, missing)
    assert found.faults_total == len(faults)


@given(st.integers(2, 8).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))), st.booleans())
def test_whatever_record_is_changed_it_is_found(place: tuple[int, int], recompute: bool) -> None:
    size, index = place
    records = chain([draft(resource_id=str(number)) for number in range(size)])
    head = ChainPoint.of(records[-1])
    changed = replace(records[index], error_message="x", checksum="" if recompute else records[index].checksum)

    found = check([*records[:index], changed, *records[index + 1 :]], vouched=[head])

    assert not found.valid
    assert found.faults[0].sequence_number in {index + 1, index + 2}
    assert records[min(index + 1, size - 1)].record_id in found.invalid_record_ids or (
        found.invalid_record_ids == [records[index].record_id]
    )


def test_a_range_is_tied_to_the_record_before_it() -> None:
    records = chain([draft() for _ in range(4)])

    assert check(records[2:], 4, first=3, after=ChainPoint.of(records[1])).valid
    assert kinds(check(records[2:], 4, first=3, after=ChainPoint(2, "00"))) == [(3, "relinked")]
    assert kinds(check(records[2:], 4, first=3, after=None)) == [(2, "gap")]


def test_another_tenants_record_is_none_of_the_chain() -> None:
    foreign = chain([draft()], tenant_id="globex")

    assert kinds(check(foreign)) == [(1, "forged")]


@pytest.mark.parametrize("size", [0, 3])
def test_what_was_found_can_be_copied_and_sent(size: int) -> None:
    found = check(chain([draft()] * size), 4)
    sound = check(chain([draft()] * size))

    for one in (found, sound):
        for again in (deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert again == one
            assert vars(again) == vars(one)


def test_a_million_missing_numbers_are_told_in_one_fault() -> None:
    found = check([], 1_000_000)

    assert kinds(found) == [(1, "truncated")]
    assert len(found.missing) == 10_000


def test_the_first_fault_is_told_when_one_is_to_be_raised() -> None:
    records = altered(chain([draft() for _ in range(4)]))

    with pytest.raises(AuditIntegrityError, match=r"acme.*record 3 is not what was written \(altered\)") as raised:
        raise_on_faults("acme", check(records))

    assert raised.value.invalid_records == [records[2].record_id]
    raise_on_faults("acme", check(chain([draft()])))
    assert FaultKind.ALTERED == "altered"


class Token:
    is_secret = True


def test_what_is_secret_never_enters_a_record() -> None:
    given_draft = draft(
        old_value={"password": "s3cr3t", "nested": [{"API-Key": "s3cr3t"}], "held": Token()},
        metadata={"access_token": "s3cr3t", "max_tokens": 100, "Authorization": "Bearer s3cr3t", "pin": 1234},
    )

    (record,) = chain([given_draft])

    assert "s3cr3t" not in str(record.to_dict())
    assert record.old_value == {
        "password": "[redacted]",
        "nested": [{"API-Key": "[redacted]"}],
        "held": "[redacted]",
    }
    assert record.metadata["max_tokens"] == 100
    assert record.metadata["pin"] == "[redacted]"


def test_values_that_are_no_json_get_a_form_that_is_the_same_every_time() -> None:
    given_draft = draft(
        new_value={
            "when": MOMENT,
            "day": MOMENT.date(),
            "amount": Decimal("1.10"),
            "id": UUID(int=1),
            "kind": AuditSeverity.ERROR,
            "set": {3, 1, 2},
            "bytes": b"\x01\xff",
        }
    )

    (record,) = chain([given_draft])

    assert record.new_value == {
        "when": "2026-01-02T03:04:05.678901Z",
        "day": "2026-01-02",
        "amount": "1.10",
        "id": "00000000-0000-0000-0000-000000000001",
        "kind": "error",
        "set": [1, 2, 3],
        "bytes": "01ff",
    }


def test_text_that_no_database_takes_does_not_keep_an_event_from_the_record() -> None:
    given_draft = draft(actor_id="a\x00b", error_message="\ud800", tags=["\x00"], metadata={"\x00": "\udfff"})

    (record,) = chain([given_draft])

    assert (record.actor_id, record.error_message, record.tags) == ("a�b", "�", ["�"])
    assert record.metadata == {"�": "�"}


@pytest.mark.parametrize("value", [{"x": float("nan")}, {"x": object()}, {1: "x"}])
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(NotJSONError):
        chain([draft(new_value=value)])


def test_a_query_names_what_it_can_be_sorted_by() -> None:
    with pytest.raises(InvalidAuditQueryError, match="timestamp, sequence_number"):
        AuditQuery(order_by="timestamp; DROP TABLE audit_log")
    with pytest.raises(InvalidAuditQueryError, match="negative"):
        AuditQuery(limit=-1)


@pytest.mark.parametrize(
    "conditions",
    [
        {"event_types": ["security.acess_denied"]},
        {"event_types": AuditEventType.ACCESS_DENIED},
        {"severities": ["fatal"]},
        {"tags": "finance"},
    ],
)
def test_a_query_for_what_no_record_can_have_is_refused_rather_than_not_found(conditions: dict[str, Any]) -> None:
    with pytest.raises(InvalidAuditQueryError, match=next(iter(conditions))):
        AuditQuery(**conditions)


def test_types_and_severities_of_a_query_may_be_text() -> None:
    query = AuditQuery(event_types=["security.access_denied"], severities=["warning"])  # type: ignore[list-item]

    assert query == AuditQuery(event_types=[AuditEventType.ACCESS_DENIED], severities=[AuditSeverity.WARNING])
