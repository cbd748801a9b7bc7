"""What holds for the store in memory only; tests/contracts has what holds for every store."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.errors import ConfigurationError
from llmteam.events import EventQuery, MemoryEventStore
from llmteam.wakeup import channel
from tests.unit.events.samples import event


@given(st.integers(1, 6), st.lists(st.sampled_from(["r1", "r2", "r3"]), max_size=25))
def test_it_keeps_the_newest_events_and_the_numbers_go_on(size: int, runs: list[str]) -> None:
    store = MemoryEventStore(max_events=size)
    kept = [store.add([event(run)])[0] for run in runs]

    assert len(store) == min(size, len(runs))
    assert sorted(store.select(EventQuery()), key=lambda e: e.event_id) == sorted(
        kept[-size:], key=lambda e: e.event_id
    )
    if len(set(runs)) <= size:
        for run in set(runs):
            assert [e.seq for e in kept if e.run_id == run] == list(range(1, runs.count(run) + 1))


def test_clearing_a_run_keeps_the_bound_and_never_gives_a_number_twice() -> None:
    store = MemoryEventStore(max_events=2)
    store.add([event("r1"), event("r2")])

    assert asyncio.run(store.clear_by_run("r1")) == 1
    store.add([event("r1"), event("r1"), event("r1")])

    assert [e.event_id for e in store.select(EventQuery())] == ["r1:3", "r1:4"]
    asyncio.run(store.clear())
    assert len(store) == 0


def test_an_id_of_the_callers_own_is_kept() -> None:
    store = MemoryEventStore()

    first, second = store.add([event(event_id="evt-a"), event(event_id="evt-b")])

    assert (first.event_id, first.seq, second.seq) == ("evt-a", 1, 2)
    assert store.select(EventQuery(after_seq=1)) == [second]


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        MemoryEventStore(max_events=0)


def test_threads_get_every_number_once() -> None:
    store = MemoryEventStore()
    threads = [threading.Thread(target=lambda: [store.add([event()]) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [e.seq for e in store.select(EventQuery())] == list(range(1, 801))


def test_adding_wakes_those_who_watch_the_run_with_or_without_its_tenant() -> None:
    store = MemoryEventStore()
    with store.wakeup.watch("acme", "run-1") as named, store.wakeup.subscribe(channel("", "run-1")) as unnamed:
        store.add([event()])

        assert named.wait(0)
        assert unnamed.wait(0)
