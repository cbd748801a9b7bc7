"""Where events are kept: the protocol, the face that all stores share, and the store in memory."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

from llmteam.errors import ConfigurationError
from llmteam.events.models import EventQuery, EventSeverity, EventType, InvalidEventQueryError, WorktrailEvent
from llmteam.tenancy.context import get_current_tenant, tenant_or_current
from llmteam.wakeup import MemoryWakeup, Wakeup, channel

T = TypeVar("T")


@runtime_checkable
class EventStore(Protocol):
    """Keeps events and gives them back in the order of their numbers, run by run."""

    async def append(self, event: WorktrailEvent) -> WorktrailEvent:
        """Keep ``event`` as the next one of its run and return it as kept. The same event again changes nothing."""

    async def get_by_run(self, run_id: str) -> list[WorktrailEvent]:
        """All events of a run."""

    async def get_by_step(self, run_id: str, step_id: str) -> list[WorktrailEvent]:
        """The events of one step of a run."""

    async def get_by_type(self, run_id: str, event_type: EventType) -> list[WorktrailEvent]:
        """The events of one type of a run."""

    async def query(
        self,
        *,
        run_id: str | None = None,
        event_types: Iterable[EventType] | None = None,
        step_id: str | None = None,
        segment_id: str | None = None,
        tenant_id: str | None = None,
        severity: EventSeverity | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        after_seq: int | None = None,
        limit: int | None = None,
    ) -> list[WorktrailEvent]:
        """The events for which every given condition holds; ``severity`` means this one and above."""


class EventStoreFace(ABC):
    """The asynchronous face of a store, over the four things that a store does in its own way.

    The synchronous core (:meth:`add`, :meth:`select`, :meth:`count`) trusts the tenant that it is given; the face asks
    who is current. ``wakeup`` tells followers in this process and others that something was added; ``blocks`` says
    whether the core waits for a server.
    """

    wakeup: Wakeup
    blocks: bool = True

    @abstractmethod
    def add(self, events: Sequence[WorktrailEvent]) -> list[WorktrailEvent]:
        """Keep ``events`` of one run and return them as kept, numbered without a gap."""

    @abstractmethod
    def select(self, query: EventQuery) -> list[WorktrailEvent]:
        """The wanted events, by run and number."""

    @abstractmethod
    def count(self, query: EventQuery) -> int:
        """How many events are wanted."""

    @abstractmethod
    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Call the core without blocking the running loop."""

    def tenant_for(self, tenant_id: str | None) -> str | None:
        """Whose events to read: the named tenant's, else the current one's, else (None) everybody's.

        Raises :class:`TenantContextError` when another tenant than the named one is current.
        """
        return tenant_or_current(tenant_id, "Events")

    async def append(self, event: WorktrailEvent) -> WorktrailEvent:
        """Keep ``event`` and return it as kept: numbered, with the identity that its run has.

        An event without a tenant gets the current one. The same event again (id, type, time, step) changes nothing.
        Raises :class:`TenantContextError` when another tenant is current.
        """
        tenant_id = self.tenant_for(event.tenant_id) or ""
        if tenant_id != event.tenant_id:
            event = event.model_copy(update={"tenant_id": tenant_id})
        (kept,) = await self._call(self.add, (event,))
        return kept

    async def query(
        self,
        *,
        run_id: str | None = None,
        event_types: Iterable[EventType] | None = None,
        step_id: str | None = None,
        segment_id: str | None = None,
        tenant_id: str | None = None,
        severity: EventSeverity | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        after_seq: int | None = None,
        limit: int | None = None,
    ) -> list[WorktrailEvent]:
        """The events for which every given condition holds, by run and number; both ends of the time are included.

        ``severity`` means this one and above, ``limit`` keeps the first ones. Raises :class:`TenantContextError`, and
        :class:`InvalidEventQueryError` for a type or severity that there is none or a negative limit.
        """
        if limit is not None and limit < 0:
            raise InvalidEventQueryError(f"limit is {limit}: 0 or more events can be asked for")
        wanted = EventQuery(
            tenant_id=self.tenant_for(tenant_id),
            run_id=run_id,
            event_types=None if event_types is None else _types(event_types),
            step_id=step_id,
            segment_id=segment_id,
            severity=None if severity is None else _severity(severity),
            start=start,
            end=end,
            after_seq=after_seq,
            limit=limit,
        )
        return await self._call(self.select, wanted)

    async def get_by_run(self, run_id: str) -> list[WorktrailEvent]:
        """All events of a run."""
        return await self.query(run_id=run_id)

    async def get_by_step(self, run_id: str, step_id: str) -> list[WorktrailEvent]:
        """The events of one step of a run."""
        return await self.query(run_id=run_id, step_id=step_id)

    async def get_by_type(self, run_id: str, event_type: EventType) -> list[WorktrailEvent]:
        """The events of one type of a run."""
        return await self.query(run_id=run_id, event_types=(event_type,))

    async def get_by_segment(self, segment_id: str) -> list[WorktrailEvent]:
        """The events of all runs of a segment."""
        return await self.query(segment_id=segment_id)

    async def get_by_tenant(self, tenant_id: str) -> list[WorktrailEvent]:
        """The events of all runs of a tenant."""
        return await self.query(tenant_id=tenant_id)

    async def get_by_time_range(self, run_id: str, start: datetime, end: datetime) -> list[WorktrailEvent]:
        """The events of a run between two moments, both included; naive ones are read as UTC."""
        return await self.query(run_id=run_id, start=start, end=end)

    async def get_errors(self, run_id: str) -> list[WorktrailEvent]:
        """The events of a run that carry an error."""
        return await self._call(
            self.select, EventQuery(tenant_id=self.tenant_for(None), run_id=run_id, with_error=True)
        )

    async def count_by_run(self, run_id: str) -> int:
        """How many events of a run are kept."""
        return await self._call(self.count, EventQuery(tenant_id=self.tenant_for(None), run_id=run_id))


def _types(given: Iterable[EventType]) -> frozenset[EventType]:
    """The types as members. A single one is refused: as text it would be read letter by letter, and nothing found."""
    if isinstance(given, str):
        raise InvalidEventQueryError(f"event_types is a list of types: write [{str(given)!r}]")
    try:
        return frozenset(map(EventType, given))
    except ValueError as exc:
        raise InvalidEventQueryError(f"event_types: {exc}") from None


def _severity(given: EventSeverity) -> EventSeverity:
    try:
        return EventSeverity(given)
    except ValueError as exc:
        raise InvalidEventQueryError(f"severity: {exc}") from None


class _Run:
    """The events of one run that are still kept, oldest first."""

    __slots__ = ("by_id", "events", "identity")

    def __init__(self) -> None:
        self.events: deque[WorktrailEvent] = deque()
        self.by_id: dict[str, WorktrailEvent] = {}
        self.identity = {"instance_id": "", "segment_id": ""}


class MemoryEventStore(EventStoreFace):
    """Events in this process's memory, at most ``max_events`` over all runs: the oldest are dropped beyond that.

    Unlike durable stores it keeps an id that is not of the form ``run_id:number`` as it is.
    """

    blocks = False

    def __init__(self, max_events: int = 100_000, *, wakeup: Wakeup | None = None) -> None:
        if max_events < 1:
            raise ConfigurationError(f"MemoryEventStore: max_events is {max_events}; it must be at least 1")
        self.max_events = max_events
        self.wakeup = MemoryWakeup() if wakeup is None else wakeup
        self._lock = threading.Lock()
        self._forget_all()

    def _forget_all(self) -> None:
        self._order: deque[WorktrailEvent] = deque()
        self._runs: dict[tuple[str, str], _Run] = {}
        # Outlives the events, so that a run's numbers go on after its first events were dropped.
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def add(self, events: Sequence[WorktrailEvent]) -> list[WorktrailEvent]:
        """Keep ``events`` and return them as kept; from any thread."""
        with self._lock:
            kept = [self._add(event) for event in events]
        # Both names: whoever follows without naming a tenant sees every tenant's events of this store.
        self.wakeup.notify(*{channel(tenant, event.run_id) for event in kept for tenant in (event.tenant_id, "")})
        return kept

    def _add(self, event: WorktrailEvent) -> WorktrailEvent:
        key = (event.tenant_id, event.run_id)
        run = self._runs.setdefault(key, _Run())
        earlier = run.by_id.get(event.event_id)
        if earlier is not None and event.is_again(earlier):
            return earlier
        seq = self._last.pop(key, 0) + 1
        foreign = bool(event.event_id) and event.seq is None and earlier is None
        event = _identified(event, run).numbered(seq, keep_id=foreign)
        self._last[key] = seq
        run.events.append(event)
        run.by_id[event.event_id] = event
        self._order.append(event)
        self._drop_oldest()
        return event

    def _drop_oldest(self) -> None:
        while len(self._order) > self.max_events:
            oldest = self._order.popleft()
            key = (oldest.tenant_id, oldest.run_id)
            run = self._runs[key]
            run.events.popleft()
            run.by_id.pop(oldest.event_id, None)
            if not run.events:
                del self._runs[key]
        while len(self._last) > self.max_events:
            self._last.popitem(last=False)

    def select(self, query: EventQuery) -> list[WorktrailEvent]:
        """The wanted events, by run and number: of the named tenant, else of the current one, else everybody's."""
        with self._lock:
            return list(islice(self._find(query), query.limit))

    def count(self, query: EventQuery) -> int:
        """How many events are wanted."""
        return len(self.select(query))

    def _find(self, query: EventQuery) -> Iterator[WorktrailEvent]:
        if query.tenant_id is None:
            query = replace(query, tenant_id=get_current_tenant() or None)
        if query.run_id is not None and query.tenant_id is not None:
            keys = [(query.tenant_id, query.run_id)]
        elif query.run_id is not None:
            keys = [key for key in self._runs if key[1] == query.run_id]
        else:
            keys = sorted(key for key in self._runs if query.tenant_id in {None, key[0]})
        for key in keys:
            events = self._runs[key].events if key in self._runs else deque()
            # The numbers of what is kept have no gap, so a follower's place is known without looking for it.
            behind = 0 if query.after_seq is None or not events else query.after_seq - (events[0].seq or 0) + 1
            for event in islice(events, max(behind, 0), None):
                if query.matches(event, event.seq or 0):
                    yield event

    async def clear(self) -> None:
        """Forget everything, numbers too: the current tenant's, when there is one."""
        tenant_id = self.tenant_for(None)
        with self._lock:
            if tenant_id is None:
                self._forget_all()
                return
            self._forget({key for key in self._runs if key[0] == tenant_id})
            for key in [key for key in self._last if key[0] == tenant_id]:
                del self._last[key]

    async def clear_by_run(self, run_id: str) -> int:
        """Forget a run's events (the current tenant's, when there is one) and return how many there were."""
        tenant_id = self.tenant_for(None)
        with self._lock:
            before = len(self._order)
            self._forget({key for key in self._runs if key[1] == run_id and tenant_id in {None, key[0]}})
            return before - len(self._order)

    def _forget(self, keys: set[tuple[str, str]]) -> None:
        self._order = deque(event for event in self._order if (event.tenant_id, event.run_id) not in keys)
        for key in keys:
            del self._runs[key]


def _identified(event: WorktrailEvent, run: _Run) -> WorktrailEvent:
    """``event`` with the instance and segment that earlier events of its run named, where it names none itself."""
    missing = {name: known for name, known in run.identity.items() if known and not getattr(event, name)}
    run.identity.update({name: getattr(event, name) for name in run.identity if getattr(event, name)})
    return event.model_copy(update=missing) if missing else event
