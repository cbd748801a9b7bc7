"""``/metrics``: of ``worker`` what its processes counted, of ``beat`` how the whole installation stands."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from llmteam.errors import InfrastructureError, LLMTeamError
from llmteam.metrics.instruments import MetricsNotInstalledError
from llmteam.net.listener import Page

if TYPE_CHECKING:
    from llmteam.canvas.postgres.gauges import Counts
    from llmteam.cli.servers import Installation
    from llmteam.metrics.exposition import Samples
    from llmteam.settings import Settings

T = TypeVar("T")

PATH = "/metrics"
#: Seconds for which what was read is told again, and how many times longer than it took to read it that is at least.
DATABASE_SECONDS, BROKER_SECONDS, LONGER = 5.0, 15.0, 20.0


@dataclass(frozen=True)
class Metering:
    """What a supervisor does about metrics: its page, if any, and what its children must know before they begin."""

    page: Callable[[], Page] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the children count."""
        return bool(self.environment)

    @property
    def pages(self) -> Mapping[str, Callable[[], Page]]:
        return {} if self.page is None else {PATH: self.page}


@contextmanager
def metering(place: Installation, command: str, *, asked_for: bool) -> Iterator[Metering]:
    """Metrics of ``worker`` or ``beat`` for the block; nothing at all unless an address was ``asked_for``."""
    if not asked_for:
        yield Metering()
        return
    with contextlib.ExitStack() as stack:
        try:
            found = _of_worker(stack) if command == "worker" else _of_beat(stack, place)
        except MetricsNotInstalledError as exc:
            missing = Page(404, f"{exc}\n".encode())
            found = Metering(lambda: missing)
        yield found


def _of_worker(stack: contextlib.ExitStack) -> Metering:
    from llmteam.metrics.exposition import FOLDER_VARIABLE, Exposition, check_installed, folder

    check_installed()
    path = stack.enter_context(folder())
    exposition = Exposition(path)
    stack.enter_context(exposition.folding())
    return Metering(_page_of(exposition.page), {FOLDER_VARIABLE: str(path)})


def _of_beat(stack: contextlib.ExitStack, place: Installation) -> Metering:
    fleet = Fleet(place)
    stack.callback(fleet.close)
    return Metering(_page_of(fleet.page))


def _page_of(make: Callable[[], bytes]) -> Callable[[], Page]:
    from llmteam.metrics.exposition import CONTENT_TYPE

    def page() -> Page:
        try:
            return Page(200, make(), CONTENT_TYPE)
        except LLMTeamError as exc:
            return Page(503, f"{exc}\n".encode())

    return page


class Kept(Generic[T]):
    """What a slow look found, told again for a while: many scrapers cost no more than one."""

    def __init__(self, look: Callable[[], T], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: T | None = None
        self._until = 0.0

    def __call__(self) -> T | None:
        """What is there; None while the server is away."""
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                try:
                    self._found = self._look()
                except InfrastructureError:
                    self._found = None
                now = time.monotonic()
                self._until = now + max(self._seconds, LONGER * (now - began))
            return self._found


@dataclass(frozen=True)
class Queues:
    """What the broker says: messages and consumers by queue, and how many workers there are."""

    messages: Mapping[str, int]
    consumers: Mapping[str, int]
    workers: int


class Fleet:
    """How the whole installation stands; asks Postgres as the sweeper, and the broker. For many threads."""

    def __init__(self, place: Installation) -> None:
        from llmteam.canvas.postgres.gauges import read_counts
        from llmteam.metrics.exposition import check_installed

        check_installed()
        self._database = place.database("llmteam-metrics")
        self._counts = Kept(lambda: read_counts(self._database), DATABASE_SECONDS)
        self._queues = Kept(lambda: _ask_broker(place.settings), BROKER_SECONDS)

    def close(self) -> None:
        """Close the connections to Postgres."""
        self._database.close()

    def page(self) -> bytes:
        """All gauges; those of a server that is away are missing."""
        from llmteam.metrics.exposition import build_page, gauges_page

        counts, queues = self._counts(), self._queues()
        up: dict[tuple[str, ...], float] = {("database",): counts is not None, ("broker",): queues is not None}
        found: dict[str, Mapping[tuple[str, ...], float]] = {"llmteam_fleet_up": up}
        found |= {} if counts is None else _of_database(counts)
        found |= {} if queues is None else _of_broker(queues)
        return gauges_page(_samples(found)) + build_page()


def _samples(found: Mapping[str, Mapping[tuple[str, ...], float]]) -> Iterator[Samples]:
    from llmteam.metrics import GAUGES

    for metric in GAUGES:
        if metric.name in found:
            yield metric, [(labels, float(value)) for labels, value in found[metric.name].items()]


def _of_database(counts: Counts) -> dict[str, Mapping[tuple[str, ...], float]]:
    from llmteam.metrics import gauge

    def by_label(name: str, kind: str) -> dict[tuple[str, ...], float]:
        known = gauge(name).labels[0].values
        return {(value,): counts.get(kind, {}).get(value, 0.0) for value in known}

    return {
        "llmteam_runs_open": by_label("llmteam_runs_open", "runs"),
        "llmteam_steps_open": by_label("llmteam_steps_open", "steps"),
        "llmteam_oldest_due_step_age_seconds": {(): max(0.0, counts["age"]["due"])},
        "llmteam_leases_expired": {(): counts["leases"]["expired"]},
        "llmteam_people_requests_open": {(): counts["people"]["open"]},
        "llmteam_notifications_open": by_label("llmteam_notifications_open", "notifications"),
        "llmteam_sweep_age_seconds": {(name,): age for name, age in counts.get("sweeps", {}).items()},
    }


def _of_broker(queues: Queues) -> dict[str, Mapping[tuple[str, ...], float]]:
    return {
        "llmteam_queue_messages": {(name,): count for name, count in queues.messages.items()},
        "llmteam_queue_consumers": {(name,): count for name, count in queues.consumers.items()},
        "llmteam_workers": {(): queues.workers},
    }


def _ask_broker(settings: Settings) -> Queues:
    from llmteam.cli.fleet_view import consumers, depths
    from llmteam.dispatch import is_ours
    from llmteam.regions import plain

    serving = [[queue for queue in queues if is_ours(queue)] for queues in consumers(settings).values()]
    messages = depths(settings)
    counted = {name: sum(name in queues for queues in serving) for name in messages}
    return Queues(
        {plain(name): count for name, count in messages.items()},
        {plain(name): count for name, count in counted.items()},
        sum(bool(queues) for queues in serving),
    )
