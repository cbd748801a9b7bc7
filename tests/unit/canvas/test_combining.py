"""Calls of several threads for one key, served as one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from llmteam.canvas.postgres.combining import ALONE, Alone, Combining
from tests.waiting import wait_until


class Desk:
    """Serves numbers; remembers which it served at once, and keeps the first of each key until it is let go."""

    def __init__(self, most: int = 32) -> None:
        self.served: list[list[int]] = []
        self.together: Callable[[Sequence[int]], list[int | Alone]] = lambda asks: [ask * 10 for ask in asks]
        self.combining = Combining[int, int](self._alone, self._together, most)
        self.first = threading.Event()
        self.let_go = threading.Event()

    def _alone(self, ask: int) -> int:
        self.served.append([ask])
        if ask == 0:
            self.first.set()
            assert self.let_go.wait(10)
        if ask < 0:
            raise ValueError(f"{ask} is negative")
        return ask * 10

    def _together(self, asks: Sequence[int]) -> list[int | Alone]:
        self.served.append(list(asks))
        return self.together(asks)

    def waiting(self, key: str = "run") -> int:
        return len(self.combining._waiting.get(key, ()))

    def meet(self, pool: ThreadPoolExecutor, *asks: int) -> list[Future[int]]:
        """``asks`` in their order, all of them while the first is being served; then that one is let go."""
        calls = [pool.submit(self.combining, "run", 0)]
        assert self.first.wait(10)
        for number, ask in enumerate(asks, 1):
            calls.append(pool.submit(self.combining, "run", ask))
            wait_until(lambda number=number: self.waiting() == number, f"{number} to wait")
        self.let_go.set()
        return calls


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def answers(calls: list[Future[int]]) -> list[int | str]:
    return [str(call.exception(10)) if call.exception(10) else call.result() for call in calls]


def test_a_call_that_meets_no_other_is_served_alone() -> None:
    desk = Desk()

    assert [desk.combining("run", 1), desk.combining("run", 2)] == [10, 20]

    assert desk.served == [[1], [2]]
    assert desk.waiting() == 0


def test_those_who_come_meanwhile_are_served_as_one_and_each_gets_its_own_answer(pool: ThreadPoolExecutor) -> None:
    desk = Desk()

    calls = desk.meet(pool, 1, 2, 3)

    assert answers(calls) == [0, 10, 20, 30]
    assert desk.served == [[0], [1, 2, 3]]


def test_calls_for_different_keys_do_not_wait_for_each_other(pool: ThreadPoolExecutor) -> None:
    desk = Desk()
    held = pool.submit(desk.combining, "run", 0)
    assert desk.first.wait(10)

    assert desk.combining("another", 1) == 10

    desk.let_go.set()
    assert held.result(10) == 0


def test_no_batch_is_larger_than_the_most(pool: ThreadPoolExecutor) -> None:
    desk = Desk(most=2)

    calls = desk.meet(pool, 1, 2, 3, 4, 5)

    assert answers(calls) == [0, 10, 20, 30, 40, 50]
    assert desk.served == [[0], [1, 2], [3, 4], [5]]


def test_whom_the_others_cannot_take_along_goes_alone(pool: ThreadPoolExecutor) -> None:
    desk = Desk()
    desk.together = lambda asks: [ALONE if ask == 2 else ask * 10 for ask in asks]

    calls = desk.meet(pool, 1, 2, 3)

    assert answers(calls) == [0, 10, 20, 30]
    assert desk.served == [[0], [1, 2, 3], [2]]


def test_an_error_is_its_own_callers_only(pool: ThreadPoolExecutor) -> None:
    desk = Desk()
    desk.together = lambda asks: [desk.combining._alone(ask) for ask in asks]

    calls = desk.meet(pool, 1, -2, 3)

    assert answers(calls) == [0, 10, "-2 is negative", 30]


def test_an_error_of_the_first_leaves_the_lead_to_those_who_wait(pool: ThreadPoolExecutor) -> None:
    desk = Desk()
    calls = desk.meet(pool, -1)

    assert answers(calls) == [0, "-1 is negative"]

    assert desk.waiting() == 0
    assert desk.combining("run", 4) == 40


def test_whoever_leads_and_is_interrupted_leaves_nobody_waiting(pool: ThreadPoolExecutor) -> None:
    desk = Desk()

    def interrupted(asks: Sequence[int]) -> list[int | Alone]:
        raise KeyboardInterrupt

    desk.together = interrupted
    calls = desk.meet(pool, 1, 2, 3)

    assert isinstance(calls[1].exception(10), KeyboardInterrupt)
    assert answers([calls[0], *calls[2:]]) == [0, 20, 30]
    assert desk.waiting() == 0


def test_a_forked_child_waits_for_nobody_of_its_parent(pool: ThreadPoolExecutor) -> None:
    desk = Desk()
    held = pool.submit(desk.combining, "run", 0)
    assert desk.first.wait(10)

    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(desk.combining("run", 7))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 70
    desk.let_go.set()
    assert held.result(10) == 0


def test_of_very_many_calls_each_is_served_once_and_one_batch_of_a_key_at_a_time(pool: ThreadPoolExecutor) -> None:
    served: list[int] = []
    overlaps: list[int] = []
    locks = [threading.Lock() for _ in range(3)]

    def together(asks: Sequence[int]) -> list[int]:
        lock = locks[asks[0] % 3]
        if not lock.acquire(blocking=False):
            overlaps.append(asks[0])
            return [-ask for ask in asks]
        time.sleep(0)
        served.extend(asks)
        lock.release()
        return [-ask for ask in asks]

    combining = Combining[int, int](lambda ask: together([ask])[0], together, most=5)

    found = list(pool.map(lambda ask: combining(ask % 3, ask), range(3_000)))

    assert found == [-ask for ask in range(3_000)]
    assert not overlaps
    assert sorted(served) == list(range(3_000))
