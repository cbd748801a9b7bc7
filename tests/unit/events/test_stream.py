from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any, TypeVar

import pytest

from llmteam.events import (
    EventQuery,
    EventStream,
    EventType,
    InvalidEventError,
    MemoryEventStore,
    WorktrailEvent,
)
from llmteam.tenancy import TenantContext, TenantContextError
from llmteam.wakeup import MemoryWakeup
from tests.unit.events.samples import event
from tests.waiting import wait_until_async

T = TypeVar("T")

#: A poll that no test lives to see: only wake-ups move the follower.
NEVER = 3600.0


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(main, 20)

    return asyncio.run(bounded())


async def collect(events: AsyncIterator[WorktrailEvent]) -> list[int]:
    return [event.seq or 0 async for event in events]


async def following(stream: EventStream, run_id: str = "run-1") -> None:
    await wait_until_async(lambda: run_id in stream._followers, "the follower to begin")


def stored(*types: EventType) -> MemoryEventStore:
    store = MemoryEventStore()
    store.add([event(event_type=event_type) for event_type in types])
    return store


STARTED, COMPLETED = EventType.SEGMENT_STARTED, EventType.SEGMENT_COMPLETED
PRODUCED = EventType.DATA_PRODUCED


def test_a_follower_gets_what_is_stored_then_what_comes_and_ends_with_the_run() -> None:
    async def main() -> list[int]:
        stream = EventStream(stored(STARTED, EventType.STEP_STARTED), poll_seconds=NEVER)
        task = asyncio.create_task(collect(stream.subscribe("run-1")))
        await following(stream)
        await stream.publish(event(event_type=EventType.STEP_COMPLETED))
        await stream.publish(event(event_type=COMPLETED))
        return await task

    assert run(main()) == [1, 2, 3, 4]


class _Interrupted(MemoryEventStore):
    """Adds one event right behind each of the first reads: after the replay, before the follower waits."""

    def __init__(self, additions: list[WorktrailEvent]) -> None:
        super().__init__()
        self._additions = additions

    def select(self, query: EventQuery) -> list[WorktrailEvent]:
        found = super().select(query)
        if self._additions:
            self.add([self._additions.pop(0)])
        return found


def test_an_event_between_reading_and_waiting_is_neither_missed_nor_doubled() -> None:
    async def main() -> list[int]:
        store = _Interrupted([event(), event(), event(), event(event_type=COMPLETED)])
        store.add([event(event_type=STARTED)])
        return await collect(EventStream(store, poll_seconds=NEVER).subscribe("run-1"))

    assert run(main()) == [1, 2, 3, 4, 5]


def test_followers_beside_a_busy_publisher_see_every_event_once_in_order() -> None:
    async def main() -> list[list[int]]:
        store = MemoryEventStore()
        stream = EventStream(store, poll_seconds=NEVER, batch=7)

        def publish() -> None:
            for _ in range(1500):
                store.add([event()])
            store.add([event(event_type=COMPLETED)])

        thread = threading.Thread(target=publish)
        tasks = [asyncio.create_task(collect(stream.subscribe("run-1"))) for _ in range(4)]
        await following(stream)
        thread.start()
        tasks += [asyncio.create_task(collect(stream.subscribe("run-1", after_seq=0))) for _ in range(2)]
        seen = await asyncio.gather(*tasks)
        thread.join()
        return seen

    assert run(main()) == [list(range(1, 1502))] * 6


def test_a_lost_wake_up_costs_one_poll_and_no_event() -> None:
    class Deaf(MemoryWakeup):
        def notify(self, *channels: str) -> None:
            pass

    async def main() -> list[int]:
        store = MemoryEventStore()
        stream = EventStream(store, wakeup=Deaf(), poll_seconds=0.01)
        task = asyncio.create_task(collect(stream.subscribe("run-1")))
        await following(stream)
        store.add([event(), event(event_type=COMPLETED)])
        return await task

    assert run(main()) == [1, 2]


@pytest.mark.parametrize(
    ("types", "start", "seen"),
    [
        ((STARTED, PRODUCED, COMPLETED), {"after_event_id": "run-1:1"}, [2, 3]),
        ((STARTED, PRODUCED, COMPLETED), {"after_seq": 2}, [3]),
        ((STARTED, COMPLETED), {"after_event_id": "run-1:2"}, []),
        ((STARTED, COMPLETED, PRODUCED), {"after_seq": 2}, [3]),
        ((STARTED, COMPLETED, PRODUCED), {}, [1, 2]),
    ],
)
def test_a_follower_may_begin_behind_an_event(
    types: tuple[EventType, ...], start: dict[str, Any], seen: list[int]
) -> None:
    async def main() -> list[int]:
        return await collect(EventStream(stored(*types), poll_seconds=NEVER).subscribe("run-1", **start))

    assert run(main()) == seen


def test_an_id_of_another_run_is_no_beginning() -> None:
    with pytest.raises(InvalidEventError, match="other:3"):
        EventStream().subscribe("run-1", after_event_id="other:3")


def test_a_follower_that_stays_open_sees_late_events_until_it_is_ended() -> None:
    async def main() -> list[int]:
        stream = EventStream(stored(STARTED, COMPLETED), poll_seconds=NEVER)
        task = asyncio.create_task(collect(stream.subscribe("run-1", stay_open=True)))
        await following(stream)
        await stream.publish(event(event_type=PRODUCED))
        seen: list[int] = []
        async for late in stream.subscribe("run-1", after_seq=2, stay_open=True):
            seen.append(late.seq or 0)
            await stream.unsubscribe_all("run-1")
        assert seen == [3]
        return await task

    assert run(main())[:2] == [1, 2]


def test_ending_all_followers_ends_their_iterators() -> None:
    async def main() -> tuple[int, list[list[int]]]:
        stream = EventStream(poll_seconds=NEVER)
        tasks = [asyncio.create_task(collect(stream.subscribe("run-1"))) for _ in range(3)]
        await following(stream)
        await asyncio.sleep(0)
        count = await stream.get_subscriber_count("run-1")
        await stream.unsubscribe_all("run-1")
        return count, await asyncio.gather(*tasks)

    assert run(main()) == (3, [[], [], []])


async def _left_by_cancelling(stream: EventStream) -> None:
    task = asyncio.create_task(collect(stream.subscribe("run-1")))
    await following(stream)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _left_by_closing(stream: EventStream) -> None:
    events = stream.subscribe("run-1")
    await anext(events)
    await events.aclose()


async def _left_by_breaking(stream: EventStream) -> None:
    async for _ in stream.subscribe("run-1"):
        break
    gc.collect()


@pytest.mark.parametrize("leave", [_left_by_cancelling, _left_by_closing, _left_by_breaking])
def test_a_follower_that_leaves_leaves_nothing_behind(leave: Any) -> None:
    async def main() -> None:
        wakeup = MemoryWakeup()
        stream = EventStream(MemoryEventStore(wakeup=wakeup), poll_seconds=NEVER)
        await stream.publish(event())
        action: Awaitable[None] = leave(stream)
        await action
        await wait_until_async(lambda: not wakeup.watched(), "the watch to be closed")
        assert not await stream.has_subscribers("run-1")
        assert await stream.get_subscriber_count("run-1") == 0

    run(main())


def test_a_stream_of_one_run_can_be_iterated() -> None:
    async def main() -> list[int]:
        return [event.seq or 0 async for event in EventStream(stored(STARTED, COMPLETED), run_id="run-1")]

    assert run(main()) == [1, 2]
    with pytest.raises(InvalidEventError, match="run_id"):
        aiter(EventStream())


def test_history_is_what_is_stored() -> None:
    async def main() -> list[EventType]:
        stream = EventStream()
        await stream.publish(event(event_type=STARTED))
        return [event.event_type for event in await stream.get_history("run-1")]

    assert run(main()) == [STARTED]


def test_a_run_is_followed_as_the_tenant_that_subscribed() -> None:
    async def main() -> list[str]:
        store = MemoryEventStore()
        store.add([event(tenant_id="globex", event_type=COMPLETED), event(tenant_id="acme", event_type=COMPLETED)])
        with TenantContext("acme"):
            events = EventStream(store).subscribe("run-1")
        return [event.tenant_id async for event in events]

    assert run(main()) == ["acme"]


def test_another_tenants_run_cannot_be_followed() -> None:
    with TenantContext("globex"), pytest.raises(TenantContextError, match="acme"):
        EventStream().subscribe("run-1", tenant_id="acme")


def test_a_store_that_does_not_number_cannot_be_followed() -> None:
    class Unnumbered(MemoryEventStore):
        def select(self, query: EventQuery) -> list[WorktrailEvent]:
            return [event(event_id="evt-a")]

    with pytest.raises(InvalidEventError, match="evt-a"):
        run(collect(EventStream(Unnumbered()).subscribe("run-1")))
