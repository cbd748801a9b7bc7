from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.events.payloads import (
    INLINE_BYTES,
    REDACTED,
    WHOLE_FACTOR,
    jsonable,
    omission,
    prepare,
    redact,
)
from tests.unit.events.samples import json_values, texts
from tests.unit.test_masking import PLAIN_NAMES, SECRET_NAMES


def test_secrets_are_redacted_at_any_depth_and_the_original_stays() -> None:
    payload = {"headers": [{"Authorization": "Bearer x", "Accept": "*/*"}], "token": {"a": 1}, "has_token": True}

    assert redact(payload) == {
        "headers": [{"Authorization": REDACTED, "Accept": "*/*"}],
        "token": REDACTED,
        "has_token": True,
    }
    assert payload["token"] == {"a": 1}


@given(st.dictionaries(texts | st.sampled_from(SECRET_NAMES + PLAIN_NAMES), json_values | texts, max_size=5))
def test_looking_at_the_text_first_redacts_exactly_the_same(payload: dict[str, Any]) -> None:
    assert prepare({"input": payload}, limit=10**6)[0] == redact({"input": payload})
    assert prepare(payload, limit=10**6)[0] == redact(payload)


def test_a_small_payload_stays_as_it_is() -> None:
    assert prepare({"input": {"b": 1, "a": [None, "ü"]}}) == ({"input": {"b": 1, "a": [None, "ü"]}}, {})


def test_an_entry_over_the_limit_becomes_a_reference_to_its_body() -> None:
    large = {"text": "x" * INLINE_BYTES}

    ready, bodies = prepare({"output": large, "note": "kept"})

    digest = codec.digest(codec.canonical(large))
    assert ready == {"output": {"$ref": f"sha256:{digest}", "bytes": INLINE_BYTES + 11}, "note": "kept"}
    assert codec.loads(bodies[digest]) == large


def test_the_body_that_is_given_out_is_redacted_too() -> None:
    _, bodies = prepare({"output": {"password": "hunter2", "text": "x" * INLINE_BYTES}})

    assert "hunter2" not in "".join(bodies.values())


def test_many_small_entries_together_are_taken_out_as_a_whole() -> None:
    ready, bodies = prepare({f"entry_{number}": "x" * 100 for number in range(1000)})

    assert set(ready) == {"$ref", "bytes"}
    assert len(bodies) == 1


def test_a_body_that_nobody_keeps_is_said_to_be_omitted() -> None:
    ready, _ = prepare({"output": "x" * 100}, limit=50, replace=omission)

    assert ready == {"output": {"$omitted": "too large", "bytes": 102}}


@given(st.dictionaries(texts, json_values, max_size=6), st.integers(1, 200))
def test_what_remains_is_bounded_whatever_comes(payload: dict[str, Any], limit: int) -> None:
    ready, bodies = prepare(payload, limit=limit)

    rough_overhead = 130 * (len(ready) + 1)
    assert len(codec.canonical(ready).encode()) <= WHOLE_FACTOR * limit + rough_overhead
    assert all(codec.digest(text) == digest for digest, text in bodies.items())


def test_what_is_not_json_is_refused_with_its_path() -> None:
    with pytest.raises(NotJSONError, match=r"\$\.output"):
        prepare({"output": {"when": datetime(2026, 1, 1, tzinfo=UTC)}})


class _Secret(str):
    is_secret = True


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00+00:00"),
        (Decimal("1.5"), "1.5"),
        (float("nan"), "nan"),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        ("a\x00b\ud800", "a\ufffdb?"),
        (_Secret("hunter2"), REDACTED),
    ],
)
def test_callers_values_become_json(value: object, shown: object) -> None:
    assert jsonable({"value": value}) == {"value": shown}


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(NotJSONError, match="levels"):
        jsonable(loop)
