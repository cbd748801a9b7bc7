"""How many handlers have outlived their deadline, and when that is too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.tasks.abandoned import Abandoned


def counting(pool_size: int) -> tuple[Abandoned, list[int]]:
    """The calls of a pool, and how many were abandoned each time that it was too many."""
    told: list[int] = []
    abandoned = Abandoned(pool_size, lambda: told.append(abandoned.count))
    return abandoned, told


@pytest.mark.parametrize(("pool_size", "limit"), [(1, 1), (2, 1), (10, 1), (11, 2), (16, 2), (20, 2), (500, 50)])
def test_a_tenth_of_the_pool_is_too_many(pool_size: int, limit: int) -> None:
    abandoned, told = counting(pool_size)

    for _ in range(limit - 1):
        abandoned.begin().outlived()
    assert told == []
    abandoned.begin().outlived()

    assert told == [limit]


def test_a_handler_that_returns_late_is_no_longer_abandoned() -> None:
    abandoned, told = counting(20)
    late = abandoned.begin()

    late.outlived()
    late.returned()
    abandoned.begin().outlived()

    assert (abandoned.count, told) == (1, [])


def test_a_handler_that_returned_before_its_step_was_written_off_is_not_abandoned() -> None:
    abandoned, told = counting(1)
    call = abandoned.begin()

    call.returned()
    call.outlived()

    assert (abandoned.count, told) == (0, [])


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=80))
def test_the_count_is_of_calls_that_outlived_and_did_not_return_and_too_many_is_told_once(
    pool_size: int, moves: list[tuple[int, bool]]
) -> None:
    abandoned, told = counting(pool_size)
    calls = [abandoned.begin() for _ in range(10)]
    outlived: set[int] = set()
    returned: set[int] = set()
    most = 0

    for number, returns in moves:
        if returns:
            calls[number].returned()
            returned.add(number)
        else:
            calls[number].outlived()
            outlived |= {number} - returned
        assert abandoned.count == len(outlived - returned)
        most = max(most, abandoned.count)

    assert told == ([abandoned.limit] if most >= abandoned.limit else [])
