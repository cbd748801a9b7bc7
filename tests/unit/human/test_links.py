"""Signed links and tokens: what was signed comes back, and nothing else is taken for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.errors import ConfigurationError
from llmteam.human.exceptions import AccessTokenError, AnswerLinkError
from llmteam.human.links import Access, AnswerLink, LinkSigner

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY, OTHER = b"k" * 32, b"o" * 32
LINK = AnswerLink("acme", "request-1", "ada@example.com", "f" * 64, "link-1", NOW + timedelta(hours=1))
ACCESS = Access("acme", "ada@example.com", ("finance", "über"), NOW + timedelta(hours=1))
SIGNER = LinkSigner([KEY])


def test_a_link_comes_back_as_it_was_signed() -> None:
    assert SIGNER.read_link(SIGNER.sign_link(LINK), NOW) == LINK


def test_a_token_comes_back_as_it_was_signed() -> None:
    assert SIGNER.read_access(SIGNER.sign_access(ACCESS), NOW) == ACCESS


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=60))
def test_any_name_fits_into_the_path_of_a_url(person: str) -> None:
    text = SIGNER.sign_link(AnswerLink("acme", "request-1", person, "f", "link-1", LINK.expires_at))

    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert SIGNER.read_link(text, NOW).person == person


@given(data=st.data())
def test_a_link_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    text = SIGNER.sign_link(LINK)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.one_of(st.sampled_from("ABCabc019-_.="), st.characters()).filter(lambda c: c != text[at]))

    with pytest.raises(AnswerLinkError, match="not one of ours"):
        SIGNER.read_link(text[:at] + other + text[at + 1 :], NOW)


@given(st.integers(0, len(SIGNER.sign_link(LINK)) - 1))
def test_a_link_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(AnswerLinkError, match="cut off"):
        SIGNER.read_link(SIGNER.sign_link(LINK)[:length], NOW)


@given(st.text(max_size=300))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(AnswerLinkError):
        SIGNER.read_link(text, NOW)
    with pytest.raises(AccessTokenError):
        SIGNER.read_access(text, NOW)


def test_more_behind_a_link_or_far_too_much_is_refused() -> None:
    text = SIGNER.sign_link(LINK)

    for longer in (f"{text}=", f"{text}.", f"{text}\n", "A" * 1_000_000):
        with pytest.raises(AnswerLinkError) as refused:
            SIGNER.read_link(longer, NOW)
        assert refused.value.reason == "forged"


def test_a_link_ends_at_its_time() -> None:
    text = SIGNER.sign_link(LINK)

    assert SIGNER.read_link(text, LINK.expires_at - timedelta(seconds=1)) == LINK
    with pytest.raises(AnswerLinkError, match="it has expired") as refused:
        SIGNER.read_link(text, LINK.expires_at)
    assert refused.value.reason == "expired"


def test_a_token_ends_at_its_time() -> None:
    text = SIGNER.sign_access(ACCESS)

    with pytest.raises(AccessTokenError, match="it has expired") as refused:
        SIGNER.read_access(text, ACCESS.expires_at)
    assert refused.value.reason == "expired"


def test_a_link_is_no_token_and_a_token_no_link() -> None:
    with pytest.raises(AnswerLinkError, match="not one of ours"):
        SIGNER.read_link(SIGNER.sign_access(ACCESS), NOW)
    with pytest.raises(AccessTokenError, match="not one of ours"):
        SIGNER.read_access(SIGNER.sign_link(LINK), NOW)


def test_what_another_key_signed_is_refused() -> None:
    with pytest.raises(AnswerLinkError, match="not one of ours"):
        SIGNER.read_link(LinkSigner([OTHER]).sign_link(LINK), NOW)


def test_a_key_that_was_replaced_still_verifies_and_signs_no_more() -> None:
    before, rotated, after = LinkSigner([KEY]), LinkSigner([OTHER, KEY]), LinkSigner([OTHER])

    assert rotated.read_link(before.sign_link(LINK), NOW) == LINK
    assert after.read_link(rotated.sign_link(LINK), NOW) == LINK
    with pytest.raises(AnswerLinkError):
        before.read_link(rotated.sign_link(LINK), NOW)


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b"short"]])
def test_no_key_or_a_short_one_is_a_matter_of_the_settings(keys: list[bytes]) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_WEB_KEYS"):
        LinkSigner(keys)


def test_a_signer_does_not_show_its_keys() -> None:
    assert "kkkk" not in repr(SIGNER)
