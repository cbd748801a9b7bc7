"""Segments that run as they are: ``llmteam run --example NAME``, ``make demo``, and from a program::

    example = EXAMPLES["ticket-triage"]
    manager, runner = HumanInteractionManager(MemoryInteractionStore()), SegmentRunner()
    runner.register_handler("human_task", HumanTaskHandler(manager))
    with example.environment() as env:
        people = asyncio.create_task(example.people(manager))
        result = await runner.run(example.segment(), input_data=example.input)
        people.cancel()
        print(example.check(env, result))

An example brings the services that it talks to: :meth:`Example.environment` starts them in this process, on a loopback
port that was free, and stops them at the end of the block. Steps can run in this process at once; workers of their own
import ``Example.imports`` with ``env`` in their environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.results import SegmentResult
from llmteam.examples.errors import ExampleFailedError
from llmteam.examples.ticket_triage import TicketTriage
from llmteam.human import HumanInteractionManager

__all__ = ["EXAMPLES", "Example", "ExampleFailedError"]


class Example(Protocol):
    """A segment with everything that a run of it needs."""

    @property
    def name(self) -> str:
        """What ``--example`` calls it."""

    @property
    def summary(self) -> str:
        """One sentence about what it does."""

    @property
    def input(self) -> Any:
        """The input of its run."""

    @property
    def imports(self) -> tuple[str, ...]:
        """Modules that a worker imports for it."""

    def segment(self) -> SegmentDefinition:
        """The segment, read from the JSON that ships with the package."""

    def environment(self) -> AbstractContextManager[dict[str, str]]:
        """Its services, started for the block; gives the variables that workers need to reach them."""

    async def people(self, manager: HumanInteractionManager, run_id: str | None = None) -> None:
        """Be the people whom its steps ask, those of all runs for None: answer through ``manager`` until cancelled."""

    def check(self, env: Mapping[str, str], result: SegmentResult) -> str:
        """One sentence about what the run left behind in the services, after asking them.

        Raises :class:`ExampleFailedError` when they have nothing of it.
        """


EXAMPLES: dict[str, Example] = {example.name: example for example in (TicketTriage(),)}
