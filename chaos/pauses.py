"""Runs paused in the middle and resumed a moment later, by a caller who asks again until it is known what happened."""

from __future__ import annotations

import contextlib
import threading
import time

from llmteam.canvas.client import SegmentClient
from llmteam.canvas.exceptions import RunStateError
from llmteam.canvas.state import SegmentStatus
from llmteam.errors import LLMTeamError
from llmteam.settings import Settings

#: What running steps get before their claims are taken away.
_GRACE_SECONDS = 0.5
#: Seconds for which a resume is tried.
_RESUME_SECONDS = 60.0
_AGAIN_SECONDS = 0.3


class Pauses:
    """Each pause is a thread; clients are shared, one for each tenant."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[str, SegmentClient] = {}
        self._threads: list[threading.Thread] = []

    def begin(self, tenant_id: str, run_id: str, seconds: float) -> None:
        """Pause the run and resume it ``seconds`` later."""
        client = self._clients.get(tenant_id)
        if client is None:
            client = self._clients[tenant_id] = SegmentClient.connect(settings=self._settings, tenant_id=tenant_id)
        thread = threading.Thread(target=_pause, args=(client, run_id, seconds), name=f"chaos-{run_id}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        """Wait until all are resumed."""
        for thread in self._threads:
            thread.join()
        for client in self._clients.values():
            client.close()


def _pause(client: SegmentClient, run_id: str, seconds: float) -> None:
    # With a server away it may fail and take hold all the same; the resume finds out.
    with contextlib.suppress(LLMTeamError):
        client.pause(run_id, _GRACE_SECONDS)
    time.sleep(seconds)
    give_up = time.monotonic() + _RESUME_SECONDS
    while time.monotonic() < give_up and not _resumed(client, run_id):
        time.sleep(_AGAIN_SECONDS)


def _resumed(client: SegmentClient, run_id: str) -> bool:
    """Try once; whether the run goes on, or is over."""
    try:
        client.resume(run_id)
    except RunStateError:
        return not _stands(client, run_id)
    except LLMTeamError:
        return False
    return True


def _stands(client: SegmentClient, run_id: str) -> bool:
    try:
        return client.status(run_id) in (SegmentStatus.PAUSING, SegmentStatus.PAUSED)
    except LLMTeamError:
        return True
