"""Exports and checkpoints: checked without the store, and only as good as their signature."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.audit import AuditCheckpoint, AuditDraft, AuditError, AuditEventType, AuditIntegrityError, MemoryAuditStore
from llmteam.audit.exports import check_export, export_lines
from llmteam.audit.trail import take_checkpoint
from llmteam.crypto import SigningKey, SigningKeyError, VerifyKey

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
KEY = SigningKey.generate()


def store() -> MemoryAuditStore:
    made = MemoryAuditStore(clock=lambda: NOW)
    for number in range(4):
        made.add("acme", [AuditDraft(event_type=AuditEventType.DATA_UPDATED, new_value={"n": number})])
    return made


def lines(*, signed: bool = True) -> list[str]:
    return list(export_lines(store(), "acme", now=NOW, key=KEY if signed else None))


def changed(line: str, **values: Any) -> str:
    return json.dumps({**json.loads(line), **values})


Change = Callable[[list[str]], list[str]]


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (lambda ls: [*ls[:2], changed(ls[2], actor_id="mallory"), *ls[3:]], [(2, "altered")]),
        (lambda ls: [*ls[:2], changed(ls[2], event_type="no.such"), *ls[3:]], [(2, "altered")]),
        (lambda ls: [*ls[:2], changed(ls[2], tags=3), *ls[3:]], [(2, "altered")]),
        (lambda ls: [*ls[:2], *ls[3:]], [(2, "gap")]),
        (lambda ls: [*ls[:4], ls[5]], [(4, "truncated")]),
        (lambda ls: [changed(ls[0], last=3), *ls[1:4], ls[5]], [(4, "truncated")]),
        (lambda ls: [changed(ls[0], last=9), *ls[1:]], [(5, "truncated")]),
        (lambda ls: [changed(ls[0], after="00"), *ls[1:]], [(1, "relinked")]),
        (lambda ls: [*ls[:3], ls[2], *ls[3:]], [(2, "forged")]),
        (lambda ls: [changed(ls[0], tenant_id="globex"), *ls[1:5], changed(ls[5], tenant_id="globex")], None),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_whatever_is_done_to_an_export_is_found(
    change: Change, faults: list[tuple[int, str]] | None, signed: bool
) -> None:
    given_lines = lines(signed=signed)
    assert check_export(given_lines).chain.valid

    found = check_export(change(given_lines)).chain

    if faults is None:
        assert {fault.kind.value for fault in found.faults} == {"forged"}
    else:
        assert [(fault.sequence_number, fault.kind.value) for fault in found.faults] == faults


def test_an_export_without_its_last_line_is_cut_off() -> None:
    found = check_export(lines()[:-1])

    assert [fault.kind.value for fault in found.chain.faults] == ["truncated"]


def test_an_export_of_a_chain_made_anew_is_no_match_for_the_signature() -> None:
    forged = list(export_lines(store(), "acme", now=NOW))
    genuine = lines()

    found = check_export([*forged[:-1], genuine[-1]], key=KEY.verify_key)

    assert [(fault.sequence_number, fault.kind.value) for fault in found.chain.faults] == [(4, "forged")]


@pytest.mark.parametrize("value", [{"sequence_number": 3}, {"checksum": "00"}, {"key_id": "00"}, {"signature": "zz"}])
def test_an_end_that_was_changed_is_not_trusted(value: dict[str, Any]) -> None:
    given_lines = lines()

    with pytest.raises(AuditIntegrityError, match="not signed"):
        check_export([*given_lines[:-1], changed(given_lines[-1], **value)], key=KEY.verify_key)


def test_who_asks_for_a_signature_gets_one_or_an_error() -> None:
    assert check_export(lines(), key=KEY.verify_key).signed_by == KEY.verify_key.key_id
    assert check_export(lines()).signed_by == ""
    with pytest.raises(AuditIntegrityError, match="is not signed"):
        check_export(lines(signed=False), key=KEY.verify_key)
    with pytest.raises(AuditIntegrityError, match="not signed"):
        check_export(lines(), key=SigningKey.generate().verify_key)
    with pytest.raises(AuditIntegrityError, match="not signed"):
        check_export(lines()[:-1], key=KEY.verify_key)


def test_an_export_is_held_against_checkpoints_from_elsewhere() -> None:
    made = store()
    genuine = take_checkpoint(made, "acme", KEY, NOW)
    made.add("acme", [AuditDraft(event_type=AuditEventType.DATA_UPDATED)])
    whole = list(export_lines(made, "acme", now=NOW))

    assert check_export(whole, checkpoints=[genuine], key=None).chain.valid
    wrong = check_export(whole, checkpoints=[replace(genuine, checksum="00")]).chain
    assert [(fault.sequence_number, fault.kind.value) for fault in wrong.faults] == [(4, "forged")]


@pytest.mark.parametrize(
    "given_lines",
    [[], ["{}"], ["no json"], ["[1]"], ['{"kind": "llmteam.audit.export", "version": 1}'], [*lines(), lines()[1]]],
)
def test_what_is_no_export_is_refused_in_words(given_lines: list[str]) -> None:
    with pytest.raises(AuditError, match="export"):
        check_export(given_lines)


@given(st.text(max_size=40), st.integers(0, 5))
def test_no_line_makes_a_check_fail_otherwise_than_in_words(text: str, place: int) -> None:
    given_lines = lines()
    given_lines[place] = text

    with suppress(AuditError):
        assert not check_export(given_lines).chain.valid


def test_a_checkpoint_comes_back_from_json_with_its_signature() -> None:
    checkpoint = AuditCheckpoint("acme", 7, "ab", NOW).signed(KEY)

    again = AuditCheckpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict())))

    assert again == checkpoint
    assert again.is_signed_by(VerifyKey.from_pem(KEY.verify_key.to_pem()))
    assert not replace(again, sequence_number=8).is_signed_by(KEY.verify_key)
    assert not replace(again, tenant_id="globex").is_signed_by(KEY.verify_key)
    assert not AuditCheckpoint("acme", 7, "ab", NOW).is_signed_by(KEY.verify_key)


@pytest.mark.parametrize("change", [{"kind": "other"}, {"version": 2}, {"sequence_number": "x"}, {"issued_at": 3}])
def test_what_is_no_checkpoint_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(AuditError, match="no checkpoint"):
        AuditCheckpoint.from_dict({**AuditCheckpoint("acme", 7, "ab", NOW).to_dict(), **change})


def test_a_key_comes_back_from_pem_and_shows_no_secret() -> None:
    again = SigningKey.from_pem(KEY.to_pem())

    assert again.sign("x") == KEY.sign("x")
    assert repr(again) == f"SigningKey(key_id='{KEY.verify_key.key_id}')"


def test_what_is_no_key_says_how_to_make_one() -> None:
    with pytest.raises(SigningKeyError, match="openssl genpkey -algorithm ed25519"):
        SigningKey.from_pem(KEY.verify_key.to_pem())
    with pytest.raises(SigningKeyError, match="-pubout"):
        VerifyKey.from_pem(b"-----BEGIN PUBLIC KEY-----\nnone\n-----END PUBLIC KEY-----\n")
