"""Whoever answers what runs ask: at once, and always two at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Collection

from llmteam.errors import LLMTeamError
from llmteam.human import HumanInteractionManager, InteractionRequest
from llmteam.human.fleet import connect
from llmteam.settings import Settings

#: Seconds between two looks at the inbox.
_LOOK_SECONDS = 0.3
PERSON = "ann"


class People:
    """Answers for every tenant, in a thread of its own, until it is told to stop."""

    def __init__(self, settings: Settings, tenants: Collection[str]) -> None:
        self._inboxes = [connect(settings, tenant_id=tenant) for tenant in tenants]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="chaos-people", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        asyncio.run(self._answer_all())

    async def _answer_all(self) -> None:
        while not self._stop.is_set():
            for inbox in self._inboxes:
                # With a server away nobody sees what is asked; the next look does.
                with contextlib.suppress(LLMTeamError):
                    await asyncio.gather(*(answer(inbox, request) for request in await inbox.list_pending()))
            await asyncio.sleep(_LOOK_SECONDS)


async def answer(inbox: HumanInteractionManager, request: InteractionRequest) -> None:
    """Approve twice at the same moment: one counts."""
    twice = [inbox.respond(request.request_id, PERSON, approved=True) for _ in range(2)]
    await asyncio.gather(*twice, return_exceptions=True)


async def answer_in_process(inbox: HumanInteractionManager) -> None:
    """Answer whatever is asked, until cancelled."""
    while True:
        for request in await inbox.list_pending():
            await answer(inbox, request)
        await asyncio.sleep(0.01)
