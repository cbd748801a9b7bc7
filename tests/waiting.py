"""Waiting for a condition, the only way in which a test lets time pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks at a condition.
INTERVAL = 0.02


def wait_until(predicate: Callable[[], T], description: str, *, timeout: float = 10.0) -> T:
    """The first true answer of ``predicate``; fails with ``description`` after ``timeout`` seconds.

    ``description`` completes the sentence "waited for …". An exception of the predicate is the test's.
    """
    give_up = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {timeout:g} s in vain for {description}; the last answer was {answer!r}")
        time.sleep(INTERVAL)
    return answer


async def wait_until_async(predicate: Callable[[], T], description: str, *, timeout: float = 10.0) -> T:
    """:func:`wait_until` for a test inside an event loop, which goes on running meanwhile."""
    give_up = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {timeout:g} s in vain for {description}; the last answer was {answer!r}")
        await asyncio.sleep(INTERVAL)
    return answer
