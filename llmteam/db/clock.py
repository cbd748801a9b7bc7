"""The database's time in other processes: what they agree on, whatever their machines' clocks say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from llmteam.db.engine import Database
from llmteam.errors import LLMTeamError

#: Seconds after which the database is asked again, and after an attempt that failed.
_ASK_AGAIN, _TRY_AGAIN = 60.0, 5.0


class DatabaseClock:
    """What time it is in the database: asked once a minute, counted on in between.

    Off by at most the time that the answer took. Raises what the database raises only before its first answer.
    """

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: tuple[datetime, float] | None = None
        self._ask_at = 0.0

    def __call__(self) -> datetime:
        known = self._known
        if known is None or self._monotonic() >= self._ask_at:
            known = self._ask()
        moment, at = known
        return moment + timedelta(seconds=self._monotonic() - at)

    def _ask(self) -> tuple[datetime, float]:
        with self._lock:
            if self._known is not None and self._monotonic() < self._ask_at:
                return self._known
            try:
                with self._database.hot(None) as connection:
                    found = connection.script("SELECT clock_timestamp()", role="llmteam_sweeper") or []
            except LLMTeamError:
                if self._known is None:
                    raise
                self._ask_at = self._monotonic() + _TRY_AGAIN
                return self._known
            self._known = (found[0][0], self._monotonic())
            self._ask_at = self._known[1] + _ASK_AGAIN
            return self._known
