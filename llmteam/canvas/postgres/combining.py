"""Calls that meet are served as one: who comes while another is at work waits, and is taken along next."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Final, Generic, Literal, TypeVar

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class _Alone(Enum):
    ALONE = "alone"


#: In the place of an answer: this call has to be served by itself.
ALONE: Final = _Alone.ALONE
Alone = Literal[_Alone.ALONE]

#: Calls that are served at once at most.
MOST = 32


class _Call(Generic[Ask, Answer]):
    """A thread that waits, until it has a batch to serve or what another one served it."""

    __slots__ = ("answer", "ask", "batch", "woken")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.batch: Sequence[_Call[Ask, Answer]] = ()
        self.answer: Answer | Alone = ALONE
        self.woken = threading.Lock()
        self.woken.acquire()


class Combining(Generic[Ask, Answer]):
    """Serves the calls of many threads, for each key one batch after the other.

    A call that meets no other is served by ``alone``. Those that come while their key is being served wait; then the
    first of them serves all by ``together``, which answers each in its place. Whom it gives :data:`ALONE`, and everyone
    if it raises, is served by ``alone`` after all, in the caller's own thread: nobody gets the error of another.
    """

    def __init__(
        self,
        alone: Callable[[Ask], Answer],
        together: Callable[[Sequence[Ask]], Sequence[Answer | Alone]],
        most: int = MOST,
    ) -> None:
        self._alone = alone
        self._together = together
        self._most = most
        self._forget()
        _forget_after_fork(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[_Call[Ask, Answer]]] = {}

    def __call__(self, key: Hashable, ask: Ask) -> Answer:
        """The answer to ``ask``, or the error that ``alone`` raises for it."""
        call = _Call[Ask, Answer](ask)
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = []
                call.batch = [call]
            else:
                waiting.append(call)
        if waiting is not None:
            call.woken.acquire()
        if call.batch:
            self._lead(key, call.batch)
        return self._alone(ask) if call.answer is ALONE else call.answer

    def _lead(self, key: Hashable, batch: Sequence[_Call[Ask, Answer]]) -> None:
        try:
            answers = self._answers([call.ask for call in batch])
            for call, answer in zip(batch, answers, strict=True):
                call.answer = answer
        finally:
            self._hand_over(key)
            for call in batch[1:]:
                call.woken.release()

    def _answers(self, asks: Sequence[Ask]) -> Sequence[Answer | Alone]:
        if len(asks) == 1:
            return [self._alone(asks[0])]
        try:
            return self._together(asks)
        except Exception:  # noqa: BLE001  # whatever it is: whose fault it was shows when each goes alone
            return [ALONE] * len(asks)

    def _hand_over(self, key: Hashable) -> None:
        """Let the first of those who wait lead them all."""
        with self._lock:
            waiting = self._waiting[key]
            batch = waiting[: self._most]
            if not batch:
                del self._waiting[key]
                return
            del waiting[: self._most]
        batch[0].batch = batch
        batch[0].woken.release()


def _forget_after_fork(combining: Combining[Ask, Answer]) -> None:
    """In a forked child nobody is at work, whoever was in the parent."""
    reference = weakref.ref(combining)

    def forget() -> None:
        alive = reference()
        if alive is not None:
            alive._forget()

    os.register_at_fork(after_in_child=forget)
