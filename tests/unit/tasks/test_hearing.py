"""When a worker counts as deaf, told from looks alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.tasks.hearing import Hearing, Look, Verdict

WELL, DEAF, STILL_DEAF, RECOVERED = Verdict
DEAF_SECONDS, GAP = 10.0, 6.0


def verdicts(*looks: tuple[float, int, int, int]) -> list[Verdict]:
    """What looks of (at, waiting, received, free) say, one after the other."""
    hearing = Hearing(DEAF_SECONDS, GAP)
    return [hearing.judge(Look(*look)) for look in looks]


def silent(*moments: float, received: int = 7) -> list[tuple[float, int, int, int]]:
    """Looks at messages that nobody takes although there are places."""
    return [(at, 3, received, 2) for at in moments]


def test_a_worker_that_takes_nothing_for_so_long_is_deaf_and_later_still_deaf() -> None:
    looks = silent(*range(0, 25, 5))

    assert verdicts(*looks) == [WELL, WELL, DEAF, WELL, STILL_DEAF]


@pytest.mark.parametrize(
    "between",
    [
        pytest.param((5.0, 0, 7, 2), id="the queues were empty"),
        pytest.param((5.0, 3, 7, 0), id="no place was free"),
        pytest.param((5.0, 3, 8, 2), id="something was received"),
    ],
)
def test_one_look_that_explains_the_silence_starts_the_count_anew(between: tuple[float, int, int, int]) -> None:
    received = between[2]
    looks = [*silent(0), between, *silent(10, 14, received=received)]

    assert set(verdicts(*looks)) == {WELL}


def test_a_worker_or_a_broker_that_stood_still_is_not_deaf() -> None:
    assert verdicts(*silent(0, 5, 60, 65)) == [WELL] * 4


def test_a_deaf_worker_has_recovered_when_two_looks_found_something_received() -> None:
    looks = [*silent(0, 5, 10), (15, 0, 8, 2), (20, 0, 8, 2), (25, 0, 9, 2)]

    assert verdicts(*looks)[2:] == [DEAF, WELL, WELL, RECOVERED]


def test_what_the_lost_connection_held_does_not_count_as_recovery() -> None:
    looks = [*silent(0, 5, 10), *silent(11, 16, 21, received=8)]

    assert verdicts(*looks)[2:] == [DEAF, WELL, WELL, STILL_DEAF]


def test_after_a_recovery_the_gentle_way_comes_first_again() -> None:
    looks = [*silent(0, 5, 10), (15, 0, 8, 2), (20, 0, 9, 2), *silent(25, 30, 35, received=9)]

    assert verdicts(*looks)[-1] is DEAF


#: Pauses in seconds whose sums are exact, so that one as long as :data:`GAP` is no longer than that.
PAUSES = st.integers(1, 64).map(lambda eighths: eighths / 8)
LOOKS = st.lists(st.tuples(PAUSES, st.integers(0, 2), st.integers(0, 1), st.integers(-1, 2)), min_size=1, max_size=60)


def seen(steps: list[tuple[float, int, int, int]]) -> list[Look]:
    """Looks from pauses, messages that wait, messages received since, free places."""
    looks, at, total = [], 0.0, 0
    for pause, waiting, news, free in steps:
        at, total = at + pause, total + news
        looks.append(Look(at, waiting, total, free))
    return looks


@given(LOOKS)
def test_nobody_is_called_deaf_who_received_something_was_busy_or_had_nothing_to_do(
    steps: list[tuple[float, int, int, int]],
) -> None:
    looks = seen(steps)
    hearing = Hearing(DEAF_SECONDS, GAP)

    for number, look in enumerate(looks):
        if hearing.judge(look) in {DEAF, STILL_DEAF}:
            first = max(index for index in range(number) if look.at - looks[index].at >= DEAF_SECONDS)
            window = looks[first : number + 1]
            assert all(one.suspicious for one in window)
            assert {one.received for one in window} == {look.received}


@given(LOOKS, PAUSES.filter(lambda pause: 0.5 <= pause <= GAP), st.integers(1, 5), st.integers(1, 5))
def test_whatever_was_before_a_deaf_worker_is_found_and_then_replaced(
    steps: list[tuple[float, int, int, int]], pause: float, waiting: int, free: int
) -> None:
    before = seen(steps)
    hearing = Hearing(DEAF_SECONDS, GAP)
    for look in before:
        hearing.judge(look)
    last = before[-1]

    moments = [last.at + pause * number for number in range(1, int((2 * DEAF_SECONDS) / pause) + 4)]
    found = [hearing.judge(Look(at, waiting, last.received, free)) for at in moments]

    assert [verdict for verdict in found if verdict is not WELL][:2] in ([DEAF, STILL_DEAF], [STILL_DEAF, STILL_DEAF])
