"""Watches and the wake-ups of one process; tests/integration/test_wakeup.py has those between processes."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmteam.errors import ConfigurationError
from llmteam.wakeup import MemoryWakeup, RedisWakeup, channel, shared_wakeup


@pytest.fixture
def wakeup() -> MemoryWakeup:
    return MemoryWakeup()


RUN = channel("acme", "run-1")


def test_what_happened_before_the_wait_ends_it_at_once(wakeup: MemoryWakeup) -> None:
    with wakeup.watch("acme", "run-1") as watch:
        wakeup.notify(RUN)
        wakeup.notify(RUN)

        assert watch.wait(0)
        assert not watch.wait(0)


def test_a_blocked_thread_is_woken(wakeup: MemoryWakeup) -> None:
    woken: list[bool] = []
    with wakeup.watch("acme", "run-1") as watch:
        thread = threading.Thread(target=lambda: woken.append(watch.wait(10)))
        thread.start()
        wakeup.notify(RUN)
        thread.join(10)

    assert woken == [True]


def test_a_coroutine_is_woken_from_another_thread(wakeup: MemoryWakeup) -> None:
    async def main() -> bool:
        async with wakeup.watch("acme", "run-1") as watch:
            waiting = asyncio.create_task(watch.wait_async(10))
            await asyncio.sleep(0)
            await asyncio.to_thread(wakeup.notify, RUN)
            return await waiting

    assert asyncio.run(main())


def test_other_runs_and_other_tenants_do_not_wake(wakeup: MemoryWakeup) -> None:
    with wakeup.watch("acme", "run-1") as watch:
        wakeup.notify(channel("acme", "run-2"), channel("globex", "run-1"))

        assert not watch.wait(0)


def test_each_watch_of_a_run_has_its_own_flag(wakeup: MemoryWakeup) -> None:
    with wakeup.watch("acme", "run-1") as first, wakeup.watch("acme", "run-1") as second:
        wakeup.notify(RUN)

        assert first.wait(0)
        assert second.wait(0)


def test_a_cancelled_wait_leaves_the_watch_usable(wakeup: MemoryWakeup) -> None:
    async def main() -> bool:
        with wakeup.watch("acme", "run-1") as watch:
            waiting = asyncio.create_task(watch.wait_async())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            wakeup.notify(RUN)
            return await watch.wait_async(0)

    assert asyncio.run(main())


def test_a_waiter_whose_loop_is_gone_does_not_disturb_the_publisher(wakeup: MemoryWakeup) -> None:
    watch = wakeup.watch("acme", "run-1")

    async def main() -> None:
        task = asyncio.create_task(watch.wait_async())
        await asyncio.sleep(0)
        watch._waiter, waiter = None, watch._waiter
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        watch._waiter = waiter

    asyncio.run(main())
    wakeup.notify(RUN)

    assert watch.wait(0)


def test_a_closed_watch_is_forgotten(wakeup: MemoryWakeup) -> None:
    first, second = wakeup.watch("acme", "run-1"), wakeup.watch("acme", "run-1")
    first.close()
    first.close()

    assert wakeup.watched() == {RUN}
    second.close()
    assert not wakeup.watched()
    wakeup.notify(RUN)
    assert not first.wait(0)


def test_without_a_redis_wake_ups_stay_in_the_process() -> None:
    assert type(shared_wakeup(None)) is MemoryWakeup
    assert type(shared_wakeup("redis://127.0.0.1:9/0")) is RedisWakeup


@pytest.mark.parametrize("url", ["amqp://guest:hunter2@mq//", "sqla+postgresql://db/app", "sentinel://one:26379/0"])
def test_what_is_no_redis_is_refused_with_what_to_give_instead(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no Redis: give a URL like redis://.*LLMTEAM_REDIS_URL") as raised:
        RedisWakeup(url)

    assert "hunter2" not in str(raised.value)
