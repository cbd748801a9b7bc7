"""Asking a server from a coroutine: in a thread, and without losing what comes back to nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


async def apart(function: Callable[[], T], *, here: bool, undo: Callable[[T], object] | None = None) -> T:
    """The result of ``function``, which may block, from a thread; or at once when it does not (``here``).

    A result that comes when the caller has been cancelled meanwhile goes to ``undo``.
    """
    if here:
        return function()
    errand = _Errand(function, undo)
    try:
        return await asyncio.to_thread(errand.run)
    except asyncio.CancelledError:
        errand.abandon()
        raise


async def to_the_end(function: Callable[[], T], *, here: bool) -> T:
    """:func:`apart` for what has to happen: it goes on when the caller is cancelled meanwhile."""
    if here:
        return function()
    return await asyncio.shield(asyncio.to_thread(function))


class _Errand(Generic[T]):
    """One call in a thread, whose result either its caller or ``undo`` gets."""

    def __init__(self, function: Callable[[], T], undo: Callable[[T], object] | None) -> None:
        self._function = function
        self._undo = undo
        self._lock = threading.Lock()
        self._abandoned = False
        self._results: list[T] = []

    def run(self) -> T:
        with self._lock:
            if self._abandoned:
                raise asyncio.CancelledError
        result = self._function()
        with self._lock:
            self._results.append(result)
            late = self._abandoned
        if late:
            self._give_back()
        return result

    def abandon(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._abandoned = True
        self._give_back()

    def _give_back(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for result in results:
            if self._undo is not None:
                self._undo(result)
