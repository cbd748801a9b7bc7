"""One limit for all processes: together they stay within it, and use it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from llmteam.ratelimit import RateLimitConfig, RateLimiter
from llmteam.ratelimit.decisions import Ask, Decision, LimitKey
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.redis import PREFIX, RedisLimitBackend
from tests.embedding import PYTHONPATH
from tests.services import redis_client
from tests.waiting import wait_until, wait_until_async

PROCESSES = 8
#: The shape of a hundred a minute with a burst, in a time that a test may take.
PER_SECOND, PER_MINUTE, BURST = 10, 120, 5

#: A process whose tasks call as often as they are let in, until the next room is far; says how often each was.
CALLER = """
    import asyncio, json, sys
    from llmteam.ratelimit import RateLimitConfig, RateLimitExceeded, RateLimiter
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

    settings = json.loads(sys.argv[2])
    backend = RedisLimitBackend(sys.argv[1])
    limiter = RateLimiter("vendor", RateLimitConfig(**settings), backend=backend)


    async def call(counts, task):
        while True:
            try:
                async with limiter:
                    counts[task] += 1
            except RateLimitExceeded as exc:
                if exc.retry_after is None or exc.retry_after > 10:
                    return


    async def main():
        counts = [0] * 4
        await asyncio.gather(*(call(counts, task) for task in range(len(counts))))
        return counts


    print(json.dumps({"counts": asyncio.run(main()), "shared": backend.backend_state().shared}), flush=True)
    backend.close()
"""

HOLDER = """
    import sys
    from llmteam.ratelimit import RateLimitConfig
    from llmteam.ratelimit.decisions import Ask, LimitKey
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

    backend = RedisLimitBackend(sys.argv[1])
    asks = [Ask(LimitKey("vendor"), RateLimitConfig(max_concurrent=1))]
    print(backend.ask(asks, "holder", queue=False, lease_seconds=2).admitted, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def backend(clean_valkey: str) -> Iterator[RedisLimitBackend]:
    backend = RedisLimitBackend(clean_valkey)
    yield backend
    assert backend.backend_state().shared, backend.backend_state().error
    backend.close()


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, env=PYTHONPATH, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def admissions(url: str) -> list[int]:
    """When the server admitted calls, in microseconds of its clock."""
    with redis_client(url) as client:
        (log,) = client.keys(f"{PREFIX}*:log")
        return [int(moment) for _, moment in client.zrange(log, 0, -1, withscores=True)]


def most_in(moments: list[int], seconds: float) -> int:
    """The most calls in any span of this length, wherever it begins."""
    span, most, oldest = seconds * 1_000_000, 0, 0
    for newest, moment in enumerate(moments):
        while moment - moments[oldest] >= span:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most


@pytest.mark.timeout(120)
def test_many_processes_stay_within_every_window_and_use_it(clean_valkey: str) -> None:
    limits = {"requests_per_second": PER_SECOND, "requests_per_minute": PER_MINUTE, "burst_size": BURST}
    with ExitStack() as stack:
        settings = json.dumps({**limits, "max_wait_seconds": 10})
        callers = [stack.enter_context(python(CALLER, clean_valkey, settings)) for _ in range(PROCESSES)]

        told = [json.loads(caller.communicate(timeout=60)[0]) for caller in callers]

    moments = admissions(clean_valkey)
    assert sum(sum(one["counts"]) for one in told) == len(moments) == PER_MINUTE
    assert all(one["shared"] for one in told)
    assert most_in(moments, 1) <= PER_SECOND
    assert most_in(moments, 60) <= PER_MINUTE
    # What a bucket that is never left full gives in this time, which is what the last call had to wait for.
    possible = BURST + PER_SECOND * (moments[-1] - moments[0]) / 1_000_000
    assert len(moments) >= 0.95 * possible, (len(moments), possible)
    # Served in the order in which they came, nobody gets much more than another.
    counts = [count for one in told for count in one["counts"]]
    assert min(counts) > 0


def test_the_permit_of_a_killed_process_comes_back(clean_valkey: str, backend: RedisLimitBackend) -> None:
    asks = [Ask(LimitKey("vendor"), RateLimitConfig(max_concurrent=1))]
    with python(HOLDER, clean_valkey) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        refused = backend.ask(asks, "next", queue=False)
        holder.kill()

        wait_until(lambda: backend.ask(asks, "next", queue=False).admitted, "the killed process's permit")

    assert (refused.admitted, refused.limited_by) == (False, "in_flight")


def test_a_call_that_outlasts_its_lease_keeps_its_place(clean_valkey: str, backend: RedisLimitBackend) -> None:
    limiter = RateLimiter("vendor", RateLimitConfig(max_concurrent=1), backend=backend, lease_seconds=0.6)
    before = set(threading.enumerate())

    def lease_end(permit: str) -> float:
        with redis_client(clean_valkey) as client:
            (held,) = client.keys(f"{PREFIX}*:held")
            return client.zscore(held, permit) or 0.0

    async def scene() -> None:
        permit = await limiter.take()
        assert permit is not None
        first = lease_end(permit.permit)
        await wait_until_async(lambda: lease_end(permit.permit) > first + 1_500_000, "the lease to be renewed")
        assert backend.look(limiter.asks)[0].in_flight == 1
        await permit.give_back()
        assert backend.look(limiter.asks)[0].in_flight == 0

    asyncio.run(scene())
    wait_until(
        lambda: not any(one.name == "llmteam-permits" for one in set(threading.enumerate()) - before),
        "the renewing thread to end",
    )


def test_a_cancelled_waiter_leaves_no_ticket_with_the_server(backend: RedisLimitBackend) -> None:
    limiter = RateLimiter("vendor", RateLimitConfig(requests_per_second=0.1, burst_size=1), backend=backend)

    async def scene() -> None:
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await wait_until_async(lambda: backend.look(limiter.asks)[0].waiting, "a ticket")

        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        assert backend.look(limiter.asks)[0].waiting == 0
        limiter.release()
        assert backend.look(limiter.asks)[0].in_flight == 0

    asyncio.run(scene())


class Slow(MemoryLimitBackend):
    """Answers when it is let."""

    in_process = False

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def ask(self, asks: Any, ticket: str, **more: Any) -> Decision:
        decision = super().ask(asks, ticket, **more)
        self.asked.set()
        self.answer.wait(10)
        return decision


@pytest.mark.parametrize("held", [0, 1])
def test_an_answer_that_comes_after_its_caller_was_cancelled_is_given_back(held: int) -> None:
    backend = Slow()
    limiter = RateLimiter("vendor", RateLimitConfig(max_concurrent=1), backend=backend)
    for _ in range(held):
        MemoryLimitBackend.ask(backend, limiter.asks, "before", queue=False)

    async def scene() -> None:
        task = asyncio.create_task(limiter.acquire())
        await wait_until_async(backend.asked.is_set, "the question")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.answer.set()
        (view,) = await asyncio.to_thread(
            lambda: wait_until(
                lambda: [v for v in backend.look(limiter.asks) if v.in_flight + v.waiting == held], "peace"
            )
        )
        assert (view.in_flight, view.waiting) == (held, 0)

    asyncio.run(scene())


def test_every_key_has_an_end_and_all_share_one_slot_of_a_cluster(
    backend: RedisLimitBackend, clean_valkey: str
) -> None:
    config = RateLimitConfig(requests_per_second=1, burst_size=1)
    asks = [Ask(LimitKey("a:{b}", "acme", "*"), config), Ask(LimitKey("vendor"), config)]
    for ticket in "abc":
        backend.ask(asks, ticket, queue=True)

    with redis_client(clean_valkey) as client:
        ends = {name.decode(): client.pttl(name) / 1000 for name in client.keys("*")}
    assert len(ends) == 8
    assert all(name.startswith("{llmteam:limit}:") and name.count("{") == 1 for name in ends)
    assert {name.rpartition(":")[2] for name in ends} == {"state", "log", "held", "queue", "ends"}
    assert all(0 < end <= 3661 for end in ends.values())


def test_more_threads_than_connections_wait_for_one(backend: RedisLimitBackend) -> None:
    asks = [Ask(LimitKey("vendor"), RateLimitConfig(None, None, 1000, burst_size=5000))]
    admitted: list[bool] = []

    def use(thread: int) -> None:
        admitted.extend(backend.ask(asks, f"{thread}-{n}", queue=False).admitted for n in range(20))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(admitted), sum(admitted)) == (2000, 1000)


FORKING = """
    import os, sys
    from llmteam.ratelimit import RateLimitConfig
    from llmteam.ratelimit.decisions import Ask, LimitKey
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

    backend, asks = RedisLimitBackend(sys.argv[1]), [Ask(LimitKey("vendor"), RateLimitConfig(None, 2, None))]
    assert backend.ask(asks, "parent", queue=False).admitted
    with backend._server._lock, backend._local._lock:
        child = os.fork()
    if child == 0:
        good = backend.ask(asks, "child", queue=False).admitted and backend.backend_state().shared
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    assert backend.ask(asks, "parent", queue=False).limited_by == "minute", "the child's call is not seen"
    assert backend.backend_state().shared
    backend.close()
"""


def test_a_forked_child_shares_the_limit_and_no_connection(clean_valkey: str) -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING), clean_valkey]

    subprocess.run(command, env=PYTHONPATH, check=True, timeout=30)
