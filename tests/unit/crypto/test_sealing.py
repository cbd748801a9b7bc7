from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmteam.crypto import (
    DataKey,
    MasterKeys,
    NoEncryptionKeysError,
    ProcessVault,
    SealBrokenError,
    UnknownMasterKeyError,
    WrappedKey,
    key_id_of,
)
from llmteam.errors import ConfigurationError

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
PLACES = st.lists(TEXT, max_size=4)
KEY = DataKey.generate()


@given(TEXT, TEXT, PLACES, st.binary(max_size=200))
def test_what_was_sealed_opens_where_it_was_sealed_for(
    tenant: str, purpose: str, place: list[str], plain: bytes
) -> None:
    assert KEY.open(tenant, purpose, place, KEY.seal(tenant, purpose, place, plain)) == plain


@given(st.tuples(TEXT, TEXT, PLACES), st.tuples(TEXT, TEXT, PLACES))
def test_it_opens_for_no_other_tenant_purpose_owner_or_field(
    mine: tuple[str, str, list[str]], other: tuple[str, str, list[str]]
) -> None:
    assume(mine != other)

    with pytest.raises(SealBrokenError):
        KEY.open(*other, KEY.seal(*mine, b"4111"))


@given(st.data())
def test_a_changed_character_is_noticed(data: st.DataObject) -> None:
    sealed = KEY.seal("acme", "context", ["agent", "card"], b"4111-1111")
    at = data.draw(st.integers(0, len(sealed) - 1))
    character = data.draw(st.sampled_from("ABCabc019-_.=\u00e9\x00"))
    assume(character != sealed[at])

    with pytest.raises(SealBrokenError):
        KEY.open("acme", "context", ["agent", "card"], sealed[:at] + character + sealed[at + 1 :])


@given(st.text(max_size=80))
def test_any_other_text_is_no_sealed_value(text: str) -> None:
    with pytest.raises(SealBrokenError):
        KEY.open("acme", "context", [], text)


@given(st.integers(0, 60))
def test_a_value_that_was_cut_does_not_open(length: int) -> None:
    sealed = KEY.seal("acme", "context", [], b"4111-1111-1111-1111")

    with pytest.raises(SealBrokenError):
        KEY.open("acme", "context", [], sealed[: -1 - length])


def test_the_same_value_never_looks_the_same_twice() -> None:
    assert len({KEY.seal("acme", "context", [], b"4111") for _ in range(100)}) == 100


def test_a_sealed_value_names_its_key_and_opens_with_no_other() -> None:
    sealed = KEY.seal("acme", "context", [], b"4111")

    assert key_id_of(sealed) == KEY.key_id
    with pytest.raises(SealBrokenError, match="was not sealed with the key"):
        DataKey.generate().open("acme", "context", [], sealed)


def test_errors_tell_nothing_of_what_was_sealed() -> None:
    sealed = KEY.seal("acme", "context", ["agent", "card"], b"4111-1111")

    with pytest.raises(SealBrokenError) as caught:
        KEY.open("globex", "context", ["agent", "card"], sealed)

    assert "4111" not in str(caught.value)
    assert sealed not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("hide", [repr, str, lambda key: f"{key}"])
def test_keys_show_their_ids_only(hide: Any) -> None:
    raw = b"k" * 32
    key, masters = DataKey("an-id", raw), MasterKeys([("m1", raw)])

    for shown in (hide(key), hide(masters), hide(masters.wrap(key, "acme"))):
        assert "kkkk" not in shown
        assert masters.wrap(key, "acme").wrapped not in shown
    assert "an-id" in hide(key)
    assert "m1" in hide(masters)


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_data_key_does_not_leave_its_process(send: Any) -> None:
    with pytest.raises(TypeError, match="does not leave its process"):
        send(KEY)


def test_the_first_master_key_wraps_and_all_unwrap() -> None:
    key = DataKey.generate()
    before = MasterKeys([OLD]).wrap(key, "acme")
    rotated = MasterKeys([NEW, OLD])
    after = rotated.wrap(rotated.unwrap(before, "acme"), "acme")
    sealed = key.seal("acme", "context", [], b"4111")

    assert (before.master_id, after.master_id) == ("old", "new")
    assert MasterKeys([NEW]).unwrap(after, "acme").open("acme", "context", [], sealed) == b"4111"


def test_a_master_key_that_is_gone_is_named_with_what_to_do() -> None:
    wrapped = MasterKeys([OLD]).wrap(KEY, "acme")

    with pytest.raises(UnknownMasterKeyError, match=r"'old' is not in LLMTEAM_ENCRYPTION_KEYS.*llmteam keys rewrap"):
        MasterKeys([NEW]).unwrap(wrapped, "acme")


def test_a_data_key_unwraps_for_its_own_tenant_and_under_its_own_id_only() -> None:
    masters = MasterKeys([NEW, ("twin", NEW[1])])
    wrapped = masters.wrap(KEY, "acme")

    for tenant, other in (
        ("globex", wrapped),
        ("acme", WrappedKey("another-id", "new", wrapped.wrapped)),
        ("acme", WrappedKey(wrapped.key_id, "twin", wrapped.wrapped)),
        ("acme", WrappedKey(wrapped.key_id, "new", wrapped.wrapped[:-2])),
    ):
        with pytest.raises(SealBrokenError):
            masters.unwrap(other, tenant)


def test_without_a_master_key_nothing_is_wrapped_and_the_error_says_how_to_make_one() -> None:
    wrapped = MasterKeys([OLD]).wrap(KEY, "acme")

    assert not MasterKeys()
    with pytest.raises(NoEncryptionKeysError, match="openssl rand -base64 32"):
        MasterKeys().wrap(KEY, "acme")
    with pytest.raises(NoEncryptionKeysError):
        MasterKeys().unwrap(wrapped, "acme")


def test_a_key_of_another_length_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="has 5 bytes, but must have 32") as caught:
        MasterKeys([("short", b"short")])

    assert "short" not in str(caught.value).replace("has 5", "")


def test_a_vault_of_the_process_opens_its_own_only() -> None:
    one, other = ProcessVault(), ProcessVault()
    sealed = one.seal("context", ["agent", "card"], b"4111")

    assert one.open("context", ["agent", "card"], sealed) == b"4111"
    assert not one.durable
    with pytest.raises(SealBrokenError):
        other.open("context", ["agent", "card"], sealed)
