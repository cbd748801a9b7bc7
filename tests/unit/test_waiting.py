from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.waiting import wait_until, wait_until_async


def answers() -> Iterator[str]:
    yield from ("", "", "there")


def test_the_first_true_answer_is_returned() -> None:
    asked = answers()

    assert wait_until(lambda: next(asked), "an answer") == "there"


def test_the_first_true_answer_is_returned_inside_a_loop() -> None:
    asked = answers()

    assert asyncio.run(wait_until_async(lambda: next(asked), "an answer")) == "there"


def test_waiting_in_vain_says_for_what_and_what_was_there_instead() -> None:
    with pytest.raises(AssertionError, match=r"waited 0.05 s in vain for the moon; the last answer was 0"):
        wait_until(lambda: 0, "the moon", timeout=0.05)
