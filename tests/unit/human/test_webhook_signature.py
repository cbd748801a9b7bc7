"""A webhook proves where it comes from, and when it was sent."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.human.notifications import sign_webhook, verify_webhook
from tests.unit.human.messages import NOW

KEY, BODY = b"k" * 32, '{"title":"Prüfen"}'.encode()
HEADER = sign_webhook(KEY, BODY, NOW)


def test_a_webhook_that_was_just_signed_is_ours() -> None:
    assert verify_webhook(KEY, HEADER, BODY, NOW)
    assert verify_webhook(KEY.decode(), HEADER, BODY, NOW)


def test_the_signature_is_what_the_documentation_says() -> None:
    seconds = str(int(NOW.timestamp()))

    assert f"t={seconds},v1={hmac.new(KEY, seconds.encode() + b'.' + BODY, hashlib.sha256).hexdigest()}" == HEADER


@given(st.data())
def test_a_changed_body_or_header_is_not(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(BODY) - 1))
    changed = BODY[:at] + bytes([BODY[at] ^ data.draw(st.integers(1, 255))]) + BODY[at + 1 :]
    cut = HEADER[: data.draw(st.integers(0, len(HEADER) - 1))]

    assert not verify_webhook(KEY, HEADER, changed, NOW)
    assert not verify_webhook(KEY, cut, BODY, NOW)
    assert not verify_webhook(b"o" * 32, HEADER, BODY, NOW)


@pytest.mark.parametrize("age", [timedelta(seconds=301), timedelta(seconds=-301)])
def test_an_old_or_early_one_is_not(age: timedelta) -> None:
    assert not verify_webhook(KEY, HEADER, BODY, NOW + age)
    assert verify_webhook(KEY, HEADER, BODY, NOW + age, tolerance=400)


@given(st.one_of(st.none(), st.text(max_size=100), st.from_regex(r"t=\S{0,12},v1=\S{0,70}")))
def test_any_other_header_is_not(header: str | None) -> None:
    assert not verify_webhook(KEY, header, BODY, NOW)


def test_a_second_moment_is_not() -> None:
    assert not verify_webhook(KEY, f"t=0,{HEADER}", BODY, NOW)


def test_one_of_several_signatures_is_enough() -> None:
    assert verify_webhook(KEY, f"{HEADER},v1=0000", BODY, NOW)
