"""Sweeping in beat's place: a worker that finds the last sweep too old does it itself, one of all workers at a time."""

from __future__ import annotations

import logging
import threading
import time

from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.sweeper import ESSENTIAL, Sweeper
from llmteam.errors import LLMTeamError

logger = logging.getLogger(__name__)

#: Intervals without a sweep after which beat counts as gone.
MISSED = 3


class StandIn:
    """A thread that looks, once an interval, how old the last sweeps are; one small read when beat is there."""

    def __init__(self, sweeper: Sweeper, sweeps: PostgresSweeps, seconds: float) -> None:
        self._sweeper = sweeper
        self._sweeps = sweeps
        self._seconds = seconds
        self._began = time.monotonic()
        self._told = False

    def start(self) -> None:
        """Begin to look; the thread ends with the process."""
        threading.Thread(target=self._run, name="llmteam-stand-in", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds)
            try:
                self.look()
            except LLMTeamError as exc:
                logger.debug("the age of the last sweep is not known: %s", exc)
            except Exception:
                logger.exception("a sweep in beat's place failed; the next one is tried")

    def look(self) -> bool:
        """Sweep if nobody else does; whether that was so."""
        if not self._missed():
            self._told = False
            return False
        with self._sweeps.alone() as mine:
            if not mine or not self._missed():
                return False
            if not self._told:
                logger.warning("no sweep for %g s: is beat running? This worker sweeps", MISSED * self._seconds)
                self._told = True
            self._sweeper.sweep_all()
        # Apart, since receivers may take their time; while one such look lasts, others do nothing.
        threading.Thread(target=self._deliver, name="llmteam-stand-in-deliver", daemon=True).start()
        return True

    def _deliver(self) -> None:
        try:
            self._sweeper.sweep("notifications")
        except LLMTeamError as exc:
            logger.warning("notifications could not be delivered (%s); the next sweep tries again", exc)

    def _missed(self) -> bool:
        """Whether any sweep is missing; none is before this process has been there for as long itself."""
        limit = MISSED * self._seconds
        if time.monotonic() - self._began < limit:
            return False
        ages = self._sweeps.ages()
        return any(ages.get(name, limit + 1) > limit for name in ESSENTIAL)
