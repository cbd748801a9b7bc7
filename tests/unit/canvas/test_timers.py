"""One thread that calls back at moments ahead."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from llmteam.canvas.timers import Timers
from tests.waiting import wait_until


def test_callbacks_come_in_the_order_of_their_moments() -> None:
    timers, came = Timers(), []

    for name, delay in (("late", 0.06), ("soon", 0.02), ("now", 0.0)):
        timers.after(delay, lambda name=name: came.append(name))

    wait_until(lambda: len(came) == 3, "all three")
    assert came == ["now", "soon", "late"]


def test_a_callback_never_comes_early() -> None:
    timers, came = Timers(), []
    due = time.monotonic() + 0.05

    timers.after(0.05, lambda: came.append(time.monotonic()))

    wait_until(lambda: came, "the call-back")
    assert came[0] >= due


def test_a_cancelled_callback_does_not_come() -> None:
    timers, came = Timers(), []
    timers.after(0.02, lambda: came.append("cancelled")).cancel()
    timers.after(0.04, lambda: came.append("kept"))

    wait_until(lambda: came, "the one that was kept")

    assert came == ["kept"]


def test_a_sooner_callback_is_not_kept_waiting_by_a_later_one() -> None:
    timers, came = Timers(), threading.Event()
    timers.after(60, lambda: None)

    timers.after(0.01, came.set)

    assert came.wait(5)


def test_a_callback_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    timers, came = Timers(), threading.Event()

    with caplog.at_level(logging.ERROR):
        timers.after(0.0, lambda: 1 // 0)
        timers.after(0.01, came.set)
        assert came.wait(5)

    assert "a timer's call-back failed" in caplog.text


def test_a_callback_may_set_a_timer_itself() -> None:
    timers, came = Timers(), threading.Event()

    timers.after(0.0, lambda: timers.after(0.0, came.set))

    assert came.wait(5)


def test_many_threads_may_set_timers_at_once() -> None:
    timers, came = Timers(), []
    threads = [
        threading.Thread(target=lambda: [timers.after(0.001, lambda: came.append(1)) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until(lambda: len(came) == 400, "all of them")


def test_cancelled_timers_are_thrown_out_long_before_they_are_due() -> None:
    """Each step with a deadline sets one, and nearly all are cancelled."""
    timers = Timers()

    for _ in range(10_000):
        timers.after(600, lambda: None).cancel()

    assert len(timers._heap) < 3_000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_timers_of_its_own() -> None:
    timers = Timers()
    timers.after(0.0, lambda: None)
    read, write = os.pipe()

    child = os.fork()
    if child == 0:
        came = threading.Event()
        timers.after(0.0, came.set)
        os.write(write, b"yes" if came.wait(5) else b"no!")
        os._exit(0)

    os.waitpid(child, 0)
    assert os.read(read, 3) == b"yes"
    os.close(read)
    os.close(write)
