"""Licence keys: how one is written, signed, read and checked, without any server. Pure.

A key is five parts with dots between them: ``LLMT1``, the id of the public key that checks it, the payload (canonical
JSON in base64url, RFC 4648 section 5, without padding), 16 hex digits of a SHA-256 over the parts before, and an
Ed25519 signature (RFC 8032) over the same. The digest protects nothing: it tells a damaged key from a forged one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from llmteam import codec
from llmteam.crypto import SigningKey, VerifyKey
from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import check_identifier, new_id
from llmteam.licensing.exceptions import LicenseExpiredError, LicenseValidationError
from llmteam.licensing.limits import LicenseTier, key_features, limit_name
from llmteam.licensing.models import GRACE_DAYS, License, end_of

FORM = "LLMT1"
#: Characters that a key may have.
MAX_LENGTH = 4096
MAX_GRACE_DAYS = 90

_MAX_NUMBER = 2_147_483_647
_PURPOSE = "llmteam licence\n"
_SIGNER = re.compile(r"[0-9a-f]{16}")
_FEATURE = re.compile(r"[a-z0-9_*][a-z0-9_]{0,63}")
_PARTS = ("form", "signer", "payload", "digest", "signature")
_FIELDS = {"id", "tier", "owner", "email", "tenant", "issued", "starts", "expires", "grace", "features", "limits"}

_LEGACY = re.compile(r"LLMT-(COM|PRO|ENT)-([A-Za-z0-9_]{1,64})-([0-9]{8})", re.IGNORECASE)
_LEGACY_TIERS = dict(zip(("COM", "PRO", "ENT"), LicenseTier, strict=True))


class InvalidLicenseTermsError(ConfigurationError):
    """A licence cannot be issued like this; ``field`` names what is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Issue:
    """What is to be licensed: from the first moment of ``starts`` to the last one of ``expires``, in UTC."""

    tier: LicenseTier
    owner: str
    expires: date
    starts: date
    email: str = ""
    tenant_id: str | None = None
    features: Collection[str] = ()
    limits: Mapping[str, int] | None = None
    grace_days: int = GRACE_DAYS
    license_id: str | None = None


def issue(key: SigningKey, what: Issue, now: datetime) -> str:
    """A signed licence key. Raises :class:`InvalidLicenseTermsError`."""
    payload = {
        "id": what.license_id or new_id(),
        "tier": LicenseTier(what.tier).value,
        "owner": what.owner,
        "email": what.email,
        "tenant": what.tenant_id,
        "issued": now.date().isoformat(),
        "starts": what.starts.isoformat(),
        "expires": what.expires.isoformat(),
        "grace": what.grace_days,
        "features": sorted(what.features),
        "limits": {limit_name(name): value for name, value in (what.limits or {}).items()},
    }
    try:
        _license_of(payload, "", "")
    except LicenseValidationError as exc:
        field, _, reason = exc.reason.partition(": ")
        raise InvalidLicenseTermsError(field, reason) from None
    body = f"{FORM}.{key.verify_key.key_id}.{_encoded(codec.canonical(payload).encode())}"
    text = f"{body}.{_digest(body)}.{_encoded(bytes.fromhex(key.sign(_PURPOSE + body)))}"
    if len(text) > MAX_LENGTH:
        raise InvalidLicenseTermsError("licence", f"its key would have {len(text):,} of {MAX_LENGTH:,} characters")
    return text


def read(text: str, public_key: VerifyKey | None, *, unsigned: bool = False) -> License:
    """The licence of a key whose signature is right, whenever and for whomever it holds.

    ``unsigned`` also takes the form that anyone can write. Raises :class:`LicenseValidationError`.
    """
    if not isinstance(text, str):
        raise LicenseValidationError("malformed", f"a key is text, not a {type(text).__name__}")
    found = text.strip() if len(text) <= 2 * MAX_LENGTH else text
    if len(found) > MAX_LENGTH:
        raise LicenseValidationError("malformed", f"it has more than {MAX_LENGTH:,} characters")
    legacy = _LEGACY.fullmatch(found)
    if legacy is not None:
        return _legacy(found, legacy, unsigned)
    parts = _split(found)
    if public_key is None:
        raise LicenseValidationError(
            "no public key", "there is nothing to check it with: set LLMTEAM_LICENSE_PUBLIC_KEY"
        )
    if parts["signer"] != public_key.key_id:
        raise LicenseValidationError(
            "wrong key", f"it is signed for the public key {parts['signer']}, here is {public_key.key_id}"
        )
    body = f"{FORM}.{parts['signer']}.{parts['payload']}"
    if parts["digest"] != _digest(body):
        raise LicenseValidationError("altered", "its payload is not the one that was issued: use the key as it came")
    if not public_key.is_signature(_decoded(parts, "signature").hex(), _PURPOSE + body):
        raise LicenseValidationError("signature", "its signature is not that of the public key: it was not issued so")
    return _license_of(_payload(parts), found, parts["signer"])


def check(license_: License, now: datetime, *, tenant_id: str | None = None, in_grace: bool = False) -> None:
    """Raise unless the licence holds now, and for the tenant when one is named.

    With ``in_grace`` its days of grace count. Raises :class:`LicenseValidationError`, :class:`LicenseExpiredError`.
    """
    if tenant_id is not None and license_.tenant_id not in {None, tenant_id}:
        raise LicenseValidationError(
            "other tenant", f"it is for the tenant '{license_.tenant_id}', not for '{tenant_id}'"
        )
    if license_.starts_at is not None and now < license_.starts_at:
        raise LicenseValidationError("not yet valid", f"it begins on {license_.starts_at:%Y-%m-%d}, UTC")
    if now > (license_.grace_until if in_grace else license_.expires_at):
        raise LicenseExpiredError(license_.license_id or "unsigned", license_.expires_at)


def refuse_revoked(license_: License, revoked: bool) -> None:
    """Raise :class:`LicenseValidationError` for a licence that was revoked."""
    if revoked:
        raise LicenseValidationError("revoked", f"the licence '{license_.license_id}' was revoked")


def _split(text: str) -> dict[str, str]:
    parts = text.split(".", len(_PARTS))
    if parts[0] != FORM:
        raise _malformed(1, f"a key begins with {FORM}")
    if len(parts) != len(_PARTS):
        raise LicenseValidationError("malformed", f"it has {len(parts)} parts instead of {len(_PARTS)}")
    found = dict(zip(_PARTS, parts, strict=True))
    for name in ("signer", "digest"):
        if _SIGNER.fullmatch(found[name]) is None:
            raise _malformed(_place(found, name), f"the {name} is not 16 hex digits")
    for name in ("payload", "signature"):
        _decoded(found, name)
    return found


def _payload(parts: Mapping[str, str]) -> Any:
    place = _place(parts, "payload")
    try:
        raw = _decoded(parts, "payload").decode()
        payload = codec.loads(raw)
        same = codec.canonical(payload) == raw
    except (LLMTeamError, ValueError, RecursionError):
        raise _malformed(place, "the payload is not JSON") from None
    if not same or not isinstance(payload, dict):
        raise _malformed(place, "the payload is not an object in canonical JSON")
    return payload


def _license_of(payload: Mapping[str, Any], key: str, signer: str) -> License:
    if set(payload) != _FIELDS:
        odd = min(set(payload) ^ _FIELDS)
        raise _wrong(odd[:80], "it is missing" if odd in _FIELDS else "a licence has no such field")
    tier = _tier(payload["tier"])
    starts, expires, issued = (_day(name, payload[name]) for name in ("starts", "expires", "issued"))
    if expires < starts:
        raise _wrong("expires", "it is before the first day")
    own = _features(payload["features"])
    return License(
        key,
        tier,
        _text("owner", payload["owner"], 1),
        _text("email", payload["email"], 0),
        end_of(expires),
        datetime.combine(issued, time.min, UTC),
        [*key_features(tier), *(name for name in own if name not in key_features(tier))],
        _numbers(payload["limits"]),
        _identifier("id", payload["id"]),
        None if payload["tenant"] is None else _identifier("tenant", payload["tenant"]),
        datetime.combine(starts, time.min, UTC),
        _number("grace", payload["grace"], MAX_GRACE_DAYS),
        signer,
    )


def _legacy(text: str, found: re.Match[str], allowed: bool) -> License:
    if not allowed:
        raise LicenseValidationError(
            "signature",
            "it is of the form without a signature, which anyone can write: LLMTEAM_LICENSE_UNSIGNED=1 takes it in "
            "development, where LLMTEAM_DATABASE_URL is not set",
        )
    tier, day = _LEGACY_TIERS[found[1].upper()], found[3]
    try:
        last = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        raise _malformed(found.start(3) + 1, "it does not end with a date like 20301231") from None
    issued = datetime(1970, 1, 1, tzinfo=UTC)
    return License(text, tier, found[2], "", end_of(last), issued, key_features(tier), grace_days=0)


def _tier(value: object) -> LicenseTier:
    try:
        return LicenseTier(value)  # type: ignore[arg-type]
    except ValueError:
        raise _wrong("tier", f"it is none of {', '.join(LicenseTier)}") from None


def _day(name: str, value: object) -> date:
    try:
        if isinstance(value, str) and len(value) == 10:
            # A year later a date would not take, so the days of grace always fit.
            found = date.fromisoformat(value)
            if found.year < 9999:
                return found
    except ValueError:
        pass
    raise _wrong(name, "it is no date like 2030-12-31")


def _text(name: str, value: object, least: int) -> str:
    if not isinstance(value, str) or not least <= len(value) <= 200 or not value.isprintable():
        raise _wrong(name, f"it is not {least} to 200 printable characters")
    return value


def _identifier(name: str, value: object) -> str:
    try:
        return check_identifier(name, value)  # type: ignore[arg-type]
    except LLMTeamError:
        raise _wrong(name, "it is no usable id") from None


def _number(name: str, value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise _wrong(name, f"it is no whole number from 0 to {most:,}")
    return value


def _features(value: object) -> list[str]:
    names = value if isinstance(value, list) else [""]
    if len(names) > 100 or not all(isinstance(name, str) and _FEATURE.fullmatch(name) for name in names):
        raise _wrong("features", "it is no list of at most 100 names")
    return list(names)


def _numbers(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _wrong("limits", "it is no object of numbers")
    try:
        return {limit_name(name): _number("limits", number, _MAX_NUMBER) for name, number in value.items()}
    except ValueError:
        raise _wrong("limits", "it names a limit that there is not") from None


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(parts: Mapping[str, str], name: str) -> bytes:
    text = parts[name]
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # One text for each key: what decodes alike but is written otherwise is refused.
    if not raw or _encoded(raw) != text:
        raise _malformed(_place(parts, name), f"the {name} is not base64url without padding")
    return raw


def _digest(body: str) -> str:
    return codec.digest(body.encode())[:16]


def _place(parts: Mapping[str, str], name: str) -> int:
    before = _PARTS[: _PARTS.index(name)]
    return sum(len(parts[one]) + 1 for one in before) + 1


def _malformed(place: int, why: str) -> LicenseValidationError:
    return LicenseValidationError("malformed", f"at character {place:,}: {why}")


def _wrong(field: str, why: str) -> LicenseValidationError:
    return LicenseValidationError("malformed", f"{field}: {why}")
