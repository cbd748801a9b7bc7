"""Licence keys for tests, signed with a key of their own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from llmteam.crypto import SigningKey
from llmteam.licensing.keys import Issue, issue
from llmteam.licensing.limits import LicenseTier
from llmteam.settings import Settings

VENDOR = SigningKey.generate()
STRANGER = SigningKey.generate()
#: A moment at which the keys of these tests hold.
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)

TERMS = Issue(
    LicenseTier.PROFESSIONAL,
    "Ächme & Söhne",
    expires=date(2026, 12, 31),
    starts=date(2026, 1, 1),
    email="ops@acme.example",
    license_id="lic-17",
)


def key(signer: SigningKey = VENDOR, **changes: Any) -> str:
    """A key of :data:`TERMS` with some changes."""
    return issue(signer, replace(TERMS, **changes), datetime(2026, 1, 1, tzinfo=UTC))


def settings(**given: Any) -> Settings:
    """Settings that know the vendor's public key."""
    values: dict[str, Any] = {"license_public_key": VENDOR.verify_key.to_pem().decode(), **given}
    return Settings(**values)
