"""What ``worker`` and ``beat`` say to whoever keeps them running: ``/livez`` and ``/readyz``."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from llmteam.cli.crew import Crew
from llmteam.cli.render import say
from llmteam.errors import LLMTeamError
from llmteam.net.listener import Page, Pages, listening
from llmteam.settings import Settings, variable
from llmteam.variables import address, address_text

if TYPE_CHECKING:
    from llmteam.cli.servers import Installation
    from llmteam.cli.supervise import Signals

#: Seconds without a look at its children after which a supervisor counts as stuck.
STUCK_SECONDS = 30.0
#: Seconds for which an answer is given again, so that many probes cost no more than one.
FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Found:
    """What one check of readiness found."""

    name: str
    ok: bool
    found: str


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    return None if value is None else address("--health", value)


health_option = click.option(
    "--health",
    metavar="HOST:PORT",
    callback=_address,
    help=f"Serve /livez, /readyz and /metrics there. Default: {variable('health')}, else nowhere.",
)


class Health:
    """Answers for a crew; called from the threads of the listener."""

    def __init__(self, crew: Crew, signals: Signals, checks: Mapping[str, Callable[[], str]]) -> None:
        """``checks``: each tells what it found, or raises an :class:`LLMTeamError` that tells why not."""
        self._crew = crew
        self._signals = signals
        self._checks = checks
        self._lock = threading.Lock()
        self._last: tuple[float, list[Found]] | None = None

    def live(self) -> Page:
        """Whether starting this process again would mend nothing: its supervisor looks after its children."""
        idle = time.monotonic() - self._crew.looked
        if idle > STUCK_SECONDS and not self._signals.count:
            return _page(503, {"live": False, "found": f"the supervisor has stood still for {idle:.0f} s"})
        return _page(200, {"live": True})

    def ready(self) -> Page:
        """Whether work that comes is done."""
        found = self._drains() or self._looked()
        ready = all(one.ok for one in found)
        return _page(200 if ready else 503, {"ready": ready, "checks": [asdict(one) for one in found]})

    def _drains(self) -> list[Found]:
        return [Found("draining", ok=False, found="a signal asked for the end")] if self._signals.count else []

    def _looked(self) -> list[Found]:
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > FRESH_SECONDS:
                found = list(self._look())
                self._last = (time.monotonic(), found)
            return self._last[1]

    def _look(self) -> Iterator[Found]:
        starting = self._crew.starting
        yield Found("processes", not starting, f"not up: {', '.join(starting)}" if starting else "all are up")
        for name, check in self._checks.items():
            try:
                yield Found(name, ok=True, found=check())
            except LLMTeamError as exc:
                yield Found(name, ok=False, found=str(exc))


def _page(status: int, document: dict[str, object]) -> Page:
    return Page(status, json.dumps(document).encode() + b"\n", "application/json")


class _NotConsumedError(LLMTeamError):
    """Workers of this command do not consume what they should."""


def broker_check(settings: Settings) -> Callable[[], str]:
    """Whether the broker answers."""

    def check() -> str:
        from llmteam.cli.fleet_view import check_broker

        check_broker(settings)
        return "answers"

    return check


def queues_check(settings: Settings, crew: Crew) -> Callable[[], str]:
    """Whether the workers of this crew, asked through the broker, consume the crew's queues."""

    def check() -> str:
        from llmteam.cli.fleet_view import consumed_by

        names = [f"{name}.{os.getpid()}" for name in crew.names]
        if missing := sorted(crew.queues - consumed_by(settings, names)):
            raise _NotConsumedError(f"no worker of this command consumes {', '.join(missing)}")
        return f"consumed: {', '.join(sorted(crew.queues))}"

    return check


@contextmanager
def answering(
    where: tuple[str, int] | None,
    place: Installation,
    crew: Crew,
    signals: Signals,
    others: Pages,
    *,
    workers: bool,
) -> Iterator[None]:
    """Answer probes at this address for the block, or do nothing when there is none.

    ``others`` are pages beside those of health. ``workers`` says that the crew runs steps; else it is beat, which needs
    the broker only.
    """
    if where is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        checks = {"broker": broker_check(place.settings)}
        if workers:
            database = place.database("llmteam-health")
            stack.callback(database.close)

            def tables() -> str:
                database.check_schema()
                return f"tables at {database.current()}"

            checks = {"database": tables, "queues": queues_check(place.settings, crew)}
        health = Health(crew, signals, checks)
        pages = {**others, "/livez": health.live, "/readyz": health.ready}
        taken = stack.enter_context(listening(where, pages))
        say(f"health    http://{address_text((where[0], taken))}/readyz")
        yield
