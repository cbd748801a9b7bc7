from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.masking import (
    MASK,
    MIN_REDACTED,
    Remembered,
    SecretValue,
    is_secret_name,
    masked,
    may_name_secret,
    redact,
    redact_in,
    shows,
    unmasked,
)

SECRET_NAMES = [
    *("password", "passwd", "PWD", "Authorization", "X-Api-Key", "api_key", "apiKey", "APIKEY", "APIKey", "token"),
    *("accessToken", "refresh_token", "client_secret", "Set-Cookie", "private_key", "db_password2", "credentials"),
    *("password_hash", "sessionKey", "card_number", "cardNumber", "cvv", "CVV2", "cvc", "pin", "PAN", "ssn"),
]
PLAIN_NAMES = [
    *("max_tokens", "input_tokens", "token_count", "secret_ref", "key", "primary_key", "author", "passenger", ""),
    *("card_type", "map_pin", "japan", "shipping", "company", "session_id"),
]
WORD = "hunter2-hunter2"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nxyz\n-----END KEY-----\n"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=MIN_REDACTED, max_size=20)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_of_credentials_or_of_a_card_is_secret(name: str) -> None:
    assert is_secret_name(name)
    assert may_name_secret(f'{{"{name}": 1}}')


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_name_that_only_sounds_like_one_is_not(name: str) -> None:
    assert not is_secret_name(name)


@given(TEXT, st.text(max_size=10), st.text(max_size=10))
def test_a_secret_is_taken_out_of_any_text(secret: str, before: str, after: str) -> None:
    assert secret == MASK * (len(secret) // 3) or secret not in redact(before + secret + after, {secret}).replace(
        MASK, ""
    )


@pytest.mark.parametrize("write", [str, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
@pytest.mark.parametrize("secret", [WORD, "quo\"ted'back\\slash", "zeile\u00e4\u00f6\u00fc", KEY, "tab\tnew\nline"])
def test_however_it_is_written(write: object, secret: str) -> None:
    assert callable(write)
    text = f"before {write(secret)} after"

    clean = redact(text, {secret})

    assert MASK in clean
    for line in secret.splitlines():
        assert line not in clean or len(line) < 4 * MIN_REDACTED
    assert shows(text, {secret})


def test_one_line_of_a_key_is_found_too() -> None:
    assert "MIIEvQ" not in redact("line 2: MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", {KEY})


def test_the_longer_secret_goes_first() -> None:
    assert redact("abcdefgh", {"abcd", "abcdefgh"}) == MASK


def test_what_is_too_short_is_left_alone() -> None:
    assert redact("a 123 b", {"123"}) == "a 123 b"
    assert not shows("4111 is a number", {"4111"})


def test_texts_in_documents_are_found_keys_included() -> None:
    document = {"a": [f"x {WORD}", 1, None], WORD: {"b": WORD}}

    assert redact_in(document, {WORD}) == {"a": [f"x {MASK}", 1, None], MASK: {"b": MASK}}
    assert redact_in(document, set()) == document


def test_masked_values_show_nothing_and_are_what_they_were() -> None:
    value = {"a": [WORD, 1, {"b": WORD}], "n": None}

    hidden = masked(value)

    assert hidden == value
    assert WORD not in repr(hidden)
    assert type(unmasked(hidden)["a"][0]) is str
    assert isinstance(hidden["a"][0], SecretValue)


def test_the_latest_texts_are_remembered() -> None:
    known = Remembered(kept=2)

    known.add(["first-one", "second-one"])
    known.add(["first-one"])
    known.add(["third-one", "abc"])

    assert known.redact("first-one second-one third-one abc") == f"{MASK} second-one {MASK} abc"
