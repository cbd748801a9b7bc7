"""Permits of this process, and the thread that renews their leases while they are held."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from llmteam.errors import LLMTeamError
from llmteam.ratelimit.apart import to_the_end
from llmteam.ratelimit.decisions import Ask, LimitBackend

_log = logging.getLogger(__name__)


class Permit:
    """The right to one call. Releasing it twice is harmless."""

    def __init__(self, backend: LimitBackend, asks: Sequence[Ask], permit: str, leases: Leases) -> None:
        self.asks = asks
        self.permit = permit
        self._backend = backend
        self._leases = leases
        self._released = False

    def release(self) -> None:
        """Give it back; blocks as long as the backend."""
        if not self._released:
            self._released = True
            self._leases.drop(self)
            self._backend.release(self.asks, self.permit)

    async def give_back(self) -> None:
        """:meth:`release` apart from the loop, to its end even if this task is cancelled."""
        await to_the_end(self.release, here=self._backend.in_process)


class Leases:
    """Renews the permits of this process, so that one of a process that is gone is free when its lease has ended.

    The thread lives as long as there is something to renew.
    """

    def __init__(self, backend: LimitBackend, lease_seconds: float) -> None:
        self._backend = backend
        self._lease = lease_seconds
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[Permit, None] = {}
        self._thread: threading.Thread | None = None

    def hold(self, permit: Permit) -> None:
        """Renew ``permit`` from now on."""
        if self._backend.in_process:
            return
        if self._pid != os.getpid():
            # In a forked child the thread is gone, the lock may be held, and permits are the parent's to renew.
            self._begin()
        with self._lock:
            self._held[permit] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_for_ever, name="llmteam-permits", daemon=True)
                self._thread.start()

    def drop(self, permit: Permit) -> None:
        """Renew ``permit`` no longer."""
        if self._pid == os.getpid():
            with self._lock:
                self._held.pop(permit, None)

    def _renew_for_ever(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._lease / 3)
            with self._lock:
                held = list(self._held)
                if not held:
                    self._thread = None
                    return
            for permit in held:
                self._renew(permit)

    def _renew(self, permit: Permit) -> None:
        try:
            kept = self._backend.renew(permit.asks, permit.permit, lease_seconds=self._lease)
        except LLMTeamError as exc:
            _log.warning("a permit of '%s' could not be renewed (%s)", permit.asks[0].key.resource, exc)
            return
        if not kept:
            # While the server is away this says nothing; it may still have the permit when it is back.
            _log.debug("a permit of '%s' is not known any more", permit.asks[0].key.resource)
