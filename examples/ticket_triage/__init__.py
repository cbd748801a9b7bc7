"""Support-ticket triage over real HTTP: fetch, select, ask a model three things at once, branch, file the outcome."""

from __future__ import annotations

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
from llmteam.net import BaseUrlClient


class TicketTriage:
    """The example ``ticket-triage``."""

    name = "ticket-triage"
    summary = "Fetches support tickets, lets a model judge the most urgent one, and files what to do with it."
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
