"""Following a run: first what is stored, then what comes, each event once and in order, until the run has ended.

The store is the only source; wake-ups only make the follower look sooner. It reads in batches as fast as its consumer
takes them, so that a slow one costs no memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from llmteam.events.models import TERMINAL_TYPES, InvalidEventError, WorktrailEvent, seq_of
from llmteam.events.stores import EventStore, EventStoreFace, MemoryEventStore
from llmteam.tenancy.context import get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError
from llmteam.wakeup import MemoryWakeup, Wakeup, Watch, channel

#: Seconds after which a follower looks although nothing woke it: what a lost wake-up costs at most.
POLL_SECONDS = 2.0
#: Events read at once.
BATCH = 200


class EventStream:
    """Live events of runs, for any number of followers.

    ``wakeup`` defaults to the store's own. ``EventStream(store, run_id=…)`` can be iterated directly.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        *,
        run_id: str | None = None,
        wakeup: Wakeup | None = None,
        poll_seconds: float = POLL_SECONDS,
        batch: int = BATCH,
    ) -> None:
        self.store: EventStore = MemoryEventStore() if store is None else store
        own = self.store.wakeup if isinstance(self.store, EventStoreFace) else None
        self.wakeup: Wakeup = wakeup or own or MemoryWakeup()
        self._run_id = run_id
        self._poll_seconds = poll_seconds
        self._batch = batch
        self._followers: dict[str, set[_Follower]] = {}
        self._closed = False

    def __aiter__(self) -> AsyncIterator[WorktrailEvent]:
        if self._run_id is None:
            raise InvalidEventError(
                "this EventStream has no run: use subscribe(run_id) or EventStream(store, run_id=…)"
            )
        return self.subscribe(self._run_id)

    def subscribe(
        self,
        run_id: str,
        *,
        after_event_id: str | None = None,
        after_seq: int | None = None,
        tenant_id: str | None = None,
        stay_open: bool = False,
    ) -> AsyncGenerator[WorktrailEvent]:
        """The run's events, from the first one or from behind a given one, stored ones first, then as they happen.

        Ends after the event that ends the run, at once when that lies behind the starting point already; with
        ``stay_open`` it goes on (late data events may follow) until :meth:`unsubscribe_all` or ``aclose()``.
        Raises :class:`InvalidEventError` for an ``after_event_id`` that is not this run's, and
        :class:`TenantContextError` when another tenant than ``tenant_id`` is current.
        """
        start = after_seq or 0
        if after_event_id is not None:
            seq = seq_of(after_event_id, run_id)
            if seq is None:
                raise InvalidEventError(f"{after_event_id[:300]!r} is not the id of an event of run {run_id!r}")
            start = seq
        return self._one_by_one(_follower(run_id, start, tenant_id), stay_open=stay_open)

    def batches(
        self, run_id: str, *, after_seq: int = 0, tenant_id: str | None = None
    ) -> AsyncGenerator[Sequence[WorktrailEvent]]:
        """:meth:`subscribe` with the events of each look together: none when ``poll_seconds`` passed without one.

        For followers who must say from time to time that they are there. Raises :class:`TenantContextError`.
        """
        return self._follow(_follower(run_id, after_seq, tenant_id), stay_open=False)

    async def _one_by_one(self, follower: _Follower, *, stay_open: bool) -> AsyncGenerator[WorktrailEvent]:
        async with aclosing(self._follow(follower, stay_open=stay_open)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event
                    if follower.ended:
                        return

    async def _follow(self, follower: _Follower, *, stay_open: bool) -> AsyncGenerator[Sequence[WorktrailEvent]]:
        # The watch begins before the first look, so that what happens between the two raises its flag.
        with self.wakeup.watch(follower.tenant_id or "", follower.run_id) as watch, self._registered(follower, watch):
            over = not stay_open and follower.seq > 0 and await self._ended_before(follower)
            while not (follower.ended or self._closed):
                events = await self.store.query(
                    tenant_id=follower.tenant_id,
                    run_id=follower.run_id,
                    after_seq=follower.seq,
                    limit=self._batch,
                )
                kept, ended = (events, False) if stay_open else _up_to_the_end(events)
                if events:
                    follower.seq = _number(events[-1])
                if events or not over:
                    yield kept
                if ended or follower.ended:
                    return
                # A look that was not full has seen everything: what came since has raised the flag.
                if len(events) < self._batch:
                    if over:
                        return
                    await watch.wait_async(self._poll_seconds)

    async def _ended_before(self, follower: _Follower) -> bool:
        """Whether the event that ends the run is one that the follower has seen already."""
        ends = await self.store.query(
            tenant_id=follower.tenant_id, run_id=follower.run_id, event_types=TERMINAL_TYPES, limit=1
        )
        return any(_number(event) <= follower.seq for event in ends)

    @contextmanager
    def _registered(self, follower: _Follower, watch: Watch) -> Iterator[None]:
        follower.watch = watch
        followers = self._followers.setdefault(follower.run_id, set())
        followers.add(follower)
        try:
            yield
        finally:
            followers.discard(follower)
            if not followers and self._followers.get(follower.run_id) is followers:
                del self._followers[follower.run_id]

    async def publish(self, event: WorktrailEvent) -> WorktrailEvent:
        """Store ``event``, then wake the run's followers; the event as it was stored."""
        kept = await self.store.append(event)
        self.wake(kept)
        return kept

    def wake(self, event: WorktrailEvent) -> None:
        """Wake the followers of the event's run; it has been stored."""
        self.wakeup.notify(channel(event.tenant_id, event.run_id), channel("", event.run_id))

    async def get_history(self, run_id: str) -> list[WorktrailEvent]:
        """All stored events of a run."""
        return await self.store.get_by_run(run_id)

    async def unsubscribe_all(self, run_id: str) -> None:
        """End the iterators of everyone who follows the run through this stream."""
        for follower in tuple(self._followers.get(run_id, ())):
            follower.ended = True
            if follower.watch is not None:
                follower.watch.wake()

    def close(self) -> None:
        """End the iterators of everyone who follows a run through this stream; later ones end at once."""
        self._closed = True
        for followers in tuple(self._followers.values()):
            for follower in tuple(followers):
                if follower.watch is not None:
                    follower.watch.wake()

    async def get_subscriber_count(self, run_id: str) -> int:
        """How many follow the run through this stream; each counts from its first ``anext`` on."""
        return len(self._followers.get(run_id, ()))

    async def has_subscribers(self, run_id: str) -> bool:
        """Whether anyone follows the run through this stream."""
        return run_id in self._followers


@dataclass(eq=False, slots=True)
class _Follower:
    """Who follows which run, and the number of the last event that was handed over."""

    tenant_id: str | None
    run_id: str
    seq: int
    ended: bool = False
    watch: Watch | None = None


def _follower(run_id: str, seq: int, tenant_id: str | None) -> _Follower:
    current = get_current_tenant()
    if tenant_id and current and tenant_id != current:
        raise TenantContextError(f"A run of tenant '{tenant_id}' cannot be followed while '{current}' is current")
    return _Follower(tenant_id or current or None, run_id, seq)


def _up_to_the_end(events: list[WorktrailEvent]) -> tuple[list[WorktrailEvent], bool]:
    """The events without those behind the one that ends the run, and whether that one is among them."""
    for place, event in enumerate(events, 1):
        if event.event_type in TERMINAL_TYPES:
            return events[:place], True
    return events, False


def _number(event: WorktrailEvent) -> int:
    if event.seq is None:
        raise InvalidEventError(f"the store gave event {event.event_id!r} without a number: it cannot be followed")
    return event.seq
