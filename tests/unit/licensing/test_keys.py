"""Licence keys: what was issued is read back, and whatever else is refused, with the reason and without the key."""

from __future__ import annotations

import base64
import json
import pickle
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmteam import codec
from llmteam.crypto import SigningKey
from llmteam.licensing import LicenseError, LicenseExpiredError, LicenseTier, LicenseValidationError
from llmteam.licensing.keys import (
    MAX_LENGTH,
    InvalidLicenseTermsError,
    check,
    issue,
    read,
    refuse_revoked,
)
from llmteam.licensing.limits import key_features
from tests.unit.licensing.issuing import NOW, STRANGER, TERMS, VENDOR, key

PUBLIC = VENDOR.verify_key
#: The last moment of the last day of :data:`TERMS`.
LAST = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def refusal(text: str, fault: str) -> str:
    """Why a key is refused, which is of this kind; the reason has nothing of the key in it."""
    with pytest.raises(LicenseValidationError) as raised:
        read(text, PUBLIC)
    assert raised.value.fault == fault, raised.value
    assert len(text) < 20 or text[6:60] not in str(raised.value)
    return raised.value.reason


def forged(signer: SigningKey = VENDOR, **changes: Any) -> str:
    """A key whose payload is what a signer would not write by himself, signed all the same."""
    form, signer_id, payload, _, _ = key(signer).split(".")
    document = json.loads(base64.urlsafe_b64decode(payload + "=="))
    for name, value in changes.items():
        if value is ...:
            del document[name]
        else:
            document[name] = value
    return signed(signer, f"{form}.{signer_id}.{encoded(codec.canonical(document).encode())}")


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(signer: SigningKey, body: str) -> str:
    signature = bytes.fromhex(signer.sign("llmteam licence\n" + body))
    return f"{body}.{codec.digest(body.encode())[:16]}.{encoded(signature)}"


def test_a_key_says_what_was_issued() -> None:
    text = key(tenant_id="acme", limits={"teams": 3, "pipelines": 7}, features=["sso"], grace_days=5)

    found = read(f"  {text}\n", PUBLIC)

    assert (found.key, found.license_id, found.tenant_id, found.signer) == (text, "lic-17", "acme", PUBLIC.key_id)
    assert (found.tier, found.owner, found.owner_email) == (
        LicenseTier.PROFESSIONAL,
        "Ächme & Söhne",
        "ops@acme.example",
    )
    assert found.limits == {"teams": 3, "concurrent_pipelines": 7}
    assert found.features == [*key_features(LicenseTier.PROFESSIONAL), "sso"]
    assert (found.starts_at, found.expires_at) == (datetime(2026, 1, 1, tzinfo=UTC), LAST)
    assert found.grace_until == LAST + timedelta(days=5)
    check(found, NOW, tenant_id="acme")


def test_a_licence_holds_through_the_end_of_its_last_day_in_utc() -> None:
    found = read(key(), PUBLIC)
    check(found, LAST)

    with pytest.raises(LicenseExpiredError, match=r"'lic-17' expired on 2026-12-31, at the end of that day in UTC"):
        check(found, LAST + timedelta(microseconds=1))
    check(found, found.grace_until, in_grace=True)
    with pytest.raises(LicenseExpiredError):
        check(found, found.grace_until + timedelta(microseconds=1), in_grace=True)


def test_a_licence_that_has_not_begun_is_refused() -> None:
    with pytest.raises(LicenseValidationError, match=r"\(not yet valid\): it begins on 2026-01-01") as raised:
        check(read(key(), PUBLIC), datetime(2025, 12, 31, 23, 59, tzinfo=UTC))

    assert raised.value.fault == "not yet valid"


def test_a_licence_of_another_tenant_is_refused() -> None:
    with pytest.raises(LicenseValidationError, match="it is for the tenant 'acme', not for 'globex'") as raised:
        check(read(key(tenant_id="acme"), PUBLIC), NOW, tenant_id="globex")

    assert raised.value.fault == "other tenant"
    check(read(key(), PUBLIC), NOW, tenant_id="globex")


def test_a_licence_that_was_revoked_is_refused() -> None:
    found = read(key(), PUBLIC)
    refuse_revoked(found, revoked=False)

    with pytest.raises(LicenseValidationError, match="the licence 'lic-17' was revoked"):
        refuse_revoked(found, revoked=True)


def test_a_key_of_another_signer_is_told_from_a_forged_one() -> None:
    theirs = key(STRANGER)

    assert refusal(theirs, "wrong key") == (
        f"it is signed for the public key {STRANGER.verify_key.key_id}, here is {PUBLIC.key_id}"
    )
    disguised = theirs.replace(STRANGER.verify_key.key_id, PUBLIC.key_id)
    assert "not the one that was issued" in refusal(disguised, "altered")
    body = ".".join(disguised.split(".")[:3])
    assert "not that of the public key" in refusal(signed(STRANGER, body), "signature")


def test_a_payload_that_was_altered_is_told() -> None:
    form, signer, payload, digest, signature = key().split(".")
    better = base64.urlsafe_b64decode(payload + "==").replace(b"professional", b"enterprise")

    assert "use the key as it came" in refusal(f"{form}.{signer}.{encoded(better)}.{digest}.{signature}", "altered")
    body = f"{form}.{signer}.{encoded(better)}"
    assert "was not issued so" in refusal(f"{body}.{codec.digest(body.encode())[:16]}.{signature}", "signature")


def test_without_a_public_key_nothing_is_taken() -> None:
    with pytest.raises(LicenseValidationError, match="set LLMTEAM_LICENSE_PUBLIC_KEY") as raised:
        read(key(), None)

    assert raised.value.fault == "no public key"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "at character 1: a key begins with LLMT1"),
        ("LLMT2.x", "at character 1: a key begins with LLMT1"),
        ("LLMT1.x", "it has 2 parts instead of 5"),
        (key() + ".more", "it has 6 parts instead of 5"),
        ("LLMT1.XYZ.e30.0123456789abcdef.AA", "at character 7: the signer is not 16 hex digits"),
        ("LLMT1.0123456789abcdef.e3!0.0123456789abcdef.AA", "at character 24: the payload is not base64url"),
        ("LLMT1.0123456789abcdef..0123456789abcdef.AA", "at character 24: the payload is not base64url"),
        ("LLMT1.0123456789abcdef.e30.short.AA", "at character 28: the digest is not 16 hex digits"),
        ("LLMT1.0123456789abcdef.e30.0123456789abcdef.AB", "at character 45: the signature is not base64url"),
        ("LLMT1.0123456789abcdef.é.0123456789abcdef.AA", "at character 24: the payload is not base64url"),
        ("L" * (MAX_LENGTH + 1), "it has more than 4,096 characters"),
        ("LLMT-PRO-Acme-20261331" * 400, "it has more than 4,096 characters"),
    ],
)
def test_a_key_that_is_none_says_where(text: str, reason: str) -> None:
    assert refusal(text, "malformed").startswith(reason)


def test_a_variable_that_is_not_set_is_no_key() -> None:
    with pytest.raises(LicenseValidationError, match="a key is text, not a NoneType"):
        read(None, PUBLIC)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tier": "gold"}, "tier: it is none of community, professional, enterprise"),
        ({"tier": ["x"]}, "tier: it is none of"),
        ({"owner": ""}, "owner: it is not 1 to 200 printable characters"),
        ({"owner": "a\nb"}, "owner: it is not 1 to 200"),
        ({"email": 7}, "email: it is not 0 to 200"),
        ({"expires": "2026-02-30"}, "expires: it is no date like 2030-12-31"),
        ({"expires": "20261231"}, "expires: it is no date"),
        ({"expires": "9999-12-31"}, "expires: it is no date"),
        ({"expires": "2025-12-31"}, "expires: it is before the first day"),
        ({"starts": None}, "starts: it is no date"),
        ({"grace": -1}, "grace: it is no whole number from 0 to 90"),
        ({"grace": True}, "grace: it is no whole number"),
        ({"id": "no id"}, "id: it is no usable id"),
        ({"tenant": 1}, "tenant: it is no usable id"),
        ({"features": "sso"}, "features: it is no list"),
        ({"features": ["Not a name"]}, "features: it is no list"),
        ({"limits": []}, "limits: it is no object of numbers"),
        ({"limits": {"moons": 1}}, "limits: it names a limit that there is not"),
        ({"limits": {"teams": -1}}, "limits: it is no whole number"),
        ({"tenant": ...}, "tenant: it is missing"),
        ({"more": 1}, "more: a licence has no such field"),
    ],
)
def test_a_payload_that_cannot_be_read_names_its_field(changes: dict[str, Any], reason: str) -> None:
    assert refusal(forged(**changes), "malformed").startswith(reason)


@pytest.mark.parametrize("payload", [b"[1]", b"{", b'{"a": 1}', b'{"a":1,"a":1}', b"[" * 2000, b"\xff\xfe", b"NaN"])
def test_a_payload_that_is_no_canonical_object_is_refused(payload: bytes) -> None:
    text = signed(VENDOR, f"LLMT1.{PUBLIC.key_id}.{encoded(payload)}")

    assert refusal(text, "malformed").startswith("at character 24: the payload is not ")


@settings(max_examples=300)
@given(st.data())
def test_no_key_that_differs_anywhere_grants_anything(data: st.DataObject) -> None:
    text = key()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != text[place]))
    changed = data.draw(st.sampled_from([text[:place] + other + text[place + 1 :], text[:place] + text[place + 1 :]]))

    if changed.strip() != text:
        with pytest.raises(LicenseValidationError) as raised:
            read(changed, PUBLIC)
        assert changed[30:80] not in str(raised.value)


@settings(max_examples=300)
@given(st.text(max_size=200) | st.from_regex(r"LLMT(1\.|-PRO-)[0-9a-zA-Z._-]{0,80}", fullmatch=True))
def test_whatever_is_given_is_refused_by_an_error_of_the_package(text: str) -> None:
    with pytest.raises(LicenseError):
        read(text, PUBLIC)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"owner": ""}, "owner"),
        ({"expires": date(2025, 1, 1)}, "expires"),
        ({"tenant_id": "no tenant"}, "tenant"),
        ({"features": [f"f{number:060}" for number in range(100)]}, "licence"),
    ],
)
def test_terms_that_no_key_can_have_are_not_issued(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidLicenseTermsError) as raised:
        key(**changes)

    assert raised.value.field == field


def test_each_issued_licence_has_an_id_of_its_own() -> None:
    ids = {read(key(license_id=None), PUBLIC).license_id for _ in range(3)}

    assert len(ids) == 3
    assert issue(VENDOR, TERMS, NOW) == issue(VENDOR, TERMS, NOW)


# -- the form without a signature


def test_a_key_without_a_signature_is_refused_unless_it_is_asked_for() -> None:
    reason = refusal("LLMT-ENT-anything-20301231", "signature")

    assert "LLMTEAM_LICENSE_UNSIGNED=1" in reason
    found = read("llmt-ent-Acme-20301231", None, unsigned=True)
    assert (found.tier, found.owner, found.owner_email, found.signer) == (LicenseTier.ENTERPRISE, "Acme", "", "")
    check(found, datetime(2030, 12, 31, 23, 59, tzinfo=UTC))
    with pytest.raises(LicenseExpiredError):
        check(found, datetime(2031, 1, 1, tzinfo=UTC), in_grace=True)


@pytest.mark.parametrize(
    "text",
    [
        "LLMT-PRO-Acme-20301231-more",
        "LLMT-PRO-20301231",
        "LLMT-GLD-Acme-20301231",
        "LLMT-PRO-A.C-20301231",
        "LLMT-PRO-",
    ],
)
def test_a_key_without_a_signature_is_read_strictly(text: str) -> None:
    with pytest.raises(LicenseValidationError, match="begins with LLMT1"):
        read(text, None, unsigned=True)


def test_a_key_without_a_signature_that_has_no_date_says_where() -> None:
    with pytest.raises(LicenseValidationError, match="at character 15: it does not end with a date"):
        read("LLMT-PRO-Acme-20301331", None, unsigned=True)


def test_a_refusal_survives_its_way_through_a_queue() -> None:
    with pytest.raises(LicenseValidationError) as raised:
        read("LLMT1.x", PUBLIC)

    copy = pickle.loads(pickle.dumps(raised.value))

    assert (str(copy), copy.fault) == (str(raised.value), "malformed")
