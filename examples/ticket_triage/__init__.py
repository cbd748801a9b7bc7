"""Support-ticket triage over real HTTP: fetch, select, ask a model three things, branch, ask a person, file it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.results import SegmentResult
from llmteam.canvas.state import SegmentStatus
from llmteam.examples.errors import ExampleFailedError
from llmteam.examples.ticket_triage import resources
from llmteam.examples.ticket_triage.service import serving
from llmteam.human import HumanInteractionManager, InteractionClosedError, InteractionRequest
from llmteam.net import BaseUrlClient

#: Seconds between two looks at the inbox, and from seeing a request to answering it: so long that it can be watched.
LOOK_SECONDS, READING_SECONDS = 0.1, 0.3
#: What the manager on duty says.
COMMENT = "Go ahead, this one cannot wait."


class TicketTriage:
    """The example ``ticket-triage``."""

    name = "ticket-triage"
    summary = "Fetches support tickets, lets a model judge the most urgent one, asks a person, and files the outcome."
    imports = ("llmteam.examples.ticket_triage.worker",)

    @property
    def input(self) -> dict[str, Any]:
        """Which tickets to look at."""
        return {"status": "open"}

    def segment(self) -> SegmentDefinition:
        """The segment beside this file."""
        return SegmentDefinition.from_json(files(__name__).joinpath("segment.json").read_bytes())

    @contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """The ticket service, started for the block and known to this process's runtime."""
        with serving() as service:
            resources.register(service.url)
            try:
                yield {resources.URL_VARIABLE: service.url}
            finally:
                resources.unregister()

    async def people(self, manager: HumanInteractionManager, run_id: str | None = None) -> None:
        """The manager on duty: looks at the inbox now and then, reads what is asked, and approves of it."""
        while True:
            for request in await manager.list_pending():
                if run_id in (None, request.run_id):
                    await asyncio.sleep(READING_SECONDS)
                    await self._approve(manager, request)
            await asyncio.sleep(LOOK_SECONDS)

    async def _approve(self, manager: HumanInteractionManager, request: InteractionRequest) -> None:
        person = request.assignee_id or "anybody"
        with contextlib.suppress(InteractionClosedError):
            await manager.respond(
                request.request_id, person, approved=True, comment=COMMENT, shown_hash=request.shown_hash
            )

    def check(self, env: Mapping[str, str], result: SegmentResult) -> str:
        """Ask the service whether it has the outcome of this run. Raises :class:`ExampleFailedError`."""
        if result.status is not SegmentStatus.COMPLETED:
            raise ExampleFailedError(f"Run {result.run_id} ended {result.status}: see `llmteam runs show`")
        service = BaseUrlClient(env[resources.URL_VARIABLE])
        try:
            filed = service.send("GET", "/outcomes", raise_for_status=True).json()["outcomes"]
        finally:
            service.close()
        outcome = next((one for one in filed if one == result.outputs.get("output")), None)
        if outcome is None:
            raise ExampleFailedError(
                f"The ticket service has {len(filed)} outcomes, and none of them is that of run {result.run_id}"
            )
        return (
            f"The ticket service has outcome {outcome['id']} for ticket {outcome['ticket_id']}: "
            f"{outcome['action']} ({outcome['category']}, {outcome['urgency']})"
        )
