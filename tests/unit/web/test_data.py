"""JSON as people read it: nothing is lost, long things are folded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from llmteam.web.data import COLUMNS, DEPTH, ENTRIES, Shown, shown
from llmteam.web.render import left, moment
from tests.site import START
from tests.unit.web.test_forms import JSON


def texts(value: Shown) -> Iterator[str]:
    yield value.text
    for part in (*value.parts, *(cell for row in value.rows for cell in row)):
        yield from texts(part)


def names(value: Shown) -> Iterator[str]:
    yield from value.names
    for part in (*value.parts, *(cell for row in value.rows for cell in row)):
        yield from names(part)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


@given(JSON)
def test_no_text_of_a_value_is_lost(value: Any) -> None:
    laid_out = shown(value)

    seen = {*texts(laid_out), *names(laid_out)}
    assert {text for text in strings(value) if text} <= seen


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "nothing"),
        ("", "nothing"),
        ([], "nothing"),
        ({}, "nothing"),
        (True, "word"),
        (0, "number"),
        (1.5, "number"),
        ("short", "word"),
        ("two\nlines", "text"),
        ("x" * 300, "text"),
        ("x" * 500, "folded"),
        ("\n" * 20, "folded"),
        ([1, 2], "list"),
        ({"a": 1}, "fields"),
        ([{"a": 1}, {"a": 2, "b": 3}], "table"),
        ([{"a": 1}], "list"),
        ([{"a": [1]}, {"a": 2}], "list"),
        ([{"a": 1}, {}], "list"),
        ([{str(number): 1 for number in range(COLUMNS + 1)}] * 2, "list"),
    ],
)
def test_how_a_value_is_laid_out(value: Any, kind: str) -> None:
    assert shown(value).kind == kind


def test_words_are_those_of_people() -> None:
    assert [shown(value).text for value in (True, False, 12, 0.5)] == ["yes", "no", "12", "0.5"]


def test_a_long_list_is_folded_behind_its_length() -> None:
    assert shown(list(range(ENTRIES))).head == ""
    assert shown(list(range(ENTRIES + 1))).head == "26 entries"


def test_what_is_nested_deeper_than_is_laid_out_is_shown_as_json() -> None:
    value: Any = "deep"
    for _ in range(DEPTH + 2):
        value = {"a": value}

    laid_out = shown(value)

    for _ in range(DEPTH):
        (laid_out,) = laid_out.parts
    assert laid_out.kind == "text"
    assert '"deep"' in laid_out.text


def test_moments_and_how_far_they_are() -> None:
    assert moment(START) == "2026-01-02 03:04 UTC"
    ahead = [timedelta(seconds=-1), timedelta(seconds=5), timedelta(minutes=1), timedelta(hours=5), timedelta(days=2)]
    assert [left(START + time, START) for time in ahead] == [
        "over",
        "in less than a minute",
        "in 1 minute",
        "in 5 hours",
        "in 2 days",
    ]
