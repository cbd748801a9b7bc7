"""Values of agents in snapshots: what goes in comes out, and what cannot be kept is named."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.masking import SecretValue
from llmteam.persistence import SnapshotSerializationError, UnknownEnum, register_enum
from llmteam.persistence.values import decode, encode


@register_enum
class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.binary(max_size=20),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.just(Colour.RED),
)
HASHABLE = st.one_of(st.integers(), TEXTS, st.dates(), st.uuids(), st.binary(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda parts: st.one_of(
        st.lists(parts, max_size=4),
        st.dictionaries(st.one_of(TEXTS, st.just("$type"), st.just("value")), parts, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    text = codec.dumps(encode(value))

    assert decode(codec.loads(text)) == value
    assert type(decode(codec.loads(text))) is type(value)


@given(st.sets(HASHABLE, max_size=6))
def test_equal_sets_are_written_alike(value: set[Any]) -> None:
    other: set[Any] = set()
    for part in reversed(list(value)):
        other.add(part)

    assert encode(value) == encode(other)


def test_plain_json_stands_as_it_is() -> None:
    plain = {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}

    assert encode(plain) == plain


def test_a_tuple_comes_back_as_a_list() -> None:
    assert decode(encode({"pair": (1, (2,))})) == {"pair": [1, [2]]}


def test_a_member_of_an_unregistered_enumeration_is_kept_as_what_it_was() -> None:
    back = decode(encode(Level.HIGH))

    assert (type(back), back.name, back.value) == (UnknownEnum, "HIGH", 3)
    assert encode(back) == encode(Level.HIGH)


class Custom:
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, Custom()]}, "$.a[1]"),
        ({"a": {1: 2}}, "$.a"),
        ({"key": SecretValue("s3cr3t-value")}, "$.key"),
        ({"keys": {"inner": [SecretValue("s3cr3t-value")]}}, "$.keys.inner[0]"),
        ({"x": float("nan")}, "$.x"),
        ({"x": "a\x00b"}, "$.x"),
    ],
)
def test_what_cannot_be_kept_is_named_and_not_shown(value: Any, path: str) -> None:
    with pytest.raises(SnapshotSerializationError) as caught:
        encode(value)

    assert caught.value.path == path
    assert "s3cr3t" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(SnapshotSerializationError):
        encode(endless)


@pytest.mark.parametrize(
    "tagged",
    [
        {"$type": "os.system", "value": "true"},
        {"$type": "datetime", "value": "yesterday"},
        {"$type": "datetime"},
        {"$type": "bytes", "value": "%%%"},
        {"$type": "decimal", "value": "many"},
        {"$type": "enum", "value": ["only one"]},
        {"$type": "set", "value": [[1]]},
        {"$type": ["a"], "value": 1},
    ],
)
def test_a_tag_that_says_nothing_is_refused(tagged: Any) -> None:
    with pytest.raises(SnapshotSerializationError):
        decode({"a": tagged})


def test_each_kind_is_readable_in_the_document() -> None:
    kinds = {
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "at": time(3, 4),
        "price": Decimal("12.50"),
        "id": UUID(int=7),
    }

    assert [part["value"] for part in encode(kinds).values()] == [
        "2026-01-02T03:04:05+00:00",
        "2026-01-02",
        "03:04:00",
        "12.50",
        "00000000-0000-0000-0000-000000000007",
    ]
